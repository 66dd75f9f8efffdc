//! Where a call stands in its caller's trace: the `traceparent` of W3C Trace Context, level 1. Nothing is sampled or exported here.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a `traceparent` of version 00.
const LEN: usize = 55;

/// A span of somebody's trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent([u8; LEN]);

impl TraceParent {
    /// Reads `<version>-<trace id>-<span id>-<flags>`. `None` for what is none; of versions yet to come, the part known today is read.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let is_hex = |range: std::ops::Range<usize>| {
            bytes.get(range).is_some_and(|part| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
        };
        let is_set = |range: std::ops::Range<usize>| bytes[range].iter().any(|byte| *byte != b'0');
        let version = text.get(..2)?;
        let is_whole = if version == "00" { bytes.len() == LEN } else { matches!(bytes.get(LEN), None | Some(b'-')) };
        let parts = [0..2, 3..35, 36..52, 53..55];
        let is_one = is_whole
            && version != "ff"
            && parts.into_iter().all(is_hex)
            && [2, 35, 52].iter().all(|at| bytes[*at] == b'-')
            && is_set(3..35)
            && is_set(36..52);
        let mut known = [0; LEN];
        known.copy_from_slice(is_one.then(|| bytes.get(..LEN)).flatten()?);
        known[..2].copy_from_slice(b"00");
        Some(Self(known))
    }

    /// A new span of the same trace, whose parent this one is.
    #[must_use]
    pub fn child(&self) -> Self {
        let mut child = *self;
        child.0[36..52].copy_from_slice(format!("{:016x}", span_id()).as_bytes());
        child
    }

    /// As it is sent.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hexadecimal digits and dashes")
    }

    /// The trace.
    pub fn trace_id(&self) -> &str {
        &self.as_str()[3..35]
    }

    /// The span.
    pub fn span_id(&self) -> &str {
        &self.as_str()[36..52]
    }
}

/// Ids that no other process has: a random start, and a mixed counter (the finalizer of splitmix64, which maps no two numbers to one). They are no
/// secret.
fn span_id() -> u64 {
    static START: OnceLock<u64> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let start = *START.get_or_init(|| {
        let mut bytes = [0; 8];
        // Where the system has no randomness left, nothing else of us works either.
        let _zeros_will_do = aws_lc_rs::rand::fill(&mut bytes);
        u64::from_ne_bytes(bytes)
    });
    let mut id = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (id ^ (id >> 31)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_no_traceparent_is_none() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(TraceParent::parse(text).as_ref().map(TraceParent::as_str), expected, "{text}");
        };
        check(GOOD, Some(GOOD));
        check(&GOOD.replacen("00", "cc", 1), Some(GOOD));
        check(&format!("{}-more", GOOD.replacen("00", "01", 1)), Some(GOOD));
        check(&format!("{GOOD}-more"), None);
        check(&format!("{}x", GOOD.replacen("00", "01", 1)), None);
        check(&GOOD.replacen("00", "ff", 1), None);
        check(&GOOD.to_uppercase(), None);
        check(&GOOD[..54], None);
        check(&GOOD.replace('-', "_"), None);
        check(&GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)), None);
        check(&GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)), None);
        check("", None);
        check("ä", None);
        check(&"ä".repeat(28), None);
    }

    #[test]
    fn a_child_is_a_new_span_of_the_trace() {
        let parent = TraceParent::parse(GOOD).unwrap();
        let (a, b) = (parent.child(), parent.child());
        assert_eq!((a.trace_id(), &a.as_str()[52..]), (parent.trace_id(), "-01"));
        assert!(a != b && a != parent && TraceParent::parse(a.as_str()) == Some(a));
    }
}
