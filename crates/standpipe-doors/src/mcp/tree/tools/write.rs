//! The tools that write: `tree_set`, `tree_update`, `tree_push`, `tree_delete`. What a value or an update means is what it means in a
//! REST request; conditions, rules and server values are the writer's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use standpipe_engine::{Committed, Compute, Error, ErrorKind, Op, Resume, resume};
use standpipe_serve::{Class, Cost};
use standpipe_tree::{
    Location, Merge, NULL_ETAG, ParseError, ParseLimits, Path, RowCursor as _, Rows, Write as TreeWrite, etag,
    parse_merge, parse_value,
};

use super::super::look::{Timed, on_snapshot};
use super::super::path::canonical;
use super::{Call, Code, Hints, Needs, Outcome, Tool, ToolError, schema_of};
use crate::dispatch::{Write, run};

/// Values up to this are parsed where they came in.
const SMALL_VALUE: usize = 16 << 10;
/// Bytes of changes that are looked through to see whether anybody wrote in between.
const CHANGES_BYTES_MAX: usize = 64 << 10;

pub(super) const SET: Tool = Tool {
    name: "tree_set",
    title: "Write a value",
    description: "Puts a JSON value in the place of whatever is at a path; null deletes it. Use it for one value, with if_etag when \
        others may write the same: the etag you read, or null_etag to write only if nothing is there (to claim something). Durable \
        when it returns; everyone who watches is told.",
    hints: Hints::REPLACES,
    scope: "tree:write",
    needs: Needs::Tree,
    input: schema_of::<Set>,
    output: schema_of::<Written>,
    call: set,
};

pub(super) const UPDATE: Tool = Tool {
    name: "tree_update",
    title: "Write several values",
    description: "Writes several values at once, all or nothing: each member of values is a path relative to path, and its new \
        value (null deletes). What is not named stays. Use it to change some fields of an object, or places that must change \
        together. One durable commit, whatever the number.",
    hints: Hints::REPLACES,
    scope: "tree:write",
    needs: Needs::Tree,
    input: schema_of::<Update>,
    output: schema_of::<Updated>,
    call: update,
};

pub(super) const PUSH: Tool = Tool {
    name: "tree_push",
    title: "Add to a list",
    description: "Adds a value below a path under a new key, which sorts behind all earlier ones. Use it for messages, logs and \
        queues that many write to: nobody overwrites anybody. Every call adds one more, so do not repeat one that may have \
        succeeded without looking.",
    hints: Hints::ADDS,
    scope: "tree:write",
    needs: Needs::Tree,
    input: schema_of::<Push>,
    output: schema_of::<Pushed>,
    call: push,
};

