//! Messages of one era in words of the other, for [`super::Down`]: pure functions of what came.

use bytes::Bytes;
use serde_json::{Value, json};
use standpipe_wire::jsonrpc::{Malformed, Message};

use crate::bridge::{LEVELS, LISTS, body, json, level};
use crate::era::{self, META_CAPABILITIES, META_CLIENT, META_LEVEL, META_SERVER, META_SUBSCRIPTION, META_VERSION};
use crate::object::Object;
use crate::{Fault, fault};

/// Requests that only the legacy era has; the modern one has other ways, or none.
const LEGACY_ONLY: [&str; 11] = [
    "initialize",
    "ping",
    "logging/setLevel",
    "resources/subscribe",
    "resources/unsubscribe",
    "roots/list",
    "tasks/get",
    "tasks/list",
    "tasks/result",
    "tasks/cancel",
    "tasks/update",
];
/// Results that say how long they may be kept.
const CACHEABLE: [&str; 5] =
    ["tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read"];
/// Legacy: the client has to open addresses first, which the error lists.
const URL_ELICITATION: i64 = -32_042;

/// What a modern request says beside what it asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) capabilities: Bytes,
    pub(super) client: Option<Bytes>,
    pub(super) state: Option<String>,
    pub(super) wishes: Wishes,
}

/// What the sender of a request wants beside its reply.
#[derive(Clone, Debug, Default)]
pub(super) struct Wishes {
    /// The token of its progress.
    pub(super) token: Option<Bytes>,
    /// The least level of log messages.
    pub(super) level: Option<usize>,
}

/// A request's parameters are wrong.
pub(super) fn invalid(why: impl ToString) -> Fault {
    Fault::new(fault::INVALID_PARAMS, why.to_string())
}

/// Looks at a modern request.
pub(super) fn read(request: &Message) -> Result<Asked, Fault> {
    let params = body(request).map_err(invalid)?;
    let meta = params.object("_meta").map_err(invalid)?;
    let copied = |name: &str| meta.get(name).map(Bytes::copy_from_slice);
    let capabilities = copied(META_CAPABILITIES)
        .filter(|json| json.first() == Some(&b'{'))
        .ok_or_else(|| invalid(format!("`_meta` must have an object \"{META_CAPABILITIES}\"")))?;
    let level = meta.get(META_LEVEL).map(|json| {
        level(json).ok_or_else(|| invalid(format!("`_meta` \"{META_LEVEL}\" must be one of {}", LEVELS.join(", "))))
    });
    let state = params.get("requestState").map(|json| {
        serde_json::from_slice(json).map_err(|_| invalid("`requestState` must be the string that was given"))
    });
    Ok(Asked {
        capabilities,
        client: copied(META_CLIENT).filter(|json| json.first() == Some(&b'{')),
        state: state.transpose()?,
        wishes: Wishes { token: copied("progressToken"), level: level.transpose()? },
    })
}

/// Refuses what the modern era does not know.
pub(super) fn check_method(method: &str) -> Result<(), Fault> {
    if LEGACY_ONLY.contains(&method) {
        let why = format!("{} of the protocol has no method \"{method}\"", era::MODERN[0]);
        return Err(Fault::new(fault::METHOD_NOT_FOUND, why));
    }
    Ok(())
}

/// The request as a legacy server wants it, under a number of ours that is its progress token too.
pub(super) fn request(request: &Message, number: u64) -> Result<Message, Malformed> {
    let number = number.to_string();
    let mut params = body(request)?;
    let mut meta = params.object("_meta")?;
    let is_there = !meta.is_empty();
    for name in [META_VERSION, META_CAPABILITIES, META_CLIENT, META_LEVEL] {
        meta.remove(name);
    }
    if meta.get("progressToken").is_some() {
        meta.set("progressToken", number.as_bytes());
    }
    let meta = if meta.is_empty() { None } else { Some(meta.write()) };
    match meta {
        Some(meta) => params.set("_meta", meta),
        None if is_there => drop(params.remove("_meta")),
        None => {}
    }
    params.remove("inputResponses");
    params.remove("requestState");
    Ok(request.rewritten(Some(number.as_bytes()), &params.write()))
}

