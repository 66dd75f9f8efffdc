//! The signals that a server heeds, and what each asks for.

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Mode;
#[cfg(unix)]
use crate::exit::Failure;
use crate::exit::Result;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// To stop.
    Stop,
    /// To read the configuration again.
    Reload,
}

/// The signals a server heeds: Ctrl-C everywhere; where there are more, SIGTERM stops and SIGHUP
/// reloads the configuration. To `dev` SIGHUP says that its terminal was closed, so it stops.
pub(crate) struct Signals {
    #[cfg(unix)]
    mode: Mode,
    #[cfg(unix)]
    interrupt: Signal,
    #[cfg(unix)]
    terminate: Signal,
    #[cfg(unix)]
    hangup: Signal,
}

#[cfg(unix)]
impl Signals {
    pub(crate) fn new(mode: Mode) -> Result<Self> {
        let heed = |kind| signal(kind).map_err(|error| Failure::failed(format!("can't wait for signals: {error}")));
        let (interrupt, terminate) = (heed(SignalKind::interrupt())?, heed(SignalKind::terminate())?);
        Ok(Self { mode, interrupt, terminate, hangup: heed(SignalKind::hangup())? })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.terminate.recv() => Told::Stop,
            _ = self.hangup.recv() => match self.mode {
                Mode::Dev => Told::Stop,
                Mode::Serve => Told::Reload,
            },
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    pub(crate) fn new(_: Mode) -> Result<Self> {
        Ok(Self {})
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Told {
        let _no_handler_no_stop = tokio::signal::ctrl_c().await;
        Told::Stop
    }
}

impl Signals {
    /// The next one that asks to stop.
    pub(crate) async fn stop(&mut self) {
        while self.next().await != Told::Stop {}
    }
}
