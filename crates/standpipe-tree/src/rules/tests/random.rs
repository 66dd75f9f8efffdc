//! Random rules, trees and writes against a second, naive implementation: the whole new tree is made, and
//! expressions are evaluated as they are parsed, over JSON.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

use super::super::after::{Found, Written, look, priority};
use super::super::ast::{Expr, Kind, Operator, parse};
use super::super::limits::EXPRESSION_NODES_MAX;
use super::super::value::number_text;
use super::super::{Request, RuleSet, Verdict};
use super::{NOW, merge, overlay, rows, set};
use crate::change::{Change, ChangeKind};
use crate::json::Format;
use crate::key::{PRIORITY, is_priority_key};
use crate::model::Model;
use crate::parse::{ParseLimits, parse_value};
use crate::path::{Location, Path};
use crate::rows::{Rows, RowsBuilder};

/// Few, so that they meet.
const KEYS: [&str; 5] = ["a", "b", "7", "é", "😀"];

fn key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&KEYS[..])
}

fn path_text() -> impl Strategy<Value = String> {
    vec(key(), 0..4).prop_map(|keys| keys.join("/"))
}

fn leaf() -> impl Strategy<Value = Json> {
    prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        (-2i64..3).prop_map(Json::from),
        Just(json!(0.5)),
        prop::sample::select(&["", "a", "b", "é", "a/b"][..]).prop_map(Json::from),
    ]
}

fn tree() -> impl Strategy<Value = Json> {
    let leaf = (leaf(), option::weighted(0.2, -1i64..2)).prop_map(|(leaf, priority)| match priority {
        Some(priority) => json!({".value": leaf, ".priority": priority}),
        None => leaf,
    });
    leaf.prop_recursive(4, 20, 4, |value| {
        (vec((key(), value), 0..4), option::weighted(0.2, -1i64..2)).prop_map(|(members, priority)| {
            let mut object: Map<String, Json> =
                members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            if let Some(priority) = priority {
                object.insert(".priority".to_owned(), priority.into());
            }
            Json::Object(object)
        })
    })
}

fn change() -> impl Strategy<Value = Change> {
    let place = (path_text(), prop::bool::weighted(0.1));
    let place = place.prop_map(|(path, priority)| if priority { format!("{path}/.priority") } else { path });
    prop_oneof![
        (place, tree()).prop_map(|(at, value)| match at.ends_with(".priority") {
            true => set(&at, &json!(1)),
            false => set(&at, &value),
        }),
        (path_text(), vec((path_text(), tree()), 1..4)).prop_filter_map(
            "keys of a merge must not overlap",
            |(at, writes)| {
                let object: Map<String, Json> = writes.into_iter().collect();
                let paths: Vec<Path> = object.keys().map(|key| Path::parse(key).unwrap()).collect();
                let apart = |a: &Path| paths.iter().filter(|b| b.contains(a)).count() == 1;
                (paths.iter().all(apart) && !object.contains_key("")).then(|| merge(&at, &Json::Object(object)))
            }
        ),
        (path_text(), tree()).prop_map(|(at, value)| overlay(&at, &value)),
    ]
}

/// The tree after a change, made the slow way.
fn changed(before: &Rows, change: &Change) -> Rows {
    let mut model = Model::default();
    model.set(&Location::Node(Path::root()), before);
    if change.kind != ChangeKind::Overlay {
        let writes: Vec<_> = change.writes.iter().map(|write| (write.location.clone(), write.rows.clone())).collect();
        model.merge(&writes);
        return rows_of(&model);
    }
    let one = |value: &[u8]| {
        let mut builder = RowsBuilder::new();
        builder.push(&[], value);
        builder.finish().unwrap()
    };
    let base = change.base.encode();
    let mut priorities = Vec::new();
    for (key, value) in change.writes[0].rows.iter() {
        let node = if is_priority_key(key) { &key[..key.len() - 1] } else { key };
        let path = Path::decode(&[&base[..], node].concat()).unwrap();
        if is_priority_key(key) {
            priorities.push((Location::Priority(path), one(value)));
            continue;
        }
        let kept = rows_of(&model).get(&[&path.encode()[..], &[PRIORITY]].concat()).map(one);
        model.set(&Location::Node(path.clone()), &one(value));
        model.set(&Location::Priority(path), &kept.unwrap_or_default());
    }
    model.merge(&priorities);
    rows_of(&model)
}

