//! What a start finds of the server before it: runs at work are ended as interrupted, those in the queue wait
//! again, removals are finished, and the tree is told what the book knows. The leftovers of processes are the
//! supervisor's, before this.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use standpipe_engine::{ErrorKind, Outcome, Result};
use standpipe_tree::{Leaf, Path};

use crate::board::{Board, News};
use crate::book::PAGE;
use crate::life::{output_path, streams_path};
use crate::name::RunId;
use crate::queue::Ticket;
use crate::record::{Ended, RunRecord, RunState, TaskState};
use crate::runs::Runs;

/// Time that a start waits for the ends of interrupted runs to be written; what takes longer is done meanwhile.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);
/// Streams of one run that are looked at together.
const STREAMS_PAGE: usize = 1_024;

impl Runs {
    /// See the module's text.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<()> {
        let mut records = Vec::new();
        for id in self.all("live/")? {
            records.push(self.book.load(&id)?);
        }
        // As they were accepted: their turns are as they would have been.
        records.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        let mut interrupted = Vec::new();
        for record in records {
            match record.state {
                RunState::Queued => self.queue_again(record).await,
                _ => interrupted.push(self.spawn(self.clone().interrupt(record))),
            }
        }
        let count = interrupted.len();
        let all = futures_util::future::join_all(interrupted);
        let in_time = tokio::time::timeout(WRITTEN_WITHIN, all).await.is_ok();
        if count > 0 {
            tracing::info!(count, in_time, "runs that the last server left at work are interrupted");
        }
        for id in self.all("gone/")? {
            self.spawn(self.clone().clean(id));
        }
        self.count_kept()
    }

    fn all(&self, prefix: &str) -> Result<Vec<RunId>> {
        let mut ids = Vec::new();
        let mut after = None;
        loop {
            let page = self.book.keys(prefix, after.as_deref(), PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(ids) };
            after = Some(last.clone());
            ids.extend(page.into_iter().map(|(_, id)| id));
        }
    }

    fn count_kept(&self) -> Result<()> {
        let live = self.live.lock().boards.len();
        let kept = self.all("recent/")?.len().saturating_sub(live);
        self.metrics.kept.store(kept as u64, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    async fn queue_again(self: &Arc<Self>, record: RunRecord) {
        let ticket = Ticket {
            id: record.id.clone(),
            by: record.by.clone(),
            job: record.job.clone(),
            group: record.group.clone(),
        };
        let board = self.board_of(record).await;
        if board.has_output().is_none() {
            let reason = Some("its stream could not be opened after a restart of the server".to_owned());
            let (runs, ended) = (self.clone(), Ended { reason, ..Ended::default() });
            self.spawn(async move { runs.settle(&board, RunState::Interrupted, ended).await });
            return;
        }
        let mut live = self.live.lock();
        live.queue.push(ticket);
        live.queue.ready(board.id());
        drop(live);
        board.tell(News::State);
    }

    /// The board of a run that is in the book, with its stream where that is open.
    async fn board_of(self: &Arc<Self>, record: RunRecord) -> Arc<Board> {
        let path = output_path(&record.id);
        let board = Board::new(record, &self.book, &self.values);
        let output = match self.streams.reopen(&path).await {
            Err(error) if error.kind() == ErrorKind::NotFound => self.streams.create(&path).await,
            output => output,
        };
        if let Ok(output) = output {
            board.put_output(output);
        }
        self.live.lock().boards.insert(board.id().clone(), board.clone());
        board
    }

    /// Ends a run that was at work when the server before this one ended.
    async fn interrupt(self: Arc<Self>, record: RunRecord) {
        let told = self.streams.head(&output_path(&record.id)).ok().flatten().and_then(|head| head.ended);
        let board = self.board_of(record).await;
        // Where its stream had ended, viewers know how it ended: the record says the same.
        let of_stream = told.and_then(|told| Some((RunState::of(&told.state)?, told)));
        let (state, ended) = match of_stream {
            Some((state, Outcome { exit_code, signal, reason, .. })) => (state, Ended { exit_code, signal, reason }),
            None => {
                let reason = Some("the server ended while it was at work".to_owned());
                (RunState::Interrupted, Ended { reason, ..Ended::default() })
            }
        };
        let mut last = board.record();
        last.end(state, ended.clone(), self.now());
        if let Err(error) = self.end_tasks(&last).await {
            tracing::debug!(run = %last.id, %error, "streams of an interrupted run could not be ended yet");
        }
        self.settle(&board, state, ended).await;
    }

    /// Ends the streams of a run's tasks that nobody has ended.
    async fn end_tasks(&self, record: &RunRecord) -> Result<()> {
        let states: HashMap<&str, TaskState> =
            record.tasks.iter().map(|(name, task)| (name.as_str(), task.state)).collect();
        let open = self.streams.heads(&streams_path(&record.id), None, STREAMS_PAGE)?;
        for (path, _) in open.into_iter().filter(|(_, head)| head.ended.is_none()) {
            let Some(task) = task_of(&path) else { continue };
            let state = states.get(task).copied().unwrap_or(TaskState::Interrupted);
            let appender = self.streams.reopen(&path).await?;
            appender.end(Outcome::of(state.as_str())).await?;
        }
        Ok(())
    }

    /// Compares what the tree tells of finished runs with the book, at the start and whenever values were passed
    /// over, and has what differs told again.
    pub(crate) async fn compare_values(self: Arc<Self>) {
        loop {
            if let Err(error) = self.compare_once().await {
                tracing::debug!(%error, "values of runs could not be compared with the book");
            }
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return,
                () = self.values.compare.notified() => {}
            }
        }
    }

    pub(crate) async fn compare_once(&self) -> Result<()> {
        let database = self.engine.resolve(None)?;
        let mut after = None;
        loop {
            let page = self.book.ids(None, after.as_deref(), PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            let mut differ = Vec::new();
            {
                let snapshot = database.snapshot().await?;
                for (_, id) in page.iter().filter(|(_, id)| self.board(id).is_none()) {
                    let state = streams_path(id).child("state").map_err(standpipe_engine::Error::internal)?;
                    let told = snapshot.leaf(&state.encode())?;
                    let record = self.glance(id)?;
                    let same = |record: &RunRecord| told == Some(Leaf::Str(record.state.as_str()));
                    differ.extend(record.filter(|record| !same(record)).map(|record| record.id));
                }
            }
            for id in &differ {
                // It may have been removed by now.
                if let Ok(record) = self.book.load(id) {
                    self.values.record(&record);
                }
            }
            if !differ.is_empty() {
                let _closing = self.values.flush().await;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// The task of a stream `runs/ID/tasks/TASK/out`.
fn task_of(path: &Path) -> Option<&str> {
    let mut segments = path.segments().skip(2);
    (segments.next()? == "tasks").then(|| segments.next()).flatten()
}
