//! Every limit of the node in one struct: unit in the name, default and what the peer sees in the
//! text. Who enforces a limit reads it at the moment of use, so a reload is one pointer swap.
//!
//! The engine does not know this crate: the binary copies the *engine* limits at the end of the
//! list into the engine's own configuration, so that all of them live in one `[limits]` table.

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

/// The limits in force, shared and swappable; every holder sees a reload at its next use.
pub type LimitsHandle = Arc<ArcSwap<Limits>>;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// Longest time a limit may name: thirty days. Keeps clock arithmetic far from overflow.
const MS_MAX: u64 = 30 * 24 * 3600 * 1000;

/// What an idle connection takes at most: task, session, socket bookkeeping (spec serving §1).
const CONNECTION_BYTES: usize = 4 * KIB;
/// What one queued job takes beside its payload: box, answer slot, queue entry.
const JOB_BYTES: usize = 512;
/// Stack of a worker thread.
pub(crate) const WORKER_STACK_BYTES: usize = 2 * MIB;

/// The processors this process may use; one when the system does not tell.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

macro_rules! limits {
    ($($(#[$text:meta])* $name:ident: $kind:ty = $default:expr;)*) => {
        /// Every limit of the node (spec serving §8). `0` is refused unless the text allows it.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Limits {
            $($(#[$text])* pub $name: $kind,)*
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Limits {
            /// Name and value of every limit, in the order of the documentation.
            pub fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name as u64),)*]
            }
        }
    };
}

