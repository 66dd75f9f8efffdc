//! Subscriptions as messages: `subscriptions/listen` of the modern era, `resources/subscribe` and `unsubscribe` of the legacy one. Both
//! ask one [`Watching`] each and word what it says; what changed, who may know, and how often it is told are decided there.
//!
//! A modern stream is told whole: what may not be listened to is left out of its acknowledgement, and when a subject may not be read
//! any more the stream ends, so that its client asks again and sees what is left. A legacy session has no such word: the
//! resource that is lost is told to have changed once more, and whoever reads it then is refused.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use standpipe_engine::{Error, ErrorKind};
use standpipe_mcp::exchange::Closed;
use standpipe_mcp::fault::{INTERNAL, INVALID_PARAMS};
use standpipe_mcp::{Caller, Fault, Metrics, Outlet};
use standpipe_runs::RunId;
use standpipe_serve::{Limits, OnFailure, OnShutdown, Session, TaskKind};
use standpipe_tree::Path;
use standpipe_wire::jsonrpc::Message;
use tokio::sync::{mpsc, oneshot, watch};

use super::answer::Answer;
use super::request::Request;
use super::watching::{News, Standing, Subject, Watching};
use super::{Tree, path, tasks};

/// Where the id of a listen request stands in all that its stream says.
const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

/// Orders of one legacy session that may wait for its follower.
const ORDERS_MAX: usize = 16;

/// When a refused stream may be asked for again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Tells what a legacy session has subscribed to.
const FOLLOWER: TaskKind =
    TaskKind { name: "subscriptions of MCP", on_failure: OnFailure::Log, on_shutdown: OnShutdown::Abort };

/// The subjects of a stream as the client asks for them, and as they are acknowledged.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    #[serde(skip_serializing_if = "Option::is_none")]
    resources_list_changed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_subscriptions: Option<Vec<String>>,
    /// Of the tasks extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    task_ids: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct ListenParams {
    notifications: Filter,
}

#[derive(Deserialize)]
struct ResourceParams {
    uri: String,
}

/// Answers `subscriptions/listen`: acknowledges, tells, and ends with the result.
///
/// # Errors
/// The filter is none; there are too many streams; the database has stopped.
pub(super) async fn listen(tree: &Arc<Tree>, request: &Request) -> Result<Answer, Fault> {
    let id = request.message.id().unwrap_or(b"null");
    let wanted = request.params::<ListenParams>()?.notifications;
    if wanted.task_ids.is_some() && tree.runs.is_some() {
        tasks::need_declared(request)?;
    }
    let (_keep, standing) = watch::channel(Standing::of(&request.caller));
    let limits = request.session().limits();
    let _seat = tree.seats.take(&request.caller.principal, &limits, &tree.options.metrics)?;
    let mut watching = Watching::new(&tree.dispatch, standing).map_err(|error| Fault::from(&error))?;
    let accepted = accept(tree, &request.caller, wanted, &mut watching).await?;
    let meta = Meta::of(id);
    let acknowledged =
        notice("notifications/subscriptions/acknowledged", &meta, Acknowledged { notifications: accepted });
    if request.to.send(acknowledged).is_ok() {
        follow(tree, request, &meta, &mut watching).await.map_err(|error| Fault::from(&error))?;
    }
    Ok(Answer::of_json(b"{}").meta(SUBSCRIPTION_ID, id))
}

/// Watches what may be watched of what is wanted, and says what that is.
async fn accept(tree: &Tree, caller: &Caller, wanted: Filter, watching: &mut Watching) -> Result<Filter, Fault> {
    let mut accepted = Filter::default();
    let may = |scope: &str| caller.scopes.allow(scope);
    if wanted.resources_list_changed == Some(true) && may("tree:read") {
        let added = watching.add(&caller.session, Subject::Listing, Path::root()).await;
        accepted.resources_list_changed = is_added(added)?.then_some(true);
    }
    let uris = wanted.resource_subscriptions.filter(|_| may("tree:read")).unwrap_or_default().into_iter();
    let resources = uris.map(|uri| (path::of_uri(&uri), Subject::Resource(uri.into())));
    let tasks = wanted.task_ids.filter(|_| tree.runs.is_some() && may("runs:read")).unwrap_or_default();
    let tasks = tasks.into_iter().filter_map(|id| id.parse::<RunId>().ok());
    let tasks = tasks.map(|id| (Path::parse(&format!("runs/{id}")).ok(), Subject::Task(id)));
    let max = caller.session.limits().mcp_subscriptions_per_stream_max;
    for (path, subject) in resources.chain(tasks) {
        let Some(path) = path else { continue };
        if watching.has(&subject) {
            continue;
        }
        if watching.len() >= max {
            tree.options.metrics.hit("mcp_subscriptions_per_stream_max");
            break;
        }
        if is_added(watching.add(&caller.session, subject.clone(), path).await)? {
            match subject {
                Subject::Resource(uri) => accepted.resource_subscriptions.get_or_insert_default().push(uri.into()),
                Subject::Task(id) => accepted.task_ids.get_or_insert_default().push(id.to_string()),
                Subject::Listing => {}
            }
        }
    }
    Ok(accepted)
}

