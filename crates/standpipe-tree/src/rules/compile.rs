//! From the members of a rules text to a tree of rule nodes and their code (firebase-rtdb §11.1).

use std::collections::HashSet;

use super::ast::{Expr, Kind, parse};
use super::check::{Scope, check};
use super::code::{Code, Op, Rule};
use super::error::{Problem, Problems, RulesError};
use super::index::{IndexRule, IndexSegment};
use super::limits::{EXPRESSION_BYTES_MAX, EXPRESSION_NODES_MAX, INDEXES_MAX, REGEXES_MAX};
use super::source::{Node, Text, Value, read};
use super::verdict::RuleKind;
use crate::key::{check_key, encode_key};
use crate::path::{DEPTH_MAX, ENCODED_PATH_BYTES_MAX, Path};
use crate::query::{IndexNode, OrderBy};

/// The rules of one location.
#[derive(Debug, Default)]
pub(super) struct RuleNode {
    /// Its key in the rules text; empty for the root.
    pub(super) name: Box<str>,
    /// Encoded keys, sorted.
    pub(super) children: Vec<(Box<[u8]>, RuleNode)>,
    /// What is for every child that is not named.
    pub(super) any: Option<Box<RuleNode>>,
    /// Numbers of rules in the code.
    pub(super) read: Option<usize>,
    pub(super) write: Option<usize>,
    pub(super) validate: Option<usize>,
    /// Whether there is a `.validate` here or below.
    pub(super) validates: bool,
    pub(super) indexes: Vec<OrderBy>,
}

impl RuleNode {
    /// The rules of the child whose encoded key this is.
    pub(super) fn child(&self, segment: &[u8]) -> Option<&RuleNode> {
        match self.children.binary_search_by(|child| (*child.0).cmp(segment)) {
            Ok(index) => Some(&self.children[index].1),
            Err(_) => self.any.as_deref(),
        }
    }

    /// What is indexed at and below the location.
    pub(super) fn index_node(&self) -> IndexNode {
        let named = self.children.iter().map(|(key, node)| (key.clone(), node.index_node())).collect();
        IndexNode::new(&self.indexes, named, self.any.as_ref().map(|any| any.index_node()))
    }

    /// The rules of the child with this key.
    pub(super) fn child_named(&self, key: &str) -> Option<&RuleNode> {
        let mut segment = Vec::with_capacity(key.len() + 8);
        encode_key(key, &mut segment);
        self.child(&segment)
    }
}

/// What a text is compiled to.
pub(super) struct Compiled {
    pub(super) root: RuleNode,
    pub(super) code: Code,
    pub(super) indexes: Vec<IndexRule>,
}

pub(super) fn compile(text: &str) -> Result<Compiled, RulesError> {
    let mut compiler = Compiler::new();
    let mut root = RuleNode::default();
    match read(text).and_then(rules_of) {
        Err(problem) => compiler.problems.push(problem),
        Ok(rules) => root = compiler.node(&rules),
    }
    compiler.problems.finish(text)?;
    compiler.indexes.sort_by(|a, b| a.sort_key().cmp(&b.sort_key()));
    Ok(Compiled { root, code: compiler.code, indexes: compiler.indexes })
}

const SHAPE: &str = "the rules must be an object with one member, \"rules\", that is an object";

/// The value of the one member `rules`.
fn rules_of(document: Node) -> Result<Node, Problem> {
    let Value::Object(mut members) = document.value else { return Err(Problem::new(document.span, SHAPE)) };
    if let Some((key, _)) = members.iter().find(|member| member.0.text != "rules") {
        return Err(Problem::new(key.span.clone(), SHAPE));
    }
    match (members.pop(), members.pop()) {
        (Some((_, rules)), None) => Ok(rules),
        (Some((key, _)), Some(_)) => Err(Problem::new(key.span, "\"rules\" is given twice")),
        (None, _) => Err(Problem::new(document.span, SHAPE)),
    }
}

struct Compiler {
    problems: Problems,
    code: Code,
    indexes: Vec<IndexRule>,
    /// The keys to the node at hand; `$` names are among them.
    path: Vec<String>,
    /// The `$` names on the way, each with the depth of its key.
    captures: Vec<(String, usize)>,
    nodes_left: usize,
    regexes: usize,
}

