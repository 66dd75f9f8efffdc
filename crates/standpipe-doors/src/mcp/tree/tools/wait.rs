//! The tool `tree_wait`: waits, for a bounded time, until what is at a path is something else. It is for clients that can't or don't
//! subscribe, which are most of them.
//!
//! A wait is a cursor and a timer, and holds no worker: it takes the cursor first, looks then, and goes on after the look's
//! revision, so no change can fall between. What counts is what the look shows: a write that leaves everything as it was is
//! no change, and one that is undone before it is looked at is not seen.

use std::time::Duration;

use futures_util::FutureExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use standpipe_engine::{Error, ErrorKind, WatchRead};
use standpipe_tree::{DEPTH_MAX, Path};
use tokio::time::{Instant, interval_at, sleep_until};

use super::super::look::{Look, Wanted, look};
use super::super::path::canonical;
use super::super::watching::Standing;
use super::get::{BYTES_DEFAULT, note, within};
use super::{Call, Hints, Needs, Outcome, Tool, ToolError, raw, schema_of, whole};
use crate::dispatch::{differs, refused};

/// How often a client that wants to is told that its call is still at work (spec mcp §3.1).
const PROGRESS: Duration = Duration::from_secs(5);

/// Between two looks of one wait: what is written all the time without becoming something else is not read all the time.
const GATHER: Duration = Duration::from_millis(100);

/// Changes taken from a ring at once.
const EVENTS_MAX: usize = 256;

/// How long a call waits unless told otherwise, in milliseconds.
const TIMEOUT_MS: usize = 25_000;
/// And at most: clients and proxies give up after a minute.
const TIMEOUT_MS_MAX: usize = 55_000;

pub(super) const TOOL: Tool = Tool {
    name: "tree_wait",
    title: "Wait for a change",
    description: "Waits until the value at a path, or anything below it, is another one, and returns it with its etag. Use it in place \
        of reading again and again: give the etag you have, and it returns at once if you have missed something. With changed: \
        false the time is over: call it again. Waiting costs the server almost nothing.",
    hints: Hints::LOOKS,
    scope: "tree:read",
    needs: Needs::Tree,
    input: schema_of::<Arguments>,
    output: schema_of::<Waited>,
    call: |call| wait(call).boxed(),
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// The place, as /a/b/c; / is the root.
    path: String,
    /// The etag of what you have seen: returns at once if it is another one now. Without it, waits for the next change.
    #[serde(default)]
    #[schemars(with = "String")]
    etag: Option<String>,
    /// How long to wait at most, in milliseconds. 25000 by default.
    #[serde(default, deserialize_with = "whole")]
    #[schemars(with = "u64", range(max = 55_000))]
    timeout_ms: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
struct Waited {
    /// The place, with a leading slash.
    path: String,
    /// Whether the value is another one; false when the time was over.
    changed: bool,
    /// Whether anything is there.
    exists: bool,
    /// The value now; null where nothing is there, or more than 65536 bytes.
    #[schemars(with = "serde_json::Value")]
    value: Box<RawValue>,
    /// Give it to the next call.
    etag: String,
    /// Whether the value is left out because of its length.
    truncated: bool,
}

/// Waits as long as it may, and tells of progress to who wants that.
async fn wait(call: Call<'_>) -> Result<Outcome, ToolError> {
    let arguments: Arguments = call.arguments()?;
    let path = call.path(&arguments.path)?;
    let timeout_ms = within("timeout_ms", arguments.timeout_ms, 0, TIMEOUT_MS_MAX)?.unwrap_or(TIMEOUT_MS) as u64;
    let begun = Instant::now();
    let mut changed =
        std::pin::pin!(changed(&call, &path, arguments.etag.as_deref(), begun + Duration::from_millis(timeout_ms)));
    let mut ticks = interval_at(begun + PROGRESS, PROGRESS);
    let (changed, look) = loop {
        tokio::select! {
            biased;
            result = &mut changed => break result?,
            now = ticks.tick(), if call.request.wants_progress() => {
                let waited = now.duration_since(begun).as_millis() as u64;
                call.request.progress(waited, Some(timeout_ms), "waiting for a change");
            }
        }
    };
    let note = note(&look);
    let waited = Waited {
        path: canonical(&path),
        changed,
        exists: look.exists,
        truncated: look.is_truncated(),
        value: raw(look.json().to_vec()),
        etag: look.etag,
    };
    Ok(match note {
        Some(note) => Outcome::noted(&waited, note),
        None => Outcome::of(&waited),
    })
}

/// Waits until a look shows something else than `known`, or than the first look where nothing is known; says whether it does, and
/// what was seen last.
async fn changed(call: &Call<'_>, path: &Path, known: Option<&str>, until: Instant) -> Result<(bool, Look), Error> {
    let (tree, request) = (call.tree, call.request);
    let wanted = Wanted { depth: DEPTH_MAX, bytes_max: BYTES_DEFAULT };
    let database = request.database(tree)?;
    let _permit = request.session().watch_permit().map_err(refused)?;
    let standing = Standing::of(&request.caller);
    let mut rules = database.rules_changed();
    let mut judged = *rules.borrow_and_update();
    let mut watch = database.watch(path);
    let mut seen = look(tree, request, path, wanted).await?;
    let known = known.unwrap_or(&seen.etag).to_owned();
    while seen.etag == known {
        watch.start_after(seen.rev);
        loop {
            tokio::select! {
                () = watch.changed() => {}
                // Whoever may not read this any more is told so by the look.
                () = differs(&mut rules, &judged) => break,
                () = sleep_until(until) => return Ok((false, seen)),
                () = standing.expired() => {
                    return Err(Error::new(ErrorKind::Unauthenticated, "the credential has expired; get another one"));
                }
                () = request.session().closing() => return Err(stopping()),
                () = tree.shutdown.stopping() => return Err(stopping()),
            }
            if !matches!(watch.read(EVENTS_MAX), WatchRead::Events(events) if events.is_empty()) {
                break;
            }
        }
        judged = *rules.borrow_and_update();
        seen = look(tree, request, path, wanted).await?;
        if seen.etag == known {
            sleep_until(until.min(Instant::now() + GATHER)).await;
        }
    }
    Ok((true, seen))
}

fn stopping() -> Error {
    Error::unavailable("the server is shutting down")
}
