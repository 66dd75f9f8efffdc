//! Upstreams: the servers behind the gateway. Each is a [`Server`](crate::Server), whatever stands behind it: a process
//! ([`child`]), or a server far away ([`remote`]). Which upstreams there are, and what stands in front of them, is the gateway's business.

pub mod child;
mod limits;
pub mod remote;

pub use self::limits::ServerLimits;

/// The two eras of the protocol (spec mcp §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// 2025-11-25 and before: sessions.
    Legacy,
    /// 2026-07-28: requests that stand alone.
    Modern,
}

impl Era {
    /// As in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        }
    }
}

/// Which era an upstream speaks, as configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EraChoice {
    /// It is asked (`server/discover`).
    #[default]
    Auto,
    /// This one.
    Known(Era),
}
