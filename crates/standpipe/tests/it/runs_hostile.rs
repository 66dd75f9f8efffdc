//! Runs under hard conditions: many at once, a server that is killed, stopped or out of disk, two that resume at once,
//! secrets that look for a way out. Afterwards nothing is left: no process, thread, descriptor, or memory.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use standpipe_testkit::http::{Conn, Stream, request};
use standpipe_testkit::{LIMIT, Launch, until};

use crate::hostile::besides_workers;
use crate::runs_support::{User, ended, operator, output, processes_with, secret, start};
use crate::support::{balanced, dev, dev_with, quiet};

/// A word that only this test's processes have in their command line.
fn mark(what: &str) -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("mark-{what}-{}-{next}", std::process::id())
}

/// The `end` event of a run's output, as an event stream from its first record: what was written, and how it ended.
fn watched(addr: std::net::SocketAddr, id: &str) -> (String, Value) {
    let mut stream = Stream::open(addr, &format!("/runs/{id}/out"), &[]).unwrap();
    let mut text = String::new();
    while let Some(event) = stream.event(LIMIT * 2).unwrap() {
        let data: Value = serde_json::from_str(&event.data).unwrap_or(Value::Null);
        match event.name.as_str() {
            "out" | "err" => text += data["text"].as_str().unwrap(),
            "end" => return (text, data),
            _ => {}
        }
    }
    panic!("{id}: no end after {text:?}");
}

#[test]
fn a_hundred_runs_of_ten_clients_do_not_mix_and_leave_nothing() {
    let server = dev();
    let addr = server.addr();
    // Once before, so that what is made at first use is there.
    let id = start(&server, &json!({ "argv": ["true"], "name": "warm" }));
    ended(&server, &id);
    watched(addr, &id);
    assert_eq!(operator(&server, "DELETE", "/runs/warm", &json!(null)).status, 204);
    assert!(until(|| balanced(addr).is_ok()));
    let before = besides_workers(&server);
    std::thread::scope(|scope| {
        for client in 0..10 {
            let server = &server;
            scope.spawn(move || {
                for number in 0..10 {
                    let word = format!("client-{client}-run-{number}");
                    let script = format!("for i in 1 2 3; do echo {word} $i; done; exit {}", number % 3);
                    // Half of them share a name.
                    let name = if number % 2 == 0 { "shared".to_owned() } else { format!("c{client}") };
                    let id = start(server, &json!({ "shell": script, "name": name }));
                    let (text, end) = watched(addr, &id);
                    assert_eq!(text, format!("{word} 1\n{word} 2\n{word} 3\n"), "{id}");
                    assert_eq!(end["exit_code"], number % 3, "{id}: {end}");
                    assert_eq!(end["state"], if number % 3 == 0 { "succeeded" } else { "failed" });
                    ended(server, &id);
                    assert_eq!(operator(server, "DELETE", &format!("/runs/{id}"), &json!(null)).status, 204, "{id}");
                }
            });
        }
    });
    let list = operator(&server, "GET", "/runs", &json!(null)).json().unwrap();
    assert_eq!(list["runs"], json!([]));
    assert!(until(|| request(addr, "GET", "/runs.json", &[], b"").unwrap().text() == "null"), "values are gone");
    assert!(until(|| balanced(addr).is_ok()), "{:?}", balanced(addr));
    let back = || besides_workers(&server);
    assert!(until(|| back().is_back_at(&before)), "{:?} was {before:?}", back());
    assert!(back().resident_kib < before.resident_kib + (64 << 10), "{:?} was {before:?}", back());
    quiet(server, &[]);
}

