//! A launcher where no processes can be started: every command is refused with a reason.

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};

use crate::supervise::{LaunchError, Launched, Launcher, Spec};

/// See the module's text.
#[derive(Debug)]
pub(crate) struct NoProcesses;

impl Launcher for NoProcesses {
    fn launch(&self, _: Spec) -> BoxFuture<'_, Result<Launched, LaunchError>> {
        ready(Err(LaunchError("this build starts no processes".to_owned()))).boxed()
    }

    fn sweep(&self) -> BoxFuture<'_, usize> {
        ready(0).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }
}