/// A subject that is not there for its client is left out; whatever else went wrong is said.
fn is_added(added: Result<(), Error>) -> Result<bool, Fault> {
    match added {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unauthenticated) => Ok(false),
        Err(error) => Err(Fault::from(&error)),
    }
}

/// Tells what there is to tell until the stream ends from our side, or its client leaves.
async fn follow(tree: &Tree, request: &Request, meta: &Meta<'_>, watching: &mut Watching) -> Result<(), Error> {
    loop {
        let news = tokio::select! {
            news = watching.next() => news?,
            () = request.to.gone() => return Ok(()),
            () = request.session().closing() => return Ok(()),
            () = tree.shutdown.stopping() => return Ok(()),
        };
        let News::Changed(subjects) = news else { return Ok(()) };
        if tell(tree, &subjects, meta, &request.to).is_err() {
            return Ok(());
        }
    }
}

fn tell(tree: &Tree, subjects: &BTreeSet<Subject>, meta: &Meta<'_>, to: &Outlet) -> Result<(), Closed> {
    for subject in subjects {
        match subject {
            Subject::Resource(uri) => {
                to.send(notice("notifications/resources/updated", meta, json!({ "uri": uri })))?
            }
            Subject::Listing => to.send(notice("notifications/resources/list_changed", meta, json!({})))?,
            Subject::Task(id) => {
                if let Some(task) = tasks::detailed(tree, id) {
                    to.send(notice("notifications/tasks", meta, task))?;
                }
            }
        }
    }
    Ok(())
}

/// What stands in `_meta` of what is told.
#[derive(Default, Serialize)]
struct Meta<'a> {
    #[serde(rename = "io.modelcontextprotocol/subscriptionId", skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
}

impl<'a> Meta<'a> {
    /// With the id as it stands in the request.
    fn of(id: &'a [u8]) -> Self {
        Self { id: serde_json::from_slice(id).ok() }
    }
}

#[derive(Serialize)]
struct Worded<'a, T> {
    /// A legacy session has nothing to say there.
    #[serde(rename = "_meta", skip_serializing_if = "Option::is_none")]
    meta: Option<&'a Meta<'a>>,
    #[serde(flatten)]
    rest: T,
}

#[derive(Serialize)]
struct Acknowledged {
    notifications: Filter,
}

fn notice<T: Serialize>(method: &str, meta: &Meta<'_>, rest: T) -> Message {
    let params = Worded { meta: meta.id.is_some().then_some(meta), rest };
    Message::notification(method, &serde_json::to_vec(&params).expect("it has names for keys"))
}

/// Answers `resources/subscribe`: tells of a resource from now on.
///
/// # Errors
/// The URI means nothing, there are too many, or it may not be read.
pub(super) async fn subscribe(tree: &Arc<Tree>, request: &Request) -> Result<Answer, Fault> {
    request.need("tree:read")?;
    let uri = request.params::<ResourceParams>()?.uri;
    let path = path::of_uri(&uri).ok_or_else(|| malformed(&uri))?;
    order(tree, request, Subject::Resource(uri.into()), Some(path)).await?;
    Ok(Answer::of_json(b"{}"))
}

/// Answers `resources/unsubscribe`: tells of it no more, if it was told.
///
/// # Errors
/// The URI means nothing.
pub(super) async fn unsubscribe(tree: &Arc<Tree>, request: &Request) -> Result<Answer, Fault> {
    let uri = request.params::<ResourceParams>()?.uri;
    path::of_uri(&uri).ok_or_else(|| malformed(&uri))?;
    order(tree, request, Subject::Resource(uri.into()), None).await?;
    Ok(Answer::of_json(b"{}"))
}

/// A legacy client has asked for the list of resources: from now on it is told when that is another one.
pub(super) async fn listed(tree: &Arc<Tree>, request: &Request) {
    // One that may not watch has seen an empty list, and learns nothing.
    let _nothing_to_tell = order(tree, request, Subject::Listing, Some(Path::root())).await;
}

fn malformed(uri: &str) -> Fault {
    let message = "this is no resource of the tree; use tree:///PATH, as in the list of resources";
    Fault::new(INVALID_PARAMS, message).with_data(json!({ "uri": uri }))
}

/// The subscriptions of one legacy session. What follows them is there from the first one on, and ends with the session: who drops
/// that drops the only sender of orders.
#[derive(Debug, Default)]
pub(super) struct Subscriptions(Mutex<Option<Follower>>);

#[derive(Clone, Debug)]
struct Follower {
    orders: mpsc::Sender<Order>,
    standing: Arc<watch::Sender<Standing>>,
}

#[derive(Debug)]
struct Order {
    session: Session,
    subject: Subject,
    /// `None` to watch it no more.
    path: Option<Path>,
    done: oneshot::Sender<Result<(), Error>>,
}

