//! Control of runs over HTTP: start, list, show, stop, retry, resume, remove, artefacts, jobs. It decodes, asks
//! `access` whether the caller may, calls [`Runs`], and encodes; what a run is and does is decided there. Output is
//! told by the streams' own module.

mod answers;
mod metrics;
mod openapi;
mod origin;

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Method, StatusCode};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde_json::Value;
use standpipe_engine::{Error, ErrorKind, Identity};
use standpipe_runs::{FileBounds, Filter, Name, Prune, RunId, RunRecord, RunState, Runs};
use standpipe_serve::Session;
use tokio::time::timeout;

use super::body::receive;
use super::io::Activity;
use super::params::decode;
use super::route::{Act, Place};
use super::{Answer, error_answer, not_allowed, request_deadline};
use crate::dispatch::Dispatch;
use crate::runs::{Access, JobParams, RetryRequest, StartRequest, StopRequest, duration, is_forwarded, no_job, told};

pub(super) use self::metrics::Figures;
pub(super) use self::openapi::answer as openapi;

/// Runs of one page of a list, where the caller names no number.
const PAGE: usize = 100;
/// And the most it may name.
const PAGE_MAX: usize = 1_000;

/// What a door needs to control runs.
#[derive(Debug)]
pub(super) struct Control {
    runs: Arc<Runs>,
    /// The environment of a command whose request brings none.
    env: BTreeMap<String, String>,
}

impl Control {
    pub(super) fn new(runs: Arc<Runs>, env: BTreeMap<String, String>) -> Self {
        Self { runs, env }
    }

    pub(super) fn runs(&self) -> &Arc<Runs> {
        &self.runs
    }
}

/// One request about runs.
pub(super) struct Call<'a> {
    pub(super) control: &'a Control,
    pub(super) dispatch: &'a Dispatch,
    pub(super) session: &'a Session,
    pub(super) activity: &'a Arc<Activity>,
    pub(super) parts: &'a Parts,
    pub(super) identity: Identity,
    /// May it have any command run?
    pub(super) operator: bool,
}

