//! What was evaluated how often, for people who test their rules (firebase-rtdb §13).

use serde_json::{Value, json};

use super::RuleSet;
use super::code::{Id, Rule};
use super::compile::RuleNode;
use super::error::Places;

/// `{"rules": [{path, rule, line, column, expression, counts, parts}]}`: every rule in the order of the text,
/// and the parts of each in theirs.
pub(super) fn report(rules: &RuleSet) -> Value {
    let mut entries = Vec::new();
    let report = Report { rules, places: Places::new(&rules.text) };
    report.gather(&rules.root, "", &mut entries);
    entries.sort_by_key(|entry| entry.0);
    let entries: Vec<Value> = entries.into_iter().map(|entry| entry.1).collect();
    json!({ "rules": entries })
}

struct Report<'a> {
    rules: &'a RuleSet,
    places: Places<'a>,
}

impl Report<'_> {
    /// The entries of a location and of those below, each with its place in the text.
    fn gather(&self, node: &RuleNode, path: &str, entries: &mut Vec<(usize, Value)>) {
        for index in [node.read, node.write, node.validate].into_iter().flatten() {
            let rule = &self.rules.code.rules[index];
            entries.push((rule.text.span.start, self.entry(rule, if path.is_empty() { "/" } else { path })));
        }
        for child in node.children.iter().map(|child| &child.1).chain(node.any.as_deref()) {
            self.gather(child, &format!("{path}/{}", child.name), entries);
        }
    }

    fn entry(&self, rule: &Rule, path: &str) -> Value {
        let (line, column) = self.places.at(rule.text.source(0..0).start);
        let span = |id: Id| &self.rules.code.spans[id.0 as usize];
        let mut parts: Vec<Id> = rule.ops.clone().map(Id).filter(|id| *id != rule.root).collect();
        parts.sort_by_key(|id| (span(*id).start, std::cmp::Reverse(span(*id).end)));
        let parts: Vec<Value> = parts.into_iter().map(|id| self.part(rule, id)).collect();
        json!({
            "path": path,
            "rule": rule.kind.to_string(),
            "line": line,
            "column": column,
            "expression": rule.text.text,
            "counts": self.counts(rule.root),
            "parts": parts,
        })
    }

    fn part(&self, rule: &Rule, id: Id) -> Value {
        let span = self.rules.code.spans[id.0 as usize].clone();
        let (line, column) = self.places.at(rule.text.source(span).start);
        json!({
            "line": line,
            "column": column,
            "expression": self.rules.code.excerpt(rule, id),
            "counts": self.counts(id),
        })
    }

    fn counts(&self, id: Id) -> Value {
        let [yes, no, other, failed] = self.rules.code.counters[id.0 as usize].read();
        json!({ "true": yes, "false": no, "other": other, "error": failed })
    }
}
