//! The book: what is durable of runs, as small records in the store of streams, where no client can write. Changes
//! of all runs that wait are written in one commit. What a change means is its caller's business.
//!
//! | key | what |
//! |---|---|
//! | `run/NAME@N` | the record without its plan |
//! | `plan/NAME@N` | the plan, written once |
//! | `name/NAME` | the number of the newest run of that name, ever |
//! | `recent/TIME/NAME@N` | nothing: orders all runs by when they were accepted |
//! | `live/NAME@N` | nothing: the run is not final |
//! | `gone/NAME@N` | nothing: the run is removed; what it left is being removed |
//! | `job/NAME` | what is known of a job |
//!
//! `N` and `TIME` are subtracted from the largest number, so that the newest comes first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use standpipe_engine::{Error, ErrorKind, Result, Streams};
use tokio::sync::{Notify, oneshot};

use crate::board::Board;
use crate::name::{Name, RunId};
use crate::plan::Plan;
use crate::record::RunRecord;

/// Bytes of one commit, beside the change that makes it so many.
const COMMIT_BYTES: usize = 4 << 20;
/// Changes of one commit.
const COMMIT_CHANGES: usize = 1_024;
/// Changes that may wait. Each has a caller that waits with it, and they are limited where they come in.
const WAITING_MAX: usize = 65_536;
/// Records read at once.
pub(crate) const PAGE: usize = 256;

/// A key, and its new record; `None` removes it.
pub(crate) type Put = (String, Option<Vec<u8>>);

/// What is known of a job, beside its runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct JobRecord {
    /// Planned times up to this one have been seen to, in milliseconds since the epoch.
    pub(crate) done: u64,
    /// Its newest run.
    pub(crate) last: Option<RunId>,
    /// How many runs it has had.
    pub(crate) runs: u64,
    /// The schedule that `done` is of.
    pub(crate) schedule: Option<String>,
}

enum Change {
    /// The record of a run at work, as it is when it is written.
    Board(Arc<Board>),
    Puts(Vec<Put>),
}

/// Told when a change is durable, or that it is not.
type Answer = oneshot::Sender<Result<()>>;

#[derive(Default)]
struct Waiting {
    changes: VecDeque<(Option<Change>, Option<Answer>)>,
    closed: bool,
}

/// See the module's text.
pub(crate) struct Book {
    streams: Arc<Streams>,
    waiting: Mutex<Waiting>,
    wake: Notify,
    /// The newest number of names of which runs are being accepted, and how many are.
    names: Mutex<HashMap<Name, (u64, usize)>>,
}

impl std::fmt::Debug for Book {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Book").finish_non_exhaustive()
    }
}

/// Waits until a change is durable.
pub(crate) async fn durable(answer: oneshot::Receiver<Result<()>>) -> Result<()> {
    answer.await.unwrap_or_else(|_| Err(Error::unavailable("the server is stopping")))
}

impl Book {
    pub(crate) fn new(streams: Arc<Streams>) -> Arc<Self> {
        Arc::new(Self { streams, waiting: Mutex::default(), wake: Notify::new(), names: Mutex::default() })
    }

    /// Writes what waits, until the book is closed and nothing does.
    pub(crate) async fn write(self: Arc<Self>) {
        loop {
            let (puts, answers) = self.take();
            if puts.is_empty() && answers.is_empty() {
                if self.waiting.lock().closed {
                    return;
                }
                self.wake.notified().await;
                continue;
            }
            let written = if puts.is_empty() { Ok(()) } else { self.streams.put_records(puts).await };
            for answer in answers {
                let _left = answer.send(written.clone());
            }
        }
    }

    /// The changes of the next commit, and who waits for them.
    fn take(&self) -> (Vec<Put>, Vec<Answer>) {
        let (mut puts, mut answers, mut bytes) = (Vec::new(), Vec::new(), 0);
        while puts.len() < COMMIT_CHANGES && bytes < COMMIT_BYTES {
            let Some((change, answer)) = self.waiting.lock().changes.pop_front() else { break };
            answers.extend(answer);
            let before = puts.len();
            match change {
                None => {}
                Some(Change::Puts(some)) => puts.extend(some),
                Some(Change::Board(board)) => {
                    board.saving.store(false, Ordering::SeqCst);
                    puts.extend(board.saved());
                }
            }
            bytes +=
                puts[before..].iter().map(|(key, put)| key.len() + put.as_ref().map_or(0, Vec::len)).sum::<usize>();
        }
        (puts, answers)
    }

