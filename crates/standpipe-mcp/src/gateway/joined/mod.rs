//! Several servers as one: lists are put together, a tool or prompt is called by `<server>__<name>`, a resource is read from the server that
//! lists it. Every request of the modern era is answered here; legacy clients come over the bridge.
//!
//! A server that can't be asked is left out of a list and named in its `_meta` and in the log; it is no reason to fail. Where two servers
//! have a resource of the same URI, it is that of the first in the order of the file.

mod gather;
mod listen;
mod routes;
mod set;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use standpipe_serve::LimitsHandle;
use standpipe_wire::jsonrpc::{Malformed, Message};

use self::gather::Gathered;
use self::routes::Routes;
pub use self::set::{Member, Set};
use super::SEPARATOR;
use super::filter::{unknown_tool, with_text};
use super::list;
use crate::era::{META_SERVER, MODERN};
use crate::exchange::{Closed, Relay};
use crate::fault::{INTERNAL, INVALID_PARAMS, METHOD_NOT_FOUND};
use crate::{Caller, Fault, ModernServer, Outlet};

/// Names the servers that are missing in a list, in its `_meta`.
const META_UNAVAILABLE: &str = "dev.standpipe/unavailable";
/// The extension by which calls become tasks.
const TASKS: &[u8] = b"io.modelcontextprotocol/tasks";
/// Principals whose resources' places are remembered.
const ROUTES_MAX: usize = 64;

/// A kind of list: its method, the member of the result, and whether its items have the server in their name.
#[derive(Clone, Copy, Debug)]
struct Kind {
    method: &'static str,
    member: &'static str,
    named: bool,
}

const TOOLS: Kind = Kind { method: "tools/list", member: "tools", named: true };
const PROMPTS: Kind = Kind { method: "prompts/list", member: "prompts", named: true };
const RESOURCES: Kind = Kind { method: "resources/list", member: "resources", named: false };
const TEMPLATES: Kind = Kind { method: "resources/templates/list", member: "resourceTemplates", named: false };
const KINDS: [Kind; 4] = [TOOLS, PROMPTS, RESOURCES, TEMPLATES];

/// Servers joined.
#[derive(Clone, Debug)]
pub struct Joined(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    set: Arc<Set>,
    limits: LimitsHandle,
    /// Where resources are, by principal: what is seen may differ.
    routes: Mutex<HashMap<Arc<str>, Arc<Routes>>>,
}

impl Joined {
    /// Joins the servers that are in `set` when they are asked.
    pub fn new(set: Arc<Set>, limits: LimitsHandle) -> Self {
        Self(Arc::new(Inner { set, limits, routes: Mutex::default() }))
    }

    /// Does what takes time, for as long as the caller is there.
    fn spawn(&self, to: Outlet, work: impl Future<Output = Option<Message>> + Send + 'static) {
        tokio::spawn(async move {
            let answer = tokio::select! {
                biased;
                () = to.gone() => None,
                answer = work => answer,
            };
            if let Some(answer) = answer {
                let _gone = to.send(answer);
            }
        });
    }

    /// A call of a tool or a prompt, which are named by their server.
    fn call_named(&self, caller: Caller, request: &Message, to: Outlet) {
        let is_tool = request.method() == Some("tools/call");
        let unknown = |name: &str| match is_tool {
            true => unknown_tool(name),
            false => {
                Fault::new(INVALID_PARAMS, format!("Unknown prompt: {name}; prompts/list names those that are there"))
            }
        };
        match self.owner(request, &["name"], unknown) {
            Err(fault) => answer(request, &to, &fault),
            Ok((member, own)) => {
                let message = with_text(request, &["name"], &own);
                let may_be_task = is_tool && declares_tasks(request);
                let to = if may_be_task { to.through(Arc::new(TaskIds(member.name.clone()))) } else { to };
                member.server.call(caller, message, to);
            }
        }
    }

