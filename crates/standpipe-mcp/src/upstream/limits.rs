//! The limits of one upstream: those of the node, unless its configuration says otherwise. Each is named and explained in
//! `standpipe_serve::Limits`, where it is called `mcp_…`.

use std::time::Duration;

use standpipe_serve::Limits;

/// What one upstream may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// `mcp_message_bytes_max`
    pub message_bytes: usize,
    /// `mcp_calls_per_child_max`
    pub calls_per_child: usize,
    /// `mcp_calls_per_principal_max`
    pub calls_per_principal: usize,
    /// `mcp_queue_calls_max`
    pub queue_calls: usize,
    /// `mcp_queue_wait_ms_max`
    pub queue_wait: Duration,
    /// `mcp_start_ms_max`
    pub start: Duration,
    /// `mcp_call_ms_max`
    pub call: Duration,
    /// `mcp_call_total_ms_max`
    pub call_total: Duration,
    /// `mcp_suspended_ms_max`: time that a call waits for an answer of its client.
    pub suspended: Duration,
    /// `mcp_stdin_progress_ms_max`
    pub stdin_progress: Duration,
    /// `mcp_drain_ms`
    pub drain: Duration,
    /// `mcp_grace_ms`
    pub grace: Duration,
    /// `mcp_idle_ms_max`: a process that serves nobody in particular is ended after it.
    pub idle: Duration,
    /// `mcp_subscriptions_per_stream_max`
    pub subscriptions_per_stream: usize,
    /// `mcp_streams_per_principal_max`
    pub streams_per_principal: usize,
}

impl From<&Limits> for ServerLimits {
    fn from(limits: &Limits) -> Self {
        let ms = Duration::from_millis;
        Self {
            message_bytes: limits.mcp_message_bytes_max,
            calls_per_child: limits.mcp_calls_per_child_max,
            calls_per_principal: limits.mcp_calls_per_principal_max,
            queue_calls: limits.mcp_queue_calls_max,
            queue_wait: ms(limits.mcp_queue_wait_ms_max),
            start: ms(limits.mcp_start_ms_max),
            call: ms(limits.mcp_call_ms_max),
            call_total: ms(limits.mcp_call_total_ms_max),
            suspended: ms(limits.mcp_suspended_ms_max),
            stdin_progress: ms(limits.mcp_stdin_progress_ms_max),
            drain: ms(limits.mcp_drain_ms),
            grace: ms(limits.mcp_grace_ms),
            idle: ms(limits.mcp_idle_ms_max),
            subscriptions_per_stream: limits.mcp_subscriptions_per_stream_max,
            streams_per_principal: limits.mcp_streams_per_principal_max,
        }
    }
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self::from(&Limits::default())
    }
}

impl ServerLimits {
    /// A call may take its whole time from the start: a longer time for one call raises the time for all it may take.
    #[must_use]
    pub fn checked(mut self) -> Self {
        self.call_total = self.call_total.max(self.call);
        self
    }
}
