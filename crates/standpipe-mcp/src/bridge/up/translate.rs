//! Messages of one era in words of the other, for [`super::Up`]: pure functions of what came.

use bytes::Bytes;
use serde_json::json;
use standpipe_wire::jsonrpc::{Malformed, Message};

use crate::bridge::{LISTS, QUESTIONS, body, json};
use crate::era::{self, META_CAPABILITIES, META_CLIENT, META_LEVEL, META_SERVER, META_SUBSCRIPTION, META_VERSION};
use crate::fault;
use crate::object::Object;

/// Results that say how long they may be kept, which legacy clients do not ask for.
const CACHEABLE: [&str; 5] =
    ["tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read"];

/// What a client said of itself in `initialize`.
#[derive(Debug)]
pub(super) struct Client {
    /// The version agreed on.
    version: &'static str,
    capabilities: Bytes,
    info: Option<Bytes>,
}

impl Client {
    pub(super) fn of(initialize: &Message) -> Result<Self, Malformed> {
        let params = body(initialize)?;
        let mut capabilities = params.object("capabilities")?;
        // Tasks of the legacy era are not those of the modern one.
        capabilities.remove("tasks");
        let info = params.get("clientInfo").filter(|info| info.first() == Some(&b'{')).map(Bytes::copy_from_slice);
        let version = era::negotiate(&params.text("protocolVersion").unwrap_or_default());
        Ok(Self { version, capabilities: capabilities.write().into(), info })
    }

    /// A request as a modern server wants it: it says whose it is, and what a retry adds.
    pub(super) fn request(
        &self,
        request: &Message,
        number: u64,
        level: Option<&[u8]>,
        retry: &[(&'static str, Vec<u8>)],
    ) -> Result<Message, Malformed> {
        let mut params = body(request)?;
        let mut meta = params.object("_meta")?;
        meta.set(META_VERSION, json(era::MODERN[0]));
        meta.set(META_CAPABILITIES, &*self.capabilities);
        match &self.info {
            Some(info) => meta.set(META_CLIENT, &**info),
            None => drop(meta.remove(META_CLIENT)),
        }
        match level {
            Some(level) => meta.set(META_LEVEL, level),
            None => drop(meta.remove(META_LEVEL)),
        }
        let meta = meta.write();
        params.set("_meta", meta);
        for name in ["inputResponses", "requestState"] {
            params.remove(name);
        }
        retry.iter().for_each(|(name, value)| params.set(name, &**value));
        Ok(request.rewritten(Some(number.to_string().as_bytes()), &params.write()))
    }

    /// A request of our own.
    pub(super) fn own(&self, number: u64, method: &str, params: &[u8]) -> Message {
        let request = Message::request(b"0", method, params);
        self.request(&request, number, None, &[]).expect("its parameters are an object of ours")
    }

    /// A question of the server as a request to the client; `number` is its id. `None` where it is none that can be asked.
    pub(super) fn question(&self, question: &[u8], number: u64) -> Option<Message> {
        let question = Object::parse(question).ok()?;
        let method = question.text("method").filter(|method| QUESTIONS.contains(&method.as_str()))?;
        let mut params = question.object("params").ok()?;
        // 2025-11-25 wants a name for what happens elsewhere, which the modern era no longer has.
        let name = format!("\"standpipe-{number}\"");
        if params.text("mode").is_some_and(|mode| mode == "url") {
            params.set_default("elicitationId", name.as_bytes());
        }
        Some(Message::request(number.to_string().as_bytes(), &method, &params.write()))
    }

    /// The answer to `initialize` from the one to `server/discover`.
    pub(super) fn initialized(&self, discovered: &Message, id: &[u8], server: &str) -> Result<Message, Malformed> {
        let mut result = body(discovered)?;
        let mut meta = result.object("_meta")?;
        let unnamed = json!({ "name": server, "version": "0" }).to_string().into_bytes();
        let info = meta.remove(META_SERVER).map_or(unnamed, |info| info.into_owned());
        let meta = (!meta.is_empty()).then(|| meta.write());
        ["supportedVersions", "resultType", "ttlMs", "cacheScope", "_meta"]
            .iter()
            .for_each(|name| drop(result.remove(name)));
        result.set("protocolVersion", json(self.version));
        result.set_default("capabilities", &b"{}"[..]);
        result.set("serverInfo", info);
        if let Some(meta) = meta {
            result.set("_meta", meta);
        }
        Ok(discovered.rewritten(Some(id), &result.write()))
    }
}

/// What a server said of itself.
#[derive(Debug)]
pub(super) struct About {
    /// It speaks the version that we do.
    pub(super) is_modern: bool,
    /// It tells when the lists change, in the order of [`LISTS`].
    pub(super) lists: [bool; 3],
}

impl About {
    pub(super) fn of(discovered: &Message) -> Result<Self, Malformed> {
        let result = body(discovered)?;
        let capabilities = result.object("capabilities")?;
        let lists = LISTS.map(|(_, _, capability)| {
            capabilities.object(capability).is_ok_and(|capability| capability.get("listChanged") == Some(b"true"))
        });
        let versions: Option<Vec<String>> =
            result.get("supportedVersions").and_then(|versions| serde_json::from_slice(versions).ok());
        let is_modern =
            versions.is_none_or(|versions| versions.iter().any(|version| era::MODERN.contains(&version.as_str())));
        Ok(Self { is_modern, lists })
    }
}

/// What a modern server answers.
pub(super) enum Answer<'a> {
    /// For the client, in its own words.
    Final(Message),
    /// It wants input first.
    InputRequired(Object<'a>),
    /// Something that a legacy client does not know.
    Other(String),
}

/// The answer to `method` as a legacy client wants it; `first` where no retry has come before.
pub(super) fn answer<'a>(answer: &'a Message, id: &[u8], method: &str, first: bool) -> Result<Answer<'a>, Malformed> {
    if answer.is_error() {
        return error(answer, id, method, first).map(Answer::Final);
    }
    let mut result = body(answer)?;
    match result.remove("resultType").as_deref() {
        None | Some(b"\"complete\"") => {}
        Some(b"\"input_required\"") => return Ok(Answer::InputRequired(result)),
        Some(other) => return Ok(Answer::Other(String::from_utf8_lossy(other).into_owned())),
    }
    if CACHEABLE.contains(&method) {
        result.remove("ttlMs");
        result.remove("cacheScope");
    }
    Ok(Answer::Final(answer.rewritten(Some(id), &result.write())))
}

/// A resource that is not there has a code of its own; the modern era calls it wrong parameters.
fn error(answer: &Message, id: &[u8], method: &str, first: bool) -> Result<Message, Malformed> {
    let mut error = body(answer)?;
    let code = error.get("code").and_then(|code| serde_json::from_slice(code).ok());
    if method == "resources/read" && first && code == Some(fault::INVALID_PARAMS) {
        error.set("code", fault::RESOURCE_NOT_FOUND.to_string().into_bytes());
    }
    Ok(answer.rewritten(Some(id), &error.write()))
}

/// A notice without the subscription that it came by.
pub(super) fn notice(notice: &Message) -> Result<Message, Malformed> {
    let mut params = body(notice)?;
    let mut meta = params.object("_meta")?;
    if meta.remove(META_SUBSCRIPTION).is_none() {
        return Ok(notice.clone());
    }
    let meta = (!meta.is_empty()).then(|| meta.write());
    match meta {
        Some(meta) => params.set("_meta", meta),
        None => drop(params.remove("_meta")),
    }
    Ok(notice.rewritten(None, &params.write()))
}
