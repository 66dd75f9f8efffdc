//! Jobs in force, and what starts them by the clock. What has been seen to is durable, in the same commit as the
//! run it led to: no planned time is taken twice, and a restart knows what it missed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use standpipe_engine::{Error, ErrorKind, Result};

use crate::board::Board;
use crate::book::{self, JobRecord, Put};
use crate::jobs::{JobInfo, JobSpec};
use crate::metrics::add;
use crate::name::Name;
use crate::record::{RunRecord, RunState};
use crate::runs::Runs;
use crate::schedule::Due;
use crate::settings::Start;

/// Who starts what the clock starts.
pub(crate) const SCHEDULE: &str = "schedule";
/// Longest time between two looks at the clock, which others may set.
const LOOK_MAX: Duration = Duration::from_secs(15);
/// Pause after a run could not be started.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The jobs in force.
#[derive(Debug, Default)]
pub(crate) struct Jobs(BTreeMap<Name, Job>);

#[derive(Debug)]
struct Job {
    spec: Arc<JobSpec>,
    record: JobRecord,
    /// The state of its newest run.
    state: Option<RunState>,
    next_at: Option<u64>,
}

impl Job {
    fn info(&self) -> JobInfo {
        let JobRecord { last, runs, .. } = self.record.clone();
        JobInfo { spec: self.spec.clone(), last, runs, state: self.state, next_at: self.next_at }
    }

    fn value(&self) -> Value {
        json!({
            "description": self.spec.description,
            "last": self.record.last,
            "state": self.state,
            "runs": self.record.runs,
            "schedule": self.spec.schedule.as_ref().map(|schedule| schedule.text()),
            "next_at": self.next_at,
        })
    }
}

impl Jobs {
    pub(crate) fn infos(&self) -> Vec<JobInfo> {
        self.0.values().map(Job::info).collect()
    }

    pub(crate) fn info(&self, name: &Name) -> Option<JobInfo> {
        self.0.get(name).map(Job::info)
    }

    /// Jobs with a limit of their own.
    pub(crate) fn limits(&self) -> BTreeMap<Name, usize> {
        self.0.iter().filter_map(|(name, job)| Some((name.clone(), job.spec.runs_max?))).collect()
    }

    /// A run of a job is made: what is to be durable with it. `seen_to` is the moment up to which planned times have
    /// been seen to.
    pub(crate) fn started(&mut self, run: &RunRecord, seen_to: Option<u64>) -> Option<Put> {
        let name = run.job.as_ref()?;
        let job = self.0.get_mut(name)?;
        job.record.last = Some(run.id.clone());
        job.record.runs += 1;
        job.record.done = seen_to.unwrap_or(job.record.done);
        job.state = Some(RunState::Queued);
        Some(book::job_put(name, &job.record))
    }
}

/// What the clock says about a job.
struct Look {
    job: Arc<JobSpec>,
    due: Due,
}

impl Runs {
    /// Puts the first jobs in force.
    pub(crate) fn load_jobs(&self, specs: Vec<Arc<JobSpec>>) -> Result<()> {
        for spec in specs {
            spec.check().map_err(|reason| Error::bad_request(format!("job {}: {reason}", spec.name)))?;
            let job = self.job_of(spec)?;
            self.jobs.lock().0.insert(job.spec.name.clone(), job);
        }
        Ok(())
    }

    /// A job with what is known of it. Planned times count from when its schedule was first seen.
    fn job_of(&self, spec: Arc<JobSpec>) -> Result<Job> {
        let mut record = self.book.job(&spec.name)?.unwrap_or_default();
        let schedule = spec.schedule.as_ref().map(|schedule| schedule.text().to_owned());
        if record.schedule != schedule {
            (record.done, record.schedule) = (self.now(), schedule);
            // Nobody waits for it: what is seen to later is written with more care.
            let _later = self.book.put(vec![book::job_put(&spec.name, &record)]);
        }
        let state = match &record.last {
            Some(last) => self.glance(last)?.map(|run| run.state),
            None => None,
        };
        let next_at = spec.schedule.as_ref().and_then(|schedule| schedule.next_after(record.done));
        Ok(Job { spec, record, state, next_at })
    }

    /// Puts other jobs in force. Runs that are there go on as they began.
    ///
    /// # Errors
    /// A job that can't be meant; the old ones stay.
    pub fn reload(self: &Arc<Self>, specs: Vec<Arc<JobSpec>>) -> Result<()> {
        let mut jobs = BTreeMap::new();
        for spec in specs {
            spec.check().map_err(|reason| Error::bad_request(format!("job {}: {reason}", spec.name)))?;
            let job = self.job_of(spec)?;
            jobs.insert(job.spec.name.clone(), job);
        }
        let before = std::mem::replace(&mut self.jobs.lock().0, jobs);
        for name in before.keys() {
            self.tell_job(name);
        }
        self.jobs_changed.notify_one();
        self.pump();
        Ok(())
    }

    /// What a run of a job is started with.
    pub(crate) fn start_of_job(&self, name: &Name, params: &BTreeMap<String, Value>, by: &str) -> Result<Start> {
        let spec = self.jobs.lock().0.get(name).map(|job| job.spec.clone());
        let unknown = || {
            let message = format!("there is no job {name}; jobs are in the configuration, as [job.{name}]");
            Error::new(ErrorKind::NotFound, message)
        };
        let spec = spec.ok_or_else(unknown)?;
        let params = spec.params(params)?;
        Ok(Start {
            name: Some(spec.name.clone()),
            plan: spec.plan_with(&params),
            single: spec.single,
            job: Some(spec.name.clone()),
            params,
            by: by.to_owned(),
            group: spec.group.clone(),
        })
    }