#[test]
fn a_killed_server_leaves_no_process_and_no_run_without_an_end() {
    const RUNS: usize = 50;
    let mut server = Launch::dev().same_port().start().unwrap();
    let (addr, mark) = (server.addr(), mark("killed"));
    // Some have a grandchild that has left the group, some do not listen.
    let script = |n: usize| match n % 3 {
        0 => format!("echo up; exec -a {mark} sleep 1000"),
        1 => format!("setsid bash -c 'exec -a {mark} sleep 1000' & echo up; wait"),
        _ => format!("trap '' TERM; echo up; bash -c 'exec -a {mark} sleep 1000'; sleep 1000"),
    };
    let ids: Vec<String> =
        (0..RUNS).map(|n| start(&server, &json!({ "argv": ["bash", "-c", script(n)], "name": "k" }))).collect();
    assert!(until(|| processes_with(&mark).len() >= RUNS), "{}", processes_with(&mark).len());
    // One watches and will come back by itself.
    let user = User::of(&server);
    let mut viewer = user.start("standpipe", &["runs", "logs", "-f", "k@1"]);
    assert_eq!(viewer.line(), "up");
    let mut attached =
        user.start("standpipe", &["run", "--name", "attached", "--", "sh", "-c", "echo one; echo two; sleep 1000"]);
    assert_eq!((attached.line(), attached.line()), ("one".into(), "two".into()));
    server.kill().unwrap();
    let begun = Instant::now();
    assert!(until(|| processes_with(&mark).is_empty()), "{:?}", processes_with(&mark));
    eprintln!("orphans were gone after {:?}", begun.elapsed());
    server.restart().unwrap();
    assert_eq!(server.addr(), addr);
    for id in &ids {
        let run = ended(&server, id);
        assert_eq!(run["state"], "interrupted", "{id}: {run}");
    }
    let (text, end) = watched(addr, "k@1");
    assert_eq!((text.as_str(), &end["state"]), ("up\n", &json!("interrupted")));
    assert!(until(|| request(addr, "GET", "/runs/k@7/state.json", &[], b"").unwrap().text() == "\"interrupted\""));
    // The viewer has seen each line once, and the end.
    assert_eq!(viewer.rest(), Vec::<String>::new());
    assert!(viewer.wait().success());
    assert_eq!(attached.rest(), Vec::<String>::new());
    assert_eq!(attached.wait().code(), Some(125));
    // New ones go on counting.
    assert_eq!(start(&server, &json!({ "argv": ["true"], "name": "k" })), format!("k@{}", RUNS + 1));
    ended(&server, "k");
    quiet(server, &[]);
}

#[test]
fn a_stop_ends_runs_of_every_state_and_tells_their_viewers() {
    let (mut server, _config) = dev_with("[limits]\nruns_running_max = 3\nrun_grace_ms = 300\n");
    let (addr, mark) = (server.addr(), mark("stopped"));
    let done = start(&server, &json!({ "argv": ["true"], "name": "done" }));
    ended(&server, &done);
    let of = |script: &str, name: &str| start(&server, &json!({ "argv": ["bash", "-c", script], "name": name }));
    let polite = of(&format!("echo up; exec -a {mark} sleep 1000"), "polite");
    let deaf = of(&format!("trap '' TERM; echo up; while :; do bash -c 'exec -a {mark} sleep 1'; done"), "deaf");
    let stopping = of("trap '' TERM; echo up; while :; do sleep 1; done", "stopping");
    assert!(until(|| [&polite, &deaf, &stopping].iter().all(|id| output(addr, id) == b"up\n")));
    let waiting = start(&server, &json!({ "argv": ["echo", "came later"], "name": "waiting" }));
    let got = operator(&server, "POST", "/runs/stopping/stop", &json!({ "grace": "60s" }));
    assert_eq!(got.json().unwrap()["state"], "stopping");
    let viewers: Vec<_> = [&polite, &deaf, &stopping]
        .into_iter()
        .map(|id| {
            let id = id.clone();
            std::thread::spawn(move || watched(addr, &id))
        })
        .collect();
    assert!(until(|| operator(&server, "GET", "/metrics", &json!(null)).text().contains("standpipe_watchers 3")));
    server.signal(Signal::TERM).unwrap();
    let status = server.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{}", server.stderr());
    assert!(processes_with(&mark).is_empty());
    let ends: Vec<_> = viewers.into_iter().map(|viewer| viewer.join().unwrap().1["state"].clone()).collect();
    assert_eq!(ends[..2], [json!("interrupted"), json!("interrupted")]);
    assert!(["cancelled", "interrupted"].iter().any(|state| ends[2] == *state), "{ends:?}");
    server.restart().unwrap();
    for id in [&polite, &deaf] {
        assert_eq!(ended(&server, id)["state"], "interrupted", "{id}");
    }
    assert!(ended(&server, &stopping)["state"] != "succeeded");
    assert_eq!(ended(&server, &done)["state"], "succeeded");
    // What waited for its turn has it now.
    assert_eq!(ended(&server, &waiting)["state"], "succeeded");
    assert_eq!(output(server.addr(), &waiting), b"came later\n");
    quiet(server, &[]);
}