fn rows_of(model: &Model) -> Rows {
    let text = model.json(&Path::root(), Format::Export);
    parse_value(text.as_bytes(), &ParseLimits::below(&Path::root())).unwrap()
}

/// An expression of booleans; most compile.
fn boolean() -> impl Strategy<Value = String> {
    let snapshot = snapshot();
    let base = prop_oneof![
        Just("true".to_owned()),
        Just("false".to_owned()),
        (snapshot.clone(), prop::sample::select(&["exists", "hasChildren", "isNumber", "isString", "isBoolean"][..]))
            .prop_map(|(snapshot, method)| format!("{snapshot}.{method}()")),
        (snapshot.clone(), value()).prop_map(|(snapshot, path)| format!("{snapshot}.hasChild({path})")),
        (snapshot, value(), value()).prop_map(|(snapshot, a, b)| format!("{snapshot}.hasChildren([{a}, {b}])")),
        (value(), prop::sample::select(&["==", "!=", "<", "<=", ">", ">=", "===", "!=="][..]), value())
            .prop_map(|(a, operator, b)| format!("{a} {operator} {b}")),
        (value(), prop::sample::select(&["contains", "beginsWith", "endsWith"][..]), value())
            .prop_map(|(a, method, b)| format!("({a}).{method}({b})")),
        value().prop_map(|text| format!("({text}).matches(/^[ab]+$/)")),
    ];
    base.prop_recursive(3, 12, 3, |boolean| {
        prop_oneof![
            (boolean.clone(), boolean.clone()).prop_map(|(a, b)| format!("{a} && {b}")),
            (boolean.clone(), boolean.clone()).prop_map(|(a, b)| format!("({a} || {b})")),
            boolean.clone().prop_map(|a| format!("!({a})")),
            (boolean.clone(), boolean.clone(), boolean).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
        ]
    })
}

fn snapshot() -> BoxedStrategy<String> {
    let base = prop::sample::select(&["data", "newData", "root"][..]).prop_map(str::to_owned);
    base.prop_recursive(2, 3, 1, |snapshot| {
        let path = prop_oneof![
            path_text().prop_map(|path| format!("'{path}'")),
            Just("$k".to_owned()),
            Just("auth.uid".to_owned()),
            Just("data.val()".to_owned()),
            Just("'a.b'".to_owned()),
        ];
        prop_oneof![
            (snapshot.clone(), path).prop_map(|(snapshot, path)| format!("{snapshot}.child({path})")),
            snapshot.prop_map(|snapshot| format!("{snapshot}.parent()")),
        ]
    })
    .boxed()
}

fn value() -> BoxedStrategy<String> {
    let base = prop_oneof![
        (-2i64..3).prop_map(|number| number.to_string()),
        prop::sample::select(&["'a'", "'ab'", "''", "null", "true", "0.5", "now", "$k", "auth", "auth.uid"][..])
            .prop_map(str::to_owned),
        prop::sample::select(&["auth.n", "auth.none", "auth.deep.x", "auth['uid']", "auth[$k]"][..])
            .prop_map(str::to_owned),
        snapshot().prop_map(|snapshot| format!("{snapshot}.val()")),
        snapshot().prop_map(|snapshot| format!("{snapshot}.getPriority()")),
    ];
    base.prop_recursive(2, 6, 2, |value| {
        prop_oneof![
            (value.clone(), prop::sample::select(&["+", "-", "*", "/", "%"][..]), value.clone())
                .prop_map(|(a, operator, b)| format!("({a} {operator} {b})")),
            value.clone().prop_map(|a| format!("-{a}")),
            value.clone().prop_map(|a| format!("({a}).length")),
            value.clone().prop_map(|a| format!("({a}).toUpperCase()")),
            (value.clone(), value.clone(), value).prop_map(|(a, b, c)| format!("({a}).replace({b}, {c})")),
        ]
    })
    .boxed()
}

/// What an expression is to the naive evaluator.
#[derive(Clone, Debug, PartialEq)]
enum Naive {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    /// An object: of `auth`, or what `val()` is of children.
    Object(Json),
    Snapshot {
        after: bool,
        path: Option<Vec<String>>,
    },
}

