//! Expressions as they are evaluated: operations in one list, each naming its operands by number.
//!
//! Names are resolved, paths that are known are encoded, patterns are compiled.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use regex::Regex;

use super::ast::Operator;
use super::source::Text;
use super::verdict::RuleKind;

/// The number of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id(pub(super) u32);

/// One operation.
#[derive(Debug)]
pub(super) enum Op {
    Null,
    Bool(bool),
    Number(f64),
    Text(Box<str>),
    Auth,
    Now,
    /// The key that stands at this depth of the rule's location.
    Capture(usize),
    /// A member of `auth` or of what is in it.
    Member(Id, Box<str>),
    Index(Id, Id),
    Query(QueryField),
    // Snapshots.
    Root,
    Data,
    NewData,
    Child(Id, PathPart),
    Parent(Id),
    // What snapshots tell.
    Val(Id),
    Exists(Id),
    HasChild(Id, PathPart),
    HasChildren(Id),
    HasAllChildren(Id, Box<[PathPart]>),
    Priority(Id),
    IsNumber(Id),
    IsString(Id),
    IsBoolean(Id),
    // Texts.
    Length(Id),
    Contains(Id, Id),
    BeginsWith(Id, Id),
    EndsWith(Id, Id),
    Replace(Id, Id, Id),
    LowerCase(Id),
    UpperCase(Id),
    Matches(Id, Box<Regex>),
    // Operators.
    Not(Id),
    Negative(Id),
    Binary(Operator, Id, Id),
    And(Box<[Id]>),
    Or(Box<[Id]>),
    Choice(Id, Id, Id),
}

/// The argument of `child` and the like.
#[derive(Debug)]
pub(super) enum PathPart {
    /// A literal, encoded; `None` where no location can have it.
    Literal(Option<Box<[u8]>>),
    /// A captured key, by its depth.
    Capture(usize),
    /// Anything else.
    Computed(Id),
}

/// What `query` tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueryField {
    OrderByKey,
    OrderByPriority,
    OrderByValue,
    OrderByChild,
    StartAt,
    EndAt,
    EqualTo,
    LimitToFirst,
    LimitToLast,
}

/// How often an operation was evaluated, where somebody asked for a trace.
#[derive(Debug, Default)]
pub(super) struct Counter {
    yes: AtomicU64,
    no: AtomicU64,
    other: AtomicU64,
    failed: AtomicU64,
}

/// What came of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Is(bool),
    OtherValue,
    Failed,
}

impl Counter {
    pub(super) fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Is(true) => &self.yes,
            Outcome::Is(false) => &self.no,
            Outcome::OtherValue => &self.other,
            Outcome::Failed => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// True, false, another value, an error.
    pub(super) fn read(&self) -> [u64; 4] {
        [&self.yes, &self.no, &self.other, &self.failed].map(|counter| counter.load(Ordering::Relaxed))
    }
}

/// One rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) kind: RuleKind,
    /// The expression; for a boolean, that as text.
    pub(super) text: Text,
    pub(super) root: Id,
    /// Its operations.
    pub(super) ops: Range<u32>,
}

/// All expressions of a text.
#[derive(Debug, Default)]
pub(super) struct Code {
    pub(super) ops: Vec<Op>,
    /// Where each operation stands in its rule's expression.
    pub(super) spans: Vec<Range<usize>>,
    pub(super) counters: Vec<Counter>,
    pub(super) rules: Vec<Rule>,
}

impl Code {
    pub(super) fn push(&mut self, op: Op, span: Range<usize>) -> Id {
        let id = Id(u32::try_from(self.ops.len()).expect("the number of operations is limited"));
        self.ops.push(op);
        self.spans.push(span);
        self.counters.push(Counter::default());
        id
    }

    pub(super) fn op(&self, id: Id) -> &Op {
        &self.ops[id.0 as usize]
    }

    /// The text of an operation of `rule`, on one line.
    pub(super) fn excerpt(&self, rule: &Rule, id: Id) -> String {
        let text = rule.text.text.get(self.spans[id.0 as usize].clone()).unwrap_or_default();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}