    fn push(&self, change: Option<Change>, answer: Option<Answer>) {
        let mut waiting = self.waiting.lock();
        if waiting.closed || waiting.changes.len() >= WAITING_MAX {
            let refusal = match waiting.closed {
                true => Error::unavailable("the server is stopping"),
                false => {
                    Error::overloaded("too many changes of runs wait for the disk", std::time::Duration::from_secs(1))
                }
            };
            drop(waiting);
            let _left = answer.map(|answer| answer.send(Err(refusal)));
            return;
        }
        waiting.changes.push_back((change, answer));
        drop(waiting);
        self.wake.notify_one();
    }

    /// Has the record of a run written as it is by then; without an answer nobody waits.
    pub(crate) fn save(&self, board: &Arc<Board>, answer: Option<Answer>) {
        let waits = board.saving.swap(true, Ordering::SeqCst);
        let change = (!waits).then(|| Change::Board(board.clone()));
        if change.is_some() || answer.is_some() {
            self.push(change, answer);
        }
    }

    /// Has these written, in the order of calls.
    pub(crate) fn put(&self, puts: Vec<Put>) -> oneshot::Receiver<Result<()>> {
        let (answer, done) = oneshot::channel();
        self.push(Some(Change::Puts(puts)), Some(answer));
        done
    }

    /// Takes no more changes; what waits is written.
    pub(crate) fn close(&self) {
        self.waiting.lock().closed = true;
        self.wake.notify_one();
    }

    /// The id of the next run of this name, its own from now on. [`Book::numbered`] follows.
    pub(crate) fn number(&self, name: &Name) -> Result<RunId> {
        let mut names = self.names.lock();
        let newest = match names.get(name) {
            Some((newest, _)) => *newest,
            None => self.get::<u64>(&counter_key(name))?.unwrap_or_default(),
        };
        let entry = names.entry(name.clone()).or_insert((newest, 0));
        *entry = (newest + 1, entry.1 + 1);
        Ok(RunId { name: name.clone(), number: newest + 1 })
    }

    /// The run with this id is durable, or given up.
    pub(crate) fn numbered(&self, id: &RunId) {
        let mut names = self.names.lock();
        if let Some(entry) = names.get_mut(&id.name) {
            entry.1 -= 1;
            if entry.1 == 0 {
                names.remove(&id.name);
            }
        }
    }

    fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        self.streams.record(key)?.map(|json| decode(key, &json)).transpose()
    }

    /// A record with its plan.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) fn load(&self, id: &RunId) -> Result<RunRecord> {
        let mut record = self.glance(id)?;
        record.plan = self.get::<Plan>(&plan_key(id))?.unwrap_or_default().into();
        Ok(record)
    }

    /// A record without its plan.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) fn glance(&self, id: &RunId) -> Result<RunRecord> {
        self.get(&run_key(id))?.ok_or_else(|| no_run(&id.to_string()))
    }

    /// The newest run of a name.
    pub(crate) fn newest(&self, name: &Name) -> Result<Option<RunId>> {
        let first = self.streams.records(&format!("run/{name}@"), None, 1)?;
        Ok(first.first().and_then(|(key, _)| id_of(key)))
    }

    /// What is known of a job.
    pub(crate) fn job(&self, name: &Name) -> Result<Option<JobRecord>> {
        self.get(&job_key(name))
    }

    /// Ids of runs, the newest first, after `after`: of one name or of all.
    pub(crate) fn ids(&self, name: Option<&Name>, after: Option<&str>, max: usize) -> Result<Vec<(String, RunId)>> {
        let prefix = name.map_or_else(|| "recent/".to_owned(), |name| format!("run/{name}@"));
        self.keys(&prefix, after, max)
    }

    /// Ids below a prefix of which the keys end with one.
    pub(crate) fn keys(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<(String, RunId)>> {
        let records = self.streams.records(prefix, after, max)?;
        Ok(records.into_iter().filter_map(|(key, _)| id_of(&key).map(|id| (key, id))).collect())
    }

    /// The key behind which the runs follow that were accepted before this one.
    pub(crate) fn place(&self, name: Option<&Name>, record: &RunRecord) -> String {
        if name.is_some() { run_key(&record.id) } else { recent_key(record.created_at, &record.id) }
    }
}

