//! One run at work: its record, shared by whoever drives it and whoever looks at it. A change is durable before
//! it is told; what is only a note (progress, counts) is told, and becomes durable with the next change.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use standpipe_engine::{Appender, Result};

use crate::name::RunId;
use crate::plan::Plan;
use crate::record::RunRecord;

/// See the module's text.
#[derive(Debug)]
pub struct Board {
    id: RunId,
    plan: Arc<Plan>,
    record: Mutex<RunRecord>,
    output: OnceLock<Appender>,
}

impl Board {
    /// Which run.
    pub fn id(&self) -> &RunId {
        &self.id
    }

    /// What it does.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The record now.
    pub fn record(&self) -> RunRecord {
        self.record.lock().clone()
    }

    /// A look at the record now.
    pub fn look<T>(&self, look: impl FnOnce(&RunRecord) -> T) -> T {
        look(&self.record.lock())
    }

    /// Changes the record, and returns when that is durable.
    ///
    /// # Errors
    /// The store can't write; the change stands, and is written with the next one that can be.
    pub async fn commit(&self, change: impl FnOnce(&mut RunRecord)) -> Result<()> {
        change(&mut self.record.lock());
        Ok(())
    }

    /// The stream `runs/<id>/out`. The service ends it.
    pub fn output(&self) -> &Appender {
        self.output.get().expect("a run is at work only when its stream is there")
    }

    /// As [`Board::commit`], for who needs not wait: it becomes durable with the next commit of any run.
    pub fn post(&self, change: impl FnOnce(&mut RunRecord)) {
        change(&mut self.record.lock());
    }

    /// Changes the record, durable with the next commit of this run: for what is told many times a second.
    pub fn note(&self, change: impl FnOnce(&mut RunRecord)) {
        change(&mut self.record.lock());
    }
}