impl Subscriptions {
    /// The session goes on with this caller, whose credential may be a newer one.
    pub(super) fn seen(&self, caller: &Caller) {
        if let Some(follower) = &*self.0.lock() {
            let standing = Standing::of(caller);
            follower.standing.send_if_modified(|known| {
                let differs = *known != standing;
                *known = standing;
                differs
            });
        }
    }

    fn follower(&self, tree: &Arc<Tree>, caller: &Caller, news: &Outlet) -> Result<Follower, Error> {
        let mut follower = self.0.lock();
        if let Some(follower) = &*follower {
            return Ok(follower.clone());
        }
        let (standing, of) = watch::channel(Standing::of(caller));
        let watching = Watching::new(&tree.dispatch, of)?;
        let (orders, received) = mpsc::channel(ORDERS_MAX);
        tree.shutdown.spawn(FOLLOWER, follow_session(tree.clone(), watching, received, news.clone()));
        Ok(follower.insert(Follower { orders, standing: Arc::new(standing) }).clone())
    }
}

async fn order(tree: &Arc<Tree>, request: &Request, subject: Subject, path: Option<Path>) -> Result<(), Fault> {
    let Some(legacy) = &request.legacy else { return Ok(()) };
    if path.is_none() && legacy.subscriptions.0.lock().is_none() {
        return Ok(());
    }
    let over = || Fault::new(INTERNAL, "the subscriptions of this session have ended; open another one");
    let follower = legacy.subscriptions.follower(tree, &request.caller, &legacy.news);
    let follower = follower.map_err(|error| Fault::from(&error))?;
    let (done, answer) = oneshot::channel();
    let order = Order { session: request.session().clone(), subject, path, done };
    follower.orders.send(order).await.map_err(|_| over())?;
    answer.await.map_err(|_| over())?.map_err(|error| Fault::from(&error))
}

/// Follows what one legacy session watches, until the session is dropped.
async fn follow_session(tree: Arc<Tree>, mut watching: Watching, mut orders: mpsc::Receiver<Order>, news: Outlet) {
    let meta = Meta::default();
    loop {
        let told = tokio::select! {
            order = orders.recv() => match order {
                Some(order) => {
                    carry_out(&tree, &mut watching, order).await;
                    continue;
                }
                None => return,
            },
            told = watching.next() => told,
        };
        let subjects = match told {
            Ok(News::Changed(subjects) | News::Lost(subjects)) => subjects,
            Err(error) => {
                tracing::debug!(%error, "the subscriptions of a session end");
                return;
            }
        };
        if tell(&tree, &subjects, &meta, &news).is_err() {
            return;
        }
    }
}

async fn carry_out(tree: &Tree, watching: &mut Watching, order: Order) {
    let Order { session, subject, path, done } = order;
    let max = session.limits().mcp_subscriptions_per_stream_max;
    let result = match path {
        None => {
            watching.remove(&subject);
            Ok(())
        }
        Some(_) if subject != Subject::Listing && !watching.has(&subject) && watching.len() >= max => {
            tree.options.metrics.hit("mcp_subscriptions_per_stream_max");
            let text = format!(
                "the session is told of as many resources as it may be (mcp_subscriptions_per_stream_max, {max}); \
                 unsubscribe from some"
            );
            Err(Error::overloaded(text, RETRY_AFTER))
        }
        Some(path) => watching.add(&session, subject, path).await,
    };
    // Who asked may have left.
    let _left = done.send(result);
}

/// How many modern streams there are, in all and of each principal.
#[derive(Debug, Default)]
pub(super) struct Seats(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_principal: HashMap<Arc<str>, usize>,
}

/// The place of a stream; dropping it gives it back.
#[derive(Debug)]
struct Seat {
    seats: Arc<Seats>,
    principal: Arc<str>,
}

impl Seats {
    fn take(self: &Arc<Self>, principal: &Arc<str>, limits: &Limits, metrics: &Metrics) -> Result<Seat, Fault> {
        let mut taken = self.0.lock();
        let own = taken.by_principal.get(principal).copied().unwrap_or_default();
        let full = [
            ("mcp_streams_per_principal_max", own, limits.mcp_streams_per_principal_max),
            ("mcp_streams_max", taken.all, limits.mcp_streams_max),
        ];
        if let Some((name, _, max)) = full.into_iter().find(|(_, has, max)| has >= max) {
            drop(taken);
            metrics.hit(name);
            let message =
                format!("there are as many streams of subscriptions as there may be ({name}, {max}); end some");
            return Err(Fault::overloaded(message, RETRY_AFTER));
        }
        taken.all += 1;
        *taken.by_principal.entry(principal.clone()).or_default() += 1;
        Ok(Seat { seats: self.clone(), principal: principal.clone() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock();
        taken.all -= 1;
        if let Some(own) = taken.by_principal.get_mut(&self.principal) {
            *own -= 1;
            if *own == 0 {
                taken.by_principal.remove(&self.principal);
            }
        }
    }
}
