//! Asking all servers at once, with limits: on time, on pages, and on bytes of everything together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use standpipe_serve::Limits;
use standpipe_wire::jsonrpc::{Edit, Message};
use tokio::time::timeout;

use super::{Joined, Kind, Member};
use crate::exchange::Room;
use crate::fault::{METHOD_NOT_FOUND, UPSTREAM_DIED};
use crate::gateway::{SEPARATOR, list};
use crate::{Caller, Fault, exchange};

/// Pages that are asked of one server.
const PAGES_MAX: usize = 100;
/// How long capabilities are waited for; those of a server that starts more slowly are taken to be all.
const DISCOVER_WITHIN: Duration = Duration::from_secs(5);
/// Capabilities that are offered for servers which have not answered in time.
const ALL: [&str; 4] = ["tools", "prompts", "resources", "completions"];

/// What all servers list.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) items: Vec<Item>,
    /// Servers that could not be asked, or whose list is not whole.
    pub(super) missing: Vec<Arc<str>>,
}

/// One item of a list.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) server: Arc<str>,
    /// Its name or URI, as the server has it.
    pub(super) key: String,
    /// As clients see it.
    pub(super) json: Vec<u8>,
}

impl Joined {
    /// All items of a kind, in the order of the servers.
    pub(super) async fn gather(&self, kind: Kind, caller: &Caller, request: &Message) -> Gathered {
        let limits = self.0.limits.load_full();
        let within = Duration::from_millis(limits.mcp_start_ms_max);
        let left = AtomicUsize::new(limits.mcp_message_bytes_max);
        let members = self.0.set.members();
        let asked = members.iter().map(|member| async {
            let all = pages(member, kind, caller, request, &limits, &left);
            let listed =
                timeout(within, all).await.unwrap_or_else(|_| Err(Fault::new(UPSTREAM_DIED, "no answer in time")));
            (member.name.clone(), listed)
        });
        let mut gathered = Gathered::default();
        for (name, listed) in join_all(asked).await {
            match listed {
                Ok((items, whole)) => {
                    gathered.items.extend(items);
                    if !whole {
                        tracing::info!(
                            server = &*name,
                            list = kind.method,
                            "too long a list: the rest of it is left out"
                        );
                        gathered.missing.push(name);
                    }
                }
                // It has no such list, which is an answer.
                Err(fault) if fault.code == METHOD_NOT_FOUND => {}
                Err(fault) => {
                    tracing::info!(
                        server = &*name,
                        list = kind.method,
                        error = fault.message,
                        "a server is left out of a list"
                    );
                    gathered.missing.push(name);
                }
            }
        }
        if !kind.named {
            // Of two servers with the same resource it is the first one's.
            let mut seen = std::collections::HashSet::new();
            gathered.items.retain(|item| seen.insert(item.key.clone()));
        }
        gathered
    }

    /// What the servers are capable of, together.
    pub(super) async fn capabilities(&self, caller: &Caller, request: &Message) -> Value {
        let limits = self.0.limits.load_full();
        let members = self.0.set.members();
        let asked =
            members.iter().map(|member| timeout(DISCOVER_WITHIN, ask(member, caller, request.clone(), &limits)));
        let mut all = Map::new();
        for answer in join_all(asked).await {
            let Ok(answer) = answer else {
                ALL.iter().for_each(|name| merge(&mut all, &Map::from_iter([((*name).to_owned(), json!({}))])));
                continue;
            };
            let Ok(answer) = answer else { continue };
            let span = answer.at(&["capabilities"]).ok().flatten();
            let said = span.and_then(|span| serde_json::from_slice(answer.slice(span)).ok());
            if let Some(Value::Object(said)) = said {
                merge(&mut all, &said);
            }
        }
        // Servers come and go with the file, so any list may change; and any may have no tools yet.
        all.entry("tools").or_insert_with(|| json!({}));
        for name in ["tools", "prompts", "resources"] {
            if let Some(Value::Object(capability)) = all.get_mut(name) {
                capability.insert("listChanged".into(), true.into());
            }
        }
        Value::Object(all)
    }
}