    /// Has the tree told how a job is.
    fn tell_job(&self, name: &Name) {
        let value = self.jobs.lock().0.get(name).map(Job::value);
        self.values.job(name, value);
    }

    /// Has the tree told of the job of a run, if that is its newest.
    pub(crate) fn tell_job_of(&self, board: &Arc<Board>) {
        let Some((name, state)) = board.look(|record| record.job.clone().map(|job| (job, record.state))) else {
            return;
        };
        if let Some(job) = self.jobs.lock().0.get_mut(&name)
            && job.record.last.as_ref() == Some(board.id())
        {
            job.state = Some(state);
        }
        self.tell_job(&name);
    }

    /// Has the tree told of jobs whose newest run has gone on.
    pub(crate) fn tell_jobs(&self) {
        let newest: Vec<_> = self.jobs.lock().0.values().filter_map(|job| job.record.last.clone()).collect();
        for board in newest.iter().filter_map(|id| self.board(id)) {
            let (name, state) = board.look(|record| (record.job.clone(), record.state));
            let known = |name| self.jobs.lock().0.get(name).and_then(|job| job.state);
            if name.as_ref().is_some_and(|name| known(name) != Some(state)) {
                self.tell_job_of(&board);
            }
        }
    }

    /// Starts jobs when their time comes, until the node stops.
    pub(crate) async fn keep_time(self: Arc<Self>) {
        let names: Vec<_> = self.jobs.lock().0.keys().cloned().collect();
        for name in &names {
            self.tell_job(name);
        }
        loop {
            let wait = self.tick().await;
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return,
                () = self.jobs_changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Starts what is due, and says when to look again.
    pub(crate) async fn tick(self: &Arc<Self>) -> Duration {
        let now = self.now();
        let mut wait = LOOK_MAX;
        for Look { job, due } in self.looks(now) {
            let result = match due {
                Due::Not(_) => Ok(()),
                Due::Run(planned) => self.start_planned(&job, planned, now).await,
                Due::Missed => {
                    tracing::info!(job = %job.name, "a planned time passed while nothing could be started; it is skipped");
                    add(&self.metrics.schedule_missed);
                    self.seen_to(&job.name, now).await
                }
                Due::ClockBack => {
                    tracing::info!(job = %job.name, "the clock has gone back a long way; the schedule begins anew");
                    self.seen_to(&job.name, now).await
                }
            };
            if let Err(error) = result {
                tracing::debug!(job = %job.name, %error, "a planned run could not be started yet");
                wait = wait.min(AGAIN_AFTER);
            }
            if let Some(next) = self.plan_next(&job.name) {
                wait = wait.min(Duration::from_millis(next.saturating_sub(now).max(1)));
            }
        }
        wait
    }

    fn looks(&self, now: u64) -> Vec<Look> {
        let jobs = self.jobs.lock();
        let look = |job: &Job| {
            let due = job.spec.schedule.as_ref()?.due(job.record.done, now);
            Some(Look { job: job.spec.clone(), due })
        };
        jobs.0.values().filter_map(look).collect()
    }

    /// Starts the run of a planned time. A job of which such a run waits already is left at that.
    async fn start_planned(self: &Arc<Self>, job: &JobSpec, planned: u64, now: u64) -> Result<()> {
        if self.live.lock().queue.waits(&job.name, SCHEDULE) {
            tracing::info!(job = %job.name, planned, "the run of an earlier planned time still waits; this one is skipped");
            add(&self.metrics.schedule_missed);
            return self.seen_to(&job.name, now).await;
        }
        let start = self.start_of_job(&job.name, &BTreeMap::new(), SCHEDULE)?;
        let before = self.jobs.lock().0.get(&job.name).map(|job| job.record.done);
        match self.accept_with(start, None, Some(now)).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Conflict => {
                tracing::info!(job = %job.name, planned, %error, "a planned run was refused by its group");
                add(&self.metrics.schedule_missed);
                self.seen_to(&job.name, now).await
            }
            Err(error) => {
                if let Some((job, before)) = self.jobs.lock().0.get_mut(&job.name).zip(before) {
                    job.record.done = before;
                }
                Err(error)
            }
        }
    }

    /// Planned times up to `now` have been seen to.
    async fn seen_to(&self, name: &Name, now: u64) -> Result<()> {
        let durable = {
            let mut jobs = self.jobs.lock();
            let Some(job) = jobs.0.get_mut(name) else { return Ok(()) };
            job.record.done = now;
            self.book.put(vec![book::job_put(name, &job.record)])
        };
        book::durable(durable).await
    }

    /// When the job starts by itself next; the tree is told where that has changed.
    fn plan_next(&self, name: &Name) -> Option<u64> {
        let mut jobs = self.jobs.lock();
        let job = jobs.0.get_mut(name)?;
        let next = job.spec.schedule.as_ref()?.next_after(job.record.done);
        let changed = std::mem::replace(&mut job.next_at, next) != next;
        drop(jobs);
        if changed {
            self.tell_job(name);
        }
        next
    }
}