impl Call<'_> {
    /// Answers; a refusal has the statuses of control (409 for a conflict, where data has 412).
    pub(super) async fn answer(&self, method: &Method, place: Place, body: Incoming) -> Answer {
        self.handle(method, place, body).await.unwrap_or_else(|error| {
            let mut answer = error_answer(&error);
            *answer.status_mut() = status(error.kind(), answer.status());
            answer
        })
    }

    async fn handle(&self, method: &Method, place: Place, body: Incoming) -> Result<Answer, Error> {
        if *method != Method::GET {
            origin::same_origin(self.parts)?;
        }
        let access = Access::of(self.dispatch, &self.identity, self.operator && !is_forwarded(&self.parts.headers))?;
        match (place, method) {
            (Place::List, &Method::GET) => self.list(&access),
            (Place::List, &Method::POST) => self.start(&access, body).await,
            (Place::List, _) => Ok(not_allowed("GET, HEAD, POST")),
            // A run may have that name.
            (Place::Prune, &Method::POST) => self.prune(&access, body).await,
            (Place::Prune, _) => self.one(&access, method, "prune").await,
            (Place::Run(run), _) => self.one(&access, method, &run).await,
            (Place::Act { run, act }, &Method::POST) => self.act(&access, &run, act, body).await,
            (Place::Act { .. }, _) => Ok(not_allowed("POST")),
            (Place::Artefact { run, task, name }, &Method::GET) => self.artefact(&access, &run, &task, &name).await,
            (Place::Artefact { .. } | Place::Output { .. }, _) => Ok(not_allowed("GET, HEAD")),
            (Place::Jobs, &Method::GET) => self.jobs(&access),
            (Place::Jobs, _) => Ok(not_allowed("GET, HEAD")),
            (Place::Job(job), &Method::GET) => self.job(&access, &job),
            (Place::Job(job), &Method::POST) => self.start_job(&access, &job, body).await,
            (Place::Job(_), _) => Ok(not_allowed("GET, HEAD, POST")),
        }
    }

    fn runs(&self) -> &Arc<Runs> {
        &self.control.runs
    }

    /// The run that is meant, if the caller may know of it.
    fn find(&self, access: &Access<'_>, reference: &str) -> Result<RunId, Error> {
        let id = self.runs().find(reference)?;
        access.may_see(&id)?;
        Ok(id)
    }

    fn list(&self, access: &Access<'_>) -> Result<Answer, Error> {
        let filter = filter(self.parts.uri.query())?;
        let listed = self.runs().list(&filter)?;
        // A full page may have another one behind it, whatever the caller may see of this one.
        let next = (listed.len() >= filter.max).then(|| listed.last().map(|record| record.id.clone())).flatten();
        let seen = access.seen(&listed)?.into_iter();
        let runs: Vec<_> = seen.map(|record| self.listed(record)).collect();
        let mut json = serde_json::json!({ "runs": runs });
        if let Some(next) = next {
            json["next"] = next.to_string().into();
        }
        Ok(answers::json(&json))
    }

    /// A run of a list. Those have no plans, and of one command its reader wants to see that.
    fn listed(&self, record: &RunRecord) -> Value {
        let whole = record.single.then(|| self.runs().record(&record.id).ok()).flatten();
        told(whole.as_ref().unwrap_or(record), self.runs().position(&record.id))
    }

    async fn start(&self, access: &Access<'_>, body: Incoming) -> Result<Answer, Error> {
        access.may_run_anything()?;
        let request: StartRequest = self.read(body).await?;
        let limits = self.session.limits();
        let bounds = FileBounds { bytes_max: limits.pipeline_bytes_max, tasks_max: limits.pipeline_tasks_max };
        let id = self.runs().start(request.start(&self.control.env, &bounds, access.by())?).await?;
        self.created(&id)
    }

    async fn one(&self, access: &Access<'_>, method: &Method, reference: &str) -> Result<Answer, Error> {
        let id = self.find(access, reference)?;
        match *method {
            Method::GET => {
                if flag(self.parts.uri.query(), "wait") {
                    self.ended(&id).await?;
                }
                self.show(&id)
            }
            Method::DELETE => {
                access.may_remove(&id)?;
                self.runs().remove(&id).await?;
                Ok(answers::nothing())
            }
            _ => Ok(not_allowed("GET, HEAD, DELETE")),
        }
    }

    async fn act(&self, access: &Access<'_>, reference: &str, act: Act, body: Incoming) -> Result<Answer, Error> {
        let id = self.find(access, reference)?;
        match act {
            Act::Stop => {
                access.may_stop(&id)?;
                let StopRequest { grace, wait } = self.read(body).await?;
                self.runs().stop(&id, grace.map(duration).transpose()?).await?;
                if wait || flag(self.parts.uri.query(), "wait") {
                    self.ended(&id).await?;
                }
                self.show(&id)
            }
            Act::Retry => {
                access.may_repeat(&self.runs().record(&id)?, self.runs())?;
                let RetryRequest { task } = self.read(body).await?;
                self.created(&self.runs().retry(&id, task.as_ref(), access.by()).await?)
            }
            Act::Resume => {
                access.may_repeat(&self.runs().record(&id)?, self.runs())?;
                self.created(&self.runs().resume(&id, access.by()).await?)
            }
        }
    }

    /// Waits for the end of a run, as long as a request may take.
    async fn ended(&self, id: &RunId) -> Result<(), Error> {
        let patience = request_deadline(self.session).remaining().saturating_sub(Duration::from_millis(100));
        tokio::select! {
            ended = timeout(patience, self.runs().ended(id)) => ended.map_or(Ok(()), |ended| ended.map(drop)),
            () = self.session.closing() => Ok(()),
        }
    }

    fn show(&self, id: &RunId) -> Result<Answer, Error> {
        Ok(answers::json(&told(&self.runs().record(id)?, self.runs().position(id))))
    }

    fn created(&self, id: &RunId) -> Result<Answer, Error> {
        let state = self.runs().record(id)?.state;
        Ok(answers::created(id, state, &self.host()))
    }

    /// Scheme and authority by which the caller has reached us, for links.
    fn host(&self) -> String {
        let authority = self.parts.uri.authority().map(http::uri::Authority::as_str);
        let host = authority.or_else(|| self.parts.headers.get(http::header::HOST)?.to_str().ok());
        let scheme = if self.session.secure() && !self.session.peer().is_local() { "https" } else { "http" };
        format!("{scheme}://{}", host.unwrap_or("localhost"))
    }

    async fn prune(&self, access: &Access<'_>, body: Incoming) -> Result<Answer, Error> {
        access.may_prune()?;
        let prune: Prune = self.read(body).await?;
        let removed = self.runs().prune(&prune).await?;
        Ok(answers::json(&serde_json::json!({ "removed": removed })))
    }

    async fn artefact(&self, access: &Access<'_>, run: &str, task: &str, name: &str) -> Result<Answer, Error> {
        let id = self.find(access, run)?;
        let (task, name) = (named::<Name>(task)?, named::<Name>(name)?);
        let (file, bytes) = self.runs().artefact(&id, &task, &name)?;
        answers::file(self.session, file, bytes, &name).await
    }

    fn jobs(&self, access: &Access<'_>) -> Result<Answer, Error> {
        let seen = self.runs().jobs().into_iter().filter(|job| access.may_see_job(&job.spec.name).is_ok());
        let jobs: Vec<_> = seen.map(|job| answers::job(&job)).collect();
        Ok(answers::json(&serde_json::json!({ "jobs": jobs })))
    }

    fn job(&self, access: &Access<'_>, job: &str) -> Result<Answer, Error> {
        let name = named(job)?;
        access.may_see_job(&name)?;
        let job = self.runs().job(&name).ok_or_else(|| no_job(&name))?;
        Ok(answers::json(&answers::job(&job)))
    }

    async fn start_job(&self, access: &Access<'_>, job: &str, body: Incoming) -> Result<Answer, Error> {
        let name: Name = named(job)?;
        let JobParams(params) = self.read(body).await?;
        access.may_start(&name, &params, self.runs())?;
        self.created(&self.runs().start_job(&name, params, access.by()).await?)
    }

    /// The request's body; what is not there is an empty object.
    async fn read<T: DeserializeOwned>(&self, body: Incoming) -> Result<T, Error> {
        let bytes = receive(self.session, self.activity, body).await?;
        let max = self.session.limits().run_request_bytes_max;
        if bytes.len() > max {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "the request is larger than run_request_bytes_max ({max} bytes); hand large input over in a file"
                ),
            ));
        }
        let text = if bytes.is_empty() { b"{}" } else { &bytes[..] };
        serde_json::from_slice(text).map_err(|error| {
            Error::bad_request(format!("the body is not what this takes: {error}; GET /openapi.json describes it"))
        })
    }
}

