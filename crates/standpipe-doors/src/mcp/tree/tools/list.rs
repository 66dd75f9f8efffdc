//! `tree_list`: what is directly below a place.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use standpipe_engine::{Error, Snapshot};
use standpipe_serve::{Class, Deadline};
use standpipe_tree::{Children, Leaf, Path, RowCursor as _};

use super::super::look::{Timed, on_snapshot};
use super::super::path::canonical;
use super::get::within;
use super::{Call, Hints, Needs, Outcome, Tool, ToolError, raw, schema_of, whole};

/// Children in one answer, at most.
const LIMIT_MAX: usize = 1_000;
const LIMIT_DEFAULT: usize = 100;
/// The longest leaf, as JSON, that is shown with its key.
const LEAF_BYTES_MAX: usize = 256;

pub(super) const TOOL: Tool = Tool {
    name: "tree_list",
    title: "List children",
    description: "Lists the keys directly below a path in key order, with their kinds, and the values of small leaves. Use it \
        first, to find your way, and for places with many children: it never reads what lies deeper. Cheap. Up to limit keys at \
        once; go on with after = next.",
    hints: Hints::LOOKS,
    scope: "tree:read",
    needs: Needs::Tree,
    input: schema_of::<Arguments>,
    output: schema_of::<Listing>,
    call,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// The place, as /a/b/c; / is the root.
    path: String,
    /// Begin behind this key: the last one seen, or next of the answer before.
    #[serde(default)]
    #[schemars(with = "String")]
    after: Option<String>,
    /// The most children to list. 100 by default.
    #[serde(default, deserialize_with = "whole")]
    #[schemars(with = "u64", range(min = 1, max = 1_000))]
    limit: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
struct Listing {
    /// The place, with a leading slash.
    path: String,
    /// Whether anything is there.
    exists: bool,
    /// The children, in key order; a leaf has none.
    children: Vec<Listed>,
    /// There is more: the last key of this answer, to be given as after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    next: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Listed {
    key: String,
    kind: Kind,
    /// The value of a leaf of up to 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "serde_json::Value")]
    value: Option<Box<RawValue>>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Object,
    String,
    Number,
    Boolean,
}

fn call(call: Call<'_>) -> BoxFuture<'_, Result<Outcome, ToolError>> {
    list(call).boxed()
}

async fn list(call: Call<'_>) -> Result<Outcome, ToolError> {
    let arguments: Arguments = call.arguments()?;
    let path = call.path(&arguments.path)?;
    let limit = within("limit", arguments.limit, 1, LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
    let database = call.request.database(call.tree)?;
    let snapshot = database.snapshot().await?;
    database.check_read(&snapshot, call.request.identity(), &path, None)?;
    let (deadline, at) = (call.request.deadline(), path.clone());
    let job = move |snapshot: &Snapshot| listing(snapshot, &at, arguments.after.as_deref(), limit, deadline);
    Ok(Outcome::of(&on_snapshot(call.request, snapshot, path, Class::Read, deadline, job).await?))
}

fn listing(
    snapshot: &Snapshot,
    path: &Path,
    after: Option<&str>,
    limit: usize,
    deadline: Deadline,
) -> Result<Listing, Error> {
    let mut cursor = Timed::new(snapshot.cursor(path), deadline);
    let exists = cursor.seek(&[])?.is_some();
    let mut walk = Children::after(&mut cursor, after)?;
    let mut listing = Listing { path: canonical(path), exists, children: Vec::new(), next: None };
    while let Some(child) = walk.next(&mut cursor)? {
        if listing.children.len() == limit {
            listing.next = listing.children.last().map(|last| last.key.clone());
            break;
        }
        let kind = match child.leaf {
            None => Kind::Object,
            Some(Leaf::Str(_)) => Kind::String,
            Some(Leaf::Bool(_)) => Kind::Boolean,
            Some(Leaf::Int(_) | Leaf::Double(_)) => Kind::Number,
        };
        listing.children.push(Listed { key: child.key, kind, value: child.leaf.and_then(small) });
    }
    Ok(listing)
}

/// A leaf as JSON, where that is short.
fn small(leaf: Leaf<'_>) -> Option<Box<RawValue>> {
    if matches!(leaf, Leaf::Str(text) if text.len() > LEAF_BYTES_MAX) {
        return None;
    }
    let mut json = Vec::new();
    leaf.write_json(&mut json);
    (json.len() <= LEAF_BYTES_MAX).then(|| raw(json))
}
