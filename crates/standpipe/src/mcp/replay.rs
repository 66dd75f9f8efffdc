//! `standpipe mcp replay`: a tape answers, over stdin and stdout or over HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use standpipe_doors::{Authority, Credentials, Mcp, McpHttp};
use standpipe_mcp::Metrics;
use standpipe_mcp::tape::{Replay, ReplayOptions, Tape};
use standpipe_serve::{Limits, Server};

use super::pipes;
use crate::cli::McpReplayArgs;
use crate::config::{Mode, is_loopback};
use crate::exit::{Exit, Failure, Result};
use crate::node::bind;
use crate::signals::Signals;

/// Runs the command.
///
/// # Errors
/// The tape can't be read, or the address can't be listened on.
pub(crate) fn run(arguments: &McpReplayArgs) -> Result<Exit> {
    let tape = read(&arguments.tape)?;
    if tape.cut || tape.lost > 0 {
        eprintln!(
            "{}: {} messages are missing on the tape{}",
            arguments.tape.display(),
            tape.lost,
            if tape.cut { ", and its last line is cut off" } else { "" }
        );
    }
    let metrics = Metrics::default();
    let options = ReplayOptions { server: arguments.server.clone(), timing: arguments.timing };
    let replay = Replay::new(tape, options, metrics.clone()).map_err(Failure::usage)?;
    let core = pipes::core(Limits::default())?;
    let mcp = pipes::only(Arc::new(replay), Credentials::new(Authority::default(), core.limits()), metrics);
    match &arguments.listen {
        None => pipes::serve(core, mcp, None, || async {}),
        Some(at) => listen(core, &mcp, at),
    }
}

/// Reads a tape.
///
/// # Errors
/// It can't be read; the line that is wrong is named.
pub(super) fn read(path: &std::path::Path) -> Result<Tape> {
    Tape::open(path).map_err(|error| {
        Failure::usage(format!("{}: {error}", path.display()))
            .help("a tape of the tree is fetched first: curl 'URL/streams/tapes/NAME?raw=1&follow=0' > calls.jsonl")
    })
}

/// Answers over HTTP until told to stop. Nobody is asked for a token: so on this machine only.
fn listen(core: Server, mcp: &Arc<Mcp>, at: &str) -> Result<Exit> {
    if !is_loopback(at) {
        return Err(Failure::usage(format!("{at} can be reached by others, and a tape is shown to whoever asks"))
            .help("listen on 127.0.0.1"));
    }
    let (listeners, address) = bind(at, None, &core)?;
    let ready = Arc::new(AtomicBool::new(true));
    core.listen(Arc::new(McpHttp::new(mcp.clone(), core.metrics().clone(), ready.clone())), listeners);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("can't start a runtime: {error}")))?;
    runtime.block_on(async {
        let mut signals = Signals::new(Mode::Dev)?;
        #[expect(clippy::print_stdout, reason = "the one line of results that a server has")]
        {
            println!("standpipe ready http://{address}");
        }
        signals.stop().await;
        ready.store(false, Ordering::Relaxed);
        core.stop_accepting();
        mcp.end_sessions();
        tokio::select! {
            stopped = core.stop() => Ok(if stopped.clean { Exit::Ok } else { Exit::Unclean }),
            // Told twice: at once.
            () = signals.stop() => Ok(Exit::Unclean),
        }
    })
}
