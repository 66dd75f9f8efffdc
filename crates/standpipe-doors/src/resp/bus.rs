//! Messages between clients of the RESP door: published once, delivered to who is subscribed at that moment,
//! kept nowhere. Each subscriber has a mailbox with a bound; one that overflows ends its connection, for a
//! message that is silently missing is worse. Everything watched in the tree goes through the engine instead.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use super::glob;

/// A message on its way.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// The pattern that matched; `None` for a plain subscription.
    pub(super) pattern: Option<Arc<[u8]>>,
    pub(super) channel: Arc<[u8]>,
    pub(super) payload: Arc<[u8]>,
}

impl Message {
    fn bytes(&self) -> usize {
        self.channel.len() + self.payload.len() + 64
    }
}

/// What one subscriber has not been told yet.
pub(super) struct Mailbox {
    state: Mutex<Letters>,
    waker: AtomicWaker,
    /// Called once, when not everything can be told any more. A subscriber that takes nothing is not asked.
    overflow: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Letters {
    waiting: VecDeque<Message>,
    bytes: usize,
    overflowed: bool,
}

impl Mailbox {
    pub(super) fn new(overflow: impl Fn() + Send + Sync + 'static) -> Self {
        Self { state: Mutex::default(), waker: AtomicWaker::new(), overflow: Box::new(overflow) }
    }

    fn put(&self, message: Message, bytes_max: usize) {
        let mut letters = self.state.lock();
        if letters.overflowed {
            return;
        }
        letters.bytes += message.bytes();
        if letters.bytes > bytes_max {
            *letters = Letters { overflowed: true, ..Letters::default() };
            drop(letters);
            return (self.overflow)();
        }
        letters.waiting.push_back(message);
        drop(letters);
        self.waker.wake();
    }

    /// The next message; pending when there is none.
    pub(super) fn poll_next(&self, context: &mut Context<'_>) -> Poll<Message> {
        self.waker.register(context.waker());
        let mut letters = self.state.lock();
        match letters.waiting.pop_front() {
            Some(message) => {
                letters.bytes -= message.bytes();
                Poll::Ready(message)
            }
            None => {
                letters.waiting = VecDeque::new();
                Poll::Pending
            }
        }
    }
}

type Subscribers = HashMap<Arc<[u8]>, Vec<Arc<Mailbox>>>;

/// Who is subscribed to what.
#[derive(Debug, Default)]
pub(super) struct Bus(Mutex<Names>);

#[derive(Debug, Default)]
struct Names {
    channels: Subscribers,
    patterns: Subscribers,
}

impl Names {
    fn of(&mut self, pattern: bool) -> &mut Subscribers {
        if pattern { &mut self.patterns } else { &mut self.channels }
    }
}

impl Bus {
    pub(super) fn subscribe(&self, name: Arc<[u8]>, pattern: bool, mailbox: &Arc<Mailbox>) {
        self.0.lock().of(pattern).entry(name).or_default().push(mailbox.clone());
    }

    pub(super) fn unsubscribe(&self, name: &[u8], pattern: bool, mailbox: &Arc<Mailbox>) {
        let mut names = self.0.lock();
        let names = names.of(pattern);
        if let Some(subscribers) = names.get_mut(name) {
            subscribers.retain(|other| !Arc::ptr_eq(other, mailbox));
            if subscribers.is_empty() {
                names.remove(name);
            }
        }
    }

    /// Delivers a message and says to how many subscriptions.
    pub(super) fn publish(&self, channel: &[u8], payload: &[u8], bytes_max: usize) -> usize {
        let names = self.0.lock();
        let message = Message { pattern: None, channel: channel.into(), payload: payload.into() };
        let mut count = 0;
        for mailbox in names.channels.get(channel).into_iter().flatten() {
            mailbox.put(message.clone(), bytes_max);
            count += 1;
        }
        for (pattern, subscribers) in names.patterns.iter().filter(|(pattern, _)| glob::matches(pattern, channel)) {
            for mailbox in subscribers {
                mailbox.put(Message { pattern: Some(pattern.clone()), ..message.clone() }, bytes_max);
                count += 1;
            }
        }
        count
    }

    /// The channels that have subscribers and match `pattern`.
    pub(super) fn channels(&self, pattern: Option<&[u8]>) -> Vec<Arc<[u8]>> {
        let names = self.0.lock();
        let wanted = |name: &&Arc<[u8]>| pattern.is_none_or(|pattern| glob::matches(pattern, name));
        names.channels.keys().filter(wanted).cloned().collect()
    }

    /// Subscriptions to a channel.
    pub(super) fn subscribers(&self, channel: &[u8]) -> usize {
        self.0.lock().channels.get(channel).map_or(0, Vec::len)
    }

    /// Patterns that somebody is subscribed to.
    pub(super) fn patterns(&self) -> usize {
        self.0.lock().patterns.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(mailbox: &Mailbox) -> String {
        match mailbox.poll_next(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(message) => String::from_utf8_lossy(&message.payload).into_owned(),
            Poll::Pending => "nothing".into(),
        }
    }

    fn mailbox() -> Arc<Mailbox> {
        Arc::new(Mailbox::new(|| panic!("overflowed")))
    }

    #[test]
    fn messages_go_to_channels_and_patterns() {
        let (bus, one, two) = (Bus::default(), mailbox(), mailbox());
        bus.subscribe(b"news"[..].into(), false, &one);
        bus.subscribe(b"n*"[..].into(), true, &two);
        assert_eq!(bus.publish(b"news", b"a", 1000), 2);
        assert_eq!(bus.publish(b"nothing", b"b", 1000), 1);
        assert_eq!(bus.publish(b"other", b"c", 1000), 0);
        assert_eq!([next(&one), next(&one)], ["a", "nothing"]);
        assert_eq!([next(&two), next(&two)], ["a", "b"]);
        bus.unsubscribe(b"news", false, &one);
        bus.unsubscribe(b"n*", true, &two);
        assert_eq!((bus.channels(None).len(), bus.patterns()), (0, 0));
    }

    #[test]
    fn a_full_mailbox_is_an_end_not_a_gap() {
        let ends = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let told = ends.clone();
        let count = move || _ = told.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (bus, slow) = (Bus::default(), Arc::new(Mailbox::new(count)));
        bus.subscribe(b"c"[..].into(), false, &slow);
        bus.publish(b"c", b"first", 150);
        bus.publish(b"c", &[b'x'; 100], 150);
        bus.publish(b"c", b"later", 150);
        assert_eq!((next(&slow).as_str(), ends.load(std::sync::atomic::Ordering::Relaxed)), ("nothing", 1));
    }
}