struct World<'a> {
    auth: &'a Json,
    before: &'a Json,
    after: &'a Json,
    at: Vec<String>,
    k: String,
}

/// A failure of the rule.
type Told = Option<Naive>;

impl World<'_> {
    fn truth(&self, expr: &Expr) -> Option<bool> {
        match self.tell(expr)? {
            Naive::Bool(value) => Some(value),
            _ => None,
        }
    }

    fn text(&self, expr: &Expr) -> Option<String> {
        match self.tell(expr)? {
            Naive::Text(text) => Some(text),
            _ => None,
        }
    }

    fn tell(&self, expr: &Expr) -> Told {
        Some(match &expr.kind {
            Kind::Null => Naive::Null,
            Kind::Bool(value) => Naive::Bool(*value),
            Kind::Number(number) => Naive::Number(*number),
            Kind::Text(text) => Naive::Text(text.clone()),
            Kind::Name(name) => match name.as_str() {
                "auth" => plain(self.auth),
                "now" => Naive::Number(NOW as f64),
                "$k" => Naive::Text(self.k.clone()),
                "root" => Naive::Snapshot { after: false, path: Some(Vec::new()) },
                "data" => Naive::Snapshot { after: false, path: Some(self.at.clone()) },
                "newData" => Naive::Snapshot { after: true, path: Some(self.at.clone()) },
                name => panic!("{name}"),
            },
            Kind::Member(of, name) => match (self.tell(of)?, name.as_str()) {
                (Naive::Text(text), "length") => Naive::Number(text.encode_utf16().count() as f64),
                (Naive::Object(object), name) if object.get(name).is_some() => plain(&object[name]),
                (Naive::Object(_), _) => Naive::Null,
                (_, "length") => return None,
                _ => Naive::Null,
            },
            Kind::Index(of, by) => match (self.tell(of)?, self.tell(by)?) {
                (Naive::Object(object), Naive::Text(name)) => object.get(&name).map_or(Naive::Null, plain),
                (_, Naive::Text(_)) => Naive::Null,
                _ => return None,
            },
            Kind::Not(of) => Naive::Bool(!self.truth(of)?),
            Kind::Negative(of) => match self.tell(of)? {
                Naive::Number(number) => Naive::Number(-number),
                _ => return None,
            },
            Kind::And(items) => {
                for item in items {
                    if !self.truth(item)? {
                        return Some(Naive::Bool(false));
                    }
                }
                Naive::Bool(true)
            }
            Kind::Or(items) => {
                for item in items {
                    if self.truth(item)? {
                        return Some(Naive::Bool(true));
                    }
                }
                Naive::Bool(false)
            }
            Kind::Choice(condition, yes, no) => self.tell(if self.truth(condition)? { yes } else { no })?,
            Kind::Binary(operator, a, b) => binary(*operator, self.tell(a)?, self.tell(b)?)?,
            Kind::Call(function, arguments) => {
                let Kind::Member(of, name) = &function.kind else { panic!("a method") };
                match self.tell(of)? {
                    Naive::Snapshot { after, path } => self.of_snapshot(after, path, name, arguments)?,
                    Naive::Text(text) => self.of_text(&text, name, arguments)?,
                    _ => return None,
                }
            }
            Kind::Regex { .. } | Kind::List(_) => panic!("only arguments"),
        })
    }

    fn of_snapshot(&self, after: bool, path: Option<Vec<String>>, name: &str, arguments: &[Expr]) -> Told {
        let json = |path: &Option<Vec<String>>| {
            let mut at = if after { self.after } else { self.before };
            for key in path.as_ref()? {
                at = at.get(key)?;
            }
            Some(at.clone())
        };
        let below = |expr: &Expr| {
            let text = self.text(expr)?;
            if text.trim_matches('/').is_empty() && !matches!(expr.kind, Kind::Text(_)) {
                return None;
            }
            Some(match (&path, Path::parse(&text)) {
                (Some(path), Ok(more)) => {
                    Some(path.iter().cloned().chain(more.segments().map(str::to_owned)).collect())
                }
                _ => None,
            })
        };
        let here = json(&path);
        let value = here.as_ref().map(|here| here.get(".value").unwrap_or(here));
        Some(match name {
            "val" => match value {
                None | Some(Json::Null) => Naive::Null,
                Some(value) => plain(value),
            },
            "exists" => Naive::Bool(here.is_some_and(|here| !here.is_null())),
            "hasChildren" if arguments.is_empty() => Naive::Bool(value.is_some_and(Json::is_object)),
            "isNumber" => Naive::Bool(value.is_some_and(Json::is_number)),
            "isString" => Naive::Bool(value.is_some_and(Json::is_string)),
            "isBoolean" => Naive::Bool(value.is_some_and(Json::is_boolean)),
            "getPriority" => here.as_ref().and_then(|here| here.get(".priority")).map_or(Naive::Null, plain),
            "child" => Naive::Snapshot { after, path: below(&arguments[0])? },
            "parent" => match path {
                None => Naive::Snapshot { after, path: None },
                Some(mut path) => {
                    path.pop()?;
                    Naive::Snapshot { after, path: Some(path) }
                }
            },
            "hasChild" => Naive::Bool(json(&below(&arguments[0])?).is_some_and(|found| !found.is_null())),
            "hasChildren" => {
                let Kind::List(items) = &arguments[0].kind else { panic!("a list") };
                for item in items {
                    if json(&below(item)?).is_none_or(|found| found.is_null()) {
                        return Some(Naive::Bool(false));
                    }
                }
                Naive::Bool(true)
            }
            name => panic!("{name}"),
        })
    }

    fn of_text(&self, text: &str, name: &str, arguments: &[Expr]) -> Told {
        let argument = |index: usize| self.text(&arguments[index]);
        Some(match name {
            "contains" => Naive::Bool(text.contains(&argument(0)?)),
            "beginsWith" => Naive::Bool(text.starts_with(&argument(0)?)),
            "endsWith" => Naive::Bool(text.ends_with(&argument(0)?)),
            "toUpperCase" => Naive::Text(text.to_uppercase()),
            "replace" => match (argument(0)?, argument(1)?) {
                (from, to) if from.is_empty() => Naive::Text(format!("{to}{text}")),
                (from, to) => Naive::Text(text.split(&from).collect::<Vec<_>>().join(&to)),
            },
            "matches" => Naive::Bool(!text.is_empty() && text.chars().all(|c| matches!(c, 'a' | 'b'))),
            name => panic!("{name}"),
        })
    }
}