/// Our `initialize`, for a client with these capabilities.
pub(super) fn initialize(asked: &Asked) -> Message {
    let ours = Bytes::from(json!({ "name": "standpipe", "version": env!("CARGO_PKG_VERSION") }).to_string());
    let client = asked.client.as_ref().unwrap_or(&ours);
    let parts: [&[u8]; 7] = [
        br#"{"protocolVersion":"#,
        &json(era::LEGACY[0]),
        br#","capabilities":"#,
        &asked.capabilities,
        br#","clientInfo":"#,
        client,
        b"}",
    ];
    Message::request(b"0", "initialize", &parts.concat())
}

/// What a server said of itself when its session was opened.
#[derive(Debug, Default)]
pub(super) struct About {
    pub(super) info: Option<Bytes>,
    capabilities: Bytes,
    instructions: Option<Bytes>,
    /// It tells about resources that are subscribed to.
    pub(super) subscribe: bool,
    /// It tells when the lists change, in the order of [`LISTS`].
    pub(super) lists: [bool; 3],
    /// It sends log messages, from a level on.
    pub(super) logging: bool,
}

impl About {
    pub(super) fn of(answer: &Message) -> Result<Self, Malformed> {
        let result = body(answer)?;
        let copied = |name: &str| result.get(name).map(Bytes::copy_from_slice);
        let mut capabilities = result.object("capabilities")?;
        let says = |name: &str, what: &str| {
            capabilities.object(name).is_ok_and(|capability| capability.get(what) == Some(b"true"))
        };
        let (subscribe, lists) =
            (says("resources", "subscribe"), LISTS.map(|(_, _, capability)| says(capability, "listChanged")));
        let logging = capabilities.get("logging").is_some();
        // Tasks of the legacy era are not those of the modern one.
        capabilities.remove("tasks");
        let capabilities = capabilities.write().into();
        Ok(Self {
            info: copied("serverInfo"),
            capabilities,
            instructions: copied("instructions"),
            subscribe,
            lists,
            logging,
        })
    }

    /// The answer to `server/discover`.
    pub(super) fn discovered(&self, id: &[u8]) -> Message {
        let mut result = Object::default();
        result.set("resultType", &b"\"complete\""[..]);
        result.set("supportedVersions", json!(era::MODERN).to_string().into_bytes());
        result.set("capabilities", &*self.capabilities);
        if let Some(instructions) = &self.instructions {
            result.set("instructions", &**instructions);
        }
        result.set("ttlMs", &b"0"[..]);
        result.set("cacheScope", &b"\"private\""[..]);
        result.set("_meta", self.meta().write());
        Message::result(id, &result.write())
    }

    fn meta(&self) -> Object<'_> {
        let mut meta = Object::default();
        if let Some(info) = &self.info {
            meta.set(META_SERVER, &**info);
        }
        meta
    }

    /// The answer to `method` as a modern client wants it.
    pub(super) fn answer(&self, answer: &Message, id: &[u8], method: &str) -> Result<Message, Malformed> {
        if answer.is_error() { error(answer, id) } else { self.result(answer, id, method) }
    }

    fn result(&self, answer: &Message, id: &[u8], method: &str) -> Result<Message, Malformed> {
        let mut result = body(answer)?;
        let mut meta = result.object("_meta")?;
        if let Some(info) = &self.info {
            meta.set_default(META_SERVER, &**info);
        }
        let meta = (!meta.is_empty()).then(|| meta.write());
        result.set("resultType", &b"\"complete\""[..]);
        if CACHEABLE.contains(&method) {
            result.set_default("ttlMs", &b"0"[..]);
            result.set_default("cacheScope", &b"\"private\""[..]);
        }
        if let Some(meta) = meta {
            result.set("_meta", meta);
        }
        Ok(answer.rewritten(Some(id), &result.write()))
    }

    /// The result that asks the client for input.
    pub(super) fn input_required(&self, id: &[u8], questions: &Object<'_>, state: &str) -> Message {
        let mut result = Object::default();
        result.set("resultType", &b"\"input_required\""[..]);
        result.set("inputRequests", questions.write());
        result.set("requestState", json(state));
        let meta = self.meta();
        if !meta.is_empty() {
            result.set("_meta", meta.write());
        }
        Message::result(id, &result.write())
    }
}

