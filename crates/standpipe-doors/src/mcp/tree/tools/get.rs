//! `tree_get`: one value, with its ETag.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use standpipe_tree::DEPTH_MAX;

use super::super::look::{Look, Wanted, look};
use super::super::path::canonical;
use super::{Call, Code, Hints, Needs, Outcome, Tool, ToolError, raw, schema_of, whole};

/// The most JSON that one call gives.
pub(crate) const BYTES_MAX: usize = 1 << 20;
/// What it gives unless told otherwise.
pub(crate) const BYTES_DEFAULT: usize = 64 << 10;

pub(super) const TOOL: Tool = Tool {
    name: "tree_get",
    title: "Read a value",
    description: "Reads the JSON value at a path, with its etag. Use it when you know where to look; give depth for an outline \
        of a big place, and if_etag of tree_set the etag you got to write safely. One cheap read; a value over max_bytes comes \
        back as null with truncated: true and its size, so ask for parts.",
    hints: Hints::LOOKS,
    scope: "tree:read",
    needs: Needs::Tree,
    input: schema_of::<Arguments>,
    output: schema_of::<Got>,
    call,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// The place, as /a/b/c; / is the root.
    path: String,
    /// Levels of objects to show below the place: 0 shows its own children only. Deeper objects become true. All by default.
    #[serde(default, deserialize_with = "whole")]
    #[schemars(with = "u64", range(max = 32))]
    depth: Option<u64>,
    /// The longest JSON text to send back, in bytes. 65536 by default.
    #[serde(default, deserialize_with = "whole")]
    #[schemars(with = "u64", range(min = 1, max = 1_048_576))]
    max_bytes: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
struct Got {
    /// The place, with a leading slash.
    path: String,
    /// Whether anything is there.
    exists: bool,
    /// The value; null where nothing is there, or more than max_bytes.
    #[schemars(with = "serde_json::Value")]
    value: Box<RawValue>,
    /// Changes whenever the value does; null_etag where nothing is there.
    etag: String,
    /// Whether something of the value is missing here.
    truncated: bool,
    /// Length of the value's JSON text.
    bytes: u64,
}

fn call(call: Call<'_>) -> BoxFuture<'_, Result<Outcome, ToolError>> {
    get(call).boxed()
}

async fn get(call: Call<'_>) -> Result<Outcome, ToolError> {
    let arguments: Arguments = call.arguments()?;
    let path = call.path(&arguments.path)?;
    let depth = within("depth", arguments.depth, 0, DEPTH_MAX)?.unwrap_or(DEPTH_MAX);
    let bytes_max = within("max_bytes", arguments.max_bytes, 1, BYTES_MAX)?.unwrap_or(BYTES_DEFAULT);
    let look = look(call.tree, call.request, &path, Wanted { depth, bytes_max }).await?;
    let note = note(&look);
    let got = Got {
        path: canonical(&path),
        exists: look.exists,
        truncated: look.is_truncated(),
        bytes: look.bytes,
        value: raw(look.json().to_vec()),
        etag: look.etag,
    };
    Ok(match note {
        Some(note) => Outcome::noted(&got, note),
        None => Outcome::of(&got),
    })
}

/// What a model is told of a value that is longer than it wanted.
pub(crate) fn note(look: &Look) -> Option<String> {
    let bytes = look.bytes;
    look.json.is_none().then(|| {
        format!(
            "[the value is {bytes} bytes of JSON, more than max_bytes: see its keys with tree_list, select with tree_query, \
             give depth for an outline, or read a path below it]"
        )
    })
}

/// A number among the arguments, within its bounds.
pub(crate) fn within(name: &str, number: Option<u64>, min: usize, max: usize) -> Result<Option<usize>, ToolError> {
    let Some(number) = number else { return Ok(None) };
    match usize::try_from(number).ok().filter(|number| (min..=max).contains(number)) {
        Some(number) => Ok(Some(number)),
        None => {
            let what = format!("{name} must be from {min} to {max}, not {number}");
            Err(ToolError::new(Code::InvalidArgument, what, "Correct it"))
        }
    }
}