limits! {
    /// Connections open at once. Default 20,000. Over it: refused with a retry hint.
    connections_max: usize = 20_000;
    /// Connections open at once on one door. Default 20,000. Over it: refused with a retry hint.
    connections_per_door_max: usize = 20_000;
    /// Connections open at once from one peer address (an IPv6 peer is its /64). Default 20,000,
    /// for developers and proxies come from one address; lower it when the node faces the
    /// internet. Over it: refused with a retry hint.
    connections_per_peer_max: usize = 20_000;
    /// Requests per second from one peer address, over all its connections. Default 0, which is no
    /// limit. Over it: refused (HTTP 429) with the time to wait. Local peers are not limited.
    requests_per_s_per_peer_max: usize = 0;
    /// Requests one peer address may have saved up, to make at once. Default 1,000. Over it: as above.
    requests_burst_per_peer_max: usize = 1_000;
    /// Connections being told "no" at once. Default 256. Over it: closed without a word.
    refusal_budget_max: usize = 256;
    /// Time to be told "no", in milliseconds. Default 1,000. Later: closed.
    refusal_ms_max: u64 = 1_000;
    /// TLS handshake, in milliseconds. Default 10,000. Later: closed.
    tls_handshake_ms_max: u64 = 10_000;
    /// From accept to the first byte, in milliseconds. Default 60,000. Later: closed.
    first_byte_ms_max: u64 = 60_000;
    /// From the first byte of a request to the end of its head, in milliseconds. Default 10,000.
    /// Later: closed.
    request_head_ms_max: u64 = 10_000;
    /// Bytes of a request's head. Default 64 KiB. Over it: the protocol's "head too large".
    request_head_bytes_max: usize = 64 * KIB;
    /// Headers of a request. Default 100. Over it: the protocol's "head too large".
    request_headers_max: usize = 100;
    /// Bytes of one request about runs: a command, its environment and its input, or a pipeline. Default 1 MiB.
    /// Over it: too large.
    run_request_bytes_max: usize = MIB;
    /// Time without a single byte of an expected body, in milliseconds. Default 10,000. Later:
    /// the request is timed out and the connection closed.
    body_progress_ms_max: u64 = 10_000;
    /// Time for a whole body, in milliseconds. Default 300,000. Later: as above.
    body_ms_max: u64 = 300_000;
    /// Bytes of one request's body. Default 256 MiB, the write limit of Firebase's REST interface.
    /// Over it: "too large".
    request_body_bytes_max: usize = 256 * MIB;
    /// Bytes of all bodies being received or waiting. Default 512 MiB. Over it: refused with a
    /// retry hint.
    bodies_bytes_in_flight_max: usize = 512 * MIB;
    /// From decoding to the answer, in milliseconds. Default 60,000. Later: the work is not
    /// started and the caller told so.
    request_ms_max: u64 = 60_000;
    /// Time a job may wait for a worker, in milliseconds. Default 5,000. Later: never started,
    /// refused with a retry hint.
    queue_wait_ms_max: u64 = 5_000;
    /// Jobs waiting, in each class. Default 4,096. Over it: refused at once with a retry hint.
    queue_jobs_max: usize = 4_096;
    /// Sum of the costs of the jobs waiting, in each class, in bytes. Default 512 MiB. Over it:
    /// refused at once with a retry hint.
    queue_bytes_max: usize = 512 * MIB;
    /// Workers kept when there is nothing to do, once work has created them. Default: cores.
    workers_min: usize = cores();
    /// Workers at most. Default: four for each core, at least 4.
    workers_max: usize = 4.max(4 * cores());
    /// Workers in jobs of class bulk (exports, backups) at most; one is always left to other work, if
    /// there may be two. Default: two for each core, at least 2.
    bulk_workers_max: usize = 2.max(2 * cores());
    /// A job's wait that creates one more worker when all are busy, in milliseconds. Default 20;
    /// 0 creates one for any wait.
    worker_grow_after_ms: u64 = 20;
    /// Idle time after which a worker beyond `workers_min` ends, in milliseconds. Default 10,000.
    worker_shrink_after_ms: u64 = 10_000;
    /// Time without the peer taking a single byte of its answer, in milliseconds. Default 30,000.
    /// Later: closed. A peer that vanished with bytes under way is noticed after twice this time.
    write_progress_ms_max: u64 = 30_000;
    /// Time for a reader of a pipe to take its document, in milliseconds. Default 300,000. Later: closed, and
    /// what it has is the beginning of the document.
    pipe_ms_max: u64 = 300_000;
    /// Time without a request, in milliseconds. Default 600,000. Later: closed.
    idle_ms_max: u64 = 600_000;
    /// Silence after which TCP itself asks whether the peer is there, in milliseconds. Default
    /// 60,000; whole seconds count.
    tcp_keepalive_ms: u64 = 60_000;
    /// Quiet time after which a connection gives its buffers back, in milliseconds. Default 100.
    park_after_ms: u64 = 100;
    /// Watchers on the node. Default 100,000. Over it: refused with a retry hint.
    watchers_max: usize = 100_000;
    /// Watchers on one connection. Default 1,000. Over it: refused.
    watchers_per_connection_max: usize = 1_000;
    /// Deliveries to one watcher within this time of the last one share a write, in milliseconds.
    /// Default 20: a write costs more than all it carries. After a pause nothing waits; 0
    /// sends each at once.
    watch_gather_ms: u64 = 20;
    /// Records of a stream that come within this time after a viewer was told of others share a write, in milliseconds.
    /// Default 5: output is watched by people, and what comes fast fills a write anyway. After a pause nothing waits;
    /// 0 sends each commit at once.
    stream_gather_ms: u64 = 5;
    /// Time for open requests to end when the node stops, in milliseconds. Default 10,000; 0
    /// aborts at once.
    drain_ms: u64 = 10_000;
    /// Requests at once on one HTTP/2 connection. Default 100. Over it: the stream is refused.
    h2_streams_per_connection_max: u32 = 100;
    /// Bytes of a long reply made at a time. Default 64 KiB.
    reply_chunk_bytes: usize = 64 * KIB;
    /// Bytes of a reply that must be made whole before it is sent, as on the line and RESP doors. Default
    /// 64 MiB. Over it: "too large".
    reply_bytes_max: usize = 64 * MIB;
    /// Bytes of one line on the line door. Default 4 MiB. Over it: "too large", and the next line counts again.
    line_bytes_max: usize = 4 * MIB;
    /// Arguments of one RESP command. Default 65,536. Over it: a protocol error.
    command_args_max: usize = 65_536;
    /// Silence after which a session of the Firebase protocol is lost, in milliseconds: clients say every
    /// 45 s that they are there. Default 75,000. Later: closed, and what it left for its end is done.
    ws_silence_ms_max: u64 = 75_000;
    /// Time that a request of long polling waits for news, in milliseconds. Default 20,000, under the 25 s after which
    /// clients ask again. Later: answered with nothing.
    poll_hold_ms_max: u64 = 20_000;
    /// Time without a request after which a session by long polling is lost, in milliseconds. Default 60,000. Later:
    /// closed, and what it left for its end is done.
    poll_silence_ms_max: u64 = 60_000;
    /// Bytes that wait in a session by long polling, either way, beside the message that made them so many. Default
    /// 1 MiB. Over it: who brings more waits.
    poll_buffer_bytes_max: usize = MIB;
    /// Bytes of one message over a WebSocket. Default 64 MiB. Over it: closed with code 1009.
    ws_message_bytes_max: usize = 64 * MIB;
    /// Listens of one session of the Firebase protocol. Default 20,000. Over it: the listen is refused.
    listens_per_session_max: usize = 20_000;
    /// Bytes of messages (`PUBLISH`) waiting for one subscriber. Default 1 MiB. Over it: the subscriber is closed.
    mailbox_bytes_max: usize = MIB;
    /// Bytes of a token. Default 16 KiB. Over it: the credential is refused.
    token_bytes_max: usize = 16 * KIB;
    /// Verified tokens remembered, so that their signatures are not checked again. Default 4,096.
    verified_tokens_max: usize = 4_096;
    /// Bytes of a key set of a token issuer. Default 256 KiB. Over it: the fetch has failed.
    key_set_bytes_max: usize = 256 * KIB;
    /// Time for fetching a key set, in milliseconds. Default 10,000. Later: the fetch has failed, and is tried again.
    key_set_fetch_ms_max: u64 = 10_000;
    /// Time between two fetches of a key set at least, however many tokens name keys that are not in it, in
    /// milliseconds. Default 10,000. Meanwhile: such tokens are refused at once.
    key_set_pause_ms_min: u64 = 10_000;
    /// Age beyond a key set's own max-age up to which it is used while its provider can't be reached, in
    /// seconds. Default 86,400. Later: tokens that need it are refused until it can be fetched.
    key_set_stale_s_max: u64 = 86_400;

    /// Runs: bytes of a pipeline's file. Default 256 KiB. Over it: the pipeline is refused.
    pipeline_bytes_max: usize = 256 * KIB;
    /// Runs: tasks of a pipeline, members of matrices counted. Default 500. Over it: the pipeline is refused.
    pipeline_tasks_max: usize = 500;
    /// Runs: runs at work at once. Default 256. Over it: a run waits in the queue.
    runs_running_max: usize = 256;
    /// Runs: runs at work at once that one identity has started. Default 128. Over it: a run waits in the queue.
    runs_per_identity_max: usize = 128;
    /// Runs: runs waiting in the queue. Default 4,096. Over it: a new one is refused with a retry hint.
    runs_queued_max: usize = 4_096;
    /// Runs: finished runs that are kept. Default 10,000. Over it: the oldest are removed with all they left.
    runs_kept_max: usize = 10_000;
    /// Runs: age of finished runs that are kept, in seconds. Default 2,592,000 (30 days). Older: removed likewise.
    runs_age_s_max: u64 = 2_592_000;
    /// Runs: tasks of one run at work at once. Default 16. Over it: a task waits until another has ended.
    run_tasks_max: usize = 16;
    /// Runs: bytes of one artefact. Default 256 MiB. Over it: its task has failed.
    artefact_bytes_max: u64 = 256 * MIB as u64;
    /// Runs: bytes of all artefacts of one run. Default 1 GiB. Over it: the task whose artefact it is has failed.
    run_artefacts_bytes_max: u64 = GIB as u64;
    /// Runs: time between SIGTERM and SIGKILL when a process is stopped, in milliseconds, if its command does not say
    /// another one. Default 10,000; 0 kills at once.
    run_grace_ms: u64 = 10_000;
    /// Runs: time that a process' output may be held open after its end by something that came of it, in
    /// milliseconds. Default 2,000. Later: closed, the task is marked as leaked, and what is left is ended.
    run_leak_ms_max: u64 = 2_000;
    /// Runs: bytes of one record of output. Default 64 KiB. Over it: the line becomes several records.
    run_line_bytes_max: usize = 64 * KIB;
    /// Runs: bytes of output of one run, all its tasks together. Default 64 GiB; 0 is no limit. Over it: the task
    /// is stopped and has failed.
    run_output_bytes_max: u64 = 64 * GIB as u64;
    /// Runs: bytes of output of one process per second. Default 0, which is no limit. Over it: the process waits.
    run_output_bytes_per_s_max: u64 = 0;
    /// Runs: processor time of one process, in seconds. Default 0, which is no limit. Over it: it is killed.
    run_cpu_s_max: u64 = 0;
    /// Runs: memory of a task's processes, in bytes. Default 0, which is no limit. Over it: one of them is killed.
    run_memory_bytes_max: u64 = 0;
    /// Runs: descriptors of one process. Default 0, which is the system's own limit. Over it: it can't open more.
    run_files_max: u64 = 0;
    /// Runs: processes of a task at once, where the system can count them. Default 0, which is no limit. Over it: it
    /// can't start more.
    run_processes_max: u64 = 0;

    /// MCP: bytes of one message, either way. Default 8 MiB. Over it: "too large" (HTTP 413, 4130); a server behind the
    /// gateway that sends more is ended.
    mcp_message_bytes_max: usize = 8 * MIB;
    /// MCP: calls at work at once in one process behind the gateway. Default 64. Over it: a call waits in the queue.
    mcp_calls_per_child_max: usize = 64;
    /// MCP: calls at work at once of one principal, in each server. Default 32. Over it: a call waits in the queue.
    mcp_calls_per_principal_max: usize = 32;
    /// MCP: calls at work at once on one connection that carries many (lines, WebSocket). Default 256. Over it: refused with a retry
    /// hint.
    mcp_calls_per_stream_max: usize = 256;
    /// MCP: calls waiting for one server. Default 256. Over it: refused with a retry hint.
    mcp_queue_calls_max: usize = 256;
    /// MCP: time that a call may wait in the queue, in milliseconds. Default 5,000. Later: refused with a retry hint.
    mcp_queue_wait_ms_max: u64 = 5_000;
    /// MCP: processes behind the gateway. Default 32. Over it: refused with a retry hint.
    mcp_children_max: usize = 32;
    /// MCP: processes behind the gateway that serve one principal only. Default 8. Over it: refused with a retry hint.
    mcp_children_per_principal_max: usize = 8;
    /// MCP: sessions. Default 1,024. Over it: refused with a retry hint.
    mcp_sessions_max: usize = 1_024;
    /// MCP: sessions of one principal. Default 64. Over it: refused with a retry hint.
    mcp_sessions_per_principal_max: usize = 64;
    /// MCP: sessions that one principal may open per second. Default 5. Over it: refused (HTTP 429) with the time to wait.
    mcp_initialize_per_s_max: usize = 5;
    /// MCP: sessions that one principal may have saved up, to open at once. Default 20. Over it: as above.
    mcp_initialize_burst_max: usize = 20;
    /// MCP: bytes that wait in one stream towards a client. Default 1 MiB; one message is always taken. Over it: the stream
    /// ends.
    mcp_outlet_bytes_max: usize = MIB;
    /// MCP: messages that wait in one stream towards a client. Default 1,024. Over it: the stream ends.
    mcp_outlet_messages_max: usize = 1_024;
    /// MCP: messages kept of one stream for a client that resumes it. Default 256. Over it: the oldest go, and a resume
    /// that wants them is answered 404.
    mcp_replay_messages_max: usize = 256;
    /// MCP: bytes of them. Default 1 MiB. Over it: as above.
    mcp_replay_bytes_max: usize = MIB;
    /// MCP: time that they are kept after a client was lost, in milliseconds. Default 60,000. Later: as above.
    mcp_replay_ms_max: u64 = 60_000;
    /// MCP: bytes of them, of all streams. Default 64 MiB. Over it: as above.
    mcp_replay_total_bytes_max: usize = 64 * MIB;
    /// MCP: time that a session may be without a call and a stream, in milliseconds. Default 300,000. Later: ended, and the
    /// next request is answered 404.
    mcp_idle_ms_max: u64 = 300_000;
    /// MCP: from the start of a process behind the gateway to its first answer, in milliseconds. Default 30,000. Later: it
    /// is ended, and calls fail (5021).
    mcp_start_ms_max: u64 = 30_000;
    /// MCP: time for a call without any progress, in milliseconds. Default 60,000. Later: it is cancelled, and the caller
    /// told so (5040).
    mcp_call_ms_max: u64 = 60_000;
    /// MCP: time for a call, whatever its progress, in milliseconds. Default 600,000. Later: as above.
    mcp_call_total_ms_max: u64 = 600_000;
    /// MCP: time without a process behind the gateway reading a single byte, in milliseconds. Default 10,000. Later: it is
    /// ended.
    mcp_stdin_progress_ms_max: u64 = 10_000;
    /// MCP: time for calls to end when the gateway stops, or a server leaves it, in milliseconds. Default 5,000; 0 aborts at
    /// once.
    mcp_drain_ms: u64 = 5_000;
    /// MCP: time for a process behind the gateway to end when its input ends, and again when it is asked to (SIGTERM), in
    /// milliseconds. Default 2,000; 0 kills at once.
    mcp_grace_ms: u64 = 2_000;
    /// MCP: calls of one server that wait for an answer of their client, across a bridge between the eras. Default 256. Over
    /// it: the call is cancelled, and refused with a retry hint.
    mcp_suspended_calls_max: usize = 256;
    /// MCP: time that such a call waits, in milliseconds. Default 300,000. Later: it is cancelled, and its `requestState` is
    /// refused (-32602).
    mcp_suspended_ms_max: u64 = 300_000;
    /// MCP: questions that a server may have open for one call, across a bridge between the eras. Default 32. Over it: the
    /// server gets an error for an answer.
    mcp_questions_per_call_max: usize = 32;
    /// MCP: how often a modern server may want input for one call of a legacy client. Default 10. Over it: the call fails
    /// (5020).
    mcp_rounds_per_call_max: usize = 10;
    /// MCP: silence after which an open stream is sent a comment, in milliseconds. Default 15,000.
    mcp_keepalive_ms: u64 = 15_000;
    /// MCP: time without the client of an open stream taking a single byte, in milliseconds. Default 10,000. Later: its
    /// connection is closed; and one that does not even acknowledge is given three times as long.
    mcp_write_progress_ms_max: u64 = 10_000;
    /// MCP: resources that one stream or session may be told about. Default 100. Over it: refused.
    mcp_subscriptions_per_stream_max: usize = 100;
    /// MCP: streams of subscriptions of one principal. Default 16. Over it: refused with a retry hint.
    mcp_streams_per_principal_max: usize = 16;
    /// MCP: streams of subscriptions. Default 1,000. Over it: refused with a retry hint.
    mcp_streams_max: usize = 1_000;
    /// MCP: bytes of messages waiting to be written to one tape. Default 8 MiB. Over it: calls go on, and the tape says how many
    /// messages it lacks.
    mcp_tape_queue_bytes_max: usize = 8 * MIB;
    /// MCP: calls that rules delay at once, in front of one server. Default 1,024. Over it: refused with a retry hint.
    mcp_delayed_calls_max: usize = 1_024;

    /// Engine: writes waiting for the writer, in each database. Default 16,384. Over it: refused
    /// with a retry hint.
    writer_queue_intents_max: usize = 16_384;
    /// Engine: bytes of writes waiting for the writer, in each database. Default 512 MiB. Over it:
    /// refused with a retry hint.
    writer_queue_bytes_max: usize = 512 * MIB;
    /// Engine: writes in one commit. Default 1,024.
    group_intents_max: usize = 1_024;
    /// Engine: bytes of writes in one commit; a larger single write is a commit of its own.
    /// Default 8 MiB.
    group_bytes_max: usize = 8 * MIB;
    /// Engine: changes kept in memory for each watched path. Default 256. A watcher further behind
    /// gets a fresh value.
    ring_events_max: usize = 256;
    /// Engine: bytes of changes kept in memory for each watched path. Default 1 MiB.
    ring_bytes_max: usize = MIB;
    /// Engine: open databases. Default 1,000. Over it: a new one is refused.
    databases_max: usize = 1_000;
    /// Engine: children one query may look at. Default 1,000,000. Over it: the query is refused.
    query_children_max: usize = 1_000_000;
    /// Engine: locations that the lease of one connection may hold, in each database. Default 1,000.
    /// Over it: the write is refused.
    lease_locations_max: usize = 1_000;
    /// Engine: bytes that the lease of one connection may hold, in each database. Default 16 MiB.
    /// Over it: the write is refused.
    lease_bytes_max: usize = 16 * MIB;
    /// Engine: bytes of changes kept for watchers that resume, in each database. Default 64 MiB.
    changes_bytes_max: usize = 64 * MIB;
    /// Engine: age of changes kept for watchers that resume, in seconds. Default 86,400.
    changes_age_s_max: u64 = 86_400;
    /// Streams: bytes kept of each stream, as stored. Default 256 MiB. Over it: the oldest records go, and who asks for
    /// them is told which is the first one left.
    stream_bytes_max: usize = 256 * MIB;
    /// Streams: age of records that are kept, in seconds. Default 2,592,000, which is 30 days. Later: as above.
    stream_age_s_max: u64 = 30 * 86_400;
    /// Streams: bytes of one record. Default 1 MiB. Over it: refused.
    stream_record_bytes_max: usize = MIB;
    /// Streams: bytes of the newest records kept in memory of each stream that is watched, beside the forms that doors
    /// make of them; and as many of those that watchers further behind have read back from disk. Default 8 MiB.
    stream_ring_bytes_max: usize = 8 * MIB;
    /// Streams: the same of all streams. Default 256 MiB. Over it: a stream keeps its newest chunk only.
    streams_ring_bytes_max: usize = 256 * MIB;
    /// Streams: bytes of records that wait for their commit; one stream may have a quarter of them. Default 64 MiB. Over
    /// it: who appends waits.
    streams_queue_bytes_max: usize = 64 * MIB;
    /// Engine: size a database's file may grow to, in bytes. Default 1 TiB of address space. At
    /// it: writes are refused, reads go on.
    map_bytes_max: usize = 1024 * GIB;
}

