//! Places of the tree as resources (spec mcp §3.2): addresses `tree:///a/b`, contents that are compact JSON.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rmcp::model::{PaginatedRequestParams, ReadResourceRequestParams, Resource, ResourceTemplate};
use serde_json::json;
use standpipe_engine::{Database, Error, ErrorKind, Identity, Snapshot};
use standpipe_mcp::Fault;
use standpipe_mcp::fault::{DENIED, INVALID_PARAMS, RESOURCE_NOT_FOUND, TOO_LARGE};
use standpipe_serve::{Class, Deadline};
use standpipe_tree::{Children, DEPTH_MAX, Path};

use super::Tree;
use super::answer::{Answer, Cache};
use super::look::{Look, Timed, Wanted, look_on, on_snapshot};
use super::path::{SCHEME, canonical, of_uri, uri};
use super::request::Request;
use super::tools::output::whole_output;
use crate::fault;

/// The template of all resources.
pub(super) const TEMPLATE: &str = "tree:///{+path}";
/// Resources in one page.
const PAGE: usize = 100;
/// Children that are looked at for one page: where few of them may be read, a page is short.
const LOOKED_AT_MAX: usize = 2_000;
/// The longest content.
const BYTES_MAX: usize = 1 << 20;
const JSON: &str = "application/json";

/// Answers `resources/templates/list`.
pub(super) fn templates(request: &Request) -> Result<Answer, Fault> {
    request.need("tree:read")?;
    let params: Option<PaginatedRequestParams> = request.params()?;
    if params.is_some_and(|params| params.cursor.is_some()) {
        return Err(no_such_cursor());
    }
    let template = ResourceTemplate::new(TEMPLATE, "tree")
        .with_title("A place of the tree")
        .with_description("The JSON value at a path, with everything below it; up to 1 MiB.")
        .with_mime_type(JSON);
    Ok(Answer::of(&json!({ "resourceTemplates": [template] })).cached(Cache::settled(true)))
}

/// Answers `resources/list`: the root, and those of its children that the caller may read.
pub(super) async fn list(tree: &Arc<Tree>, request: &Request) -> Result<Answer, Fault> {
    request.need("tree:read")?;
    let params: Option<PaginatedRequestParams> = request.params()?;
    let after = params.and_then(|params| params.cursor).map(|cursor| decode(&cursor)).transpose()?;
    let page = page(tree, request, after).await.map_err(|error| refused(&error))?;
    let mut result = json!({ "resources": page.resources });
    if let Some(last) = page.next {
        result["nextCursor"] = encode(&last).into();
    }
    Ok(Answer::of(&result).cached(Cache::NONE))
}

struct Page {
    resources: Vec<Resource>,
    /// Go on behind this key.
    next: Option<String>,
}

async fn page(tree: &Tree, request: &Request, after: Option<String>) -> Result<Page, Error> {
    let database = request.database(tree)?;
    let snapshot = database.snapshot().await?;
    let (deadline, identity) = (request.deadline(), request.identity().clone());
    let job = move |snapshot: &Snapshot| readable(&database, snapshot, &identity, after.as_deref(), deadline);
    on_snapshot(request, snapshot, Path::root(), Class::Read, deadline, job).await
}

fn readable(
    database: &Database,
    snapshot: &Snapshot,
    identity: &Identity,
    after: Option<&str>,
    deadline: Deadline,
) -> Result<Page, Error> {
    let mut page = Page { resources: Vec::new(), next: None };
    if after.is_none() {
        page.resources.push(resource(&Path::root(), "/"));
    }
    let mut cursor = Timed::new(snapshot.cursor(&Path::root()), deadline);
    let mut children = Children::after(&mut cursor, after)?;
    let (mut last, mut looked_at) = (None, 0);
    while let Some(child) = children.next(&mut cursor)? {
        if page.resources.len() == PAGE || looked_at == LOOKED_AT_MAX {
            page.next = last;
            break;
        }
        looked_at += 1;
        let Ok(path) = Path::root().child(&child.key) else { continue };
        if database.check_read(snapshot, identity, &path, None).is_ok() {
            page.resources.push(resource(&path, &child.key));
        }
        last = Some(child.key);
    }
    Ok(page)
}

fn resource(path: &Path, name: &str) -> Resource {
    Resource::new(uri(path), name).with_mime_type(JSON)
}

