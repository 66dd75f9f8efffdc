//! The set of servers: made from entries, changed by other entries, ended. What stands in front of each, from the client on: counters, its tape, its
//! rules, its filter.

use std::fmt;
use std::sync::Arc;

use futures_util::future::join_all;
use parking_lot::Mutex;
use serde_json::{Value, json};
use standpipe_engine::Streams;
use standpipe_serve::LimitsHandle;
use tokio_util::task::TaskTracker;

use super::{Filter, Joined, Member, ServerEntry, Set, Upstream};
use crate::bridge::{Pair, Settings};
use crate::intercept::{Intercept, Rules};
use crate::meter::Meter;
use crate::tape::{MaskConfig, Masks, Recorder, Tapes};
use crate::upstream::child::{ChildServer, ChildSpec, Children, environment};
use crate::upstream::remote::{Remote, RemoteSpec};
use crate::upstream::{Era, ServerLimits};
use crate::{Hook, Layered, Metrics, Server};

/// The name under which joined servers are counted and scoped; no server can have it.
pub const ALL: &str = "all";

/// What a gateway works with.
#[derive(Clone)]
pub struct Parts {
    /// Starts processes.
    pub children: Arc<Children>,
    /// The limits in force.
    pub limits: LimitsHandle,
    /// Where everything is counted.
    pub metrics: Metrics,
    /// Where tapes of the tree are written; without a tree there are none.
    pub streams: Option<Arc<Streams>>,
    /// Our variables; processes see a few harmless ones of them.
    pub environment: Vec<(String, String)>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Variables may be secret.
        f.debug_struct("Parts").field("children", &self.children).finish_non_exhaustive()
    }
}

/// Servers by name, and all of them joined.
#[derive(Debug)]
pub struct Gateway {
    parts: Parts,
    set: Arc<Set>,
    joined: Arc<dyn Server>,
    tapes: Tapes,
    running: Mutex<Vec<Running>>,
    /// Servers that have been removed and are not gone yet.
    leaving: TaskTracker,
}

/// A server and what it was made from.
#[derive(Clone, Debug)]
struct Running {
    entry: ServerEntry,
    backend: Backend,
    intercept: Arc<Intercept>,
    server: Arc<dyn Server>,
}

#[derive(Clone, Debug)]
enum Backend {
    Child(Arc<ChildServer>),
    Remote(Arc<Remote>),
}

impl Backend {
    async fn retire(&self) {
        match self {
            Self::Child(child) => child.retire().await,
            // Nothing runs here for it; its sessions end with their clients.
            Self::Remote(_) => {}
        }
    }

    fn status(&self) -> Value {
        match self {
            Self::Child(child) => serde_json::to_value(child.status()).expect("a status is plain values"),
            Self::Remote(remote) => json!({ "state": "remote", "era": remote.era().map(Era::as_str) }),
        }
    }
}

/// What a reload has done, by the names of servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New ones.
    pub added: Vec<String>,
    /// Those whose entry has changed.
    pub replaced: Vec<String>,
    /// Those that have no entry any more.
    pub removed: Vec<String>,
    /// Those of whose entry only the rules have changed: they go on as they are, under the new rules.
    pub ruled: Vec<String>,
}

impl Changes {
    /// Whether everything stayed as it was.
    pub fn is_none(&self) -> bool {
        self.are_servers_same() && self.ruled.is_empty()
    }

    fn are_servers_same(&self) -> bool {
        self.added.is_empty() && self.replaced.is_empty() && self.removed.is_empty()
    }
}

