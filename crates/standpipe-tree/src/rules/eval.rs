//! The evaluation of compiled expressions over a tree.
//!
//! A snapshot is a place: which tree, and an encoded path in a buffer of its own stack discipline. Nothing is
//! read before a method asks, and then it is one look. What goes wrong ends the whole rule
//! (firebase-rtdb §11.6); what it costs is counted, and ends it too.

use std::borrow::Cow;

use super::after::{Found, Written, look, priority};
use super::code::{Code, Id, Op, Outcome, PathPart, QueryField, Rule};
use super::limits::{STEPS_MAX, STEPS_PER_ROW};
use super::tree::Tree;
use super::value::{NOT_A_TEXT, Reason, Value, binary, replace};
use super::verdict::Request;
use crate::key::{decode_key, segment_len};
use crate::leaf::Leaf;
use crate::path::{ENCODED_PATH_BYTES_MAX, Path};
use crate::query::{Bound, OrderBy, Side};

/// What a look into the tree costs.
const LOOK_STEPS: u64 = 16;
/// How many bytes of text cost one step.
const BYTES_PER_STEP: usize = 32;

/// Why an expression has no value.
#[derive(Debug)]
pub(super) enum Fail<E> {
    /// Something in it went wrong: which operation, and why.
    Rule(Id, Reason),
    /// The tree could not be read.
    Tree(E),
}

/// A place in a tree: an encoded path that begins at `start` of the buffer.
#[derive(Clone, Copy, Debug)]
struct Snapshot {
    after: bool,
    start: usize,
    /// The path is one that no location can have.
    nowhere: bool,
}

/// Evaluates the rules of one decision.
pub(super) struct Machine<'v, T: Tree + 'v> {
    code: &'v Code,
    request: &'v Request<'v>,
    before: T::Cursor<'v>,
    written: Option<&'v Written<'v>>,
    /// The encoded location of the rule at hand.
    path: Vec<u8>,
    /// Where its segments end.
    ends: Vec<usize>,
    snapshots: Vec<u8>,
    steps_left: u64,
}

type Evaluated<'v, E> = Result<Value<'v>, Fail<E>>;