fn plain(json: &Json) -> Naive {
    match json {
        Json::Null => Naive::Null,
        Json::Bool(value) => Naive::Bool(*value),
        Json::Number(number) => Naive::Number(number.as_f64().unwrap()),
        Json::String(text) => Naive::Text(text.clone()),
        Json::Array(_) | Json::Object(_) => Naive::Object(json.clone()),
    }
}

fn binary(operator: Operator, a: Naive, b: Naive) -> Told {
    use Naive::{Bool, Null, Number, Object, Text};
    let equal = match (&a, &b) {
        (Object(_), Object(_)) => None,
        (Number(_), Number(_)) | (Text(_), Text(_)) | (Bool(_), Bool(_)) | (Null, Null) => Some(a == b),
        _ => Some(false),
    };
    let order = match (&a, &b) {
        (Number(a), Number(b)) => Some(a.partial_cmp(b)),
        (Text(a), Text(b)) => Some(Some(a.encode_utf16().cmp(b.encode_utf16()))),
        _ => None,
    };
    let number = |calculate: fn(f64, f64) -> f64| match (&a, &b) {
        (Number(a), Number(b)) => Some(Number(calculate(*a, *b))),
        _ => None,
    };
    let part = |value: &Naive| match value {
        Number(number) => Some(number_text(*number)),
        Text(text) => Some(text.clone()),
        _ => None,
    };
    match operator {
        Operator::Equal => equal.map(Bool),
        Operator::NotEqual => equal.map(|equal| Bool(!equal)),
        Operator::Less => order.map(|order| Bool(order.is_some_and(|order| order.is_lt()))),
        Operator::LessOrEqual => order.map(|order| Bool(order.is_some_and(|order| order.is_le()))),
        Operator::Greater => order.map(|order| Bool(order.is_some_and(|order| order.is_gt()))),
        Operator::GreaterOrEqual => order.map(|order| Bool(order.is_some_and(|order| order.is_ge()))),
        Operator::Add if matches!((&a, &b), (Number(_), Number(_))) => number(|a, b| a + b),
        Operator::Add => Some(Text(part(&a)? + &part(&b)?)),
        Operator::Subtract => number(|a, b| a - b),
        Operator::Multiply => number(|a, b| a * b),
        Operator::Divide => number(|a, b| if b == 0.0 { f64::NAN } else { a / b }),
        Operator::Remainder => number(|a, b| a % b),
    }
}