/// The limits for which `0` means something.
const ZERO_ALLOWED: [&str; 14] = [
    "requests_per_s_per_peer_max",
    "worker_grow_after_ms",
    "watch_gather_ms",
    "stream_gather_ms",
    "drain_ms",
    "run_grace_ms",
    "run_output_bytes_max",
    "run_output_bytes_per_s_max",
    "run_cpu_s_max",
    "run_memory_bytes_max",
    "run_files_max",
    "run_processes_max",
    "mcp_drain_ms",
    "mcp_grace_ms",
];

/// Limits that can't be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// A limit of nothing would refuse everything.
    #[error("{name} is 0, which would refuse everything: give it a value of 1 or more, or leave it out")]
    Zero {
        /// The limit.
        name: &'static str,
    },
    /// A time that no clock is asked for.
    #[error("{name} is {value} ms: the longest time is 30 days ({MS_MAX} ms)")]
    TooLong {
        /// The limit.
        name: &'static str,
        /// Its value.
        value: u64,
    },
    /// One limit makes another one meaningless.
    #[error("{low} ({low_value}) must not be larger than {high} ({high_value}): raise the second or lower the first")]
    Contradiction {
        /// The limit that must be the smaller one.
        low: &'static str,
        /// Its value.
        low_value: u64,
        /// The limit that must be the larger one.
        high: &'static str,
        /// Its value.
        high_value: u64,
    },
}

