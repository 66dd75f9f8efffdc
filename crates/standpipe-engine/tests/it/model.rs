//! Random operations against the naive tree: same values, same digest for the same tree, and the
//! kept tail replays to the same bytes.

use proptest::prelude::*;
use serde_json::{Value, json};
use standpipe_engine::{Identity, LocalLog, Log, Op, SimFaults, SimLog};
use standpipe_tree::{Format, ParseLimits, parse_value};
use tempfile::TempDir;

use crate::naive::Node;
use crate::support::{config, get_as, merge_op, open, open_with, set_op, write, write_as};

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Set(Vec<usize>, Value),
    Priority(Vec<usize>, Value),
    Merge(Vec<usize>, Vec<(usize, Value)>),
    Overlay(Vec<usize>, Value),
}

/// Texts that an index cuts: some have the same beginning there.
const LONG: &[&str] = &[
    "https://example.org/a/path/that/is/longer/than/what/an/index/keeps/of/it/1",
    "https://example.org/a/path/that/is/longer/than/what/an/index/keeps/of/it/2",
    "https://example.org/a/path/that/is/longer/than/what/an/index/keeps/of/it/10",
    "https://example.org/a/path/that/is/longer/than/what/an/index/keep",
    "https://example.org/a/path/that/is/longer/than/what/an/index/keeps\0",
];

const KEYS: &[&str] = &["a", "b", "c"];

fn names(path: &[usize]) -> Vec<&'static str> {
    path.iter().map(|at| KEYS[*at]).collect()
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        2 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        2 => (-5i64..5).prop_map(Value::from),
        1 => prop::sample::select(LONG).prop_map(Value::from),
        1 => "[a-z\u{e9}\u{1f98a}\"\\\\\n]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let children = proptest::collection::btree_map(prop::sample::select(KEYS), inner, 0..3);
        (children, proptest::option::of(-3i64..3)).prop_map(|(children, priority)| {
            let mut object: serde_json::Map<_, _> =
                children.into_iter().map(|(key, value)| (key.into(), value)).collect();
            if let Some(priority) = priority {
                object.insert(".priority".into(), priority.into());
            }
            Value::Object(object)
        })
    })
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let path = || proptest::collection::vec(0..KEYS.len(), 0..4);
    prop_oneof![
        3 => (path(), value()).prop_map(|(path, value)| Step::Set(path, value)),
        1 => (path(), prop_oneof![Just(Value::Null), (1i64..4).prop_map(Value::from), Just(json!("p"))])
            .prop_map(|(path, value)| Step::Priority(path, value)),
        2 => (path(), proptest::collection::btree_map(0..KEYS.len(), value(), 1..3))
            .prop_map(|(path, members)| Step::Merge(path, members.into_iter().collect())),
        2 => (path(), value()).prop_map(|(path, value)| Step::Overlay(path, value)),
    ]
}

fn naive(tree: &mut Node, step: &Step) {
    match step {
        Step::Set(path, value) => tree.set(&names(path), Node::parse(value)),
        Step::Priority(path, value) => {
            tree.set_priority(&names(path), Some(value.clone()).filter(|value| !value.is_null()))
        }
        Step::Merge(path, members) => {
            // The obvious order matters only for emptiness: what is put must not be pruned.
            let (removed, put): (Vec<_>, Vec<_>) = members.iter().partition(|(_, value)| Node::parse(value).is_empty());
            for (key, value) in put.into_iter().chain(removed) {
                tree.set(&[&names(path)[..], &[KEYS[*key]]].concat(), Node::parse(value));
            }
        }
        Step::Overlay(path, value) => overlay(tree, &names(path), &Node::parse(value)),
    }
}

/// Leaf by leaf, then the priorities of nodes that are there.
fn overlay(tree: &mut Node, at: &[&str], new: &Node) {
    if let Some(leaf) = &new.leaf {
        let priority = tree.at(at).and_then(|node| node.priority.clone());
        tree.set(at, Node { leaf: Some(leaf.clone()), priority, ..Node::default() });
    }
    for (key, child) in &new.children {
        overlay(tree, &[at, &[key.as_str()]].concat(), child);
    }
    if new.priority.is_some() {
        tree.set_priority(at, new.priority.clone());
    }
}

pub(crate) fn op(step: &Step) -> standpipe_engine::Op {
    match step {
        Step::Set(path, value) => set_op(&names(path).join("/"), &value.to_string()),
        Step::Priority(path, value) => {
            set_op(&[&names(path)[..], &[".priority"]].concat().join("/"), &value.to_string())
        }
        Step::Merge(path, members) => {
            let members: serde_json::Map<_, _> =
                members.iter().map(|(key, value)| (KEYS[*key].to_owned(), value.clone())).collect();
            merge_op(&names(path).join("/"), &Value::Object(members).to_string())
        }
        Step::Overlay(path, value) => {
            let base = crate::support::path(&names(path).join("/"));
            let rows = parse_value(value.to_string().as_bytes(), &ParseLimits::below(&base)).unwrap();
            standpipe_engine::Op::Overlay { base, rows }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn random_writes_make_the_naive_tree(steps in proptest::collection::vec(step(), 1..25)) {
        let dir = TempDir::new().unwrap();
        let database = open(&dir);
        let mut tree = Node::default();
        for step in &steps {
            write(&database, op(step)).unwrap();
            naive(&mut tree, step);
            let got: Value = serde_json::from_str(&get_as(&database, "/", Format::Export)).unwrap();
            prop_assert_eq!(&got, &tree.export(), "after {:?}", step);
            database.try_snapshot().unwrap().verify().unwrap();
        }
        // Another database, given the tree at once, has the same digest.
        let other = TempDir::new().unwrap();
        let copy = open(&other);
        write(&copy, set_op("/", &tree.export().to_string())).unwrap();
        let digest = |database: &standpipe_engine::Database| database.try_snapshot().unwrap().state().digest;
        prop_assert_eq!(digest(&database), digest(&copy));
    }

    #[test]
    fn two_stores_fed_the_same_records_are_the_same(steps in proptest::collection::vec(step(), 1..15)) {
        let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let log = SimLog::new(1, SimFaults::default());
        let first = open_with(&config(&one), Box::new(log.clone()));
        // A tree takes the log's identity with its first record.
        write(&first, set_op("/first", "true")).unwrap();
        let rules = r#"{"rules": {".read": true, ".write": true, ".indexOn": ["a", ".value"], "$x": {".indexOn": "b"}}}"#;
        write_as(&first, Op::Rules(rules.into()), None, Identity::Admin).unwrap();
        for step in &steps {
            write(&first, op(step)).unwrap();
        }
        let second = open_with(&config(&two), Box::new(log.clone()));
        let rev = first.rev();
        crate::shared_log::wait_for(&second, rev);
        let (one, two) = (first.try_snapshot().unwrap(), second.try_snapshot().unwrap());
        prop_assert_eq!(one.state(), two.state());
        // The index is what the tree and the rules make, in both.
        prop_assert_eq!(one.verify().unwrap(), two.verify().unwrap());
        prop_assert_eq!(get_as(&first, "/", Format::Export), get_as(&second, "/", Format::Export));
    }
}

#[test]
fn a_local_log_never_has_foreign_records() {
    let mut log = LocalLog;
    assert!(!log.is_shared());
    assert_eq!(log.read(0, 10), Ok(Vec::new()));
}