impl<'v, T: Tree> Machine<'v, T> {
    pub(super) fn new(
        code: &'v Code,
        request: &'v Request<'v>,
        tree: &'v T,
        written: Option<&'v Written<'v>>,
    ) -> Machine<'v, T> {
        let rows = written.map_or(0, Written::rows) as u64;
        Machine {
            code,
            request,
            before: tree.cursor(&Path::root()),
            written,
            path: Vec::with_capacity(128),
            ends: Vec::new(),
            snapshots: Vec::with_capacity(256),
            steps_left: STEPS_MAX.saturating_add(rows.saturating_mul(STEPS_PER_ROW)),
        }
    }

    /// The encoded location of the rule at hand.
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    /// Goes on to the child with this encoded key.
    pub(super) fn enter(&mut self, segment: &[u8]) {
        self.path.extend_from_slice(segment);
        self.ends.push(self.path.len());
    }

    /// Goes back to a location above, by the number of its segments.
    pub(super) fn back_to(&mut self, depth: usize) {
        self.ends.truncate(depth);
        self.path.truncate(self.ends.last().copied().unwrap_or(0));
    }

    /// Whether anything is at the location after the change.
    pub(super) fn exists_after(&mut self) -> Result<bool, T::Error> {
        let Some(written) = self.written else { return Ok(false) };
        Ok(written.look(&mut self.before, &self.path)? != Found::Nothing)
    }

    /// Whether the rule's expression is true; a failure is not.
    pub(super) fn holds(&mut self, rule: &Rule) -> Result<bool, T::Error> {
        // What a failure has left there.
        self.snapshots.clear();
        match self.truth(rule.root) {
            Ok(value) => Ok(value),
            Err(Fail::Rule(..)) => Ok(false),
            Err(Fail::Tree(error)) => Err(error),
        }
    }

    /// Why the rule's expression, which is not true, is not.
    pub(super) fn explain(&mut self, rule: &Rule) -> Result<String, T::Error> {
        self.snapshots.clear();
        let mut at = rule.root;
        // The operand of a chain of && that is false tells more than the chain.
        while let Op::And(items) = self.code.op(at) {
            let mut decisive = None;
            for item in items {
                match self.truth(*item) {
                    Ok(true) => {}
                    Ok(false) => {
                        decisive = Some(*item);
                        break;
                    }
                    Err(fail) => return self.failure(rule, fail),
                }
            }
            match decisive {
                Some(item) => at = item,
                None => break,
            }
        }
        match self.truth(at) {
            Err(fail) => self.failure(rule, fail),
            Ok(_) => Ok(format!("is not true: {}", self.code.excerpt(rule, at))),
        }
    }

    fn failure(&self, rule: &Rule, fail: Fail<T::Error>) -> Result<String, T::Error> {
        match fail {
            Fail::Rule(id, reason) => Ok(format!("fails: {reason}: {}", self.code.excerpt(rule, id))),
            Fail::Tree(error) => Err(error),
        }
    }

    fn spend(&mut self, id: Id, steps: u64) -> Result<(), Fail<T::Error>> {
        match self.steps_left.checked_sub(steps) {
            Some(left) => {
                self.steps_left = left;
                Ok(())
            }
            None => {
                self.steps_left = 0;
                Err(Fail::Rule(id, "the decision costs too much"))
            }
        }
    }

    fn truth(&mut self, id: Id) -> Result<bool, Fail<T::Error>> {
        match self.value(id)? {
            Value::Bool(value) => Ok(value),
            // The type checker lets nothing else through but from `auth`.
            _ => Err(Fail::Rule(id, "this is no boolean")),
        }
    }

    fn value(&mut self, id: Id) -> Evaluated<'v, T::Error> {
        self.spend(id, 1)?;
        let value = self.evaluate(id);
        if self.request.trace {
            let outcome = match &value {
                Ok(Value::Bool(value)) => Outcome::Is(*value),
                Ok(_) => Outcome::OtherValue,
                Err(_) => Outcome::Failed,
            };
            self.code.counters[id.0 as usize].count(outcome);
        }
        value
    }

    fn evaluate(&mut self, id: Id) -> Evaluated<'v, T::Error> {
        let fail = |reason| Fail::Rule(id, reason);
        let code = self.code;
        Ok(match code.op(id) {
            Op::Null => Value::Null,
            Op::Bool(value) => Value::Bool(*value),
            Op::Number(number) => Value::Number(*number),
            Op::Text(text) => Value::Text(Cow::Borrowed(text)),
            Op::Auth => self.request.auth.map_or(Value::Null, Value::of_json),
            Op::Now => Value::Number(self.request.now_ms as f64),
            Op::Capture(depth) => self.capture(*depth),
            Op::Query(field) => self.query(*field),
            Op::Member(of, name) => self.value(*of)?.member(name),
            Op::Index(of, by) => {
                let of = self.value(*of)?;
                let by = self.value(*by)?;
                of.index(&by).map_err(fail)?
            }
            Op::Not(of) => Value::Bool(!self.truth(*of)?),
            Op::Negative(of) => match self.value(*of)? {
                Value::Number(number) => Value::Number(-number),
                _ => return Err(fail("this is no number")),
            },
            Op::And(items) => {
                for item in items {
                    if !self.truth(*item)? {
                        return Ok(Value::Bool(false));
                    }
                }
                Value::Bool(true)
            }
            Op::Or(items) => {
                for item in items {
                    if self.truth(*item)? {
                        return Ok(Value::Bool(true));
                    }
                }
                Value::Bool(false)
            }
            Op::Choice(condition, yes, no) => {
                let chosen = if self.truth(*condition)? { *yes } else { *no };
                self.value(chosen)?
            }
            Op::Binary(operator, a, b) => {
                let a = self.value(*a)?;
                let b = self.value(*b)?;
                self.spend_on(id, &a)?;
                self.spend_on(id, &b)?;
                binary(*operator, &a, &b).map_err(fail)?
            }
            Op::Root | Op::Data | Op::NewData | Op::Child(..) | Op::Parent(_) => {
                return Err(fail("a snapshot is no value"));
            }
            Op::Val(of) => match self.look(*of)? {
                Found::Nothing => Value::Null,
                Found::Leaf(leaf) => Value::of_leaf(leaf),
                Found::Inner => Value::Inner,
            },
            Op::Exists(of) => Value::Bool(self.look(*of)? != Found::Nothing),
            Op::HasChildren(of) => Value::Bool(self.look(*of)? == Found::Inner),
            Op::IsNumber(of) => Value::Bool(matches!(self.look(*of)?, Found::Leaf(Leaf::Int(_) | Leaf::Double(_)))),
            Op::IsString(of) => Value::Bool(matches!(self.look(*of)?, Found::Leaf(Leaf::Str(_)))),
            Op::IsBoolean(of) => Value::Bool(matches!(self.look(*of)?, Found::Leaf(Leaf::Bool(_)))),
            Op::HasChild(of, path) => Value::Bool(self.has_all(id, *of, std::slice::from_ref(path))?),
            Op::HasAllChildren(of, paths) => Value::Bool(self.has_all(id, *of, paths)?),
            Op::Priority(of) => self.priority(*of)?,
            Op::Length(of) => {
                let text = self.value(*of)?;
                self.spend_on(id, &text)?;
                text.length().map_err(fail)?
            }
            Op::Contains(of, part) => {
                let (text, part) = (self.text(id, *of)?, self.text(id, *part)?);
                Value::Bool(memchr::memmem::find(text.as_bytes(), part.as_bytes()).is_some())
            }
            Op::BeginsWith(of, part) => {
                let (text, part) = (self.text(id, *of)?, self.text(id, *part)?);
                Value::Bool(text.starts_with(&*part))
            }
            Op::EndsWith(of, part) => {
                let (text, part) = (self.text(id, *of)?, self.text(id, *part)?);
                Value::Bool(text.ends_with(&*part))
            }
            Op::Replace(of, from, to) => {
                let (text, from, to) = (self.text(id, *of)?, self.text(id, *from)?, self.text(id, *to)?);
                let replaced = replace(&text, &from, &to).map_err(fail)?;
                self.spend(id, (replaced.len() / BYTES_PER_STEP) as u64)?;
                Value::Text(Cow::Owned(replaced))
            }
            Op::LowerCase(of) => Value::Text(Cow::Owned(self.text(id, *of)?.to_lowercase())),
            Op::UpperCase(of) => Value::Text(Cow::Owned(self.text(id, *of)?.to_uppercase())),
            Op::Matches(of, regex) => {
                let text = self.text(id, *of)?;
                Value::Bool(regex.is_match(&text))
            }
        })
    }

    fn spend_on(&mut self, id: Id, value: &Value<'_>) -> Result<(), Fail<T::Error>> {
        match value {
            Value::Text(text) => self.spend(id, (text.len() / BYTES_PER_STEP) as u64),
            _ => Ok(()),
        }
    }

    /// The value of `of`, which operation `id` needs as a text.
    fn text(&mut self, id: Id, of: Id) -> Result<Cow<'v, str>, Fail<T::Error>> {
        let value = self.value(of)?;
        self.spend_on(id, &value)?;
        match value {
            Value::Text(text) => Ok(text),
            _ => Err(Fail::Rule(of, NOT_A_TEXT)),
        }
    }

    /// The encoded key at a depth of the location.
    fn segment(&self, depth: usize) -> &[u8] {
        let start = depth.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.path[start..self.ends[depth]]
    }

    fn capture(&self, depth: usize) -> Value<'v> {
        let mut key = String::new();
        match decode_key(self.segment(depth), &mut key) {
            Some(_) => Value::Text(Cow::Owned(key)),
            None => Value::Null,
        }
    }

    fn query(&self, field: QueryField) -> Value<'v> {
        let query = self.request.query;
        let order = query.map(|query| &query.order_by);
        let bound = |bound: Option<&'v Bound>| bound.map_or(Value::Null, |bound| Value::of_bound(&bound.value));
        let (start, end) = (query.and_then(|query| query.start.as_ref()), query.and_then(|query| query.end.as_ref()));
        let limit = |side| match query.and_then(|query| query.limit) {
            Some(limit) if limit.side == side => Value::Number(limit.count as f64),
            _ => Value::Null,
        };
        match field {
            QueryField::OrderByKey => Value::Bool(matches!(order, None | Some(OrderBy::Key))),
            QueryField::OrderByPriority => Value::Bool(matches!(order, Some(OrderBy::Priority))),
            QueryField::OrderByValue => Value::Bool(matches!(order, Some(OrderBy::Value))),
            QueryField::OrderByChild => match order {
                Some(OrderBy::Child(path)) => Value::Text(Cow::Borrowed(path.as_str())),
                _ => Value::Null,
            },
            QueryField::StartAt => bound(start),
            QueryField::EndAt => bound(end),
            QueryField::EqualTo => match (start, end) {
                (Some(start), Some(end)) if start.inclusive && end.inclusive && start.value == end.value => {
                    Value::of_bound(&start.value)
                }
                _ => Value::Null,
            },
            QueryField::LimitToFirst => limit(Side::First),
            QueryField::LimitToLast => limit(Side::Last),
        }
    }

    /// Leaves the path of a snapshot at the end of the buffer.
    fn snapshot(&mut self, id: Id) -> Result<Snapshot, Fail<T::Error>> {
        self.spend(id, 1)?;
        let start = self.snapshots.len();
        let code = self.code;
        match code.op(id) {
            Op::Root => Ok(Snapshot { after: false, start, nowhere: false }),
            Op::Data | Op::NewData => {
                self.snapshots.extend_from_slice(&self.path);
                Ok(Snapshot { after: matches!(code.op(id), Op::NewData), start, nowhere: false })
            }
            Op::Child(of, path) => {
                let mut snapshot = self.snapshot(*of)?;
                snapshot.nowhere |= !self.append(id, start, path)?;
                Ok(snapshot)
            }
            Op::Parent(of) => {
                let snapshot = self.snapshot(*of)?;
                match last_segment(&self.snapshots[start..]) {
                    Some(at) => self.snapshots.truncate(start + at),
                    None if snapshot.nowhere => {}
                    None => return Err(Fail::Rule(id, "the root has no parent")),
                }
                Ok(snapshot)
            }
            Op::Choice(condition, yes, no) => {
                let chosen = if self.truth(*condition)? { *yes } else { *no };
                self.snapshot(chosen)
            }
            _ => Err(Fail::Rule(id, "this is no snapshot")),
        }
    }

    /// Appends to the path that begins at `start`; false where no location can have the new one.
    fn append(&mut self, id: Id, start: usize, path: &'v PathPart) -> Result<bool, Fail<T::Error>> {
        let valid = match path {
            PathPart::Literal(Some(encoded)) => {
                self.snapshots.extend_from_slice(encoded);
                true
            }
            PathPart::Literal(None) => false,
            PathPart::Capture(depth) => {
                let from = depth.checked_sub(1).map_or(0, |before| self.ends[before]);
                self.snapshots.extend_from_slice(&self.path[from..self.ends[*depth]]);
                true
            }
            PathPart::Computed(of) => {
                let text = self.text(id, *of)?;
                if text.bytes().all(|byte| byte == b'/') {
                    // It would be the location itself: surely not what the rule's author thought of.
                    return Err(Fail::Rule(*of, "this path is empty"));
                }
                let end = self.snapshots.len();
                let valid = Path::encode_text(&text, &mut self.snapshots).is_ok();
                if !valid {
                    self.snapshots.truncate(end);
                }
                valid
            }
        };
        Ok(valid && self.snapshots.len() - start <= ENCODED_PATH_BYTES_MAX)
    }

    fn look(&mut self, of: Id) -> Result<Found<'v>, Fail<T::Error>> {
        let snapshot = self.snapshot(of)?;
        let found = self.look_at(of, snapshot);
        self.snapshots.truncate(snapshot.start);
        found
    }

    fn look_at(&mut self, id: Id, snapshot: Snapshot) -> Result<Found<'v>, Fail<T::Error>> {
        if snapshot.nowhere {
            return Ok(Found::Nothing);
        }
        self.spend(id, LOOK_STEPS)?;
        let key = &self.snapshots[snapshot.start..];
        let Some(written) = self.written.filter(|_| snapshot.after) else {
            return look(&mut self.before, key).map_err(Fail::Tree);
        };
        let found = written.look(&mut self.before, key).map_err(Fail::Tree)?;
        self.spend(id, written.take_stepped().saturating_mul(LOOK_STEPS))?;
        Ok(found)
    }

    fn priority(&mut self, of: Id) -> Evaluated<'v, T::Error> {
        let snapshot = self.snapshot(of)?;
        let mut leaf = None;
        if self.look_at(of, snapshot)? != Found::Nothing {
            let key = &self.snapshots[snapshot.start..];
            let found = match self.written.filter(|_| snapshot.after) {
                Some(written) => written.priority(&mut self.before, key),
                None => priority(&mut self.before, key),
            };
            leaf = found.map_err(Fail::Tree)?;
        }
        self.snapshots.truncate(snapshot.start);
        Ok(leaf.map_or(Value::Null, Value::of_leaf))
    }

    /// Whether something is at each of the paths below a snapshot.
    fn has_all(&mut self, id: Id, of: Id, paths: &'v [PathPart]) -> Result<bool, Fail<T::Error>> {
        let snapshot = self.snapshot(of)?;
        let end = self.snapshots.len();
        for path in paths {
            let valid = self.append(id, snapshot.start, path)?;
            let below = Snapshot { nowhere: snapshot.nowhere || !valid, ..snapshot };
            let found = self.look_at(id, below)?;
            self.snapshots.truncate(end);
            if found == Found::Nothing {
                self.snapshots.truncate(snapshot.start);
                return Ok(false);
            }
        }
        self.snapshots.truncate(snapshot.start);
        Ok(true)
    }
}

/// Where the last segment of an encoded path begins; `None` for the root.
fn last_segment(path: &[u8]) -> Option<usize> {
    let (mut last, mut at) = (None, 0);
    while let Some(len) = segment_len(&path[at..]) {
        last = Some(at);
        at += len;
    }
    last
}