/// What either is capable of.
fn merge(all: &mut Map<String, Value>, more: &Map<String, Value>) {
    for (name, value) in more {
        match (all.get_mut(name), value) {
            (Some(Value::Object(have)), Value::Object(value)) => merge(have, value),
            (Some(Value::Bool(have)), Value::Bool(value)) => *have |= value,
            (Some(_), _) => {}
            (None, value) => drop(all.insert(name.clone(), value.clone())),
        }
    }
}

/// All pages of one server's list, and whether that is all of it.
async fn pages(
    member: &Member,
    kind: Kind,
    caller: &Caller,
    request: &Message,
    limits: &Limits,
    left: &AtomicUsize,
) -> Result<(Vec<Item>, bool), Fault> {
    let unreadable = |error| Fault::new(UPSTREAM_DIED, format!("its list can't be read: {error}"));
    let mut items = Vec::new();
    let mut page = with_method(request, kind.method);
    for _ in 0..PAGES_MAX {
        let answer = ask(member, caller, page.clone(), limits).await?;
        let Some(span) = answer.at(&[kind.member]).map_err(unreadable)? else { return Ok((items, true)) };
        for raw in list::items(answer.slice(span)).map_err(unreadable)? {
            let Some(item) = item(member, kind, raw).map_err(unreadable)? else { continue };
            let fits =
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(item.json.len() + 1));
            if fits.is_err() {
                return Ok((items, false));
            }
            items.push(item);
        }
        match answer.text_at(&["nextCursor"]).map_err(unreadable)? {
            None => return Ok((items, true)),
            Some(cursor) => page = with_cursor(&page, &cursor),
        }
    }
    Ok((items, false))
}

/// An item as clients see it; `None` where it has no name.
fn item(
    member: &Member,
    kind: Kind,
    raw: &serde_json::value::RawValue,
) -> Result<Option<Item>, standpipe_wire::jsonrpc::Malformed> {
    let key = match kind.member {
        "resources" => "uri",
        "resourceTemplates" => "uriTemplate",
        _ => "name",
    };
    let Some((key, span)) = list::text(raw, key)? else { return Ok(None) };
    let json = match kind.named {
        true => list::replaced(raw, span, &format!("{}{SEPARATOR}{key}", member.name)),
        false => raw.get().as_bytes().to_vec(),
    };
    Ok(Some(Item { server: member.name.clone(), key, json }))
}

/// A request with the same `_meta`, for another method.
fn with_method(request: &Message, method: &str) -> Message {
    if request.method() == Some(method) {
        return request.clone();
    }
    let meta = request.at(&["_meta"]).ok().flatten().map_or(&b"{}"[..], |span| request.slice(span));
    let params = [b"{\"_meta\":", meta, b"}"].concat();
    Message::request(request.id().unwrap_or(b"0"), method, &params)
}

fn with_cursor(request: &Message, cursor: &str) -> Message {
    let json = serde_json::to_vec(cursor).expect("a string can be written as JSON");
    match (request.at(&["cursor"]), request.body()) {
        (Ok(Some(span)), _) => request.edit(&mut [Edit::replace(span, &json)]),
        (_, Some(params)) => request.edit(&mut [request.insert(params, "cursor", &json)]),
        (_, None) => request.clone(),
    }
}

/// The answer of one server to a request; its notifications are nobody's.
pub(super) async fn ask(member: &Member, caller: &Caller, request: Message, limits: &Limits) -> Result<Message, Fault> {
    let room = Room { messages: limits.mcp_outlet_messages_max, bytes: limits.mcp_outlet_bytes_max };
    let (outlet, mut inlet) = exchange(room);
    member.server.call(caller.clone(), request, outlet);
    loop {
        match inlet.next().await {
            None => return Err(Fault::new(UPSTREAM_DIED, "it ended without an answer")),
            Some(message) if message.method().is_some() => {}
            Some(message) if message.is_error() => {
                let code = message.at(&["code"]).ok().flatten();
                let code = code.and_then(|span| serde_json::from_slice(message.slice(span)).ok());
                let text = message.text_at(&["message"]).ok().flatten().unwrap_or_default();
                return Err(Fault::new(code.unwrap_or(UPSTREAM_DIED), text));
            }
            Some(message) => return Ok(message),
        }
    }
}
