//! What is asked of rules, and what they answer.

use std::fmt;

use crate::path::Path;
use crate::query::Query;

/// Who asks, when and how.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What `auth` is; `None` is null.
    pub auth: Option<&'a serde_json::Value>,
    /// What `now` is: milliseconds since 1970, one value for the whole operation.
    pub now_ms: u64,
    /// What `query` tells of; `None` where there is none.
    pub query: Option<&'a Query>,
    /// Whether to say why something is denied, and to count for coverage. Costs time.
    pub trace: bool,
}

/// What rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Allowed,
    /// No; and why, where [`Request::trace`] asked for it.
    Denied(Option<Box<Denial>>),
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// To read a location, with all that is below it.
    Read,
    /// To write.
    Write,
}

/// The kind of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleKind {
    /// `.read`
    Read,
    /// `.write`
    Write,
    /// `.validate`
    Validate,
}

/// Why something is denied. It tells of data that its reader may not be allowed to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What was asked for.
    pub method: Method,
    /// Of which location; of several that are written at once, the one that is refused.
    pub path: Path,
    /// The path of the rule that decided, as in the rules text: `/users/$uid`.
    pub rule_path: String,
    /// Which of its rules.
    pub rule: RuleKind,
    /// The rule's expression; `None` where there is no such rule.
    pub expression: Option<String>,
    /// Line and column of the expression in the rules text, from 1.
    pub place: Option<(usize, usize)>,
    /// Why it is not true: what is false, or what went wrong.
    pub why: String,
}

/// A value that a rule refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where it is.
    pub path: Path,
    /// Which rule of that location.
    pub rule: RuleKind,
    /// Why it is not true.
    pub why: String,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::Read => "read",
            Method::Write => "write",
        })
    }
}

impl fmt::Display for RuleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RuleKind::Read => ".read",
            RuleKind::Write => ".write",
            RuleKind::Validate => ".validate",
        })
    }
}

/// `<method> <path>: <rule path> <rule> <why>`
impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {} {} {}", self.method, self.path, self.rule_path, self.rule, self.why)
    }
}
