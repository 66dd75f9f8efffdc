//! The decision (firebase-rtdb §11.2): which rules are asked, in which order, for a read or a write.

use super::after::Written;
use super::code::{Code, Rule};
use super::compile::RuleNode;
use super::error::Places;
use super::eval::Machine;
use super::tree::Tree;
use super::verdict::{Denial, Method, Request, RuleKind, Verdict};
use crate::change::Change;
use crate::key::{CHILDREN, PAST, segment_len};
use crate::path::Path;
use crate::rows::{RowCursor, Rows};

/// May `path` be read?
pub(super) fn read<T: Tree>(
    rules: &super::RuleSet,
    request: &Request<'_>,
    tree: &T,
    path: &Path,
) -> Result<Verdict, T::Error> {
    let key = path.encode();
    let machine = Machine::new(&rules.code, request, tree, None);
    let mut walk = Walk { rules, kind: RuleKind::Read, machine, trace: request.trace, frames: Vec::with_capacity(8) };
    match walk.grant(&key)? {
        None => Ok(Verdict::Allowed),
        Some(refusal) => Ok(Verdict::Denied(refusal.denial(rules, Method::Read, path))),
    }
}

/// May `change` be made?
pub(super) fn write<T: Tree>(
    rules: &super::RuleSet,
    request: &Request<'_>,
    before: &T,
    change: &Change,
) -> Result<Verdict, T::Error> {
    let written = Written::new(change);
    let machine = Machine::new(&rules.code, request, before, Some(&written));
    let mut walk = Walk { rules, kind: RuleKind::Write, machine, trace: request.trace, frames: Vec::with_capacity(8) };
    let denied = |refusal: Refusal, key: &[u8]| {
        // Which of the locations written it was.
        let path = Path::decode(key).unwrap_or_else(|| change.base.clone());
        Ok(Verdict::Denied(refusal.denial(rules, Method::Write, &path)))
    };
    for (key, _) in written.targets() {
        if let Some(refusal) = walk.grant(&key)? {
            return denied(refusal, &key);
        }
    }
    if !rules.root.validates {
        return Ok(Verdict::Allowed);
    }
    walk.start(RuleKind::Validate);
    for (key, rows) in written.targets() {
        if let Some(refusal) = walk.validate(&key, rows)? {
            return denied(refusal, &key);
        }
    }
    Ok(Verdict::Allowed)
}

/// A rule that says no; or that there is none.
#[derive(Clone)]
struct Refusal {
    kind: RuleKind,
    /// The rule, and why it is not true, where there is one and somebody wants to know.
    rule: Option<(usize, String)>,
    /// Where that rule is, or how far rules go on the way to the location.
    rule_path: String,
    trace: bool,
}

impl Refusal {
    fn denial(self, rules: &super::RuleSet, method: Method, path: &Path) -> Option<Box<Denial>> {
        if !self.trace {
            return None;
        }
        let (expression, at, why) = match self.rule {
            Some((index, why)) => {
                let rule: &Rule = &rules.code.rules[index];
                let at = Places::new(&rules.text).at(rule.text.source(0..0).start);
                (Some(rule.text.text.clone()), Some(at), why)
            }
            None => (None, None, "is not there, nor above".to_owned()),
        };
        Some(Box::new(Denial {
            method,
            path: path.clone(),
            rule_path: self.rule_path,
            rule: self.kind,
            expression,
            place: at,
            why,
        }))
    }
}

/// A location on the way, and what was found there.
struct Frame<'v> {
    node: &'v RuleNode,
    granted: bool,
    refused: Option<(usize, String)>,
}

struct Walk<'v, T: Tree + 'v> {
    rules: &'v super::RuleSet,
    kind: RuleKind,
    machine: Machine<'v, T>,
    trace: bool,
    /// The locations from the root to where the machine is.
    frames: Vec<Frame<'v>>,
}