fn json_of(rows: &Rows) -> Json {
    let text: Result<_, std::convert::Infallible> = crate::json::to_json(&mut rows.cursor(), Format::Export);
    serde_json::from_slice(&text.unwrap()).unwrap()
}

/// Rules below `/$k`, so that every expression has that name.
fn rule_tree() -> impl Strategy<Value = Json> {
    let node = |inner: BoxedStrategy<Json>| {
        let rule = || option::weighted(0.4, boolean());
        (rule(), rule(), vec((key(), inner), 0..3)).prop_map(|(write, validate, named)| {
            let mut node: Map<String, Json> = named.into_iter().map(|(key, inner)| (key.to_owned(), inner)).collect();
            write.map(|rule| node.insert(".write".to_owned(), rule.into()));
            validate.map(|rule| node.insert(".validate".to_owned(), rule.into()));
            Json::Object(node)
        })
    };
    let deepest = node(Just(json!({})).boxed()).boxed();
    node(deepest).prop_map(|any| json!({ "$k": any }))
}

/// Does the naive implementation allow it?
fn naive_write(rules: &Json, auth: &Json, before: &Rows, change: &Change) -> bool {
    let (old, new) = (json_of(before), json_of(&changed(before, change)));
    let world = |at: &[String]| World { auth, before: &old, after: &new, at: at.to_vec(), k: at[0].clone() };
    let holds = |rule: &Json, at: &[String]| {
        let expr = parse(rule.as_str().unwrap(), &mut EXPRESSION_NODES_MAX.clone()).unwrap();
        world(at).truth(&expr) == Some(true)
    };
    let rules_at = |at: &[String]| {
        at.iter().enumerate().try_fold(
            rules,
            |node, (depth, key)| {
                if depth == 0 { node.get("$k") } else { node.get(key) }
            },
        )
    };
    let exists =
        |at: &[String]| at.iter().try_fold(&new, |node, key| node.get(key)).is_some_and(|node| !node.is_null());
    let valid = |at: &[String]| match rules_at(at).and_then(|node| node.get(".validate")) {
        Some(rule) if exists(at) => holds(rule, at),
        _ => true,
    };
    let keys = |path: &Path| path.segments().map(str::to_owned).collect::<Vec<_>>();
    targets(change).iter().all(|target| {
        let at = keys(target);
        let granted = (0..=at.len()).any(|depth| {
            rules_at(&at[..depth]).and_then(|node| node.get(".write")).is_some_and(|rule| holds(rule, &at[..depth]))
        });
        let above = (0..=at.len()).all(|depth| valid(&at[..depth]));
        let whole = change.kind != ChangeKind::Overlay
            && change.writes.iter().any(|write| write.location == Location::Node(target.clone()));
        granted && above && (!whole || below(&new, &at).iter().all(|at| valid(at)))
    })
}

fn targets(change: &Change) -> Vec<Path> {
    if change.kind != ChangeKind::Overlay {
        return change.writes.iter().map(|write| write.location.path().clone()).collect();
    }
    let base = change.base.encode();
    let node = |key: &[u8]| if is_priority_key(key) { key[..key.len() - 1].to_vec() } else { key.to_vec() };
    change.writes[0].rows.iter().map(|(key, _)| Path::decode(&[&base[..], &node(key)].concat()).unwrap()).collect()
}

