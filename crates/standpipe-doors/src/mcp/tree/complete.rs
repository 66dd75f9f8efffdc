//! Completion of paths in the template of resources (spec mcp §3.2).

use std::sync::Arc;

use rmcp::model::{CompleteRequestParams, Reference};
use serde_json::json;
use standpipe_engine::{Database, Error, Identity, Snapshot};
use standpipe_mcp::Fault;
use standpipe_mcp::fault::INVALID_PARAMS;
use standpipe_serve::{Class, Deadline};
use standpipe_tree::{Children, Path};

use super::Tree;
use super::answer::Answer;
use super::look::{Timed, on_snapshot};
use super::path;
use super::request::Request;
use super::resources::{TEMPLATE, refused};
use super::server::COMPLETIONS_MAX;

/// Children that are looked at for one completion.
const LOOKED_AT_MAX: usize = 10_000;

/// Paths that begin with what was typed.
#[derive(Debug, Default)]
struct Found {
    values: Vec<String>,
    has_more: bool,
}

/// Answers `completion/complete`.
pub(super) async fn complete(tree: &Arc<Tree>, request: &Request) -> Result<Answer, Fault> {
    request.need("tree:read")?;
    let params: CompleteRequestParams = request.params()?;
    match &params.r#ref {
        Reference::Resource(template) if template.uri == TEMPLATE && params.argument.name == "path" => {}
        _ => {
            let text =
                format!("what can be completed here is the argument \"path\" of the resource template {TEMPLATE}");
            return Err(Fault::new(INVALID_PARAMS, text));
        }
    }
    let found = find(tree, request, &params.argument.value).await.map_err(|error| refused(&error))?;
    let completion = json!({ "values": found.values, "hasMore": found.has_more });
    Ok(Answer::of(&json!({ "completion": completion })))
}

async fn find(tree: &Tree, request: &Request, typed: &str) -> Result<Found, Error> {
    let (above, prefix) = typed.rsplit_once('/').map_or(("", typed), |(above, prefix)| (above, prefix));
    // What is no path is the beginning of none.
    let Ok(above) = path::parse(above) else { return Ok(Found::default()) };
    let database = request.database(tree)?;
    let snapshot = database.snapshot().await?;
    let (deadline, identity) = (request.deadline(), request.identity().clone());
    let prefix = percent_encoding::percent_decode_str(prefix).decode_utf8_lossy().into_owned();
    let at = above.clone();
    let job = move |snapshot: &Snapshot| found(&database, snapshot, &identity, &at, &prefix, deadline);
    on_snapshot(request, snapshot, above, Class::Read, deadline, job).await
}

fn found(
    database: &Database,
    snapshot: &Snapshot,
    identity: &Identity,
    above: &Path,
    prefix: &str,
    deadline: Deadline,
) -> Result<Found, Error> {
    let mut found = Found::default();
    let all = database.check_read(snapshot, identity, above, None).is_ok();
    let mut cursor = Timed::new(snapshot.cursor(above), deadline);
    // Keys that are no numbers are ordered by their text, so that those with this beginning stand together; a beginning of digits may be
    // one of either kind.
    let is_text = prefix.starts_with(|c: char| !c.is_ascii_digit() && c != '-');
    let mut children = match is_text {
        true => Children::from(&mut cursor, prefix)?,
        false => Children::after(&mut cursor, None)?,
    };
    let mut looked_at = 0;
    while let Some(child) = children.next(&mut cursor)? {
        looked_at += 1;
        if looked_at > LOOKED_AT_MAX {
            found.has_more = true;
            break;
        }
        if !child.key.starts_with(prefix) {
            if is_text {
                break;
            }
            continue;
        }
        let Ok(path) = above.child(&child.key) else { continue };
        if !all && database.check_read(snapshot, identity, &path, None).is_err() {
            continue;
        }
        if found.values.len() == COMPLETIONS_MAX {
            found.has_more = true;
            break;
        }
        found.values.push(path::canonical(&path)[1..].to_owned());
    }
    Ok(found)
}
