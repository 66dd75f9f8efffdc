//! From a request to the method that answers it: the one table of methods, by era.

use std::sync::Arc;

use standpipe_mcp::Fault;
use standpipe_mcp::fault::{INVALID_REQUEST, METHOD_NOT_FOUND};
use standpipe_wire::jsonrpc::Message;

use super::Tree;
use super::answer::Answer;
use super::request::Request;
use super::{complete, resources, server, subscriptions, tasks, tools};

/// The answer to a request.
pub(super) async fn answer(tree: &Arc<Tree>, request: &Request) -> Message {
    let id = request.message.id().unwrap_or(b"null");
    match call(tree, request).await {
        Ok(answer) => answer.into_message(id, request.is_modern()),
        Err(fault) => fault.answer(Some(id)),
    }
}

async fn call(tree: &Arc<Tree>, request: &Request) -> Result<Answer, Fault> {
    let method = request.message.method().unwrap_or_default();
    match (method, request.is_modern()) {
        ("server/discover", true) => Ok(server::discover(tree)),
        ("ping", false) => Ok(Answer::of_json(b"{}")),
        ("initialize", false) => Err(Fault::new(INVALID_REQUEST, "this session has been initialized")),
        ("tools/list", _) => tools::list(tree, request),
        ("tools/call", _) => tools::call(tree, request).await,
        ("resources/list", _) => {
            subscriptions::listed(tree, request).await;
            resources::list(tree, request).await
        }
        ("resources/templates/list", _) => resources::templates(request),
        ("resources/read", _) => resources::read(tree, request).await,
        ("resources/subscribe", false) => subscriptions::subscribe(tree, request).await,
        ("resources/unsubscribe", false) => subscriptions::unsubscribe(tree, request).await,
        ("subscriptions/listen", true) => subscriptions::listen(tree, request).await,
        ("tasks/get", true) if tree.runs.is_some() => tasks::get(tree, request),
        ("tasks/update", true) if tree.runs.is_some() => tasks::update(tree, request),
        ("tasks/cancel", true) if tree.runs.is_some() => tasks::cancel(tree, request).await,
        ("completion/complete", _) => complete::complete(tree, request).await,
        (method, _) => Err(Fault::new(METHOD_NOT_FOUND, format!("no such method: {}", shown(method)))),
    }
}

/// A method's name, as much of it as a sentence holds.
fn shown(method: &str) -> String {
    method.chars().filter(|c| !c.is_control()).take(100).collect()
}