    /// A request about a task, whose id has the server in it.
    fn call_task(&self, caller: Caller, request: &Message, to: Outlet) {
        let unknown = |id: &str| Fault::new(INVALID_PARAMS, format!("Unknown task: {id}"));
        match self.owner(request, &["taskId"], unknown) {
            Err(fault) => answer(request, &to, &fault),
            Ok((member, own)) => {
                let to = to.through(Arc::new(TaskIds(member.name.clone())));
                member.server.call(caller, with_text(request, &["taskId"], &own), to);
            }
        }
    }

    /// The server whose name stands before what the string at `path` means there.
    fn owner(
        &self,
        request: &Message,
        path: &[&str],
        unknown: impl Fn(&str) -> Fault,
    ) -> Result<(Member, String), Fault> {
        let last = path.last().copied().unwrap_or_default();
        let name = request.text_at(path).map_err(invalid)?;
        let name = name.ok_or_else(|| Fault::new(INVALID_PARAMS, format!("params.{last} must be a string")))?;
        let (server, own) = name.split_once(SEPARATOR).ok_or_else(|| unknown(&name))?;
        let member = self.0.set.member(server).ok_or_else(|| unknown(&name))?;
        Ok((member, own.to_owned()))
    }

    fn list(&self, kind: Kind, caller: Caller, request: Message, to: Outlet) {
        // Lists are given whole, so no cursor of ours is about.
        if let Ok(Some(_)) | Err(_) = request.at(&["cursor"]) {
            return answer(&request, &to, &Fault::new(INVALID_PARAMS, "Unknown cursor: begin again without one"));
        }
        let joined = self.clone();
        self.spawn(to, async move {
            let gathered = joined.gather(kind, &caller, &request).await;
            joined.remember(kind, &caller, &gathered);
            request.id().map(|id| Message::result(id, &gathered.result(kind)))
        });
    }

    fn discover(&self, caller: Caller, request: Message, to: Outlet) {
        let joined = self.clone();
        self.spawn(to, async move {
            let capabilities = joined.capabilities(&caller, &request).await;
            let names: Vec<_> = joined.0.set.members().iter().map(|member| member.name.clone()).collect();
            let result = json!({
                "resultType": "complete",
                "supportedVersions": MODERN,
                "capabilities": capabilities,
                "instructions": instructions(&names),
                "ttlMs": 0,
                "cacheScope": "private",
                "_meta": { META_SERVER: server_info() },
            });
            request.id().map(|id| Message::result(id, result.to_string().as_bytes()))
        });
    }

    /// A request about a resource, for the server that has it.
    fn call_resource(&self, path: &'static [&'static str], caller: Caller, request: Message, to: Outlet) {
        let uri = match request.text_at(path) {
            Ok(Some(uri)) => uri,
            Ok(None) => {
                return answer(&request, &to, &Fault::new(INVALID_PARAMS, "params must name a resource by its uri"));
            }
            Err(error) => return answer(&request, &to, &invalid(error)),
        };
        if let Some(member) = self.known_owner(&caller, &uri) {
            return member.server.call(caller, request, to);
        }
        let (joined, out) = (self.clone(), to.clone());
        self.spawn(to, async move {
            match joined.find_owner(&caller, &request, &uri).await {
                Some(member) => {
                    member.server.call(caller, request, out);
                    None
                }
                None => {
                    let text = format!("Resource not found: {uri}; resources/list names those that are there");
                    Some(Fault::new(INVALID_PARAMS, text).with_data(json!({ "uri": uri })).answer(request.id()))
                }
            }
        });
    }

    fn complete(&self, caller: Caller, request: &Message, to: Outlet) {
        match request.text_at(&["ref", "type"]) {
            Ok(Some(kind)) if kind == "ref/resource" => {
                self.call_resource(&["ref", "uri"], caller, request.clone(), to);
            }
            Ok(Some(kind)) if kind == "ref/prompt" => {
                let unknown = |name: &str| Fault::new(INVALID_PARAMS, format!("Unknown prompt: {name}"));
                match self.owner(request, &["ref", "name"], unknown) {
                    Err(fault) => answer(request, &to, &fault),
                    Ok((member, own)) => {
                        member.server.call(caller, with_text(request, &["ref", "name"], &own), to);
                    }
                }
            }
            Ok(_) => {
                let fault = Fault::new(INVALID_PARAMS, "params.ref.type must be \"ref/prompt\" or \"ref/resource\"");
                answer(request, &to, &fault);
            }
            Err(error) => answer(request, &to, &invalid(error)),
        }
    }
}