#[test]
fn of_two_that_resume_at_once_one_wins() {
    let server = dev();
    let pipeline = "[task.a]\nrun = 'echo a'\n[task.b]\nrun = 'test -e go'\nneeds = ['a']\n";
    let dir = tempfile::tempdir().unwrap();
    let id = start(&server, &json!({ "pipeline": { "text": pipeline }, "name": "p", "cwd": dir.path() }));
    assert_eq!(ended(&server, &id)["state"], "failed");
    std::fs::write(dir.path().join("go"), "").unwrap();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let ask = || operator(&server, "POST", &format!("/runs/{id}/resume"), &json!({}));
        let asked: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let won: Vec<_> = answers.iter().filter(|answer| answer.status == 201).collect();
    assert_eq!(won.len(), 1, "{answers:?}");
    let next = won[0].json().unwrap()["id"].as_str().unwrap().to_owned();
    for lost in answers.iter().filter(|answer| answer.status != 201) {
        assert!(
            lost.status == 409 && (lost.text().contains(&next) || lost.text().contains("being resumed")),
            "{}",
            lost.text()
        );
    }
    let late = operator(&server, "POST", &format!("/runs/{id}/resume"), &json!({}));
    assert!(late.status == 409 && late.text().contains(&next), "{}", late.text());
    let run = ended(&server, &next);
    assert_eq!((&run["state"], &run["of"]), (&json!("succeeded"), &json!(id)));
    assert_eq!(run["tasks"]["a"]["attempts"], json!(1), "what has succeeded is not done again: {run}");
    assert_eq!(ended(&server, &id)["resumed_by"], json!(next));
    assert_eq!(operator(&server, "GET", "/runs", &json!(null)).json().unwrap()["runs"].as_array().unwrap().len(), 2);
    quiet(server, &[]);
}

#[test]
fn secrets_are_nowhere() {
    let word = format!("s3cr3t-{}-{}", std::process::id(), "0123456789abcdef");
    let (mut server, config) = dev_with(&format!(
        "[job.j]\nshell = 'echo \"$TOKEN\"'\nsecrets = {{ TOKEN = {{ file = '{0}' }} }}\n",
        "/nonexistent"
    ));
    let file = config.path().join("token.txt");
    std::fs::write(&file, format!("{word}\n")).unwrap();
    let mark = mark("secret");
    // Whole, in halves, to stderr, without a newline, and in a long-lived process.
    let half = word.len() / 2;
    let script = format!(
        "echo \"$TOKEN\"; echo \"a${{TOKEN}}b\" >&2; printf '%s' \"$(printf '%s' \"$TOKEN\" | cut -c1-{half})\"; sleep 0.3; \
         printf '%s\\n' \"$(printf '%s' \"$TOKEN\" | cut -c{}-)\"; echo \"::output t=$TOKEN\"; echo \"::progress 0.5 $TOKEN\"; \
         echo ready; exec -a {mark} sleep 1000",
        half + 1
    );
    let id = start(
        &server,
        &json!({
            "argv": ["bash", "-c", script], "name": "s", "secrets": { "TOKEN": { "file": file } }
        }),
    );
    assert!(until(|| String::from_utf8_lossy(&output(server.addr(), &id)).contains("ready")));
    let hidden = |what: &str, text: &str| assert!(!text.contains(&word), "{what}: {text}");
    let shown = String::from_utf8_lossy(&output(server.addr(), &id)).into_owned();
    hidden("output", &shown);
    assert!(shown.contains("***"), "{shown}");
    let ps = Command::new("ps").args(["-eww", "-o", "args"]).output().unwrap();
    hidden("ps", &String::from_utf8_lossy(&ps.stdout));
    assert_eq!(operator(&server, "POST", "/runs/s/stop", &json!({ "wait": true, "grace": "1s" })).status, 200);
    for target in ["/runs", "/runs/s", "/runs/s/out", "/runs.json?format=export", "/jobs", "/metrics"] {
        let got = operator(&server, "GET", target, &json!(null));
        assert_eq!(got.status, 200, "{target}");
        hidden(target, &got.text());
    }
    let events = watched(server.addr(), "s");
    hidden("events", &events.0);
    // A secret that can't be had: the run fails and names it.
    let got = operator(&server, "POST", "/jobs/j", &json!({}));
    assert_eq!(got.status, 201, "{}", got.text());
    let run = ended(&server, "j");
    assert_eq!(run["state"], "failed");
    assert!(run["reason"].as_str().unwrap().contains("/nonexistent"), "{run}");
    server.stop().unwrap();
    hidden("log", &server.stderr());
    let found = Command::new("grep").args(["-rlaF", &word]).arg(server.data()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "in the data folder");
    assert!(!server.stderr().contains("ERROR"), "{}", server.stderr());
}

