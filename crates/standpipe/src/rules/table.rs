//! The table of `standpipe rules test`: requests, and what the rules should say to each.

use std::fmt;
use std::path::Path as FsPath;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Map, Value};
use standpipe_tree::rules::{Denial, Request, Verdict};
use standpipe_tree::{
    Change, ChangeKind, Location, OwnedLeaf, ParseLimits, Path, Query, Rows, RuleSet, Write, parse_merge, parse_rest,
    parse_value, resolve,
};

use crate::exit::{Failure, Result};

/// A table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    /// What the database holds at first, for cases without data of their own.
    #[serde(default)]
    data: Value,
    /// What `now` is, in milliseconds; else the clock's.
    now: Option<u64>,
    /// The requests.
    #[serde(alias = "case")]
    pub(super) cases: Vec<Case>,
}

/// One request, and what is expected.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    name: Option<String>,
    method: Method,
    path: String,
    /// What `auth` is; nothing and null are nobody.
    auth: Option<Value>,
    /// What is written, in the form of an export; null removes.
    #[serde(default)]
    value: Value,
    /// Parameters of a read, by their names in the REST API.
    #[serde(default)]
    query: Map<String, Value>,
    data: Option<Value>,
    expect: Expect,
    /// A part of what a refusal says, such as `/users/$uid .write`.
    because: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Method {
    Read,
    Set,
    Update,
    Remove,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Expect {
    Allow,
    Deny,
}

/// Reads a table: JSON where the name ends so, else TOML.
pub(super) fn read(file: &FsPath) -> Result<Table> {
    let text = std::fs::read_to_string(file).map_err(|error| Failure::file(file, &error))?;
    let table = match file.extension().is_some_and(|extension| extension == "json") {
        true => serde_json::from_str(&text).map_err(|error| error.to_string()),
        false => toml::from_str(&text).map_err(|error| error.to_string()),
    };
    table.map_err(|cause| {
        Failure::usage(format!("{}: {cause}", file.display()))
            .help("docs/rules.md has the format of the table, and an example")
    })
}

impl Case {
    /// Asks the rules. Outside: the case itself is wrong; inside: the rules say something else than expected.
    pub(super) fn run(&self, rules: &RuleSet, table: &Table) -> Result<Result<(), String>, String> {
        let now_ms = table.now.unwrap_or_else(clock);
        let before = rows(self.data.as_ref().unwrap_or(&table.data), &Path::root())?;
        let auth = self.auth.as_ref().filter(|auth| !auth.is_null());
        let query = self.query()?;
        let request = Request { auth, now_ms, query: query.as_ref(), trace: true };
        let verdict = match self.method {
            Method::Read => rules.read(&request, &before, &Path::parse(&self.path).map_err(told)?),
            _ => rules.write(&request, &before, &self.change(&before, now_ms)?),
        };
        let verdict = verdict.unwrap_or_else(|never| match never {});
        Ok(match (self.expect, verdict) {
            (Expect::Allow, Verdict::Allowed) => Ok(()),
            (Expect::Deny, Verdict::Allowed) => Err("expected deny, but it is allowed".to_owned()),
            (Expect::Allow, Verdict::Denied(denial)) => Err(format!("expected allow, but denied: {}", shown(denial))),
            (Expect::Deny, Verdict::Denied(denial)) => {
                let why = shown(denial);
                match &self.because {
                    Some(because) if !why.contains(because) => Err(format!("expected {because:?}, but denied: {why}")),
                    _ => Ok(()),
                }
            }
        })
    }

    fn query(&self) -> Result<Option<Query>, String> {
        // The REST API has bounds and orders as JSON, limits as plain numbers: both are the value as JSON.
        let params: Vec<(&str, String)> =
            self.query.iter().map(|(name, value)| (name.as_str(), value.to_string())).collect();
        parse_rest(&params).map_err(told)
    }

    /// What is written, its server values resolved.
    fn change(&self, before: &Rows, now_ms: u64) -> Result<Change, String> {
        let location = Location::parse(&self.path).map_err(told)?;
        let base = location.path().clone();
        let (kind, writes) = match self.method {
            Method::Update => {
                let text = self.value.to_string();
                let merge = parse_merge(text.as_bytes(), &base, &ParseLimits::below(&base)).map_err(told)?;
                (ChangeKind::Merge, merge.writes)
            }
            Method::Remove => (ChangeKind::Set, vec![(location, Rows::default())]),
            Method::Read | Method::Set => {
                let rows = rows(&self.value, &base)?;
                (ChangeKind::Set, vec![(location, rows)])
            }
        };
        let resolved = |(location, rows): (Location, Rows)| {
            let at = location.encode();
            let current = |key: &[u8]| Ok(before.get(&[&at[..], key].concat()).and_then(OwnedLeaf::decode));
            let rows: Result<Rows, std::convert::Infallible> = resolve(&rows, now_ms, current);
            Write { location, rows: rows.unwrap_or_else(|never| match never {}) }
        };
        Ok(Change { kind, base, writes: writes.into_iter().map(resolved).collect() })
    }
}

fn rows(value: &Value, base: &Path) -> Result<Rows, String> {
    parse_value(value.to_string().as_bytes(), &ParseLimits::below(base)).map_err(told)
}

fn told(error: impl fmt::Display) -> String {
    error.to_string()
}

fn shown(denial: Option<Box<Denial>>) -> String {
    denial.map(|denial| denial.to_string()).unwrap_or_default()
}

fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64)
}

/// Its name, else the request.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.write_str(name),
            None => write!(f, "{:?} {} as {}", self.method, self.path, self.uid()),
        }
    }
}

impl Case {
    fn uid(&self) -> &str {
        let uid = self.auth.as_ref().and_then(|auth| auth.get("uid")).and_then(Value::as_str);
        uid.unwrap_or("nobody")
    }
}