impl Gateway {
    /// A gateway without servers; [`Gateway::reload`] brings them.
    pub fn new(parts: Parts) -> Arc<Self> {
        let set = Arc::new(Set::default());
        let joined = Joined::new(set.clone(), parts.limits.clone());
        let settings = Settings {
            server: ALL.into(),
            limits: parts.limits.clone(),
            metrics: parts.metrics.clone(),
            own: ServerLimits::from(&**parts.limits.load()),
        };
        let pair = Arc::new(Pair::of_modern(Arc::new(joined), settings));
        let joined = Arc::new(Layered::new(pair, vec![Meter::new(&parts.metrics, ALL)]));
        let tapes = Tapes::new(parts.streams.clone(), parts.limits.clone(), parts.metrics.clone());
        let (running, leaving) = (Mutex::default(), TaskTracker::new());
        Arc::new(Self { parts, set, joined, tapes, running, leaving })
    }

    /// From now on there are the servers of `entries`, in their order. Those whose entry is the same go on as they are; the others are ended once
    /// their calls are done. One reload at a time; must be called on a runtime.
    ///
    /// # Errors
    /// A sentence about an entry that can't be meant; everything stays as it was.
    pub async fn reload(&self, entries: Vec<ServerEntry>) -> Result<Changes, String> {
        let before: Vec<Running> = self.running.lock().clone();
        let mut changes = Changes::default();
        let mut after = Vec::with_capacity(entries.len());
        let mut ruled = Vec::new();
        let entries =
            entries.into_iter().map(|entry| Ok((rules(&entry)?, entry))).collect::<Result<Vec<_>, String>>()?;
        for (rules, entry) in entries {
            match before.iter().find(|running| running.entry.name == entry.name) {
                Some(running) if running.entry == entry => {
                    after.push(running.clone());
                    continue;
                }
                Some(running) if differs_in_rules_only(&running.entry, &entry) => {
                    changes.ruled.push(entry.name.clone());
                    ruled.push((running.intercept.clone(), rules));
                    after.push(Running { entry, ..running.clone() });
                    continue;
                }
                Some(_) => changes.replaced.push(entry.name.clone()),
                None => changes.added.push(entry.name.clone()),
            }
            let name = entry.name.clone();
            match self.make(entry, &rules).await {
                Ok(running) => after.push(running),
                Err(why) => {
                    self.forget(&before, after);
                    return Err(format!("server {name:?}: {why}"));
                }
            }
        }
        let is_kept = |old: &Running| after.iter().any(|new| Arc::ptr_eq(&new.server, &old.server));
        let (_, ended): (Vec<_>, Vec<_>) = before.into_iter().partition(is_kept);
        for old in &ended {
            if !after.iter().any(|new| new.entry.name == old.entry.name) {
                changes.removed.push(old.entry.name.clone());
            }
        }
        let member =
            |running: &Running| Member { name: running.entry.name.as_str().into(), server: running.server.clone() };
        let members: Vec<Member> = after.iter().map(member).collect();
        *self.running.lock() = after;
        ruled.iter().for_each(|(intercept, rules)| intercept.set(rules));
        if !changes.are_servers_same() {
            self.set.replace(members);
        }
        self.leaving.spawn(async move {
            join_all(ended.iter().map(|old| old.backend.retire())).await;
        });
        Ok(changes)
    }

    /// Ends what was made for nothing: it may have been started already.
    fn forget(&self, before: &[Running], made: Vec<Running>) {
        let is_old = |made: &Running| before.iter().any(|old| Arc::ptr_eq(&old.server, &made.server));
        let made: Vec<Running> = made.into_iter().filter(|made| !is_old(made)).collect();
        self.leaving.spawn(async move {
            join_all(made.iter().map(|made| made.backend.retire())).await;
        });
    }