/// A file system of its own, gone with the test.
struct Disk(tempfile::TempDir);

impl Disk {
    /// `None` where we may not mount one.
    fn new(bytes: usize) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        let done =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).output().ok()?;
        if !done.status.success() {
            eprintln!("left out: no file system of our own: {}", String::from_utf8_lossy(&done.stderr));
            return None;
        }
        Some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What is left is unmounted with the machine.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_during_output_ends_a_run_and_not_the_server() {
    let Some(disk) = Disk::new(48 << 20) else { return };
    let data = disk.path().join("data");
    let mut server = Launch::dev().data(&data).start().unwrap();
    let addr = server.addr();
    let mark = mark("full");
    let id = start(
        &server,
        &json!({ "argv": ["bash", "-c", format!("exec -a {mark} yes 0123456789012345678901234567890123456789")], "name": "full" }),
    );
    // It either has failed, or waits for room, and never takes the server with it.
    let is_over = || {
        let run = operator(&server, "GET", &format!("/runs/{id}"), &json!(null)).json().unwrap_or_default();
        ["failed", "lost", "cancelled"].iter().any(|state| run["state"] == *state)
    };
    let full = until(is_over);
    assert_eq!(request(addr, "GET", "/healthz", &[], b"").unwrap().status, 200);
    assert_eq!(request(addr, "GET", "/.json?shallow=true", &[], b"").unwrap().status, 200, "reads go on");
    if !full {
        let got = operator(&server, "POST", &format!("/runs/{id}/stop"), &json!({ "grace": "1s" }));
        assert_eq!(got.status, 200, "{}", got.text());
    }
    assert!(until(|| processes_with(&mark).is_empty()), "its process is gone");
    let left = Conn::open(addr).unwrap().limit(LIMIT).request("GET", "/runs/full/out?tail=1&follow=0", &[], b"");
    assert!(left.unwrap().status == 200, "what was written can be read");
    let ballast = std::fs::read_dir(disk.path()).unwrap().count();
    assert!(ballast >= 1);
    let status = server.stop().unwrap();
    assert!(status.code().is_some(), "{status}: it ends by itself");
    drop(server);
}