pub(super) const DELETE: Tool = Tool {
    name: "tree_delete",
    title: "Delete a value",
    description: "Deletes what is at a path, with everything below it. Use if_etag to delete only what you have read. Deleting \
        what is not there succeeds, with existed: false. There is no undo.",
    hints: Hints::REPLACES,
    scope: "tree:write",
    needs: Needs::Tree,
    input: schema_of::<Delete>,
    output: schema_of::<Deleted>,
    call: delete,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Set<'a> {
    /// The place, as /a/b/c; / is the root, which is everything.
    path: String,
    /// Any JSON value.
    #[serde(borrow)]
    #[schemars(with = "serde_json::Value")]
    value: &'a RawValue,
    /// Write only if the place has this etag now; null_etag: only if nothing is there.
    #[serde(default)]
    #[schemars(with = "String")]
    if_etag: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Written {
    /// The place, with a leading slash.
    path: String,
    /// The etag of what was written; null where the rules do not let you know.
    etag: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Update<'a> {
    /// The place that the names in values are relative to, as /a/b/c.
    path: String,
    /// New values by relative path, such as {"state": "done", "log/17": null}.
    #[serde(borrow)]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    values: &'a RawValue,
}

#[derive(Serialize, JsonSchema)]
struct Updated {
    /// The place, with a leading slash.
    path: String,
    /// How many values were written or deleted.
    written: u64,
    /// The etag of the place after that; null where others have written too by now, or the rules do not let you read it.
    etag: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Push<'a> {
    /// The list, as /a/b/c.
    path: String,
    /// Any JSON value but null.
    #[serde(borrow)]
    #[schemars(with = "serde_json::Value")]
    value: &'a RawValue,
}

#[derive(Serialize, JsonSchema)]
struct Pushed {
    /// The list, with a leading slash.
    path: String,
    /// The new key.
    key: String,
    /// The place of the new value.
    child_path: String,
    /// Its etag; null where the rules do not let you know.
    etag: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Delete {
    /// The place, as /a/b/c.
    path: String,
    /// Delete only if the place has this etag now.
    #[serde(default)]
    #[schemars(with = "String")]
    if_etag: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Deleted {
    /// The place, with a leading slash.
    path: String,
    /// Whether anything was there; null where the rules do not let you know.
    existed: Option<bool>,
}

fn set(call: Call<'_>) -> BoxFuture<'_, Result<Outcome, ToolError>> {
    async move {
        let Set { path, value, if_etag } = call.arguments()?;
        let path = call.path(&path)?;
        let rows = parsed(&call, value, &path, parse_value).await?;
        let op = Op::Set { location: Location::Node(path.clone()), rows };
        let committed = commit(&call, &path, op, if_etag).await?;
        Ok(Outcome::of(&Written { path: canonical(&path), etag: etag_of(&committed) }))
    }
    .boxed()
}

fn update(call: Call<'_>) -> BoxFuture<'_, Result<Outcome, ToolError>> {
    async move {
        let Update { path, values } = call.arguments()?;
        let path = call.path(&path)?;
        let base = path.clone();
        let merge = move |json: &[u8], limits: &ParseLimits| parse_merge(json, &base, limits);
        let Merge { writes } = parsed(&call, values, &path, merge).await?;
        let written = writes.len() as u64;
        let committed = commit(&call, &path, Op::Merge { base: path.clone(), writes }, None).await?;
        let etag = etag_since(&call, &path, committed.rev).await;
        Ok(Outcome::of(&Updated { path: canonical(&path), written, etag }))
    }
    .boxed()
}

fn push(call: Call<'_>) -> BoxFuture<'_, Result<Outcome, ToolError>> {
    async move {
        let Push { path, value } = call.arguments()?;
        let path = call.path(&path)?;
        let rows = parsed(&call, value, &path, parse_value).await?;
        if rows.is_empty() {
            let what = "null adds nothing, nor does an object without members";
            return Err(ToolError::new(Code::InvalidValue, what, "Push another value"));
        }
        let committed = commit(&call, &path, Op::Push { base: path.clone(), rows }, None).await?;
        let (etag, key) = (etag_of(&committed), committed.pushed.unwrap_or_default());
        let child_path = path.child(&key).map(|child| canonical(&child)).unwrap_or_default();
        Ok(Outcome::of(&Pushed { path: canonical(&path), key, child_path, etag }))
    }
    .boxed()
}

fn delete(call: Call<'_>) -> BoxFuture<'_, Result<Outcome, ToolError>> {
    async move {
        let Delete { path, if_etag } = call.arguments()?;
        let path = call.path(&path)?;
        let seen = Arc::new(Seen::default());
        let (told, at) = (seen.clone(), path.clone());
        // Whether it was there is known for certain only where the writer looks.
        let compute = Compute::new(path.as_str().len(), move |view| {
            told.existed.store(view.cursor(&at).seek(&[])?.is_some(), Ordering::Relaxed);
            told.is_secret.store(view.check_read(&at).is_err(), Ordering::Relaxed);
            Ok(Some(Op::Set { location: Location::Node(at.clone()), rows: Rows::default() }))
        });
        commit(&call, &path, Op::Compute(compute.removing()), if_etag).await?;
        let existed = (!seen.is_secret.load(Ordering::Relaxed)).then(|| seen.existed.load(Ordering::Relaxed));
        Ok(Outcome::of(&Deleted { path: canonical(&path), existed }))
    }
    .boxed()
}

/// What the writer saw before it deleted.
#[derive(Debug, Default)]
struct Seen {
    existed: AtomicBool,
    is_secret: AtomicBool,
}

/// Parses what is to be written below `path`: here where it is short, on a worker where it is long.
async fn parsed<T: Send + 'static>(
    call: &Call<'_>,
    json: &RawValue,
    path: &Path,
    parse: impl FnOnce(&[u8], &ParseLimits) -> Result<T, ParseError> + Send + 'static,
) -> Result<T, ToolError> {
    let limits = ParseLimits::below(path);
    let json: Bytes = call.request.message.bytes().slice_ref(json.get().as_bytes());
    let cost = if json.len() <= SMALL_VALUE { Cost::Small } else { Cost::Bytes(json.len()) };
    let job = move || Ok(parse(&json, &limits));
    let parsed = run(call.request.session(), Class::Write, cost, call.request.deadline(), job).await?;
    Ok(parsed?)
}

/// Has a write committed. If its condition fails, the caller is told the etag that is there now.
async fn commit(call: &Call<'_>, path: &Path, op: Op, if_etag: Option<String>) -> Result<Committed, ToolError> {
    let request = call.request;
    let database = request.database(call.tree)?;
    let write = Write { conditions: if_etag.map(|etag| (path.clone(), etag)).into_iter().collect(), ..Write::new(op) };
    let committed = call.tree.dispatch.write(&database, request.identity(), write, request.deadline()).await;
    match committed {
        Ok(committed) => Ok(committed),
        Err(error) if error.kind() == ErrorKind::Conflict => {
            let etag = etag_now(call, path).await.map_err(ToolError::from)?;
            Err(ToolError::from(error).with("etag", etag))
        }
        Err(error) => Err(error.into()),
    }
}

/// The etag of a place, as the caller may read it.
async fn etag_now(call: &Call<'_>, path: &Path) -> Result<String, Error> {
    let database = call.request.database(call.tree)?;
    let snapshot = database.snapshot().await?;
    database.check_read(&snapshot, call.request.identity(), path, None)?;
    let (deadline, at) = (call.request.deadline(), path.clone());
    on_snapshot(call.request, snapshot, path.clone(), Class::Bulk, deadline, move |snapshot| {
        etag(&mut Timed::new(snapshot.cursor(&at), deadline))
    })
    .await
}

/// The etag of a place as the write of `rev` left it; `None` where it can't be told any more, or not to this caller.
async fn etag_since(call: &Call<'_>, path: &Path, rev: u64) -> Option<String> {
    let database = call.request.database(call.tree).ok()?;
    let snapshot = database.snapshot().await.ok()?;
    database.check_read(&snapshot, call.request.identity(), path, None).ok()?;
    let (deadline, at) = (call.request.deadline(), path.clone());
    let job = move |snapshot: &_| match resume(snapshot, &at, rev, CHANGES_BYTES_MAX)? {
        Resume::Events(events) if events.is_empty() => etag(&mut Timed::new(snapshot.cursor(&at), deadline)).map(Some),
        // An etag of what somebody else has written would let the caller overwrite it unseen.
        _ => Ok(None),
    };
    on_snapshot(call.request, snapshot, path.clone(), Class::Bulk, deadline, job).await.ok().flatten()
}

/// The etag of the one value that was written.
fn etag_of(committed: &Committed) -> Option<String> {
    match &committed.change.as_deref()?.writes[..] {
        [TreeWrite { location: Location::Node(_), rows }] => {
            Some(etag(&mut rows.cursor()).unwrap_or_else(|never| match never {}))
        }
        _ => Some(NULL_ETAG.to_owned()),
    }
}
