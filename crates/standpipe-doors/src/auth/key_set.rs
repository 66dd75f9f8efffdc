//! A set of keys that an identity provider publishes: fetched when the server starts, again before it
//! is too old, and when a token names a key that is not in it. It is fetched by one task, never by who
//! asks: a flood of tokens with invented key ids costs one fetch every `key_set_pause_ms_min`. While the provider
//! can't be reached the last good keys are used, up to a bound.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::Uri;
use parking_lot::Mutex;
use standpipe_serve::LimitsHandle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::fetch::{Fetched, Fetcher};
use super::keys::{self, Algorithm, Key};

/// A provider's max-age is believed between these.
const AGE_MIN: Duration = Duration::from_secs(60);
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// First and longest pause after a failure.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Who needs a key waits for a fetch a little longer than the fetch may take.
const PATIENCE: Duration = Duration::from_millis(500);

/// See the module's text.
#[derive(Debug)]
pub(crate) struct KeySet {
    url: Uri,
    algorithm: Algorithm,
    held: ArcSwapOption<Held>,
    /// Somebody needs a key that is not held.
    wanted: Notify,
    /// Fetches that have ended.
    ended: watch::Sender<u64>,
    /// No fetch is begun before this, and `None` while one is under way.
    quiet_until: Mutex<Option<Instant>>,
    /// Counts up when the keys change.
    version: AtomicU64,
    pub(super) fetched: AtomicU64,
    pub(super) failed: AtomicU64,
}

#[derive(Debug)]
struct Held {
    keys: Arc<HashMap<String, Key>>,
    /// The answer they came in, to tell whether another brings news.
    text: Vec<u8>,
    fetched_at: Instant,
    /// They are not used any more from then on.
    useless_at: Instant,
}

/// What came of looking for a key.
pub(super) enum Found {
    /// It is one of these.
    Key(Arc<HashMap<String, Key>>),
    /// It is not held; perhaps a fetch brings it.
    Unknown,
}

impl KeySet {
    pub(super) fn new(url: Uri, algorithm: Algorithm) -> Arc<Self> {
        Arc::new(Self {
            url,
            algorithm,
            held: ArcSwapOption::empty(),
            wanted: Notify::new(),
            ended: watch::Sender::new(0),
            quiet_until: Mutex::new(None),
            version: AtomicU64::new(0),
            fetched: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn url(&self) -> &Uri {
        &self.url
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.url == other.url && self.algorithm == other.algorithm
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Number of keys that can be used, and the age of the newest answer.
    pub(super) fn state(&self) -> (usize, Option<Duration>) {
        match &*self.held.load() {
            Some(held) if Instant::now() < held.useless_at => (held.keys.len(), Some(held.fetched_at.elapsed())),
            held => (0, held.as_ref().map(|held| held.fetched_at.elapsed())),
        }
    }

    pub(super) fn find(&self, id: &str) -> Found {
        match &*self.held.load() {
            Some(held) if held.keys.contains_key(id) && Instant::now() < held.useless_at => {
                Found::Key(held.keys.clone())
            }
            _ => Found::Unknown,
        }
    }

    /// Are there keys that can be used at all?
    pub(super) fn has_keys(&self) -> bool {
        self.held.load().as_ref().is_some_and(|held| Instant::now() < held.useless_at)
    }

    /// Asks for a fetch, where one may be begun, and waits for it. Returns at once where the last one was just now.
    pub(super) async fn fetched_anew(&self, limits: &LimitsHandle) {
        let mut ended = self.ended.subscribe();
        let may_begin = self.quiet_until.lock().is_none_or(|until| Instant::now() >= until);
        if may_begin {
            self.wanted.notify_one();
            let patience = Duration::from_millis(limits.load().key_set_fetch_ms_max) + PATIENCE;
            let _late = timeout(patience, ended.changed()).await;
        }
    }

    /// Keeps the keys fresh, until dropped.
    pub(super) async fn keep_fresh(&self, fetcher: &Fetcher, limits: &LimitsHandle) {
        let mut failures = 0;
        let mut told = false;
        loop {
            *self.quiet_until.lock() = None;
            let outcome = self.fetch(fetcher, limits).await;
            let now = Instant::now();
            let (next, quiet) = match outcome {
                Ok(age) => {
                    if std::mem::take(&mut told) {
                        tracing::info!(url = %self.url, "keys are fetched again");
                    }
                    failures = 0;
                    // Before they are too old, so that nobody ever waits for it.
                    let pause = Duration::from_millis(limits.load().key_set_pause_ms_min);
                    (now + age.mul_f32(0.75), now + pause)
                }
                Err(error) => {
                    let pause = (RETRY_MIN * 2u32.saturating_pow(failures)).min(RETRY_MAX);
                    failures = (failures + 1).min(16);
                    if self.has_keys() {
                        tracing::info!(url = %self.url, error, "can't fetch keys; the last good ones are used");
                    } else if !std::mem::replace(&mut told, true) {
                        tracing::warn!(url = %self.url, error,
                            "can't fetch the keys that check tokens: their bearers are refused; trying again");
                    }
                    (now + pause, now + pause)
                }
            };
            *self.quiet_until.lock() = Some(quiet);
            self.ended.send_modify(|ended| *ended += 1);
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.wanted.notified() => sleep_until(quiet).await,
            }
        }
    }

    /// Fetches once; says for how long the keys are fresh.
    async fn fetch(&self, fetcher: &Fetcher, limits: &LimitsHandle) -> Result<Duration, String> {
        let limits = limits.load();
        let within = Duration::from_millis(limits.key_set_fetch_ms_max);
        let answer = fetcher.get(&self.url, limits.key_set_bytes_max, within).await;
        let taken = answer.and_then(|answer| self.take(answer, Duration::from_secs(limits.key_set_stale_s_max)));
        let counter = if taken.is_ok() { &self.fetched } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        taken
    }

    fn take(&self, answer: Fetched, stale_max: Duration) -> Result<Duration, String> {
        let keys: HashMap<String, Key> = keys::key_set(&answer.body, self.algorithm)?.into_iter().collect();
        let age = answer.max_age.unwrap_or(AGE_MIN).clamp(AGE_MIN, AGE_MAX);
        let now = Instant::now();
        let news = self.held.load().as_ref().is_none_or(|held| held.text != answer.body);
        let held = Held { keys: Arc::new(keys), text: answer.body, fetched_at: now, useless_at: now + age + stale_max };
        self.held.store(Some(Arc::new(held)));
        if news {
            // What was verified by keys that are gone is verified no more.
            self.version.fetch_add(1, Ordering::Release);
        }
        Ok(age)
    }
}
