//! What requests of the Firebase protocol ask for: bodies to writes, queries and paths, and why a request
//! is refused. Nothing here waits or knows a session.

use std::borrow::Cow;

use http::Method;
use standpipe_engine::{Database, Error, Op};
use standpipe_tree::{
    Location, Merge, NULL_ETAG, ParseLimits, Path, PathError, WireQueryError, parse_merge, parse_wire_query,
};
use standpipe_wire::firebase::{Body, WrongField};

use super::listens::Ask;
use crate::dispatch::{Leases, Write};
use crate::fault;
use crate::http::parse_write;

/// Why a request is not granted, as its client is told.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: &'static str,
    pub(super) text: Cow<'static, str>,
}

impl Refused {
    /// The request itself is wrong.
    pub(super) fn invalid(text: impl Into<Cow<'static, str>>) -> Self {
        Self { status: "invalid", text: text.into() }
    }
}

impl From<WrongField> for Refused {
    fn from(wrong: WrongField) -> Self {
        Self::invalid(wrong.to_string())
    }
}

impl From<WireQueryError> for Refused {
    fn from(wrong: WireQueryError) -> Self {
        Self::invalid(wrong.to_string())
    }
}

impl From<PathError> for Refused {
    fn from(wrong: PathError) -> Self {
        Self::invalid(format!("'p' is no path: {wrong}"))
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        fault::log(&error);
        let status = fault::firebase_status(&error);
        let text = if status == "datastale" { STALE.into() } else { Cow::Owned(error.message().to_owned()) };
        Self { status, text }
    }
}

/// What a client is told whose hash is not that of the data.
const STALE: &str = "Transaction hash does not match";

/// Actions that change something, now or when the session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Set,
    Merge,
    SetOnEnd,
    MergeOnEnd,
    CancelOnEnd,
}

impl Change {
    pub(super) fn of(action: &str) -> Option<Self> {
        Some(match action {
            "p" => Self::Set,
            "m" => Self::Merge,
            "o" => Self::SetOnEnd,
            "om" => Self::MergeOnEnd,
            "oc" => Self::CancelOnEnd,
            _ => return None,
        })
    }
}

/// A change whose value is not read yet: that may take a worker.
#[derive(Debug)]
pub(super) struct Unread {
    change: Change,
    location: Location,
    hash: Option<String>,
}

/// A change whose value is rows.
#[derive(Debug)]
pub(super) struct Parsed {
    change: Change,
    hash: Option<String>,
    what: What,
}

#[derive(Debug)]
enum What {
    Set(Op),
    Merge(Path, Merge),
    Nothing(Path),
}

impl Unread {
    pub(super) fn new(change: Change, body: &Body<'_>) -> Result<Self, Refused> {
        let location = Location::parse(&body.path()?)?;
        let hash = match change {
            Change::Set => body.hash()?.map(Cow::into_owned),
            _ => None,
        };
        Ok(Self { change, location, hash })
    }

    /// Reads the value.
    pub(super) fn parse(self, data: &[u8]) -> Result<Parsed, Error> {
        let Self { change, location, hash } = self;
        let what = match change {
            Change::Set | Change::SetOnEnd => What::Set(parse_write(&Method::PUT, location, false, data)?),
            Change::CancelOnEnd => What::Nothing(location.path().clone()),
            Change::Merge | Change::MergeOnEnd => {
                let Location::Node(base) = location else {
                    return Err(Error::bad_request("a priority has nothing to merge into"));
                };
                let merge = parse_merge(data, &base, &ParseLimits::below(&base));
                let merge = merge.map_err(|error| Error::bad_request(error.to_string()).with_cause(error))?;
                What::Merge(base, merge)
            }
        };
        Ok(Parsed { change, hash, what })
    }
}

impl Parsed {
    /// The write; what is for the session's end goes to its lease.
    pub(super) fn write<'a>(self, database: &Database, leases: &Leases) -> Write<'a> {
        let Self { change, hash, what } = self;
        let conditions = match (&what, hash) {
            (What::Set(Op::Set { location, .. }), Some(hash)) => {
                // The client's hash of nothing is an empty one.
                let etag = if hash.is_empty() { NULL_ETAG.to_owned() } else { hash };
                vec![(location.path().clone(), etag)]
            }
            _ => Vec::new(),
        };
        let op = match what {
            What::Set(Op::Set { location, rows }) if change == Change::SetOnEnd => {
                leases.on_close(database, location, rows)
            }
            What::Set(op) => op,
            What::Merge(base, merge) if change == Change::MergeOnEnd => {
                leases.on_close_all(database, base, merge.writes)
            }
            What::Merge(base, merge) => Op::Merge { base, writes: merge.writes },
            What::Nothing(path) => leases.forget(database, path),
        };
        Write { conditions, ..Write::new(op) }
    }
}

/// What a listen, its end, or a single read is about.
pub(super) fn ask(body: &Body<'_>) -> Result<Ask, Refused> {
    let path = Path::parse(&body.path()?)?;
    let query = match body.query() {
        None => None,
        Some(json) => parse_wire_query(json)?.map(|query| (query, json.into())),
    };
    let hash = body.hash()?.map(|hash| hash.into());
    Ok(Ask { path, query, tag: body.tag()?, hash })
}