#[test]
fn stopped_runs_take_their_grandchildren_along_however_they_hide() {
    let server = dev();
    let mark = mark("hide");
    let scripts = [
        // Behind a wrapper of a shell.
        format!("bash -c 'exec -a {mark} sleep 1000' & wait"),
        // In a session of its own.
        format!("setsid bash -c 'exec -a {mark} sleep 1000' & sleep 1000"),
        // Twice removed, its parents gone.
        format!("bash -c '(setsid bash -c \"exec -a {mark} sleep 1000\" &) &' ; sleep 1000"),
        // That does not listen.
        format!("trap '' TERM INT HUP; bash -c 'trap \"\" TERM; exec -a {mark} sleep 1000'"),
    ];
    let ids: Vec<_> = scripts
        .iter()
        .map(|script| start(&server, &json!({ "argv": ["bash", "-c", script], "name": "h", "grace": "500ms" })))
        .collect();
    assert!(until(|| processes_with(&mark).len() >= scripts.len()), "{:?}", processes_with(&mark));
    for id in &ids {
        let got = operator(&server, "POST", &format!("/runs/{id}/stop?wait=1"), &json!({}));
        assert_eq!(got.json().unwrap()["state"], "cancelled", "{id}: {}", got.text());
    }
    assert!(processes_with(&mark).is_empty(), "{:?}", processes_with(&mark));
    quiet(server, &[]);
}

#[test]
fn a_viewer_that_leaves_takes_nobody_along() {
    let server = dev();
    let addr = server.addr();
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
    let id = start(&server, &json!({ "shell": "echo one; read x < gate; echo $x", "cwd": dir.path(), "name": "v" }));
    let mut first = Stream::open(addr, "/runs/v/out", &[]).unwrap();
    let second = std::thread::spawn(move || watched(addr, "v"));
    assert_eq!(first.event(LIMIT).unwrap().unwrap().name, "note");
    drop(first);
    std::fs::write(&gate, "two\n").unwrap();
    let (text, end) = second.join().unwrap();
    assert_eq!((text.as_str(), &end["state"]), ("one\ntwo\n", &json!("succeeded")));
    assert_eq!(ended(&server, &id)["exit_code"], 0);
    quiet(server, &[]);
}

