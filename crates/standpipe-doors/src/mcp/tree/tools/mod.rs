//! The tools: the one table of them, how they are listed, and how a call becomes a result. What each of them does is a file of its own;
//! whoever adds one adds a row to [`TOOLS`], in the order of spec mcp §3.1.

mod error;
mod get;
mod list;
pub(super) mod output;
mod query;
pub(super) mod runs;
mod schema;
mod wait;
mod write;

use std::sync::{Arc, LazyLock};

use futures_util::future::BoxFuture;
use rmcp::model::{JsonObject, PaginatedRequestParams, Tool as Listed, ToolAnnotations};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use standpipe_mcp::Fault;
use standpipe_mcp::fault::INVALID_PARAMS;
use standpipe_tree::Path;

pub(crate) use self::error::{Code, ToolError};
pub(crate) use self::schema::whole;
use super::Tree;
use super::answer::{Answer, Cache};
use super::path;
use super::request::Request;

/// Characters of the text that mirrors a result, at most: some clients put it into a model's context as it is.
const TEXT_CHARS_MAX: usize = 4_000;

/// One tool.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// When to use it and what it costs; at most 400 characters.
    pub(crate) description: &'static str,
    pub(crate) hints: Hints,
    /// What a credential must be for (spec mcp §2.4).
    pub(crate) scope: &'static str,
    /// What must be there for it to be offered.
    pub(crate) needs: Needs,
    pub(crate) input: fn() -> JsonObject,
    pub(crate) output: fn() -> JsonObject,
    pub(crate) call: for<'a> fn(Call<'a>) -> BoxFuture<'a, Result<Outcome, ToolError>>,
}

/// What a client may conclude about a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hints {
    pub(crate) read_only: bool,
    pub(crate) destructive: bool,
    pub(crate) idempotent: bool,
    pub(crate) open_world: bool,
}

impl Hints {
    /// It only looks.
    pub(crate) const LOOKS: Self = Self { read_only: true, destructive: false, idempotent: true, open_world: false };
    /// It puts something in the place of something.
    pub(crate) const REPLACES: Self = Self { read_only: false, destructive: true, idempotent: true, open_world: false };
    /// It adds something each time.
    pub(crate) const ADDS: Self = Self { read_only: false, destructive: false, idempotent: false, open_world: false };
    /// It starts something that may do anything.
    pub(crate) const STARTS: Self = Self { read_only: false, destructive: true, idempotent: false, open_world: true };
}

/// What must be there for a tool to be offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing but the tree.
    Tree,
    /// Runs are on.
    Runs,
}

/// All tools, in the order in which they are listed.
pub(crate) static TOOLS: &[&Tool] = &[
    &list::TOOL,
    &get::TOOL,
    &query::TOOL,
    &wait::TOOL,
    &write::SET,
    &write::UPDATE,
    &write::PUSH,
    &write::DELETE,
    &runs::START,
    &runs::STATUS,
    &output::OUTPUT,
    &runs::LIST,
    &runs::CANCEL,
];

/// What a tool answers.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A result: the structured content as JSON, and what is to be said beside it.
    Done { json: Vec<u8>, note: Option<String> },
    /// The members of a task, as JSON: the call goes on as one (spec mcp §3.4).
    Task(Vec<u8>),
}

impl Outcome {
    /// A result.
    pub(crate) fn of(result: &impl Serialize) -> Self {
        Self::Done { json: written(result), note: None }
    }

    /// A result, and a sentence for who reads the text.
    pub(crate) fn noted(result: &impl Serialize, note: String) -> Self {
        Self::Done { json: written(result), note: Some(note) }
    }
}

fn written(result: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(result).expect("results have names for keys and can be written")
}

/// JSON that we wrote, as a part of a result.
pub(crate) fn raw(json: Vec<u8>) -> Box<RawValue> {
    let json = String::from_utf8(json).expect("the tree's JSON is UTF-8");
    RawValue::from_string(json).expect("the tree writes JSON")
}

/// A call of a tool.
pub(crate) struct Call<'a> {
    pub(crate) tree: &'a Arc<Tree>,
    pub(crate) request: &'a Request,
    arguments: &'a [u8],
}

impl<'a> Call<'a> {
    /// The arguments.
    ///
    /// # Errors
    /// They are not what the schema says.
    pub(crate) fn arguments<T: Deserialize<'a>>(&self) -> Result<T, ToolError> {
        serde_json::from_slice(self.arguments).map_err(|error| {
            ToolError::new(Code::InvalidArgument, error.to_string(), "Look at the tool's input schema")
        })
    }

    /// A path among the arguments.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn path(&self, text: &str) -> Result<Path, ToolError> {
        path::parse(text).map_err(|error| {
            ToolError::new(Code::InvalidPath, error, "A path is /a/b/c; percent-encode what a key can't hold as it is")
        })
    }
}

