//! What removes runs, and what is looked at once a second: retention by number and age, and the positions of those
//! that wait. A run is gone from the book in one commit; what it left (values, streams, artefacts) follows, after
//! a crash too.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use standpipe_engine::{Error, ErrorKind, Result};

use crate::board::News;
use crate::book::{self, PAGE};
use crate::life::streams_path;
use crate::metrics::read;
use crate::name::{Name, RunId};
use crate::record::RunRecord;
use crate::runs::Runs;
use crate::settings::Prune;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks between two at the age of runs.
const AGE_EVERY: u32 = 60;
/// Positions in the queue that are told at one look.
const POSITIONS_MAX: usize = 256;
/// Runs whose leftovers are removed at once.
const CLEANED_AT_ONCE: usize = 32;
/// Time that a removal waits for the tree; what takes longer is done meanwhile.
const TOLD_WITHIN: Duration = Duration::from_secs(10);
/// Streams removed in one commit.
const STREAMS_PAGE: usize = 256;

impl Runs {
    /// Removes a finished run with its streams, artefacts and values.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` while it is not final.
    pub async fn remove(self: &Arc<Self>, id: &RunId) -> Result<()> {
        let record = self.finished(id).await?;
        if self.live.lock().resuming.contains(id) {
            return Err(Error::new(ErrorKind::Conflict, format!("run {id} is being resumed; try again")));
        }
        let runs = self.clone();
        self.detached(async move { runs.erase(vec![record]).await.map(drop) }).await
    }

    /// Removes finished runs; says how many.
    ///
    /// # Errors
    /// `BadRequest` for a state that is not final; the store can't be read or written.
    pub async fn prune(self: &Arc<Self>, prune: &Prune) -> Result<usize> {
        if let Some(state) = prune.states.iter().find(|state| !state.is_final()) {
            let message = format!("a run that is {} can't be pruned; stop it first", state.as_str());
            return Err(Error::bad_request(message));
        }
        let (runs, prune) = (self.clone(), prune.clone());
        self.detached(async move { runs.prune_now(&prune).await }).await
    }

    async fn prune_now(self: &Arc<Self>, prune: &Prune) -> Result<usize> {
        let now = self.now();
        let mut seen: HashMap<Name, usize> = HashMap::new();
        let mut count = 0;
        let mut after = None;
        loop {
            let page = self.book.ids(prune.name.as_ref(), after.as_deref(), PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(count) };
            after = Some(last.clone());
            let mut victims = Vec::new();
            for (_, id) in page.iter().filter(|(_, id)| self.board(id).is_none()) {
                let Some(record) = self.glance(id)?.filter(|record| record.state.is_final()) else { continue };
                let place = seen.entry(id.name.clone()).or_default();
                *place += 1;
                if prune.takes(&record, *place, now) {
                    victims.push(record);
                }
            }
            count += self.erase(victims).await?;
            tokio::task::yield_now().await;
        }
    }