/// Pairs of which the first must not exceed the second.
const ORDERED: [(&str, &str); 18] = [
    ("mcp_replay_bytes_max", "mcp_replay_total_bytes_max"),
    ("mcp_children_per_principal_max", "mcp_children_max"),
    ("mcp_sessions_per_principal_max", "mcp_sessions_max"),
    ("mcp_streams_per_principal_max", "mcp_streams_max"),
    ("mcp_call_ms_max", "mcp_call_total_ms_max"),
    ("stream_record_bytes_max", "streams_queue_bytes_max"),
    ("stream_ring_bytes_max", "streams_ring_bytes_max"),
    ("poll_hold_ms_max", "poll_silence_ms_max"),
    ("workers_min", "workers_max"),
    ("request_body_bytes_max", "bodies_bytes_in_flight_max"),
    ("request_body_bytes_max", "queue_bytes_max"),
    ("request_body_bytes_max", "writer_queue_bytes_max"),
    ("reply_chunk_bytes", "queue_bytes_max"),
    ("body_progress_ms_max", "body_ms_max"),
    ("queue_wait_ms_max", "request_ms_max"),
    ("worker_grow_after_ms", "queue_wait_ms_max"),
    ("park_after_ms", "idle_ms_max"),
    ("group_intents_max", "writer_queue_intents_max"),
];