/// Answers `resources/read`.
pub(super) async fn read(tree: &Arc<Tree>, request: &Request) -> Result<Answer, Fault> {
    request.need("tree:read")?;
    let params: ReadResourceRequestParams = request.params()?;
    let Some(path) = of_uri(&params.uri) else {
        if params.uri.starts_with(SCHEME) {
            return Err(missing(request, &params.uri));
        }
        let text = format!("resources here have addresses like {SCHEME}a/b");
        return Err(Fault::new(INVALID_PARAMS, text).with_data(json!({ "uri": params.uri })));
    };
    let look = match look(tree, request, &path).await {
        Ok(look) if look.exists => look,
        Ok(_) => return output(tree, request, &path, &params.uri).await,
        Err(error) if error.kind() == ErrorKind::Denied => {
            fault::log(&error);
            return Err(match may_read_above(tree, request, &path).await {
                true => {
                    Fault::new(DENIED, "the rules do not allow this to be read").with_data(json!({ "uri": params.uri }))
                }
                false => missing(request, &params.uri),
            });
        }
        Err(error) => return Err(refused(&error)),
    };
    let Some(json) = look.json else {
        let text = format!(
            "{} is {} bytes of JSON, more than {BYTES_MAX}: read a place below it, or use the tools tree_list and tree_query",
            canonical(&path),
            look.bytes
        );
        return Err(Fault::new(TOO_LARGE, text).with_data(json!({ "uri": params.uri, "limit": BYTES_MAX })));
    };
    let text = String::from_utf8_lossy(&json);
    let content = json!({ "uri": params.uri, "mimeType": JSON, "text": text });
    Ok(Answer::of(&json!({ "contents": [content] })).cached(Cache::NONE))
}

/// Where no value is, there may be output.
async fn output(tree: &Tree, request: &Request, path: &Path, uri: &str) -> Result<Answer, Fault> {
    match whole_output(tree, request, path, BYTES_MAX).await.map_err(|error| refused(&error))? {
        None => Err(missing(request, uri)),
        Some(None) => {
            let text =
                format!("this output is longer than {BYTES_MAX} bytes: read parts of it with the tool run_output");
            Err(Fault::new(TOO_LARGE, text).with_data(json!({ "uri": uri, "limit": BYTES_MAX })))
        }
        Some(Some(text)) => {
            let content = json!({ "uri": uri, "mimeType": "text/plain", "text": text });
            Ok(Answer::of(&json!({ "contents": [content] })).cached(Cache::NONE))
        }
    }
}

async fn look(tree: &Tree, request: &Request, path: &Path) -> Result<Look, Error> {
    let database = request.database(tree)?;
    let snapshot = database.snapshot().await?;
    database.check_read(&snapshot, request.identity(), path, None)?;
    look_on(request, snapshot, path, Wanted { depth: DEPTH_MAX, bytes_max: BYTES_MAX }).await
}

/// May the caller read what this is a part of? Then it is no secret that there is something.
async fn may_read_above(tree: &Tree, request: &Request, path: &Path) -> bool {
    let Ok(database) = request.database(tree) else { return false };
    let Ok(snapshot) = database.snapshot().await else { return false };
    let mut above = path.parent();
    while let Some(path) = above {
        if database.check_read(&snapshot, request.identity(), &path, None).is_ok() {
            return true;
        }
        above = path.parent();
    }
    false
}

/// The failure that says that nothing is there, in the words of the era.
pub(super) fn missing(request: &Request, uri: &str) -> Fault {
    let code = if request.is_modern() { INVALID_PARAMS } else { RESOURCE_NOT_FOUND };
    Fault::new(code, "no such resource").with_data(json!({ "uri": uri }))
}

/// A refusal of the engine or the serving core.
pub(super) fn refused(error: &Error) -> Fault {
    fault::log(error);
    Fault::from(error)
}

fn no_such_cursor() -> Fault {
    Fault::new(INVALID_PARAMS, "no such cursor: begin again without one")
}

/// A cursor stands for the key behind which the next page begins; a letter in front tells it from other text.
fn encode(key: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("k{key}"))
}

fn decode(cursor: &str) -> Result<String, Fault> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| no_such_cursor())?;
    let text = String::from_utf8(bytes).map_err(|_| no_such_cursor())?;
    let key = text.strip_prefix('k').ok_or_else(no_such_cursor)?;
    Path::root().child(key).map_err(|_| no_such_cursor())?;
    Ok(key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_lead_on() {
        for key in ["a", "10", "ä b", "\u{10FFFF}"] {
            assert_eq!(decode(&encode(key)).unwrap(), key);
        }
        for cursor in ["", "x", "!!", "a b", "ew", &encode("a.b"), &encode(""), &URL_SAFE_NO_PAD.encode(b"k\xFF")] {
            assert_eq!(decode(cursor).unwrap_err().code, INVALID_PARAMS, "{cursor}");
        }
    }
}
