//! Which values that are there already would `.validate` refuse? For whoever puts new rules over old data.

use super::RuleSet;
use super::compile::RuleNode;
use super::eval::Machine;
use super::tree::Tree;
use super::verdict::{RuleKind, Violation};
use crate::key::{CHILDREN, PAST, segment_len};
use crate::path::Path;
use crate::rows::RowCursor;

/// Every location whose value its `.validate` refuses, as if somebody who is not signed in wrote it again as it is.
pub(super) fn audit<T: Tree>(
    rules: &RuleSet,
    tree: &T,
    now_ms: u64,
    found: &mut dyn FnMut(Violation),
) -> Result<(), T::Error> {
    let mut audit = Audit { rules, tree, now_ms, rows: tree.cursor(&Path::root()), key: Vec::new(), found };
    let exists = audit.rows.seek(&[])?.is_some();
    if exists && rules.root.validates { audit.node(&rules.root) } else { Ok(()) }
}

struct Audit<'t, 'f, T: Tree + 't> {
    rules: &'t RuleSet,
    tree: &'t T,
    now_ms: u64,
    rows: T::Cursor<'t>,
    /// The encoded location at hand, which exists.
    key: Vec<u8>,
    found: &'f mut dyn FnMut(Violation),
}

impl<'t, T: Tree> Audit<'t, '_, T> {
    fn node(&mut self, node: &'t RuleNode) -> Result<(), T::Error> {
        if let Some(index) = node.validate {
            self.judge(index)?;
        }
        let end = self.key.len();
        if node.any.as_ref().is_none_or(|any| !any.validates) {
            for (segment, child) in node.children.iter().filter(|child| child.1.validates) {
                self.key.extend_from_slice(segment);
                if self.rows.seek(&self.key)?.is_some_and(|row| row.0.starts_with(&self.key)) {
                    self.node(child)?;
                }
                self.key.truncate(end);
            }
            return Ok(());
        }
        self.key.push(CHILDREN);
        let mut row = self.rows.seek(&self.key)?;
        self.key.truncate(end);
        while let Some((found, _)) = row.filter(|row| row.0.starts_with(&self.key)) {
            let Some(len) = segment_len(&found[end..]) else { break };
            self.key.extend_from_slice(&found[end..end + len]);
            if let Some(child) = node.child(&found[end..end + len]).filter(|child| child.validates) {
                self.node(child)?;
            }
            self.key.push(PAST);
            row = self.rows.seek(&self.key)?;
            self.key.truncate(end);
        }
        Ok(())
    }

    fn judge(&mut self, index: usize) -> Result<(), T::Error> {
        let rule = &self.rules.code.rules[index];
        // A budget for each location: how large the tree is says nothing about a rule.
        let request = super::Request { auth: None, now_ms: self.now_ms, query: None, trace: false };
        let mut machine = Machine::new(&self.rules.code, &request, self.tree, None);
        let mut rest = &self.key[..];
        while let Some(len) = segment_len(rest) {
            machine.enter(&rest[..len]);
            rest = &rest[len..];
        }
        if machine.holds(rule)? {
            return Ok(());
        }
        let why = machine.explain(rule)?;
        if let Some(path) = Path::decode(&self.key) {
            (self.found)(Violation { path, rule: RuleKind::Validate, why });
        }
        Ok(())
    }
}