impl ModernServer for Joined {
    fn call(&self, caller: Caller, request: Message, to: Outlet) {
        match request.method().unwrap_or_default() {
            "server/discover" => self.discover(caller, request, to),
            "tools/call" | "prompts/get" => self.call_named(caller, &request, to),
            "resources/read" => self.call_resource(&["uri"], caller, request, to),
            "completion/complete" => self.complete(caller, &request, to),
            "subscriptions/listen" => self.listen(caller, request, to),
            "tasks/get" | "tasks/update" | "tasks/cancel" => self.call_task(caller, &request, to),
            method => match KINDS.iter().find(|kind| kind.method == method) {
                Some(kind) => self.list(*kind, caller, request, to),
                None => {
                    let text = format!("Method not found: {method} is not known where servers are joined");
                    answer(&request, &to, &Fault::new(METHOD_NOT_FOUND, text));
                }
            },
        }
    }
}

/// Refuses a request.
fn answer(request: &Message, to: &Outlet, fault: &Fault) {
    let _gone = to.send(fault.answer(request.id()));
}

fn invalid(error: Malformed) -> Fault {
    Fault::new(INVALID_PARAMS, error.to_string())
}

fn server_info() -> Value {
    json!({ "name": "standpipe", "version": env!("CARGO_PKG_VERSION") })
}

fn instructions(names: &[Arc<str>]) -> String {
    format!(
        "Several servers as one: {}. A tool or prompt is called <server>{SEPARATOR}<name>; resources keep their URIs.",
        names.join(", ")
    )
}

/// Whether the client of a modern request takes a task for an answer.
fn declares_tasks(request: &Message) -> bool {
    crate::era::Meta::of(request)
        .is_ok_and(|meta| meta.capabilities.is_some_and(|capabilities| declares(capabilities, TASKS)))
}

fn declares(capabilities: &RawValue, extension: &[u8]) -> bool {
    memchr::memmem::find(capabilities.get().as_bytes(), extension).is_some()
}

/// Puts the server's name into ids of tasks on their way to the client, so that requests about one find it.
struct TaskIds(Arc<str>);

impl Relay for TaskIds {
    fn relay(&self, message: Message, to: &Outlet) -> Result<(), Closed> {
        let is_result = message.method().is_none() && !message.is_error();
        match message.text_at(&["taskId"]) {
            Ok(Some(id)) if is_result => {
                to.send(with_text(&message, &["taskId"], &format!("{}{SEPARATOR}{id}", self.0)))
            }
            Err(_) if is_result => {
                let text = format!("the server \"{}\" gave an answer with two task ids", self.0);
                to.send(Fault::new(INTERNAL, text).answer(message.id()))
            }
            _ => to.send(message),
        }
    }
}

impl Gathered {
    /// The result that lists everything.
    fn result(&self, kind: Kind) -> Vec<u8> {
        let mut meta = json!({ META_SERVER: server_info() });
        if !self.missing.is_empty() {
            meta[META_UNAVAILABLE] = json!(self.missing);
        }
        let items = list::array(&self.items.iter().map(|item| &item.json).collect::<Vec<_>>());
        let before = format!(
            "{{\"resultType\":\"complete\",\"ttlMs\":0,\"cacheScope\":\"private\",\"_meta\":{meta},\"{}\":",
            kind.member
        );
        [before.as_bytes(), &items, b"}"].concat()
    }
}

#[cfg(test)]
mod tests;
