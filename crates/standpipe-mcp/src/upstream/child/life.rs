//! The life of a process, from its start until it and all that came of it are gone: one task, and one for each of its pipes. A
//! call that it was given is answered as soon as it is clear that the process will not do it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use standpipe_engine::Channel;
use standpipe_runs::{Child, Exit, Launched, Launcher, Spec, Told};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::call::{Purpose, Way};
use super::death::Death;
use super::process::Process;
use super::reader::{self, ReadEnd};
use super::stderr;
use super::table::Rest;
use super::writer::{self, WriteEnd};
use crate::Fault;

/// For the end of a process after that of its input or output, and for the end of its output after its own.
const SETTLE: Duration = Duration::from_secs(1);
/// Time after SIGKILL in which everything must be gone; what hangs in the kernel is given up later.
const KILL_MAX: Duration = Duration::from_secs(5);
/// Pauses between looks at what is left: the first, and the longest.
const LOOK: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(50);

/// What a process is started with.
pub(super) struct Birth {
    pub(super) launcher: Arc<dyn Launcher>,
    pub(super) spec: Spec,
    /// After so long.
    pub(super) pause: Duration,
    pub(super) tasks: TaskTracker,
}

/// Starts it, and is there until it is gone.
pub(super) async fn live(process: Arc<Process>, birth: Birth) {
    let launched = tokio::select! {
        biased;
        () = process.ending.cancelled() => Err(Death::Asked),
        launched = launch(&process, &birth) => launched,
    };
    match launched {
        Ok(launched) => {
            let (pipes, mut child) = Pipes::open(&process, launched, &birth.tasks);
            process.is_born(child.pid());
            process.counters.starts.fetch_add(1, Ordering::Relaxed);
            tracing::info!(server = %process.name, pid = process.pid(), "started");
            let (death, pipes) = serve(&process, child.as_mut(), pipes).await;
            lose(&process, &death);
            end(&process, child.as_mut(), pipes).await;
            let _used = child.close();
        }
        Err(death) => lose(&process, &death),
    }
    process.is_gone();
}

async fn launch(process: &Process, birth: &Birth) -> Result<Launched, Death> {
    sleep(birth.pause).await;
    let launching = birth.launcher.launch(birth.spec.clone());
    match timeout(process.limits.start, launching).await {
        Ok(launched) => launched.map_err(|error| Death::NotStarted(error.0)),
        Err(_late) => Err(Death::Dumb(process.limits.start)),
    }
}

/// The tasks of its pipes.
struct Pipes {
    /// Dropped, its input ends.
    writer: AbortOnDropHandle<WriteEnd>,
    reader: AbortOnDropHandle<ReadEnd>,
    errors: AbortOnDropHandle<()>,
}

impl Pipes {
    fn open(process: &Arc<Process>, launched: Launched, tasks: &TaskTracker) -> (Self, Box<dyn Child>) {
        let Launched { child, input, output } = launched;
        let spawn_writer = |input| AbortOnDropHandle::new(tasks.spawn(writer::write(process.clone(), input)));
        let writer = match input {
            Some(input) => spawn_writer(input),
            None => AbortOnDropHandle::new(tasks.spawn(std::future::ready(WriteEnd::Closed))),
        };
        let (mut out, mut errors) = (None, None);
        for (channel, source) in output {
            match channel {
                Channel::Err => errors = Some(source),
                _ => out = Some(source),
            }
        }
        let reading = process.clone();
        let reader = tasks.spawn(async move {
            match out {
                Some(source) => reader::read(reading, source).await,
                None => ReadEnd::Closed,
            }
        });
        let (process, pid) = (process.clone(), child.pid());
        let errors = tasks.spawn(async move {
            if let Some(source) = errors {
                stderr::drain(&process.name, pid, source, &process.tail).await;
            }
        });
        (Self { writer, reader: AbortOnDropHandle::new(reader), errors: AbortOnDropHandle::new(errors) }, child)
    }
}

/// Until something ends it.
async fn serve(process: &Arc<Process>, child: &mut dyn Child, mut pipes: Pipes) -> (Death, Pipes) {
    loop {
        let next = match process.tick() {
            Ok(next) => next,
            Err(death) => return (death, pipes),
        };
        let death = tokio::select! {
            biased;
            exit = child.exited() => exited(child, &mut pipes, exit).await,
            read = &mut pipes.reader => match read {
                Ok(ReadEnd::TooLong) => Death::TooLong(process.limits.message_bytes),
                _ => exit_or(child, &mut pipes, Death::Silent).await,
            },
            written = &mut pipes.writer => match written {
                Ok(WriteEnd::Deaf) => {
                    process.metrics.hit("mcp_stdin_progress_ms_max");
                    Death::Deaf(process.limits.stdin_progress)
                }
                _ => exit_or(child, &mut pipes, Death::Silent).await,
            },
            () = process.ending.cancelled() => Death::Asked,
            () = sleep_until(next) => continue,
        };
        return (death, pipes);
    }
}