#[test]
fn nonsense_is_refused_and_nothing_is_started() {
    let server = dev();
    let bearer = format!("Bearer {}", secret(server.data()));
    let long = format!(r#"{{"argv":["true"],"stdin":{{"data":"{}"}}}}"#, "x".repeat(1 << 20));
    let deep = "[".repeat(100_000);
    for (status, body) in [
        (400, "{"),
        (400, "[]"),
        (400, "null"),
        (400, r#"{"argv":[]}"#),
        (400, r#"{"argv":["a\u0000b"]}"#),
        (400, r#"{"argv":["true"],"cwd":"relative"}"#),
        (400, r#"{"argv":["true"],"name":"../../etc"}"#),
        (400, r#"{"argv":["true"],"env":{"A=B":"1"}}"#),
        (400, r#"{"argv":["true"],"timeout":"-1s"}"#),
        (400, r#"{"argv":["true"],"limits":{"output":{"bytes_max":-1}}}"#),
        (400, r#"{"pipeline":{"text":"[task.a]\nrun='true'\nneeds=['a']"}}"#),
        (400, "\u{0}"),
        (400, &deep),
        (413, &long),
    ] {
        let got = request(server.addr(), "POST", "/runs", &[("authorization", &bearer)], body.as_bytes()).unwrap();
        assert_eq!(got.status, status, "{:.80}: {}", body, got.text());
        assert!(got.json().unwrap()["error"].is_string());
    }
    for target in [
        "/runs/..",
        "/runs/a@0",
        "/runs/a@18446744073709551616",
        "/runs/%2e%2e/out",
        "/runs/a%2Fb",
        "/jobs/%00",
        "/runs/a@1/artefacts/../x",
    ] {
        let got = operator(&server, "GET", target, &json!(null));
        assert!(matches!(got.status, 400 | 404), "{target}: {}", got.status);
    }
    assert_eq!(operator(&server, "GET", "/runs", &json!(null)).json().unwrap()["runs"], json!([]));
    quiet(server, &[]);
}

#[test]
fn a_client_that_writes_the_values_changes_nothing_that_is_run() {
    let server = dev();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out");
    let script = format!("echo ran >> {}", file.display());
    let id = start(&server, &json!({ "shell": script, "name": "w" }));
    ended(&server, &id);
    let forged =
        json!({ "command": { "argv": ["sh", "-c", "echo forged"], "cwd": "/" }, "state": "running", "job": "other" });
    let got = request(server.addr(), "PUT", &format!("/runs/{id}.json"), &[], forged.to_string().as_bytes()).unwrap();
    assert_eq!(got.status, 200, "dev is open");
    assert_eq!(operator(&server, "GET", "/runs/w", &json!(null)).json().unwrap()["state"], "succeeded");
    assert_eq!(operator(&server, "POST", "/runs/w/retry", &json!({})).status, 201);
    ended(&server, "w");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "ran\nran\n");
    quiet(server, &[]);
}

#[test]
fn many_names_many_pages() {
    let server = dev();
    let ids: BTreeSet<String> =
        (0..25).map(|n| start(&server, &json!({ "argv": ["true"], "name": format!("n{}", n % 7) }))).collect();
    ids.iter().for_each(|id| drop(ended(&server, id)));
    let (mut seen, mut target) = (BTreeSet::new(), "/runs?limit=4".to_owned());
    loop {
        let page = operator(&server, "GET", &target, &json!(null)).json().unwrap();
        for run in page["runs"].as_array().unwrap() {
            assert!(seen.insert(run["id"].as_str().unwrap().to_owned()), "twice: {run}");
        }
        let Some(next) = page["next"].as_str() else { break };
        target = format!("/runs?limit=4&before={next}");
    }
    assert_eq!(seen, ids);
    quiet(server, &[]);
}

#[test]
fn what_is_watched_before_it_runs_waits_for_it() {
    let (server, _config) = dev_with("[limits]\nruns_running_max = 1\n");
    let addr = server.addr();
    let first = start(&server, &json!({ "argv": ["sleep", "1000"], "name": "first" }));
    let second = start(&server, &json!({ "argv": ["echo", "at last"], "name": "second" }));
    let run = operator(&server, "GET", "/runs/second", &json!(null)).json().unwrap();
    assert_eq!((&run["state"], &run["queue"]["position"]), (&json!("queued"), &json!(1)));
    let early = std::thread::spawn(move || watched(addr, "second"));
    assert!(until(|| operator(&server, "GET", "/metrics", &json!(null)).text().contains("standpipe_watchers 1")));
    assert_eq!(operator(&server, "POST", &format!("/runs/{first}/stop?wait=1"), &json!({})).status, 200);
    let (text, end) = early.join().unwrap();
    assert_eq!((text.as_str(), &end["state"]), ("at last\n", &json!("succeeded")));
    ended(&server, &second);
    // One that waits is cancelled at once.
    let third = start(&server, &json!({ "argv": ["sleep", "1000"], "name": "third" }));
    let fourth = start(&server, &json!({ "argv": ["sleep", "1000"], "name": "fourth" }));
    let got = operator(&server, "POST", &format!("/runs/{fourth}/stop"), &json!({}));
    assert_eq!(got.json().unwrap()["state"], "cancelled");
    assert!(watched(addr, &fourth).0.is_empty());
    operator(&server, "POST", &format!("/runs/{third}/stop?wait=1"), &json!({ "grace": "1s" }));
    quiet(server, &[]);
}

#[test]
fn waiting_for_an_end_is_bounded_and_is_told() {
    let (server, _config) = dev_with("[limits]\nrequest_ms_max = 1000\nqueue_wait_ms_max = 500\n");
    let id = start(&server, &json!({ "argv": ["sleep", "1000"], "name": "w" }));
    let begun = Instant::now();
    let got = operator(&server, "GET", &format!("/runs/{id}?wait=1"), &json!(null));
    assert_eq!((got.status, begun.elapsed() < Duration::from_secs(20)), (200, true));
    assert!(["starting", "running"].iter().any(|state| got.json().unwrap()["state"] == *state));
    let stopped = operator(&server, "POST", &format!("/runs/{id}/stop"), &json!({ "grace": "1s" }));
    assert_eq!(stopped.status, 200);
    assert_eq!(ended(&server, &id)["state"], "cancelled");
    quiet(server, &[]);
}
