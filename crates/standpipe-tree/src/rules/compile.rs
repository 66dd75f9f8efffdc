//! From the members of a rules text to a tree of rule nodes.

use std::collections::HashSet;

use super::error::{Problem, Problems, RulesError};
use super::index::{IndexRule, IndexSegment};
use super::source::{Node, Text, Value, read};
use super::verdict::Request;
use crate::key::{check_key, encode_key};
use crate::path::Path;
use crate::query::{IndexNode, OrderBy};

/// The rules of one location.
#[derive(Debug, Default)]
pub(super) struct RuleNode {
    /// Encoded keys, sorted.
    children: Vec<(Box<[u8]>, RuleNode)>,
    any: Option<Box<RuleNode>>,
    pub(super) read: Option<Expression>,
    pub(super) write: Option<Expression>,
    pub(super) indexes: Vec<OrderBy>,
}

/// What a rule says.
#[derive(Debug)]
pub(super) enum Expression {
    Constant(bool),
    SignedIn(bool),
}

impl Expression {
    pub(super) fn holds(&self, request: &Request<'_>) -> bool {
        match self {
            Expression::Constant(value) => *value,
            Expression::SignedIn(wanted) => request.auth.is_some() == *wanted,
        }
    }
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

    pub(super) fn child_named(&self, key: &str) -> Option<&RuleNode> {
        let mut segment = Vec::with_capacity(key.len() + 8);
        encode_key(key, &mut segment);
        self.child(&segment)
    }
}

pub(super) fn compile(text: &str) -> Result<(RuleNode, Vec<IndexRule>), RulesError> {
    let mut compiler = Compiler::default();
    let mut root = RuleNode::default();
    match read(text) {
        Err(problem) => compiler.problems.push(problem),
        Ok(document) => match rules_of(&document) {
            Err(problem) => compiler.problems.push(problem),
            Ok(rules) => root = compiler.node(rules),
        },
    }
    compiler.problems.finish(text)?;
    compiler.indexes.sort_by(|a, b| a.sort_key().cmp(&b.sort_key()));
    Ok((root, compiler.indexes))
}

/// The value of the one member `rules`.
fn rules_of(document: &Node) -> Result<&Node, Problem> {
    let shape = "the rules must be an object with one member, \"rules\", that is an object";
    let Value::Object(members) = &document.value else { return Err(Problem::new(document.span.clone(), shape)) };
    match &members[..] {
        [(key, rules)] if key.text == "rules" => Ok(rules),
        [] => Err(Problem::new(document.span.clone(), shape)),
        members => {
            let wrong = members.iter().find(|member| member.0.text != "rules").unwrap_or(&members[1]);
            Err(Problem::new(wrong.0.span.clone(), shape))
        }
    }
}

#[derive(Default)]
struct Compiler {
    problems: Problems,
    indexes: Vec<IndexRule>,
    /// The path of the node at hand.
    path: Vec<IndexSegment>,
}

impl Compiler {
    fn node(&mut self, source: &Node) -> RuleNode {
        let mut node = RuleNode::default();
        let Value::Object(members) = &source.value else {
            self.problems.push(Problem::new(source.span.clone(), "the rules of a location are an object"));
            return node;
        };
        let mut seen = HashSet::new();
        for (key, value) in members {
            if !seen.insert(key.text.as_str()) {
                self.problems.push(Problem::new(key.span.clone(), format!("\"{}\" is given twice", key.text)));
                continue;
            }
            self.member(&mut node, key, value);
        }
        node.children.sort_by(|a, b| a.0.cmp(&b.0));
        node
    }

    fn member(&mut self, node: &mut RuleNode, key: &Text, value: &Node) {
        match key.text.as_str() {
            ".read" => node.read = self.rule(value),
            ".write" => node.write = self.rule(value),
            ".validate" => {
                self.rule(value);
            }
            ".indexOn" => node.indexes = self.index_on(value),
            name if name.starts_with('$') => {
                self.path.push(IndexSegment::Any);
                node.any = Some(Box::new(self.node(value)));
                self.path.pop();
            }
            name => match check_key(name) {
                Ok(()) => {
                    let mut segment = Vec::new();
                    encode_key(name, &mut segment);
                    self.path.push(IndexSegment::Key(name.into()));
                    let child = self.node(value);
                    self.path.pop();
                    node.children.push((segment.into(), child));
                }
                Err(error) => self.problems.push(Problem::new(key.span.clone(), error.to_string())),
            },
        }
    }

    fn rule(&mut self, value: &Node) -> Option<Expression> {
        let text = match &value.value {
            Value::Bool(value) => return Some(Expression::Constant(*value)),
            Value::String(text) => text,
            _ => {
                self.problems
                    .push(Problem::new(value.span.clone(), "a rule is a boolean or a string with an expression"));
                return None;
            }
        };
        match text.text.trim() {
            "true" => Some(Expression::Constant(true)),
            "false" => Some(Expression::Constant(false)),
            "auth != null" | "auth !== null" => Some(Expression::SignedIn(true)),
            "auth == null" | "auth === null" => Some(Expression::SignedIn(false)),
            _ => {
                self.problems.push(Problem::new(value.span.clone(), "this expression is not supported yet"));
                None
            }
        }
    }

    fn index_on(&mut self, value: &Node) -> Vec<OrderBy> {
        let items = match &value.value {
            Value::String(_) => std::slice::from_ref(value),
            Value::Array(items) => items,
            _ => {
                self.problems.push(Problem::new(value.span.clone(), ".indexOn is a string or a list of strings"));
                return Vec::new();
            }
        };
        let mut indexes = Vec::new();
        for item in items {
            match index_of(item) {
                Err(problem) => self.problems.push(problem),
                Ok(None) => {}
                Ok(Some(by)) if indexes.contains(&by) => {}
                Ok(Some(by)) => {
                    self.indexes.push(IndexRule { parent: self.path.clone(), by: by.clone() });
                    indexes.push(by);
                }
            }
        }
        indexes
    }
}

/// What one text in `.indexOn` stands for; `None` for orders that need no index.
fn index_of(item: &Node) -> Result<Option<OrderBy>, Problem> {
    let wrong = |text: String| Problem::new(item.span.clone(), text);
    let Value::String(text) = &item.value else {
        return Err(wrong(".indexOn is a string or a list of strings".to_owned()));
    };
    match text.text.as_str() {
        ".value" => Ok(Some(OrderBy::Value)),
        ".key" | ".priority" => Ok(None),
        text => match Path::parse(text) {
            Ok(path) if path.is_root() => Err(wrong("an index needs the path of a child".to_owned())),
            Ok(path) => Ok(Some(OrderBy::Child(path))),
            Err(error) => Err(wrong(error.to_string())),
        },
    }
}