/// Every location below `at` that exists.
fn below(tree: &Json, at: &[String]) -> Vec<Vec<String>> {
    let Some(Json::Object(members)) = at.iter().try_fold(tree, |node, key| node.get(key)) else { return Vec::new() };
    let children = members.keys().filter(|key| !key.starts_with('.'));
    children
        .flat_map(|key| {
            let child = [at, std::slice::from_ref(key)].concat();
            let mut all = below(tree, &child);
            all.push(child);
            all
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn looks_see_what_the_change_makes(before in tree(), change in change(), asked in vec(path_text(), 1..12)) {
        let before = rows(&before);
        let after = changed(&before, &change);
        let written = Written::new(&change);
        let touched = change.writes.iter().flat_map(|write| {
            std::iter::successors(Some(write.location.path().clone()), Path::parent)
        });
        for path in asked.iter().map(|text| Path::parse(text).unwrap()).chain(touched) {
            let key = path.encode();
            let Ok(found) = written.look(&mut before.cursor(), &key);
            let Ok(expected) = look(&mut after.cursor(), &key);
            prop_assert_eq!(found, expected, "{} of {:?}, then {:?}", path, before, change);
            if found != Found::Nothing {
                let Ok(found) = written.priority(&mut before.cursor(), &key);
                let Ok(expected) = priority(&mut after.cursor(), &key);
                prop_assert_eq!(found, expected, "the priority of {} of {:?}, then {:?}", path, before, change);
            }
        }
    }

    #[test]
    fn decisions_are_those_of_the_naive_evaluator(rules in rule_tree(), before in tree(), change in change()) {
        let Ok(set) = RuleSet::compile(&json!({ "rules": rules }).to_string()) else { return Ok(()) };
        let before = rows(&before);
        let auth = json!({"uid": "a", "n": 1, "deep": {"x": "b"}, "7": "seven"});
        let request = |trace| Request { auth: Some(&auth), now_ms: NOW, query: None, trace };
        let Ok(verdict) = set.write(&request(false), &before, &change);
        let expected = naive_write(&rules, &auth, &before, &change);
        prop_assert_eq!(verdict == Verdict::Allowed, expected, "{} on {:?}: {:?}", rules, before, change);
        let Ok(traced) = set.write(&request(true), &before, &change);
        prop_assert_eq!(traced == Verdict::Allowed, expected);
    }

    #[test]
    fn expressions_are_evaluated_as_they_are_parsed(expression in boolean(), data in tree(), key in key()) {
        // No .write asks for newData after a change here: the tree is as it was.
        let rules = json!({"rules": {"x": {"$k": {".write": expression}}}}).to_string();
        let Ok(set) = RuleSet::compile(&rules) else { return Ok(()) };
        let data = rows(&json!({"x": data}));
        let auth = json!({"uid": "a", "n": 1, "deep": {"x": "b"}, "7": "seven"});
        let at = vec!["x".to_owned(), key.to_owned()];
        let change = super::set(&format!("x/{key}"), &json!(1));
        let (old, new) = (json_of(&data), json_of(&changed(&data, &change)));
        let world = World { auth: &auth, before: &old, after: &new, at, k: key.to_owned() };
        let expr = parse(&expression, &mut EXPRESSION_NODES_MAX.clone()).unwrap();
        let Ok(verdict) = set.write(&Request { auth: Some(&auth), now_ms: NOW, query: None, trace: false }, &data, &change);
        prop_assert_eq!(verdict == Verdict::Allowed, world.truth(&expr) == Some(true), "{}", expression);
    }

    #[test]
    fn any_text_compiles_or_is_refused(text in ".{0,80}", parts in vec(part(), 0..20)) {
        let parts = parts.concat();
        for expression in [&text, &parts] {
            let rules = json!({"rules": {"$k": {".write": expression}}}).to_string();
            let Ok(set) = RuleSet::compile(&rules) else { continue };
            let Ok(_) = set.write(&Request { auth: None, now_ms: NOW, query: None, trace: true }, &rows(&json!({})), &super::set("a", &json!(1)));
        }
        drop(RuleSet::compile(&text));
    }
}

fn part() -> impl Strategy<Value = &'static str> {
    let parts = &[
        "data",
        "newData",
        "root",
        "auth",
        "now",
        "query",
        "$k",
        ".",
        "(",
        ")",
        "[",
        "]",
        "'a'",
        "\"b\"",
        "1",
        " ",
        ",",
        "&&",
        "||",
        "!",
        "-",
        "+",
        "/",
        "*",
        "%",
        "==",
        "<",
        "?",
        ":",
        "true",
        "null",
        "child",
        "val",
        "exists",
        "matches",
        "/a|b/i",
        "/",
        "\\",
        "é",
        "length",
        "hasChildren",
        "limitToFirst",
    ][..];
    prop::sample::select(parts)
}