impl Compiler {
    fn new() -> Compiler {
        Compiler {
            problems: Problems::default(),
            code: Code::default(),
            indexes: Vec::new(),
            path: Vec::new(),
            captures: Vec::new(),
            nodes_left: EXPRESSION_NODES_MAX,
            regexes: 0,
        }
    }

    fn node(&mut self, source: &Node) -> RuleNode {
        let mut node = RuleNode { name: self.path.last().map_or("", String::as_str).into(), ..RuleNode::default() };
        let Value::Object(members) = &source.value else {
            self.problems.push(
                Problem::new(source.span.clone(), "the rules of a location must be an object")
                    .help("write {\".read\": …, \".write\": …}"),
            );
            return node;
        };
        let mut seen = HashSet::new();
        for (key, value) in members {
            if !seen.insert(key.text.as_str()) {
                self.problems.push(Problem::new(key.span.clone(), format!("\"{}\" is given twice", key.text)));
                continue;
            }
            if !key.text.starts_with('.') && self.too_long(&key.text) {
                self.problems.push(Problem::new(key.span.clone(), "no location has a path as long as this"));
                continue;
            }
            self.member(&mut node, key, value);
        }
        node.children.sort_by(|a, b| a.0.cmp(&b.0));
        let below = node.children.iter().map(|child| &child.1).chain(node.any.as_deref());
        node.validates = node.validate.is_some() || below.into_iter().any(|child| child.validates);
        node
    }

    fn member(&mut self, node: &mut RuleNode, key: &Text, value: &Node) {
        match key.text.as_str() {
            ".read" => node.read = self.rule(RuleKind::Read, value),
            ".write" => node.write = self.rule(RuleKind::Write, value),
            ".validate" => node.validate = self.rule(RuleKind::Validate, value),
            ".indexOn" => node.indexes = self.index_on(value),
            name if name.starts_with('.') => self.problems.push(
                Problem::new(key.span.clone(), format!("unknown member {name:?}"))
                    .help("a location has .read, .write, .validate and .indexOn"),
            ),
            name if name.starts_with('$') => self.capture(node, key, value),
            name => match check_key(name) {
                Err(error) => self.problems.push(Problem::new(key.span.clone(), error.to_string())),
                Ok(()) => {
                    let mut segment = Vec::new();
                    encode_key(name, &mut segment);
                    let child = self.child(name, value);
                    node.children.push((segment.into(), child));
                }
            },
        }
    }

    /// Whether a child with this key is longer or deeper than any location. Without this, a small text of
    /// many nodes below a long path would make much larger paths, in coverage for one.
    fn too_long(&self, key: &str) -> bool {
        let bytes = self.path.iter().map(String::len).sum::<usize>() + key.len();
        self.path.len() >= DEPTH_MAX || bytes > ENCODED_PATH_BYTES_MAX
    }

    fn child(&mut self, name: &str, value: &Node) -> RuleNode {
        self.path.push(name.to_owned());
        let child = self.node(value);
        self.path.pop();
        child
    }

    fn capture(&mut self, node: &mut RuleNode, key: &Text, value: &Node) {
        let name = key.text.as_str();
        let problem = match check_key(&name[1..]) {
            Err(error) => Some(format!("after its $, {error}")),
            Ok(()) if node.any.is_some() => Some("a location can have only one key with $".to_owned()),
            Ok(()) if self.captures.iter().any(|capture| capture.0 == name) => {
                Some(format!("{name} is already the name of a key above"))
            }
            Ok(()) => None,
        };
        if let Some(problem) = problem {
            self.problems.push(Problem::new(key.span.clone(), problem));
            return;
        }
        self.captures.push((name.to_owned(), self.path.len()));
        node.any = Some(Box::new(self.child(name, value)));
        self.captures.pop();
    }