impl Limits {
    /// Tells whether the limits can be meant.
    ///
    /// # Errors
    /// The first limit that is zero, too long, or contradicts another one.
    pub fn check(&self) -> Result<(), LimitsError> {
        let entries = self.entries();
        for &(name, value) in &entries {
            if value == 0 && !ZERO_ALLOWED.contains(&name) {
                return Err(LimitsError::Zero { name });
            }
            if name.contains("_ms") && value > MS_MAX {
                return Err(LimitsError::TooLong { name, value });
            }
        }
        let value = |wanted| entries.iter().find(|(name, _)| *name == wanted).map_or(0, |(_, value)| *value);
        for (low, high) in ORDERED {
            let (low_value, high_value) = (value(low), value(high));
            if low_value > high_value {
                return Err(LimitsError::Contradiction { low, low_value, high, high_value });
            }
        }
        Ok(())
    }

    /// Memory the serving limits allow in the worst case, in bytes: every connection in the middle
    /// of a request with a full head and a full chunk of its reply waiting, all bodies, all queues
    /// full, all workers building a chunk, one database's writer queue full, and the streams' queue and rings. Not counted: TLS (about 10 KiB a connection), more
    /// than one stream of an HTTP/2 connection, the engine's rings and the page cache.
    pub fn worst_case_bytes(&self) -> u64 {
        let connection = CONNECTION_BYTES + self.request_head_bytes_max + self.reply_chunk_bytes;
        let worker = WORKER_STACK_BYTES + self.reply_chunk_bytes;
        let parts = [
            (self.connections_max, connection),
            (1, self.bodies_bytes_in_flight_max),
            (crate::Class::ALL.len() * self.queue_jobs_max, JOB_BYTES),
            (self.workers_max, worker),
            (1, self.writer_queue_bytes_max),
            (1, self.group_bytes_max),
            (1, self.streams_queue_bytes_max),
            (1, self.streams_ring_bytes_max),
        ];
        parts
            .iter()
            .fold(0, |sum: u64, &(count, bytes)| sum.saturating_add((count as u64).saturating_mul(bytes as u64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Limits), expected: &str) {
        let mut limits = Limits::default();
        change(&mut limits);
        let told = limits.check().err().map(|error| error.to_string()).unwrap_or_default();
        assert!(told.starts_with(expected) && told.is_empty() == expected.is_empty(), "{told:?} is not {expected:?}");
    }

    #[test]
    fn contradictions_are_named() {
        check(|_| {}, "");
        check(|l| l.drain_ms = 0, "");
        check(|l| l.connections_max = 0, "connections_max is 0");
        check(|l| l.idle_ms_max = u64::MAX, "idle_ms_max is 18446744073709551615 ms");
        check(|l| l.workers_min = l.workers_max + 1, "workers_min (");
        check(
            |l| l.queue_wait_ms_max = 70_000,
            "queue_wait_ms_max (70000) must not be larger than request_ms_max (60000)",
        );
        check(|l| l.request_body_bytes_max = GIB, "request_body_bytes_max (1073741824)");
        check(|l| l.park_after_ms = 700_000, "park_after_ms (700000)");
    }

    #[test]
    fn every_pair_names_limits_that_exist() {
        let entries = Limits::default().entries();
        let known = |wanted: &str| entries.iter().any(|(name, _)| *name == wanted);
        assert!(ORDERED.iter().all(|(low, high)| known(low) && known(high)));
        assert!(ZERO_ALLOWED.iter().all(|name| known(name)));
    }

    #[test]
    fn the_worst_case_grows_with_its_parts_and_never_wraps() {
        let mut limits = Limits::default();
        let before = limits.worst_case_bytes();
        limits.connections_max += 1;
        assert_eq!(limits.worst_case_bytes() - before, (4 + 64 + 64) * 1024);
        limits.connections_max = usize::MAX;
        assert_eq!(limits.worst_case_bytes(), u64::MAX);
    }
}