/// Answers `tools/list`: what the credential is for, as far as the server offers it.
pub(super) fn list(tree: &Tree, request: &Request) -> Result<Answer, Fault> {
    let params: Option<PaginatedRequestParams> = request.params()?;
    if params.is_some_and(|params| params.cursor.is_some()) {
        return Err(Fault::new(INVALID_PARAMS, "no such cursor: all tools are in the first page"));
    }
    let (mut json, mut all) = (b"{\"tools\":[".to_vec(), true);
    for (tool, listed) in TOOLS.iter().zip(LISTED.iter()).filter(|(tool, _)| is_offered(tree, tool)) {
        if !request.caller.scopes.allow(tool.scope) {
            all = false;
            continue;
        }
        if json.last() == Some(&b'}') {
            json.push(b',');
        }
        json.extend_from_slice(listed);
    }
    json.extend_from_slice(b"]}");
    // A list that was narrowed for a credential is nobody else's.
    Ok(Answer::of_json(&json).cached(Cache::settled(all)))
}

fn is_offered(tree: &Tree, tool: &Tool) -> bool {
    (tool.needs == Needs::Tree || tree.runs.is_some()) && (tool.hints.read_only || !tree.options.read_only)
}

/// The tools as they are listed: JSON.
static LISTED: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| TOOLS.iter().map(|tool| written(&listed(tool))).collect());

/// A tool as it is listed.
pub(crate) fn listed(tool: &Tool) -> Listed {
    let Hints { read_only, destructive, idempotent, open_world } = tool.hints;
    let hints = ToolAnnotations::with_title(tool.title);
    let hints = hints.read_only(read_only).destructive(destructive).idempotent(idempotent).open_world(open_world);
    Listed::new(tool.name, tool.description, (tool.input)())
        .with_title(tool.title)
        .with_raw_output_schema((tool.output)().into())
        .with_annotations(hints)
}

/// The parameters of `tools/call`.
#[derive(Deserialize)]
struct Params<'a> {
    name: String,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

/// Answers `tools/call`.
pub(super) async fn call(tree: &Arc<Tree>, request: &Request) -> Result<Answer, Fault> {
    let params: Params<'_> = request.params()?;
    let tool = TOOLS.iter().find(|tool| tool.name == params.name && (tool.needs == Needs::Tree || tree.runs.is_some()));
    let Some(tool) = tool else {
        let name: String = params.name.chars().take(100).collect();
        return Err(Fault::new(INVALID_PARAMS, format!("no such tool: {name:?}; tools/list names all")));
    };
    request.need(tool.scope)?;
    let arguments = params.arguments.map_or("{}", RawValue::get).as_bytes();
    let call = Call { tree, request, arguments };
    let outcome = match () {
        () if !is_offered(tree, tool) => Err(ToolError::new(
            Code::ReadOnly,
            "nothing can be written here",
            "This door only reads; use another one to write",
        )),
        // A struct may also be read from an array; nobody means that.
        () if arguments.first() != Some(&b'{') => {
            Err(ToolError::new(Code::InvalidArgument, "arguments must be an object", "Look at the tool's input schema"))
        }
        () => (tool.call)(call).await,
    };
    Ok(match outcome {
        Ok(Outcome::Done { json, note }) => result(&json, note.as_deref(), false),
        Ok(Outcome::Task(json)) => Answer::of_json(&json).kind("task"),
        Err(error) => error.answer(),
    })
}

/// A result: the structured content, and the same as text.
pub(crate) fn result(json: &[u8], note: Option<&str>, is_error: bool) -> Answer {
    let mut out = b"{\"content\":[{\"type\":\"text\",\"text\":".to_vec();
    standpipe_tree::write_json_string(&text(json, note), &mut out);
    out.extend_from_slice(b"}],\"structuredContent\":");
    out.extend_from_slice(json);
    out.extend_from_slice(if is_error { b",\"isError\":true}" } else { b",\"isError\":false}" });
    Answer::of_json(&out)
}

/// The structured content as text, cut where it is long; a note stands behind it.
fn text(json: &[u8], note: Option<&str>) -> String {
    let json = String::from_utf8_lossy(json);
    let note = note.map(|note| format!("\n{note}")).unwrap_or_default();
    let room = TEXT_CHARS_MAX.saturating_sub(note.chars().count());
    if json.chars().nth(room).is_none() {
        return json.into_owned() + &note;
    }
    let cut = format!("\n[cut: {} bytes in all; structuredContent has them]", json.len());
    let kept = json.chars().take(room - cut.chars().count()).collect::<String>();
    kept + &cut + &note
}

/// The schema of arguments or results, in the form that clients agree on.
pub(crate) fn schema_of<T: JsonSchema>() -> JsonObject {
    schema::of::<T>()
}