/// What makes a run.
pub(crate) fn created(record: &RunRecord) -> Vec<Put> {
    let id = &record.id;
    vec![
        (counter_key(&id.name), Some(encode(&id.number))),
        (plan_key(id), Some(encode(&*record.plan))),
        saved(record),
        (recent_key(record.created_at, id), Some(Vec::new())),
        (live_key(id), Some(Vec::new())),
    ]
}

/// What unmakes a run that was refused after all.
pub(crate) fn taken_back(record: &RunRecord) -> Vec<Put> {
    let id = &record.id;
    [run_key(id), plan_key(id), recent_key(record.created_at, id), live_key(id)].map(|key| (key, None)).into()
}

/// The record as it is.
pub(crate) fn saved(record: &RunRecord) -> Put {
    let without = RunRecord { plan: Arc::default(), ..record.clone() };
    (run_key(&record.id), Some(encode(&without)))
}

/// The record, which is final.
pub(crate) fn finished(record: &RunRecord) -> Vec<Put> {
    vec![saved(record), (live_key(&record.id), None)]
}

/// What removes a run; what it left is to be removed next.
pub(crate) fn removed(record: &RunRecord) -> Vec<Put> {
    let mut puts = taken_back(record);
    puts.push((gone_key(&record.id), Some(Vec::new())));
    puts
}

/// Nothing of a removed run is left.
pub(crate) fn forgotten(id: &RunId) -> Put {
    (gone_key(id), None)
}

/// What is known of a job from now on.
pub(crate) fn job_put(name: &Name, job: &JobRecord) -> Put {
    (job_key(name), Some(encode(job)))
}

pub(crate) fn no_run(reference: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no run {reference}; `standpipe runs list` shows those there are"))
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("records have nothing that JSON has not")
}

fn decode<T: DeserializeOwned>(key: &str, json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| {
        Error::new(ErrorKind::Internal, format!("the record {key} can't be read; `standpipe verify` tells more"))
            .with_cause(error)
    })
}

fn run_key(id: &RunId) -> String {
    format!("run/{}", ordered(id))
}

fn plan_key(id: &RunId) -> String {
    format!("plan/{}", ordered(id))
}

fn live_key(id: &RunId) -> String {
    format!("live/{}", ordered(id))
}

fn gone_key(id: &RunId) -> String {
    format!("gone/{}", ordered(id))
}

fn counter_key(name: &Name) -> String {
    format!("name/{name}")
}

fn job_key(name: &Name) -> String {
    format!("job/{name}")
}

fn recent_key(created_at: u64, id: &RunId) -> String {
    format!("recent/{:020}/{}", u64::MAX - created_at, ordered(id))
}

/// The id so that the newest of a name comes first.
fn ordered(id: &RunId) -> String {
    format!("{}@{:020}", id.name, u64::MAX - id.number)
}

/// When the run was accepted, of a key `recent/…`.
pub(crate) fn accepted_at(key: &str) -> Option<u64> {
    let inverted: u64 = key.strip_prefix("recent/")?.split('/').next()?.parse().ok()?;
    Some(u64::MAX - inverted)
}

/// The id at the end of a key.
fn id_of(key: &str) -> Option<RunId> {
    let (name, number) = key.rsplit('/').next()?.split_once('@')?;
    let number: u64 = number.parse().ok()?;
    Some(RunId { name: name.parse().ok()?, number: u64::MAX - number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_put_the_newest_first_and_give_their_ids_back() {
        let ids: Vec<RunId> = ["a@1", "a@2", "a@18446744073709551615"].map(|id| id.parse().unwrap()).into();
        for key in [run_key, plan_key, live_key, gone_key] {
            let keys: Vec<_> = ids.iter().map(key).collect();
            assert!(keys.is_sorted_by(|a, b| a > b), "{keys:?}");
            assert_eq!(keys.iter().filter_map(|key| id_of(key)).collect::<Vec<_>>(), ids);
        }
        let key = recent_key(7, &ids[0]);
        assert!(key > recent_key(8, &ids[0]));
        assert_eq!((accepted_at(&key), id_of(&key)), (Some(7), Some(ids[0].clone())));
        for bad in ["", "recent/x/a@1", "run/a", "run/a@x", "run/@1"] {
            assert!(accepted_at(bad).is_none() && id_of(bad).is_none_or(|id| id.name.as_str() == "a"), "{bad}");
        }
    }
}
