//! The client verbs' side of REST: a call, the server or folder that answers it, and what its
//! refusals mean to the user. What to ask for, and what to do with the answer, is `commands`' matter.

pub(crate) mod control;
mod http;
pub(crate) mod import;
pub(crate) mod logs;
pub(crate) mod position;
pub(crate) mod presence;
pub(crate) mod token;
pub(crate) mod watch;

use std::io::Write;

pub(crate) use http::Client;

use standpipe_tree::{Format, Path, Rows, to_json};

use crate::cli::TargetArgs;
use crate::exit::Result;
use crate::local::Folder;

/// What is done to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Put,
    Patch,
    Push,
    Delete,
}

/// One request of the REST interface.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) verb: Verb,
    /// As the user typed it: `/a/b`, `a/b`, or `/`.
    pub(crate) path: String,
    /// Parameters, not percent-encoded.
    pub(crate) query: Vec<(&'static str, String)>,
    /// The ETag that must be there.
    pub(crate) if_match: Option<String>,
    pub(crate) body: bytes::Bytes,
}

impl Call {
    pub(crate) fn new(verb: Verb, path: impl Into<String>) -> Self {
        Self { verb, path: path.into(), query: Vec::new(), if_match: None, body: bytes::Bytes::new() }
    }

    /// A write whose answer nobody wants to see.
    pub(crate) fn silent(verb: Verb, path: impl Into<String>, body: impl Into<bytes::Bytes>) -> Self {
        Self { query: vec![("print", "silent".into())], body: body.into(), ..Self::new(verb, path) }
    }
}

/// Who answers.
#[derive(Debug)]
pub(crate) enum Target {
    Url(Box<Client>),
    Data(Box<Folder>),
}

impl Target {
    /// The server, or the folder where one is named.
    ///
    /// # Errors
    /// The URL or the credential's file is wrong, or the folder can't be opened.
    pub(crate) fn open(arguments: &TargetArgs) -> Result<Self> {
        match &arguments.data {
            Some(dir) => Ok(Self::Data(Box::new(Folder::open(dir, arguments.access.db.as_deref())?))),
            None => Ok(Self::Url(Box::new(Client::new(&arguments.url, &arguments.access)?))),
        }
    }

    /// Makes the call and writes the answer's body to `out` as it comes.
    ///
    /// # Errors
    /// A refusal, a server that can't be reached, or `out`'s own error.
    pub(crate) fn call(&mut self, call: &Call, out: &mut dyn Write) -> Result<()> {
        match self {
            Self::Url(client) => client.call(call, out),
            Self::Data(folder) => folder.call(call, out),
        }
    }

    /// Puts leaves below `base` and removes nothing but what they replace. A folder may still be
    /// writing when this returns: [`Target::settle`] waits for it.
    ///
    /// # Errors
    /// As [`Target::call`], also for an earlier overlay.
    pub(crate) fn overlay(&mut self, base: &Path, rows: Rows) -> Result<()> {
        match self {
            Self::Url(client) => {
                let Ok(json) = to_json(&mut rows.cursor(), Format::Export);
                let mut call = Call::silent(Verb::Patch, base.to_string(), json);
                call.query.push(("deep", "true".into()));
                client.call(&call, &mut std::io::sink())
            }
            Self::Data(folder) => folder.overlay(base, rows),
        }
    }

    /// Waits until all overlays are written.
    ///
    /// # Errors
    /// The first that was refused.
    pub(crate) fn settle(&mut self) -> Result<()> {
        match self {
            Self::Url(_) => Ok(()),
            Self::Data(folder) => folder.settle(),
        }
    }
}

#[cfg(test)]
mod tests;