/// It has ended by itself: what it said before is heard, and who may hold its output is ended for that.
async fn exited(child: &mut dyn Child, pipes: &mut Pipes, exit: Exit) -> Death {
    if child.left() > 0 {
        child.tell(Told::Kill);
    }
    heard(&mut pipes.reader).await;
    heard(&mut pipes.errors).await;
    Death::Exited(exit)
}

/// Waits for the end of a pipe's task, but not for ever.
async fn heard<T>(task: &mut AbortOnDropHandle<T>) {
    if !task.is_finished() {
        let _late = timeout(SETTLE, task).await;
    }
}

/// It speaks or reads no more. Mostly because it ends, and then that is the reason.
async fn exit_or(child: &mut dyn Child, pipes: &mut Pipes, death: Death) -> Death {
    match timeout(SETTLE, child.exited()).await {
        Ok(exit) => exited(child, pipes, exit).await,
        Err(_late) => death,
    }
}

/// Everybody is told.
fn lose(process: &Process, death: &Death) {
    process.dies(death.clone());
    let line = process.tail.last_line();
    let fault = death.fault(&process.name, process.has_answered(), line.as_deref());
    if death.is_unexpected() {
        process.counters.losses.fetch_add(1, Ordering::Relaxed);
        if matches!(death, Death::Dumb(_)) {
            process.metrics.hit("mcp_start_ms_max");
        }
        tracing::info!(server = %process.name, pid = process.pid(), reason = %fault.message, "lost");
    }
    let owner = process.post().and_then(|post| post.owner.upgrade());
    if let Some(owner) = &owner {
        owner.leaves(process, death);
    }
    let mut rest = process.close();
    if *death == Death::Asked {
        rest.complete_subscriptions();
    }
    match owner {
        Some(owner) => owner.left(rest, death, &fault),
        None => rest.fail(&fault),
    }
}

impl Rest {
    /// Answers all of them with `fault`.
    pub(super) fn fail(self, fault: &Fault) {
        self.unwritten.into_iter().for_each(|call| call.fail(fault));
        self.written.into_iter().for_each(|pending| pending.fail(fault));
    }

    /// Subscriptions that we end are over, which is no failure.
    fn complete_subscriptions(&mut self) {
        let (over, rest) = std::mem::take(&mut self.written)
            .into_iter()
            .partition(|pending| pending.purpose == Purpose::Listen && matches!(pending.to, Way::Client(_)));
        self.written = rest;
        for pending in over {
            let meta = [
                b"{\"resultType\":\"complete\",\"_meta\":{\"io.modelcontextprotocol/subscriptionId\":".as_slice(),
                &pending.id,
                b"}}",
            ];
            let result = standpipe_wire::jsonrpc::Message::result(&pending.id, &meta.concat());
            pending.answer(result);
        }
    }
}

/// Ends what is left of it (spec mcp §4.4): its input ends, then it is asked, then killed, and so is all that came of it.
async fn end(process: &Process, child: &mut dyn Child, pipes: Pipes) {
    let grace = process.limits.grace;
    let Pipes { mut writer, reader, errors } = pipes;
    writer.abort();
    if !writer.is_finished() {
        let _aborted = (&mut writer).await;
    }
    drop(writer);
    if !ends_within(grace, child.exited()).await {
        child.tell(Told::Terminate);
        if !ends_within(grace, child.exited()).await {
            if !grace.is_zero() {
                process.metrics.hit("mcp_grace_ms");
            }
            child.tell(Told::Kill);
            ends_within(KILL_MAX, child.exited()).await;
        }
    }
    kill_rest(process, child).await;
    drop((reader, errors));
}

async fn ends_within<T>(time: Duration, ended: impl Future<Output = T>) -> bool {
    timeout(time, ended).await.is_ok()
}

/// Kills what came of it and lives on, until nothing does.
async fn kill_rest(process: &Process, child: &mut dyn Child) {
    let late = Instant::now() + KILL_MAX;
    let mut pause = LOOK;
    while child.left() > 0 {
        child.tell(Told::Kill);
        if Instant::now() >= late {
            tracing::warn!(server = %process.name, pid = process.pid(), left = child.left(), "processes could not be killed: see `ps`");
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LOOK_MAX);
    }
}