    /// Takes finished runs out of the book, and removes what they left; says how many.
    async fn erase(self: &Arc<Self>, records: Vec<RunRecord>) -> Result<usize> {
        let records: Vec<_> = {
            let live = self.live.lock();
            records.into_iter().filter(|record| !live.resuming.contains(&record.id)).collect()
        };
        let puts: Vec<_> = records.iter().flat_map(book::removed).collect();
        if puts.is_empty() {
            return Ok(0);
        }
        book::durable(self.book.put(puts)).await?;
        let count = records.len();
        let _none_below_zero = self
            .metrics
            .kept
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |kept| Some(kept.saturating_sub(count as u64)));
        self.metrics.removed.fetch_add(count as u64, Ordering::Relaxed);
        let cleaned = stream::iter(records).map(|record| self.clone().clean(record.id));
        cleaned.buffer_unordered(CLEANED_AT_ONCE).collect::<()>().await;
        Ok(count)
    }

    /// Removes what a run has left that is in the book no longer. What fails is done by the next start.
    pub(crate) async fn clean(self: Arc<Self>, id: RunId) {
        let gone = self.values.gone(&id);
        let removed = self.remove_streams(&id).await;
        let files = match std::fs::remove_dir_all(self.artefacts_of(&id)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        let told = tokio::time::timeout(TOLD_WITHIN, gone).await;
        match (removed, files, told) {
            (Ok(()), Ok(()), Ok(Ok(()))) => drop(self.book.put(vec![book::forgotten(&id)])),
            (removed, files, told) => {
                tracing::debug!(run = %id, ?removed, ?files, ?told, "not all that a removed run left could be removed yet");
            }
        }
    }

    pub(crate) async fn remove_streams(&self, id: &RunId) -> Result<()> {
        let below = streams_path(id);
        loop {
            let heads = self.streams.heads(&below, None, STREAMS_PAGE)?;
            if heads.is_empty() {
                return Ok(());
            }
            self.streams.remove(heads.into_iter().map(|(path, _)| path).collect()).await?;
        }
    }

    /// Looks after retention and positions until the node stops.
    pub(crate) async fn keep_order(self: Arc<Self>) {
        let mut looks: u32 = 0;
        loop {
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            self.tell_positions();
            self.tell_jobs();
            let by_age = looks.is_multiple_of(AGE_EVERY);
            looks = looks.wrapping_add(1);
            if let Err(error) = self.retain(by_age).await {
                tracing::debug!(%error, "finished runs could not be removed yet");
            }
        }
    }

    /// Has the tree told of positions in the queue that have changed, those of the next first.
    pub(crate) fn tell_positions(&self) {
        let changed: Vec<_> = {
            let live = self.live.lock();
            let places = live.queue.order().into_iter().zip(1..);
            let boards = places.filter_map(|(id, place)| Some((live.boards.get(&id)?.clone(), place)));
            let moved = boards.filter(|(board, place)| board.position.load(Ordering::Relaxed) != *place);
            moved.take(POSITIONS_MAX).collect()
        };
        for (board, place) in changed {
            board.position.store(place, Ordering::Relaxed);
            board.tell(News::Note);
        }
    }

    /// Removes the oldest finished runs beyond `runs_kept_max`, and those older than `runs_age_s_max`.
    pub(crate) async fn retain(self: &Arc<Self>, by_age: bool) -> Result<()> {
        let limits = self.limits.load_full();
        let (kept_max, age_s) = (limits.runs_kept_max, limits.runs_age_s_max);
        let too_many = read(&self.metrics.kept) > kept_max as u64;
        if !too_many && !by_age {
            return Ok(());
        }
        let old = self.now().saturating_sub(age_s.saturating_mul(1_000));
        let (mut finished, mut after) = (0, None);
        loop {
            let page = self.book.ids(None, after.as_deref(), PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            let mut victims = Vec::new();
            for (key, id) in page.iter().filter(|(_, id)| self.board(id).is_none()) {
                finished += 1;
                // Nothing has ended before it was accepted.
                let may_be_old = book::accepted_at(key).is_some_and(|at| at < old);
                if finished > kept_max || may_be_old {
                    let record = self.glance(id)?;
                    let ends = |record: &RunRecord| record.ended_at.is_some_and(|at| at < old) || finished > kept_max;
                    victims.extend(record.filter(|record| record.state.is_final() && ends(record)));
                }
            }
            self.erase(victims).await?;
        }
    }
}

impl Prune {
    /// Whether it removes this run, the `place`th newest of its name.
    fn takes(&self, record: &RunRecord, place: usize, now: u64) -> bool {
        let age = now.saturating_sub(record.ended_at.unwrap_or(record.created_at));
        (self.states.is_empty() || self.states.contains(&record.state))
            && self.older_than_ms.is_none_or(|older| age > older)
            && self.keep.is_none_or(|keep| place > keep)
    }
}
