//! The tapes that are being written, each once: servers that name the same one share it.

use std::sync::{Arc, Weak};

use standpipe_engine::Streams;
use standpipe_serve::LimitsHandle;
use tokio::sync::Mutex;

use super::sink::{Place, Recording};
use crate::Metrics;

/// Opens tapes.
#[derive(Debug)]
pub struct Tapes {
    streams: Option<Arc<Streams>>,
    limits: LimitsHandle,
    metrics: Metrics,
    open: Mutex<Vec<Weak<Recording>>>,
}

impl Tapes {
    /// Without `streams` there are tapes in files only.
    pub fn new(streams: Option<Arc<Streams>>, limits: LimitsHandle, metrics: Metrics) -> Self {
        Self { streams, limits, metrics, open: Mutex::default() }
    }

    /// The tape at this place, as [`Place::parse`] reads it. It ends when nobody has it any more. Must be called on a runtime that lives longer.
    ///
    /// # Errors
    /// A sentence that names the tape and why it can't be written.
    pub async fn open(&self, place: &str) -> Result<Arc<Recording>, String> {
        let place = Place::parse(place)?;
        let mut open = self.open.lock().await;
        open.retain(|tape| tape.strong_count() > 0);
        if let Some(tape) = open.iter().filter_map(Weak::upgrade).find(|tape| *tape.place() == place) {
            return Ok(tape);
        }
        let (limits, metrics) = (self.limits.clone(), self.metrics.clone());
        let tape = Recording::open(place, self.streams.as_ref(), limits, metrics).await?;
        open.push(Arc::downgrade(&tape));
        Ok(tape)
    }

    /// Ends all of them, once what waits is written. What comes later is dropped.
    pub async fn close(&self) {
        let open: Vec<_> = self.open.lock().await.drain(..).filter_map(|tape| tape.upgrade()).collect();
        for tape in open {
            tape.close().await;
        }
    }
}