    /// A server as its entry says; it is not started yet, unless it wants to be.
    async fn make(&self, entry: ServerEntry, rules: &Rules) -> Result<Running, String> {
        let Parts { children, limits, metrics, environment: ours, .. } = &self.parts;
        let intercept = Intercept::new(rules, &entry.name, limits.clone(), metrics);
        let limits = entry.limits(&ServerLimits::from(&**limits.load()));
        let mut hooks: Vec<Arc<dyn Hook>> = vec![Meter::new(metrics, &entry.name)];
        if let Some(place) = &entry.record {
            let recording = self.tapes.open(place).await.map_err(|why| format!("record: {why}"))?;
            hooks.push(Recorder::new(recording, &entry.name, masks(&entry)?));
        }
        hooks.push(intercept.clone());
        if !entry.tools.is_open() {
            hooks.push(Arc::new(Filter::new(entry.tools.clone())));
        }
        let (backend, server): (Backend, Arc<dyn Server>) = match &entry.upstream {
            Upstream::Command { argv, env, cwd } => {
                let child = children.server(ChildSpec {
                    name: entry.name.clone(),
                    argv: argv.clone(),
                    env: environment(ours.iter().cloned(), env),
                    cwd: cwd.clone(),
                    mode: entry.mode,
                    era: entry.era,
                    eager: entry.eager,
                    limits,
                });
                (Backend::Child(child.clone()), child)
            }
            Upstream::Url { url, headers } => {
                let spec = RemoteSpec { era: entry.era, limits, ..RemoteSpec::new(&entry.name, url, headers)? };
                let remote = Remote::new(spec, self.parts.limits.clone(), metrics.clone())?;
                (Backend::Remote(remote.clone()), remote)
            }
        };
        let server = Arc::new(Layered::new(server, hooks));
        Ok(Running { entry, backend, intercept, server })
    }

    /// The server with this name.
    pub fn named(&self, name: &str) -> Option<Arc<dyn Server>> {
        self.set.member(name).map(|member| member.server)
    }

    /// All of them as one.
    pub fn joined(&self) -> Arc<dyn Server> {
        self.joined.clone()
    }

    /// How they are doing, in the order of their file.
    pub fn status(&self) -> Value {
        let running = self.running.lock().clone();
        let servers: Vec<Value> = running.iter().map(|running| self.status_of(running)).collect();
        json!({ "servers": servers, "limits_hit": self.parts.metrics.hits() })
    }

    fn status_of(&self, Running { entry, backend, .. }: &Running) -> Value {
        let mut status = json!({ "name": entry.name });
        let figures =
            serde_json::to_value(self.parts.metrics.server(&entry.name).figures()).expect("figures are plain values");
        // Where both count the same thing, what clients see is meant.
        for part in [backend.status(), figures] {
            if let (Value::Object(all), Value::Object(part)) = (&mut status, part) {
                all.extend(part);
            }
        }
        status
    }

    /// Ends all servers, in parallel, once their calls are done or their time for that is over; then the tapes.
    pub async fn close(&self) {
        self.parts.children.close().await;
        self.leaving.close();
        self.leaving.wait().await;
        self.tapes.close().await;
    }
}

/// What an entry says of calls to be blocked, delayed, mocked or failed.
fn rules(entry: &ServerEntry) -> Result<Rules, String> {
    let rules = entry.rules.as_deref().map(Rules::parse).transpose();
    rules.map(Option::unwrap_or_default).map_err(|error| format!("server {:?}: {error}", entry.name))
}

fn differs_in_rules_only(a: &ServerEntry, b: &ServerEntry) -> bool {
    let without = |entry: &ServerEntry| ServerEntry { rules: None, ..entry.clone() };
    without(a) == without(b)
}

/// What is masked on a server's tape: what its entry says, and the secrets that we hand to it.
fn masks(entry: &ServerEntry) -> Result<Masks, String> {
    let (pointers, names) = entry.mask.iter().cloned().partition(|mask| mask.starts_with('/'));
    let masks = Masks::new(MaskConfig { headers: Vec::clone(&names), names, pointers })?;
    let handed: Vec<(String, String)> = match &entry.upstream {
        Upstream::Command { env, .. } => env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        Upstream::Url { headers, .. } => headers.clone(),
    };
    let secrets = handed.into_iter().filter(|(name, _)| masks.hides_header(name)).map(|(_, value)| value);
    let secrets: Vec<String> = secrets.collect();
    Ok(masks.with_texts(secrets))
}