    /// Compiles a rule; its number.
    fn rule(&mut self, kind: RuleKind, value: &Node) -> Option<usize> {
        let first = self.code.ops.len();
        let compiled = match &value.value {
            Value::Bool(constant) => {
                let word = constant.to_string();
                let text = Text::word(word, value.span.clone());
                let root = self.code.push(Op::Bool(*constant), 0..text.text.len());
                Ok((text, root))
            }
            Value::String(text) => self.expression(kind, text).map(|root| (text.clone(), root)),
            _ => Err(Problem::new(value.span.clone(), "a rule must be a boolean or a string with an expression")),
        };
        match compiled {
            Ok((text, root)) => {
                let ops = first as u32..self.code.ops.len() as u32;
                self.code.rules.push(Rule { kind, text, root, ops });
                Some(self.code.rules.len() - 1)
            }
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    fn expression(&mut self, kind: RuleKind, text: &Text) -> Result<super::code::Id, Problem> {
        if text.text.len() > EXPRESSION_BYTES_MAX {
            let message = format!("the expression is longer than {EXPRESSION_BYTES_MAX} bytes");
            return Err(Problem::new(text.span.clone(), message));
        }
        let placed = |problem: Problem| Problem { span: text.source(problem.span), ..problem };
        let expr = parse(&text.text, &mut self.nodes_left).map_err(placed)?;
        self.count_regexes(&expr).map_err(placed)?;
        check(&expr, &Scope { kind, captures: &self.captures }, &mut self.code).map_err(placed)
    }

    /// Refuses the expression whose regular expressions are too many, before they are compiled.
    fn count_regexes(&mut self, expr: &Expr) -> Result<(), Problem> {
        self.regexes += regexes(expr);
        if self.regexes > REGEXES_MAX {
            let message = format!("the rules have more than {REGEXES_MAX} regular expressions");
            return Err(Problem::new(expr.span.clone(), message));
        }
        Ok(())
    }

    fn index_on(&mut self, value: &Node) -> Vec<OrderBy> {
        let items = match &value.value {
            Value::String(_) => std::slice::from_ref(value),
            Value::Array(items) => items,
            _ => {
                self.problems.push(Problem::new(value.span.clone(), INDEX_SHAPE));
                return Vec::new();
            }
        };
        if self.indexes.len() + items.len() > INDEXES_MAX {
            let message = format!("the rules declare more than {INDEXES_MAX} indexes");
            self.problems.push(Problem::new(value.span.clone(), message));
            return Vec::new();
        }
        let mut indexes = Vec::new();
        for item in items {
            match index_of(item) {
                Err(problem) => self.problems.push(problem),
                Ok(None) => {}
                Ok(Some(by)) if indexes.contains(&by) => {}
                Ok(Some(by)) => {
                    let parent = self.path.iter().map(|key| match key.starts_with('$') {
                        true => IndexSegment::Any,
                        false => IndexSegment::Key(key.as_str().into()),
                    });
                    self.indexes.push(IndexRule { parent: parent.collect(), by: by.clone() });
                    indexes.push(by);
                }
            }
        }
        indexes
    }
}

const INDEX_SHAPE: &str = ".indexOn must be a string or a list of strings";

/// What one text in `.indexOn` stands for; `None` for orders that need no index.
fn index_of(item: &Node) -> Result<Option<OrderBy>, Problem> {
    let wrong = |text: String| Problem::new(item.span.clone(), text);
    let Value::String(text) = &item.value else { return Err(wrong(INDEX_SHAPE.to_owned())) };
    match text.text.as_str() {
        ".value" => Ok(Some(OrderBy::Value)),
        ".key" | ".priority" => Ok(None),
        text => match Path::parse(text) {
            Ok(path) if path.is_root() => Err(wrong("an index needs the path of a child, or .value".to_owned())),
            Ok(path) => Ok(Some(OrderBy::Child(path))),
            Err(error) => Err(wrong(error.to_string())),
        },
    }
}

fn regexes(expr: &Expr) -> usize {
    let all = |items: &[Expr]| items.iter().map(regexes).sum();
    match &expr.kind {
        Kind::Regex { .. } => 1,
        Kind::List(items) | Kind::And(items) | Kind::Or(items) => all(items),
        Kind::Call(function, items) => regexes(function) + all(items),
        Kind::Member(a, _) | Kind::Not(a) | Kind::Negative(a) => regexes(a),
        Kind::Index(a, b) | Kind::Binary(_, a, b) => regexes(a) + regexes(b),
        Kind::Choice(a, b, c) => regexes(a) + regexes(b) + regexes(c),
        Kind::Null | Kind::Bool(_) | Kind::Number(_) | Kind::Text(_) | Kind::Name(_) => 0,
    }
}
