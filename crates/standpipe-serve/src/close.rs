//! Why a connection ended: one closed list, each with a stable name and whether the client may
//! come back. What a door says to its peer about it is the door's.

use crate::Refusal;

/// The one reason a connection ended for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer said goodbye, or closed between requests.
    PeerClosed,
    /// The peer reset the connection or stopped acknowledging.
    PeerVanished,
    /// The TLS handshake took longer than `tls_handshake_ms_max` or failed.
    HandshakeFailed,
    /// Not one byte within `first_byte_ms_max`.
    FirstByteTimeout,
    /// The request's head took longer than `request_head_ms_max`.
    HeadTimeout,
    /// The request's body stalled for `body_progress_ms_max`, or took `body_ms_max`.
    BodyTimeout,
    /// The peer took no byte of its answer for `write_progress_ms_max`.
    WriteTimeout,
    /// Nothing asked for `idle_ms_max`.
    IdleTimeout,
    /// The peer does not speak the protocol, or broke it.
    ProtocolError,
    /// Not let in.
    Refused(Refusal),
    /// A watcher that takes nothing of what it watches.
    SlowWatcher,
    /// Nothing is left on it that its peer may have: the rules, or who the peer is, changed.
    Revoked,
    /// An administrator closed it.
    Kicked,
    /// The node stops; the door said goodbye.
    Shutdown,
    /// The node stopped and the drain time was over.
    Aborted,
    /// The door's code panicked.
    Panicked,
    /// Another reader had the same pipe, and neither was given a piece of what it asked for.
    Collision,
    /// Our fault, told in the log.
    Internal,
}

impl CloseReason {
    /// Every name [`CloseReason::as_str`] can give; the metrics have a counter for each.
    pub const LABELS: [&'static str; 18] = [
        "peer_closed",
        "peer_vanished",
        "handshake_failed",
        "first_byte_timeout",
        "head_timeout",
        "body_timeout",
        "write_timeout",
        "idle_timeout",
        "protocol_error",
        "refused",
        "slow_watcher",
        "kicked",
        "shutdown",
        "aborted",
        "panicked",
        "collision",
        "internal",
        "revoked",
    ];

    /// Stable name for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        Self::LABELS[self.index()]
    }

    /// Position of the name in [`CloseReason::LABELS`].
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::PeerClosed => 0,
            Self::PeerVanished => 1,
            Self::HandshakeFailed => 2,
            Self::FirstByteTimeout => 3,
            Self::HeadTimeout => 4,
            Self::BodyTimeout => 5,
            Self::WriteTimeout => 6,
            Self::IdleTimeout => 7,
            Self::ProtocolError => 8,
            Self::Refused(_) => 9,
            Self::SlowWatcher => 10,
            Self::Kicked => 11,
            Self::Shutdown => 12,
            Self::Aborted => 13,
            Self::Panicked => 14,
            Self::Collision => 15,
            Self::Internal => 16,
            Self::Revoked => 17,
        }
    }

    /// A number for it; a refusal's retry hint is lost.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Refused(refusal) => (Self::LABELS.len() + refusal.index()) as u8,
            other => other.index() as u8,
        }
    }

    /// What [`CloseReason::code`] made a number of.
    pub(crate) fn from_code(code: u8) -> Self {
        let plain = [
            Self::PeerClosed,
            Self::PeerVanished,
            Self::HandshakeFailed,
            Self::FirstByteTimeout,
            Self::HeadTimeout,
            Self::BodyTimeout,
            Self::WriteTimeout,
            Self::IdleTimeout,
            Self::ProtocolError,
            Self::Internal,
            Self::SlowWatcher,
            Self::Kicked,
            Self::Shutdown,
            Self::Aborted,
            Self::Panicked,
            Self::Collision,
            Self::Internal,
            Self::Revoked,
        ];
        let refused = usize::from(code).checked_sub(plain.len()).and_then(|index| Refusal::ALL.get(index));
        plain
            .get(usize::from(code))
            .copied()
            .or(refused.map(|refusal| Self::Refused(*refusal)))
            .unwrap_or(Self::Internal)
    }

    /// Whether the same client may connect again and expect better: yes when it was idle, slow or
    /// unlucky, no when it does not speak the protocol or was shown the door.
    pub const fn may_return(self) -> bool {
        !matches!(self, Self::ProtocolError | Self::HandshakeFailed | Self::Kicked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_and_advice_is_given() {
        fn check(reason: CloseReason, name: &str, may_return: bool) {
            assert_eq!((reason.as_str(), reason.may_return()), (name, may_return));
        }
        check(CloseReason::PeerClosed, "peer_closed", true);
        check(CloseReason::HandshakeFailed, "handshake_failed", false);
        check(CloseReason::IdleTimeout, "idle_timeout", true);
        check(CloseReason::ProtocolError, "protocol_error", false);
        check(CloseReason::Refused(Refusal::Connections), "refused", true);
        check(CloseReason::SlowWatcher, "slow_watcher", true);
        check(CloseReason::Kicked, "kicked", false);
        check(CloseReason::Internal, "internal", true);
        for code in 0..CloseReason::LABELS.len() + Refusal::ALL.len() {
            // "Refused" without a refusal is no reason.
            let reason = CloseReason::from_code(code as u8);
            assert!(usize::from(reason.code()) == code || code == 9, "{code}");
        }
        let mut labels = CloseReason::LABELS.to_vec();
        labels.dedup();
        assert_eq!(labels.len(), CloseReason::Revoked.index() + 1);
    }
}