impl<'v, T: Tree> Walk<'v, T> {
    fn code(&self) -> &'v Code {
        &self.rules.code
    }

    fn start(&mut self, kind: RuleKind) {
        self.kind = kind;
        self.frames.clear();
        self.machine.back_to(0);
    }

    /// Goes back to the deepest location on the way to `key`.
    fn back_towards(&mut self, key: &[u8]) {
        while !key.starts_with(self.machine.path()) {
            self.frames.pop();
            self.machine.back_to(self.frames.len().saturating_sub(1));
        }
    }

    /// Whether some rule on the way to `key` grants; `None` is yes.
    fn grant(&mut self, key: &[u8]) -> Result<Option<Refusal>, T::Error> {
        self.back_towards(key);
        if self.frames.is_empty() {
            self.ask(&self.rules.root, false)?;
        }
        loop {
            let Some(frame) = self.frames.last() else { return Ok(None) };
            if frame.granted {
                return Ok(None);
            }
            let node = frame.node;
            let rest = &key[self.machine.path().len()..];
            let Some(len) = segment_len(rest) else { return Ok(Some(self.refusal())) };
            let Some(child) = node.child(&rest[..len]) else { return Ok(Some(self.refusal())) };
            self.machine.enter(&rest[..len]);
            self.ask(child, false)?;
        }
    }

    /// Goes on to a location and asks its rule.
    fn ask(&mut self, node: &'v RuleNode, granted: bool) -> Result<(), T::Error> {
        let mut frame = Frame { node, granted, refused: None };
        let rule = if self.kind == RuleKind::Read { node.read } else { node.write };
        if let Some(index) = rule {
            let rule = &self.code().rules[index];
            frame.granted = self.machine.holds(rule)?;
            if self.trace && !frame.granted {
                frame.refused = Some((index, self.machine.explain(rule)?));
            }
        }
        self.frames.push(frame);
        Ok(())
    }

    /// The refusal where no rule on the way grants: that of the deepest one.
    fn refusal(&self) -> Refusal {
        let asked = self.frames.iter().rposition(|frame| frame.refused.is_some());
        let depth = asked.unwrap_or(self.frames.len().saturating_sub(1));
        let rule = asked.and_then(|index| self.frames[index].refused.clone());
        Refusal { kind: self.kind, rule, rule_path: self.rule_path(depth), trace: self.trace }
    }

    /// The path in the rules text of the location at this depth.
    fn rule_path(&self, depth: usize) -> String {
        match depth {
            _ if !self.trace => String::new(),
            0 => "/".to_owned(),
            depth => self.frames[1..=depth].iter().map(|frame| format!("/{}", frame.node.name)).collect(),
        }
    }

    /// Whether every `.validate` on the way to `key`, and in the new value below, holds; `None` is yes.
    fn validate(&mut self, key: &[u8], rows: Option<&'v Rows>) -> Result<Option<Refusal>, T::Error> {
        self.back_towards(key);
        if self.frames.is_empty() {
            let refusal = self.judge(&self.rules.root, false)?;
            if refusal.is_some() {
                return Ok(refusal);
            }
        }
        loop {
            let Some(frame) = self.frames.last() else { return Ok(None) };
            let node = frame.node;
            let rest = &key[self.machine.path().len()..];
            let Some(len) = segment_len(rest) else {
                return match rows {
                    Some(rows) if node.validates => self.validate_below(node, rows, &mut Vec::new()),
                    _ => Ok(None),
                };
            };
            let Some(child) = node.child(&rest[..len]).filter(|child| child.validates) else { return Ok(None) };
            self.machine.enter(&rest[..len]);
            let refusal = self.judge(child, false)?;
            if refusal.is_some() {
                return Ok(refusal);
            }
        }
    }

    /// Goes on to a location and asks its `.validate`, if something is there.
    fn judge(&mut self, node: &'v RuleNode, exists: bool) -> Result<Option<Refusal>, T::Error> {
        self.frames.push(Frame { node, granted: false, refused: None });
        let Some(index) = node.validate else { return Ok(None) };
        if !exists && !self.machine.exists_after()? {
            return Ok(None);
        }
        let rule = &self.code().rules[index];
        if self.machine.holds(rule)? {
            return Ok(None);
        }
        let why = if self.trace { self.machine.explain(rule)? } else { String::new() };
        let rule_path = self.rule_path(self.frames.len() - 1);
        Ok(Some(Refusal { kind: self.kind, rule: Some((index, why)), rule_path, trace: self.trace }))
    }

    /// The new value below the location at hand, whose rows are those of `rows` at `inside`.
    fn validate_below(
        &mut self,
        node: &'v RuleNode,
        rows: &'v Rows,
        inside: &mut Vec<u8>,
    ) -> Result<Option<Refusal>, T::Error> {
        let end = inside.len();
        if node.any.as_ref().is_none_or(|any| !any.validates) {
            // Only named children matter: they are few, what is written may be large.
            for (segment, child) in node.children.iter().filter(|child| child.1.validates) {
                inside.extend_from_slice(segment);
                let Ok(row) = rows.cursor().seek(inside);
                let refusal = match row.is_some_and(|row| row.0.starts_with(inside)) {
                    true => self.validate_child(segment, child, rows, inside)?,
                    false => None,
                };
                inside.truncate(end);
                if refusal.is_some() {
                    return Ok(refusal);
                }
            }
            return Ok(None);
        }
        let mut cursor = rows.cursor();
        inside.push(CHILDREN);
        let Ok(mut row) = cursor.seek(inside);
        inside.truncate(end);
        while let Some((key, _)) = row.filter(|row| row.0.starts_with(inside)) {
            let Some(len) = segment_len(&key[end..]) else { break };
            let segment = &key[end..end + len];
            inside.extend_from_slice(segment);
            if let Some(child) = node.child(segment).filter(|child| child.validates) {
                let refusal = self.validate_child(segment, child, rows, inside)?;
                if refusal.is_some() {
                    return Ok(refusal);
                }
            }
            inside.push(PAST);
            let Ok(next) = cursor.seek(inside);
            row = next;
            inside.truncate(end);
        }
        Ok(None)
    }

    fn validate_child(
        &mut self,
        segment: &[u8],
        child: &'v RuleNode,
        rows: &'v Rows,
        inside: &mut Vec<u8>,
    ) -> Result<Option<Refusal>, T::Error> {
        let depth = self.frames.len();
        self.machine.enter(segment);
        let mut refusal = self.judge(child, true)?;
        if refusal.is_none() {
            refusal = self.validate_below(child, rows, inside)?;
        }
        self.frames.truncate(depth);
        self.machine.back_to(depth - 1);
        Ok(refusal)
    }
}