/// A name in an address; what can be none names nothing that is there.
fn named<T: FromStr>(text: &str) -> Result<T, Error> {
    text.parse().map_err(|_| Error::new(ErrorKind::NotFound, "nothing is called that; a name has A-Z a-z 0-9 _ -"))
}

/// Conflicts and denials have other statuses here than for data, where clients of Firebase go by them.
fn status(kind: ErrorKind, otherwise: StatusCode) -> StatusCode {
    match kind {
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        _ => otherwise,
    }
}

/// The parameters of a query, decoded.
fn pairs(query: Option<&str>) -> impl Iterator<Item = Result<(String, String), Error>> + '_ {
    query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decode(name)?.into_owned(), decode(value)?.into_owned()))
    })
}

/// Is `name` said, and not said to be false?
fn flag(query: Option<&str>, name: &str) -> bool {
    pairs(query).flatten().any(|(have, value)| have == name && !matches!(&*value, "0" | "false"))
}

fn filter(query: Option<&str>) -> Result<Filter, Error> {
    let mut filter = Filter { max: PAGE, ..Filter::default() };
    for pair in pairs(query) {
        let (name, value) = pair?;
        let wrong = |what: &str| Error::bad_request(format!("{name}={value}: {what}"));
        match &*name {
            "name" => filter.name = Some(value.parse().map_err(|_| wrong("no name of a run"))?),
            "job" => filter.job = Some(value.parse().map_err(|_| wrong("no name of a job"))?),
            "by" => filter.by = Some(value),
            "before" => filter.before = Some(value.parse().map_err(|_| wrong("no id of a run, such as nightly@17"))?),
            "limit" => match value.parse() {
                Ok(limit @ 1..=PAGE_MAX) => filter.max = limit,
                _ => return Err(wrong("use 1 to 1000")),
            },
            "state" => {
                let states = value.split(',').filter(|state| !state.is_empty());
                filter.states =
                    states.map(|state| self::state(state).ok_or_else(|| wrong(STATES))).collect::<Result<_, _>>()?;
            }
            _ => {}
        }
    }
    Ok(filter)
}

const STATES: &str = "the states are queued, starting, running, stopping, succeeded, failed, cancelled, timed_out, \
    lost, interrupted";

fn state(text: &str) -> Option<RunState> {
    serde_json::from_value(text.into()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_become_filters() {
        let got = filter(Some("name=nightly&state=running,failed&limit=7&before=nightly%4017&zzz=1")).unwrap();
        assert_eq!(got.name.unwrap().as_str(), "nightly");
        assert_eq!(got.states, [RunState::Running, RunState::Failed]);
        assert_eq!((got.max, got.before.unwrap().number), (7, 17));
        assert_eq!(filter(None).unwrap().max, PAGE);
        for (query, part) in [
            ("name=a/b", "no name"),
            ("state=done", "timed_out"),
            ("limit=0", "1 to 1000"),
            ("limit=1001", "1 to 1000"),
            ("before=nightly", "no id"),
            ("name=%ff", "UTF-8"),
        ] {
            let error = filter(Some(query)).expect_err(query);
            assert!(error.message().contains(part), "{query}: {error}");
        }
        assert!(flag(Some("a=1&wait"), "wait") && flag(Some("wait=1"), "wait"));
        assert!(!flag(Some("wait=0"), "wait") && !flag(None, "wait"));
    }
}
