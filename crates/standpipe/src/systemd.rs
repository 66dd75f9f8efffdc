//! What a service manager is told (`sd_notify`), where there is one: `NOTIFY_SOCKET` says so. A
//! server works without it.

/// A state the service manager knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    Reloading,
    Stopping,
}

/// Tells it.
pub(crate) fn tell(state: State) {
    #[cfg(target_os = "linux")]
    {
        use sd_notify::NotifyState;
        let told = match state {
            State::Ready => sd_notify::notify(&[NotifyState::Ready]),
            // With the time, as `Type=notify-reload` wants it.
            State::Reloading => {
                NotifyState::monotonic_usec_now().and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now]))
            }
            State::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
        };
        if let Err(error) = told {
            tracing::warn!(%error, ?state, "the service manager was not told");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = state;
}