/// An error with the code that the modern era has for it.
pub(super) fn error(answer: &Message, id: &[u8]) -> Result<Message, Malformed> {
    let mut error = body(answer)?;
    match code(&error) {
        fault::RESOURCE_NOT_FOUND => error.set("code", fault::INVALID_PARAMS.to_string().into_bytes()),
        URL_ELICITATION => {
            let needed = json!({ "requiredCapabilities": { "elicitation": { "url": {} } } });
            error.set("code", fault::MISSING_CAPABILITY.to_string().into_bytes());
            error.set("data", needed.to_string().into_bytes());
        }
        _ => {}
    }
    if answer.id().is_some() {
        return Ok(answer.rewritten(Some(id), &error.write()));
    }
    let mut whole = Object::default();
    whole.set("jsonrpc", &b"\"2.0\""[..]);
    whole.set("id", id);
    whole.set("error", error.write());
    Message::parse(whole.write().into())
}

fn code(error: &Object<'_>) -> i64 {
    error.get("code").and_then(|code| serde_json::from_slice(code).ok()).unwrap_or_default()
}

/// The addresses that the client has to open before it sends its request again, as questions to it.
pub(super) fn addresses(answer: &Message) -> Option<Vec<Vec<u8>>> {
    if !answer.is_error() {
        return None;
    }
    let error = body(answer).ok()?;
    let data = (code(&error) == URL_ELICITATION).then(|| error.object("data").ok())??;
    let listed: Vec<Box<serde_json::value::RawValue>> = serde_json::from_slice(data.get("elicitations")?).ok()?;
    let question = |params: &str| {
        let mut params = Object::parse(params.as_bytes()).ok()?;
        params.set_default("mode", &b"\"url\""[..]);
        Some(question("elicitation/create", Some(&params.write())))
    };
    let questions: Option<Vec<_>> = listed.iter().map(|raw| question(raw.get())).collect();
    questions.filter(|questions| !questions.is_empty())
}

/// A question to the client, as `inputRequests` has them.
pub(super) fn question(method: &str, params: Option<&[u8]>) -> Vec<u8> {
    let mut question = Object::default();
    question.set("method", json(method));
    if let Some(params) = params {
        question.set("params", params);
    }
    question.write()
}

/// Whether a client with these capabilities can be asked this.
pub(super) fn can_answer(capabilities: &[u8], method: &str, request: &Message) -> bool {
    let Ok(capabilities) = Object::parse(capabilities) else { return false };
    let has = |name: &str| capabilities.get(name).is_some_and(|capability| capability.first() == Some(&b'{'));
    match method {
        "roots/list" => has("roots"),
        "sampling/createMessage" => has("sampling"),
        "elicitation/create" => {
            let url = request.text_at(&["mode"]).ok().flatten().is_some_and(|mode| mode == "url");
            has("elicitation") && (!url || elicits_by_url(&capabilities))
        }
        _ => false,
    }
}

fn elicits_by_url(capabilities: &Object<'_>) -> bool {
    capabilities.object("elicitation").is_ok_and(|elicitation| elicitation.get("url").is_some())
}

/// Whether a client with these capabilities opens addresses.
pub(super) fn opens_addresses(capabilities: &[u8]) -> bool {
    Object::parse(capabilities).is_ok_and(|capabilities| elicits_by_url(&capabilities))
}

/// Whether a log message is as important as the client wants; without a level it wants none.
pub(super) fn is_wanted(notice: &Message, wanted: Option<usize>) -> bool {
    let Some(wanted) = wanted else { return false };
    let says = notice.at(&["level"]).ok().flatten().and_then(|at| level(notice.slice(at)));
    says.is_none_or(|says| says >= wanted)
}

/// The client's capabilities, however they are written.
pub(super) fn canonical(capabilities: &[u8]) -> Result<String, Fault> {
    let value: Value = serde_json::from_slice(capabilities).map_err(invalid)?;
    Ok(super::super::request_state::canonical(&value))
}

/// A notice with the id of the subscription that it belongs to.
pub(super) fn of_subscription(notice: &Message, id: &[u8]) -> Result<Message, Malformed> {
    let mut params = body(notice)?;
    let mut meta = params.object("_meta")?;
    meta.set(META_SUBSCRIPTION, id);
    let meta = meta.write();
    params.set("_meta", meta);
    Ok(notice.rewritten(None, &params.write()))
}

/// The end of a subscription from our side.
pub(super) fn subscription_ended(id: &[u8], about: &About) -> Message {
    let mut meta = about.meta();
    meta.set(META_SUBSCRIPTION, id);
    let mut result = Object::default();
    result.set("resultType", &b"\"complete\""[..]);
    result.set("_meta", meta.write());
    Message::result(id, &result.write())
}
