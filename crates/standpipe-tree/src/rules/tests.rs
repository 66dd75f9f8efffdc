//! The language by tables: what compiles, what it evaluates to, and what is decided.

mod compiling;
mod deciding;
mod evaluating;
mod random;

use serde_json::{Value, json};

use super::{Request, RuleSet, Verdict};
use crate::change::{Change, ChangeKind, Write};
use crate::parse::{ParseLimits, parse_merge, parse_value, tests::LIMITS};
use crate::path::{Location, Path};
use crate::query::Query;
use crate::rows::Rows;

pub(super) const NOW: u64 = 1_700_000_000_000;

pub(super) fn rows(json: &Value) -> Rows {
    let limits = ParseLimits { string_bytes_max: 2 << 20, ..LIMITS };
    parse_value(json.to_string().as_bytes(), &limits).unwrap()
}

pub(super) fn set(at: &str, value: &Value) -> Change {
    let location = Location::parse(at).unwrap();
    let writes = vec![Write { location: location.clone(), rows: rows(value) }];
    Change { kind: ChangeKind::Set, base: location.path().clone(), writes }
}

pub(super) fn merge(at: &str, value: &Value) -> Change {
    let base = Path::parse(at).unwrap();
    let merge = parse_merge(value.to_string().as_bytes(), &base, &LIMITS).unwrap();
    let writes = merge.writes.into_iter().map(|(location, rows)| Write { location, rows }).collect();
    Change { kind: ChangeKind::Merge, base, writes }
}

pub(super) fn overlay(at: &str, value: &Value) -> Change {
    Change { kind: ChangeKind::Overlay, ..set(at, value) }
}

/// Rules, a tree and somebody who asks.
pub(super) struct Case {
    pub(super) rules: RuleSet,
    pub(super) data: Rows,
    pub(super) auth: Option<Value>,
}

impl Case {
    pub(super) fn new(rules: &Value, data: &Value, auth: Value) -> Case {
        let rules = json!({ "rules": rules }).to_string();
        let rules = RuleSet::compile(&rules).unwrap_or_else(|error| panic!("{rules}: {error}"));
        Case { rules, data: rows(data), auth: Some(auth).filter(|auth| !auth.is_null()) }
    }

    fn request<'a>(&'a self, query: Option<&'a Query>, trace: bool) -> Request<'a> {
        Request { auth: self.auth.as_ref(), now_ms: NOW, query, trace }
    }

    /// With and without a trace: empty when it is allowed.
    pub(super) fn read(&self, path: &str, query: Option<&Query>) -> String {
        let path = Path::parse(path).unwrap();
        let ask = |trace| self.rules.read(&self.request(query, trace), &self.data, &path).unwrap();
        told(ask(false), ask(true))
    }

    pub(super) fn write(&self, change: &Change) -> String {
        let ask = |trace| self.rules.write(&self.request(None, trace), &self.data, change).unwrap();
        told(ask(false), ask(true))
    }
}

fn told(plain: Verdict, traced: Verdict) -> String {
    match (plain, traced) {
        (Verdict::Allowed, Verdict::Allowed) => String::new(),
        (Verdict::Denied(None), Verdict::Denied(Some(denial))) => denial.to_string(),
        other => panic!("the trace changes the verdict: {other:?}"),
    }
}
