//! Events of an attempt on their way to whoever follows it. Output never waits for them: what can't be handed
//! over is gathered here, at most one of each kind, the newest wins.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::TaskEvent;
use crate::events::{LineEvent, OUTPUTS_MAX};
use crate::record::{Progress, Usage};

/// Time between two figures of usage.
const USAGE_EVERY: Duration = Duration::from_millis(250);

/// Events that wait, and what was said so far.
#[derive(Debug, Default)]
pub(super) struct Pending {
    waiting: Mutex<Waiting>,
    woke: Notify,
    lines: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    started: Option<u32>,
    stopping: bool,
    stalled: Option<bool>,
    progress: Option<Progress>,
    /// Names of outputs to be told.
    told: Vec<String>,
    /// All outputs so far.
    outputs: BTreeMap<String, String>,
    usage: bool,
    usage_at: Option<Instant>,
}

impl Waiting {
    /// When the next event may go out, if there is one.
    fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        let at_once = self.started.is_some() || self.stopping || self.stalled.is_some() || self.progress.is_some();
        if at_once || !self.told.is_empty() {
            return Some(now);
        }
        self.usage.then(|| self.usage_at.map_or(now, |last| last + USAGE_EVERY))
    }

    fn next(&mut self, usage: Usage) -> Option<TaskEvent> {
        if let Some(pid) = self.started.take() {
            return Some(TaskEvent::Started { pid });
        }
        if let Some(progress) = self.progress.take() {
            return Some(TaskEvent::Progress(progress));
        }
        if let Some(name) = self.told.pop() {
            let value = self.outputs.get(&name).cloned().unwrap_or_default();
            return Some(TaskEvent::Output { name, value });
        }
        if let Some(stalled) = self.stalled.take() {
            return Some(TaskEvent::Stalled(stalled));
        }
        if std::mem::take(&mut self.stopping) {
            return Some(TaskEvent::Stopping);
        }
        let usage = std::mem::take(&mut self.usage).then_some(TaskEvent::Usage(usage))?;
        self.usage_at = Some(Instant::now());
        Some(usage)
    }
}

impl Pending {
    fn change(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.waiting.lock());
        self.woke.notify_one();
    }

    pub(super) fn started(&self, pid: u32) {
        self.change(|waiting| waiting.started = Some(pid));
    }

    pub(super) fn stopping(&self) {
        self.change(|waiting| waiting.stopping = true);
    }

    pub(super) fn stalled(&self, stalled: bool) {
        self.change(|waiting| waiting.stalled = Some(stalled));
    }

    /// Takes what a line of output says. False when the attempt has said too much already.
    pub(super) fn said(&self, event: &LineEvent) -> bool {
        let mut room = true;
        match event {
            LineEvent::Progress(progress) => self.change(|waiting| waiting.progress = Some(progress.clone())),
            LineEvent::Output { name, value } => self.change(|waiting| {
                room = waiting.outputs.len() < OUTPUTS_MAX || waiting.outputs.contains_key(name);
                if room {
                    waiting.outputs.insert(name.clone(), value.clone());
                    waiting.told.retain(|told| told != name);
                    waiting.told.push(name.clone());
                }
            }),
            LineEvent::Own(_) => {}
        }
        room
    }

    /// Counts what was appended to the stream.
    pub(super) fn wrote(&self, lines: u64, bytes: u64) {
        self.lines.fetch_add(lines, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut waiting = self.waiting.lock();
        if !std::mem::replace(&mut waiting.usage, true) {
            drop(waiting);
            self.woke.notify_one();
        }
    }

    /// What was appended so far.
    pub(super) fn usage(&self) -> Usage {
        let (lines, bytes) = (self.lines.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        Usage { lines, bytes, ..Usage::default() }
    }

    /// All outputs so far.
    pub(super) fn outputs(&self) -> BTreeMap<String, String> {
        self.waiting.lock().outputs.clone()
    }

    /// Hands events over as there is room, for ever.
    pub(super) async fn pass_on(&self, events: &mpsc::Sender<TaskEvent>) {
        loop {
            let due = self.waiting.lock().due();
            match due {
                Some(due) if due <= Instant::now() => {
                    let Ok(permit) = events.reserve().await else { return std::future::pending().await };
                    let event = self.waiting.lock().next(self.usage());
                    if let Some(event) = event {
                        permit.send(event);
                    }
                }
                Some(due) => tokio::select! {
                    () = self.woke.notified() => {}
                    () = tokio::time::sleep_until(due) => {}
                },
                None => self.woke.notified().await,
            }
        }
    }

    /// Hands over what there is room for, at the end.
    pub(super) fn pass_on_now(&self, events: &mpsc::Sender<TaskEvent>) {
        while let Ok(permit) = events.try_reserve() {
            let Some(event) = self.waiting.lock().next(self.usage()) else { break };
            permit.send(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(name: &str, value: &str) -> LineEvent {
        LineEvent::Output { name: name.to_owned(), value: value.to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_no_room_is_gathered_and_the_newest_wins() {
        let pending = Pending::default();
        let (events, mut heard) = mpsc::channel(1);
        let follow = async {
            pending.started(7);
            for fraction in [0.1, 0.2, 0.3] {
                let progress = Progress { fraction, text: String::new() };
                assert!(pending.said(&LineEvent::Progress(progress)));
                assert!(pending.said(&output("a", &fraction.to_string())));
            }
            pending.wrote(3, 30);
            let mut all = Vec::new();
            for _ in 0..4 {
                all.push(heard.recv().await.unwrap());
            }
            all
        };
        let all = tokio::select! { all = follow => all, () = pending.pass_on(&events) => unreachable!() };
        let progress = TaskEvent::Progress(Progress { fraction: 0.3, text: String::new() });
        let output = TaskEvent::Output { name: "a".to_owned(), value: "0.3".to_owned() };
        let usage = TaskEvent::Usage(Usage { lines: 3, bytes: 30, ..Usage::default() });
        assert_eq!(all, [TaskEvent::Started { pid: 7 }, progress, output, usage]);
    }

    #[tokio::test(start_paused = true)]
    async fn usage_is_told_four_times_a_second() {
        let pending = Pending::default();
        let (events, mut heard) = mpsc::channel(1);
        let follow = async {
            let begun = Instant::now();
            for _ in 0..4 {
                pending.wrote(1, 1);
                heard.recv().await.unwrap();
            }
            begun.elapsed()
        };
        let took = tokio::select! { took = follow => took, () = pending.pass_on(&events) => unreachable!() };
        assert_eq!(took.as_millis() / 10, 75);
    }

    #[test]
    fn there_is_an_end_to_outputs() {
        let pending = Pending::default();
        for index in 0..OUTPUTS_MAX {
            assert!(pending.said(&output(&index.to_string(), "")));
        }
        assert!(!pending.said(&output("more", "")));
        assert!(pending.said(&output("0", "again")));
        assert_eq!(pending.outputs()["0"], "again");
        assert_eq!(pending.outputs().len(), OUTPUTS_MAX);
    }
}
