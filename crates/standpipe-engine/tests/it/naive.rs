//! The tree as the specification tells it, in the most obvious and slowest way: what the engine's
//! answers are compared with. Keys are few and plain, so `BTreeMap` order is key order.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A node: a leaf or children, and a priority where it is not empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Node {
    pub(crate) leaf: Option<Value>,
    pub(crate) children: BTreeMap<String, Node>,
    pub(crate) priority: Option<Value>,
}

impl Node {
    pub(crate) fn is_empty(&self) -> bool {
        self.leaf.is_none() && self.children.is_empty()
    }

    /// From export-form JSON.
    pub(crate) fn parse(value: &Value) -> Self {
        let mut node = Self::default();
        match value {
            Value::Null => {}
            Value::Object(members) => {
                node.priority = members.get(".priority").cloned();
                match members.get(".value") {
                    Some(leaf) => node.leaf = Some(leaf.clone()),
                    None => {
                        for (key, value) in members.iter().filter(|(key, _)| !key.starts_with('.')) {
                            let child = Self::parse(value);
                            if !child.is_empty() {
                                node.children.insert(key.clone(), child);
                            }
                        }
                    }
                }
            }
            leaf => node.leaf = Some(leaf.clone()),
        }
        if node.is_empty() { Self::default() } else { node }
    }

    pub(crate) fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, key| node.children.get(*key))
    }

    pub(crate) fn set(&mut self, path: &[&str], new: Node) {
        match path {
            [] => *self = new,
            [key, rest @ ..] => {
                if new.is_empty() && self.leaf.is_some() {
                    return;
                }
                if !new.is_empty() {
                    self.leaf = None;
                }
                let child = self.children.entry((*key).to_owned()).or_default();
                child.set(rest, new);
                if child.is_empty() {
                    self.children.remove(*key);
                }
                if self.is_empty() {
                    self.priority = None;
                }
            }
        }
    }

    pub(crate) fn set_priority(&mut self, path: &[&str], priority: Option<Value>) {
        match path {
            [] if !self.is_empty() => self.priority = priority,
            [] => {}
            [key, rest @ ..] => {
                if let Some(child) = self.children.get_mut(*key) {
                    child.set_priority(rest, priority);
                }
            }
        }
    }

    /// Export-form JSON.
    pub(crate) fn export(&self) -> Value {
        let mut members = Map::new();
        if let Some(leaf) = &self.leaf {
            if self.priority.is_none() {
                return leaf.clone();
            }
            members.insert(".value".into(), leaf.clone());
        }
        if let Some(priority) = &self.priority {
            members.insert(".priority".into(), priority.clone());
        }
        for (key, child) in &self.children {
            members.insert(key.clone(), child.export());
        }
        if members.is_empty() { Value::Null } else { Value::Object(members) }
    }
}
