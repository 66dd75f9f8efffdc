//! The pipe doors with the stock `cat` and `sh`: bursts, sizes, stalled and killed readers, paths that
//! others remove, servers that are killed; and the commands `pipe`, `mirror` and `cat`. What a document
//! looks like is tested in the doors' crate.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process};
use standpipe_testkit::http::request;
use standpipe_testkit::{Baseline, Launch, Server, binary, until};

use crate::support::{balanced, metric_of, quiet, write};

/// A server with two pipes on `/doc`, a folder for what readers write, and the text of the document.
struct Pipes {
    server: Server,
    dir: tempfile::TempDir,
}

const MODES: [&str; 2] = ["fifo", "file"];

impl Pipes {
    /// `[limits]` may follow.
    fn new(limits: &str) -> Self {
        Self::with("json", limits)
    }

    fn with(render: &str, limits: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pipe = |mode: &str| {
            let file = dir.path().join(mode);
            format!("[[pipe]]\npath = \"/doc\"\nfile = {file:?}\nmode = \"{mode}\"\nrender = \"{render}\"\n\n")
        };
        let config = dir.path().join("standpipe.toml");
        std::fs::write(&config, pipe("fifo") + &pipe("file") + limits).unwrap();
        let arguments = ["--config".as_ref(), config.as_os_str()];
        let server = Launch::dev().args(arguments).same_port().start().unwrap();
        Self { server, dir }
    }

    fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    fn path(&self, mode: &str) -> PathBuf {
        self.dir.path().join(mode)
    }

    /// Writes a document of about this size, new each time; gives what a reader gets.
    fn put(&self, bytes: usize, mark: usize) -> String {
        let line = format!("{mark:08} {}", "x".repeat(91));
        let lines = (0..bytes / 112).map(|n| format!("\"{n:06}\":\"{line}\"")).collect::<Vec<_>>();
        write(self.addr(), "PUT", "/doc.json", &format!("{{{}}}", lines.join(",")));
        self.document()
    }

    fn document(&self) -> String {
        request(self.addr(), "GET", "/doc.json?print=pretty", &[], b"").unwrap().text() + "\n"
    }

    /// What the pipe's connections ended with.
    fn closed(&self, mode: &str, reason: &str) -> u64 {
        let door = format!("door=\"pipe:{}\"", self.path(mode).display());
        let reason = format!("reason=\"{reason}\"");
        metric_of(self.addr(), "standpipe_connections_closed_total", &[&door, &reason])
    }

    /// Readers caught so far.
    fn caught(&self, mode: &str) -> u64 {
        let door = format!("door=\"pipe:{}\"", self.path(mode).display());
        metric_of(self.addr(), "standpipe_connections_accepted_total", &[&door])
    }

    /// Starts `count` readers as a shell does; gives how often each text was read.
    fn burst(&self, mode: &str, count: usize) -> BTreeMap<String, usize> {
        let out = tempfile::tempdir_in(self.dir.path()).unwrap();
        let out = out.path();
        let script = format!("for i in $(seq {count}); do cat {mode} > {}/$i & done; wait", out.display());
        let status = Command::new("sh").args(["-c", &script]).current_dir(self.dir.path()).status().unwrap();
        assert!(status.success());
        let mut texts = BTreeMap::new();
        for entry in std::fs::read_dir(out).unwrap() {
            *texts.entry(std::fs::read_to_string(entry.unwrap().path()).unwrap()).or_insert(0) += 1;
        }
        assert_eq!(texts.values().sum::<usize>(), count);
        texts
    }

    /// Counters balance, and what was used is given back.
    fn settled(&self, before: &Baseline) {
        assert!(until(|| balanced(self.addr()).is_ok()), "{}", balanced(self.addr()).unwrap_err());
        let now = || Baseline::of(self.server.pid()).unwrap();
        assert!(until(|| now().is_back_at(before)), "{:?} is not {before:?}", now());
    }

    /// After one reader of each pipe, with all workers made: what the server holds at rest.
    fn baseline(&self) -> Baseline {
        for mode in MODES {
            assert_eq!(cat(&self.path(mode)), self.document());
        }
        // Workers and descriptors of that are still there or gone: wait until nothing changes.
        let mut last = Baseline::of(self.server.pid()).unwrap();
        let mut same = 0;
        assert!(until(|| {
            let now = Baseline::of(self.server.pid()).unwrap();
            same = if now.is_back_at(&last) && last.is_back_at(&now) { same + 1 } else { 0 };
            last = now;
            same > 400
        }));
        Baseline { threads: last.threads + 8, ..last }
    }
}

/// What the stock `cat` reads, cut off after a while.
fn cat(path: &Path) -> String {
    let output = Command::new("timeout").args(["20", "cat"]).arg(path).output().unwrap();
    assert!(output.status.success(), "cat {}: {}", path.display(), output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// May the server have real-time priority here? Without, a FIFO's burst rate is anybody's guess.
fn real_time() -> bool {
    rustix::process::geteuid().is_root() || getrlimit(Resource::Rtprio).maximum.is_none_or(|most| most >= 2)
}

#[test]
fn every_reader_of_a_lease_file_in_a_burst_gets_a_whole_fresh_document() {
    let pipes = Pipes::new("");
    pipes.put(1_000, 0);
    let before = pipes.baseline();
    for round in 1..=3 {
        for bytes in [20_000, 1_000_000] {
            let document = pipes.put(bytes, round);
            let texts = pipes.burst("file", 200);
            let lengths: Vec<_> = texts.iter().map(|(text, count)| (text.len(), count)).collect();
            assert!(texts.len() == 1 && texts.contains_key(&document), "{lengths:?}, not {}", document.len());
        }
    }
    pipes.settled(&before);
    quiet(pipes.server, &[]);
}

#[test]
fn readers_of_a_fifo_in_a_burst_get_a_whole_fresh_document_or_none_and_are_counted() {
    let pipes = Pipes::new("");
    pipes.put(1_000, 0);
    let before = pipes.baseline();
    let already = pipes.closed("fifo", "peer_closed");
    let (mut served, mut collided) = (already, 0);
    for round in 1..=3 {
        for bytes in [20_000, 1_000_000] {
            let document = pipes.put(bytes, round);
            let texts = pipes.burst("fifo", 200);
            let lengths: Vec<_> = texts.iter().map(|(text, count)| (text.len(), count)).collect();
            assert!(texts.keys().all(|text| text.is_empty() || *text == document), "torn or old: {lengths:?}");
            let (whole, none) = (texts.get(&document).copied(), texts.get("").copied());
            let (whole, none) = (whole.unwrap_or(0), none.unwrap_or(0));
            eprintln!("burst of 200, {bytes} bytes: {whole} whole, {none} collided");
            (served, collided) = (served + whole as u64, collided + none as u64);
        }
    }
    // 95 of 100, over all bursts.
    assert!((served - already) * 100 >= 6 * 200 * 95 || !real_time(), "{} of 1,200 whole", served - already);
    let counted = || (pipes.closed("fifo", "peer_closed"), pipes.closed("fifo", "collision"));
    assert!(until(|| counted() == (served, collided)), "{:?} is not {:?}", counted(), (served, collided));
    pipes.settled(&before);
    quiet(pipes.server, &[]);
}

#[test]
fn readers_that_start_at_the_same_moment_never_get_pieces() {
    let pipes = Pipes::new("");
    for bytes in [20_000, 1_000_000] {
        let document = pipes.put(bytes, 7);
        for mode in MODES {
            let path = pipes.path(mode);
            let gate = std::sync::Barrier::new(100);
            let texts: Vec<String> = std::thread::scope(|scope| {
                let reader = || {
                    gate.wait();
                    // A small buffer, as of a shell's `read`: a document takes many reads.
                    let mut file = BufReader::with_capacity(512, File::open(&path).unwrap());
                    let mut text = String::new();
                    file.read_to_string(&mut text).map(|_| text).unwrap()
                };
                let readers: Vec<_> = (0..100).map(|_| scope.spawn(reader)).collect();
                readers.into_iter().map(|reader| reader.join().unwrap()).collect()
            });
            let whole = texts.iter().filter(|text| **text == document).count();
            let none = texts.iter().filter(|text| text.is_empty()).count();
            eprintln!("{mode}, 100 at the same moment, {bytes} bytes: {whole} whole, {none} nothing");
            // For others than administrators the kernel melts opens by threads of one process together.
            assert!(whole + none == 100 || !rustix::process::geteuid().is_root(), "torn");
            assert!(mode == "fifo" || whole == 100);
        }
    }
    quiet(pipes.server, &[]);
}

#[test]
fn a_thousand_readers_one_after_another_are_all_served() {
    let pipes = Pipes::new("");
    let document = pipes.put(5_000, 1);
    for mode in MODES {
        let script = format!("for i in $(seq 1000); do cat {mode} | cksum; done | sort | uniq -c");
        let output = Command::new("sh").args(["-c", &script]).current_dir(pipes.dir.path()).output().unwrap();
        let counted = String::from_utf8(output.stdout).unwrap();
        let fields: Vec<_> = counted.split_whitespace().collect();
        assert_eq!((fields[0], fields[2]), ("1000", &*document.len().to_string()), "{mode}: {counted}");
        assert_eq!(counted.lines().count(), 1, "{mode}: {counted}");
    }
    quiet(pipes.server, &[]);
}

#[test]
fn documents_of_every_size_arrive_whole() {
    let pipes = Pipes::with("text", "");
    for mode in MODES {
        assert_eq!(cat(&pipes.path(mode)), "", "{mode}: nothing is there");
    }
    for bytes in [1, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 1 << 20] {
        let text = "y".repeat(bytes - 1);
        write(pipes.addr(), "PUT", "/doc.json", &format!("\"{text}\""));
        for mode in MODES {
            let got = cat(&pipes.path(mode));
            assert!(got.len() == bytes && got.trim_end() == text, "{mode}: {} of {bytes} bytes", got.len());
        }
    }
    drop(pipes);
    let pipes = Pipes::new("");
    let document = pipes.put(50 << 20, 1);
    assert!(document.len() > 50 << 20);
    for mode in MODES {
        let got = cat(&pipes.path(mode));
        assert!(got == document, "{mode}: {} of {} bytes", got.len(), document.len());
    }
    quiet(pipes.server, &[]);
}

#[test]
fn a_reader_that_stalls_delays_no_other_and_is_cut() {
    let pipes = Pipes::new("[limits]\nwrite_progress_ms_max = 1500\npipe_ms_max = 4000\n");
    let document = pipes.put(4 << 20, 1);
    let before = pipes.baseline();
    let path = pipes.path("fifo");
    // One takes nothing, one takes a kilobyte now and then.
    let earlier = pipes.caught("fifo");
    let mut never = File::open(&path).unwrap();
    // Not both at the same moment, or they might share the pipe.
    assert!(until(|| pipes.caught("fifo") == earlier + 1));
    let mut slow = File::open(&path).unwrap();
    let mut kilobyte = [0; 1024];
    slow.read_exact(&mut kilobyte).unwrap();
    let begun = Instant::now();
    for _ in 0..10 {
        assert!(cat(&path) == document);
    }
    eprintln!("10 readers beside two that stall: {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(10));
    let mut taken = kilobyte.to_vec();
    let cut = until(|| {
        // Cut and drained, it has its end before the other one.
        if slow.read_exact(&mut kilobyte).is_ok() {
            taken.extend_from_slice(&kilobyte);
        }
        pipes.closed("fifo", "write_timeout") == 2
    });
    let metrics = request(pipes.addr(), "GET", "/metrics", &[], b"").unwrap().text();
    let ends: Vec<_> = metrics.lines().filter(|line| line.contains("closed_total") && !line.ends_with(" 0")).collect();
    assert!(cut, "{} taken, {ends:#?}", taken.len());
    // What they have is the beginning of the document.
    slow.read_to_end(&mut taken).unwrap();
    let mut rest = Vec::new();
    never.read_to_end(&mut rest).unwrap();
    for got in [&taken, &rest] {
        assert!(got.len() < document.len() && document.as_bytes().starts_with(got), "{} bytes", got.len());
    }
    drop((slow, never));
    pipes.settled(&before);
    quiet(pipes.server, &[]);
}

#[test]
fn a_reader_killed_half_way_is_noticed_and_the_next_is_served() {
    let pipes = Pipes::new("");
    let document = pipes.put(4 << 20, 1);
    let before = pipes.baseline();
    for mode in MODES {
        let mut reader = File::open(pipes.path(mode)).unwrap();
        let mut some = [0; 10_000];
        reader.read_exact(&mut some).unwrap();
        assert!(document.as_bytes().starts_with(&some));
        drop(reader);
        assert!(cat(&pipes.path(mode)) == document, "{mode}");
    }
    assert!(until(|| pipes.closed("fifo", "peer_vanished") == 1));
    pipes.settled(&before);
    quiet(pipes.server, &[]);
}

#[test]
fn a_path_that_somebody_removes_or_takes_comes_back_and_theirs_is_kept() {
    let pipes = Pipes::new("");
    let document = pipes.put(1_000, 1);
    for mode in MODES {
        let path = pipes.path(mode);
        std::fs::remove_file(&path).unwrap();
        assert!(until(|| path.exists()), "{mode}");
        assert_eq!(cat(&path), document, "{mode}");
        let foreign = pipes.path("theirs");
        std::fs::write(&foreign, "theirs").unwrap();
        std::fs::rename(&foreign, &path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
        assert!(until(|| pipes.server.stderr().matches("in place of").count() == 1 + usize::from(mode == "file")));
        assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
        std::fs::remove_file(&path).unwrap();
        assert!(until(|| path.exists()), "{mode}");
        assert_eq!(cat(&path), document, "{mode}");
    }
    std::fs::remove_file(pipes.path("fifo")).unwrap();
    std::fs::write(pipes.path("fifo"), "theirs").unwrap();
    let dir = pipes.dir;
    quiet(pipes.server, &["in place of"]);
    // At its end the server removes what is its own, and nothing else.
    let mut left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["fifo", "standpipe.toml"]);
}

#[test]
fn a_folder_that_goes_takes_its_pipes_with_it_and_they_come_back_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    std::fs::create_dir(&live).unwrap();
    let pipe = |mode: &str| format!("[[pipe]]\npath = \"/doc\"\nfile = {:?}\nmode = \"{mode}\"\n\n", live.join(mode));
    let config = dir.path().join("standpipe.toml");
    std::fs::write(&config, MODES.map(pipe).concat()).unwrap();
    let server = Launch::dev().args(["--config".as_ref(), config.as_os_str()]).start().unwrap();
    write(server.addr(), "PUT", "/doc.json", "1");
    for _ in 0..2 {
        std::fs::remove_dir_all(&live).unwrap();
        assert!(!until_for(Duration::from_secs(3), || live.exists()), "who removed it meant it");
        std::fs::create_dir(&live).unwrap();
        for mode in MODES {
            assert!(until(|| live.join(mode).exists()), "{mode}");
            assert_eq!(cat(&live.join(mode)), "1\n", "{mode}");
        }
    }
    std::fs::remove_dir_all(&live).unwrap();
    quiet(server, &["trying again"]);
}

/// As `until`, for something that is not expected.
fn until_for(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + time;
    until(|| condition() || Instant::now() > end) && condition()
}

#[test]
fn a_killed_server_leaves_paths_that_the_next_one_takes_over() {
    let mut pipes = Pipes::new("");
    let document = pipes.put(1_000, 1);
    pipes.server.kill().unwrap();
    // They come while nobody serves: one waits, the other finds an empty file.
    let mut waiting = Command::new("cat").arg(pipes.path("fifo")).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(std::fs::read(pipes.path("file")).unwrap(), b"");
    assert!(until(|| waits_in_open(&waiting)));
    pipes.server.restart().unwrap();
    let mut text = String::new();
    waiting.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(waiting.wait().unwrap().success());
    assert_eq!(text, document);
    for mode in MODES {
        assert_eq!(cat(&pipes.path(mode)), document, "{mode}");
    }
    // Readers in the middle of it, many times: none hangs, none gets a piece.
    for _ in 0..5 {
        let script = "for i in $(seq 30); do cat fifo > k.$i & cat file > l.$i & done; wait";
        let mut readers = Command::new("sh").args(["-c", script]).current_dir(pipes.dir.path()).spawn().unwrap();
        pipes.server.restart().unwrap();
        assert!(until(|| readers.try_wait().unwrap().is_some()), "a reader hangs");
    }
    for entry in std::fs::read_dir(pipes.dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension.to_str().unwrap().parse::<u32>().is_ok()) {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(document.starts_with(&text), "{}: {} bytes", path.display(), text.len());
        }
    }
    quiet(pipes.server, &[]);
}

fn waits_in_open(reader: &Child) -> bool {
    let at = std::fs::read_to_string(format!("/proc/{}/wchan", reader.id())).unwrap_or_default();
    at.contains("pipe") || at.contains("fifo") || at.contains("partner")
}

#[test]
fn what_is_not_ours_is_refused_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let check = |file: &str, mode: &str, part: &str| {
        let config = dir.path().join("c.toml");
        let file = dir.path().join(file);
        std::fs::write(&config, format!("[[pipe]]\npath = \"/a\"\nfile = {file:?}\nmode = \"{mode}\"\n")).unwrap();
        let told = Launch::dev().args(["--config".as_ref(), config.as_os_str()]).start().unwrap_err().to_string();
        assert!(told.contains(part), "{part:?} is not in {told}");
    };
    std::fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    for mode in MODES {
        check("notes.txt", mode, "is an ordinary file, which is not ours to replace");
        check("folder", mode, "is a folder");
        check("none/at/all", mode, "mkdir -p");
    }
    check("standard/x", "fifo", "does not exist");
    assert_eq!(std::fs::read(dir.path().join("notes.txt")).unwrap(), b"mine");
    if Path::new("/proc/self").exists() {
        check("/proc/none.pipe", "fifo", "can't serve");
    }
    // Two servers on one path.
    let pipes = Pipes::new("");
    let config = pipes.path("standpipe.toml");
    let told = Launch::dev().args(["--config".as_ref(), config.as_os_str()]).start().unwrap_err().to_string();
    assert!(told.contains("is served by another standpipe"), "{told}");
    quiet(pipes.server, &[]);
}

#[test]
#[ignore = "takes a minute; run by hand"]
fn an_idle_minute_changes_nothing() {
    let pipes = Pipes::new("");
    pipes.put(20_000, 1);
    for mode in MODES {
        pipes.burst(mode, 200);
    }
    let before = pipes.baseline();
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        std::thread::park_timeout(Duration::from_secs(1));
    }
    let after = Baseline::of(pipes.server.pid()).unwrap();
    eprintln!("before {before:?}, after {after:?}");
    assert!(after.threads <= before.threads && after.descriptors <= before.descriptors);
}

/// A command in the foreground, stopped when dropped.
struct Foreground {
    child: Child,
    dir: PathBuf,
}

impl Foreground {
    /// Starts it; `ready` waits for its line.
    fn start(dir: &Path, url: &str, arguments: &[&str]) -> Self {
        let mut command = sp(dir, url);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { child: command.spawn().unwrap(), dir: dir.to_owned() }
    }

    fn ready(mut self) -> Self {
        let mut line = String::new();
        BufReader::new(self.child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("standpipe ready: cat "), "{line:?}");
        let path = self.dir.join(line.trim_end().rsplit(' ').next().unwrap());
        assert!(path.exists());
        self
    }

    /// Stops it in good order; what it said.
    fn stop(mut self) -> String {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let mut told = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        assert!(self.child.wait().unwrap().success(), "{told}");
        told
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        // Both fail only where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sp(dir: &Path, url: &str) -> Command {
    let mut command = Command::new(binary());
    command.current_dir(dir).env("STANDPIPE_URL", url).env("HOME", dir).env_remove("XDG_STATE_HOME");
    command
}

fn said(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn pipe_serves_a_value_of_a_server() {
    let server = Launch::dev().start().unwrap();
    write(server.addr(), "PUT", "/home.json", r#"{"name":"Cottage","rooms":{"a":{"t":1},"b":{"t":2}}}"#);
    let dir = tempfile::tempdir().unwrap();
    let check = |arguments: &[&str], expected: &str, counted: &str| {
        let pipe = Foreground::start(dir.path(), &server.url(), &[&["pipe", "/home", "h"], arguments].concat()).ready();
        assert_eq!(cat(&dir.path().join("h")), expected, "{arguments:?}");
        write(server.addr(), "PUT", "/home/name.json", "\"Castle\"");
        assert_eq!(cat(&dir.path().join("h")), expected.replace("Cottage", "Castle"), "{arguments:?}");
        write(server.addr(), "PUT", "/home/name.json", "\"Cottage\"");
        let told = pipe.stop();
        assert!(told.contains(counted), "{told}");
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "the file is gone with it");
    };
    let text = "name: Cottage\nrooms/a/t: 1\nrooms/b/t: 2\n";
    let served = "2 readers: 2 served, 0 collided, 0 left early or were cut";
    check(&["--render", "text"], text, served);
    check(&["--render", "text", "--mode", "file"], text, "2 readers served by 2 documents, 0 not made");
    check(
        &["--render", "markdown"],
        "# /home\n\n- **name**: Cottage\n\n## rooms\n\n| | t |\n|---|---|\n| a | 1 |\n| b | 2 |\n\n",
        served,
    );
    let json = request(server.addr(), "GET", "/home.json?print=pretty", &[], b"").unwrap().text() + "\n";
    check(&[], &json, served);
    // Readable by its owner alone, unless more is asked for; never to be written to.
    let pipe = Foreground::start(dir.path(), &server.url(), &["pipe", "/home", "h", "--perm", "0444"]).ready();
    let found = std::fs::metadata(dir.path().join("h")).unwrap();
    assert!(found.file_type().is_fifo() && found.permissions().mode() & 0o777 == 0o444);
    // A server that is gone is told, and the reader is not kept.
    drop(server);
    assert_eq!(cat(&dir.path().join("h")), "");
    assert!(pipe.stop().contains("can't reach"));
    let mut unreachable = sp(dir.path(), "http://127.0.0.1:1");
    assert_eq!(unreachable.args(["pipe", "/home", "h"]).status().unwrap().code(), Some(3));
}

#[test]
fn pipe_serves_a_folder_fresh_on_every_open() {
    let dir = tempfile::tempdir().unwrap();
    let docs = dir.path().join("docs");
    std::fs::create_dir(&docs).unwrap();
    std::fs::write(docs.join("b.md"), "second\n").unwrap();
    std::fs::write(docs.join("a.md"), "first").unwrap();
    std::fs::write(docs.join("notes.txt"), "no").unwrap();
    std::fs::write(docs.join(".hidden.md"), "no").unwrap();
    let pipe = Foreground::start(dir.path(), "http://127.0.0.1:1", &["pipe", "docs", "all.pipe"]).ready();
    let all = dir.path().join("all.pipe");
    assert_eq!(cat(&all), "a.md\n====\n\nfirst\n\nb.md\n====\n\nsecond\n");
    std::fs::remove_file(docs.join("b.md")).unwrap();
    std::fs::write(docs.join("0.md"), "").unwrap();
    assert_eq!(cat(&all), "0.md\n====\n\n\na.md\n====\n\nfirst\n");
    pipe.stop();
    // The pipe may be in its own folder, and the folder's name may begin with a slash.
    let absolute = docs.to_str().unwrap();
    let arguments = ["pipe", absolute, "docs/all.md", "--folder", "--mode", "file"];
    let pipe = Foreground::start(dir.path(), "http://127.0.0.1:1", &arguments).ready();
    assert_eq!(cat(&docs.join("all.md")), "0.md\n====\n\n\na.md\n====\n\nfirst\n\nall.md\n======\n\n");
    pipe.stop();
}

#[test]
fn a_mirror_is_whole_at_every_moment_and_runs_its_command() {
    let server = Launch::dev().start().unwrap();
    let filler = "z".repeat(20_000);
    let addr = server.addr();
    let put = |n: u32| write(addr, "PUT", "/m.json", &format!(r#"{{"n":{n},"text":"{filler}","end":{n}}}"#));
    put(0);
    let dir = tempfile::tempdir().unwrap();
    let command = "echo run >> runs; test -e fail && exit 7; true";
    let mirror =
        Foreground::start(dir.path(), &server.url(), &["mirror", "/m", "./live/copy.json", "--on-change", command]);
    // The folder need not be there.
    let copy = dir.path().join("live/copy.json");
    assert!(until(|| copy.exists()));
    let n = |text: &str| -> u64 {
        let value: serde_json::Value = serde_json::from_str(text).expect("a whole copy");
        assert_eq!((&value["n"], value["text"].as_str().map(str::len)), (&value["end"], Some(20_000)));
        value["n"].as_u64().unwrap()
    };
    let reads = std::thread::scope(|scope| {
        let writer = scope.spawn(|| (1..=2_000).for_each(|n| _ = put(n)));
        let (mut reads, mut last) = (0, 0);
        while !writer.is_finished() {
            let now = n(&std::fs::read_to_string(&copy).unwrap());
            assert!(now >= last, "an older copy");
            (last, reads) = (now, reads + 1);
        }
        reads
    });
    eprintln!("{reads} reads during 2,000 changes");
    assert!(until(|| n(&std::fs::read_to_string(&copy).unwrap()) == 2_000));
    let runs = || std::fs::read_to_string(dir.path().join("runs")).unwrap_or_default().lines().count();
    assert!(until(|| runs() > 0) && runs() < 2_000, "{} runs", runs());
    std::fs::write(dir.path().join("fail"), "").unwrap();
    put(4_000);
    assert!(until(|| n(&std::fs::read_to_string(&copy).unwrap()) == 4_000));
    let ran = runs();
    put(4_001);
    assert!(until(|| n(&std::fs::read_to_string(&copy).unwrap()) == 4_001 && runs() > ran));
    let told = mirror.stop();
    assert!(told.contains("exit status: 7"), "{told}");
    assert_eq!(n(&std::fs::read_to_string(&copy).unwrap()), 4_001);
    quiet(server, &[]);
}

#[test]
fn cat_prints_what_a_file_would_hold_and_takes_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sp.sock");
    let server = Launch::serve().args(["--socket".as_ref(), socket.as_os_str()]).start().unwrap();
    let state = server.data().with_extension("state");
    let run = |url: &str, arguments: &[&str]| {
        let mut command = sp(dir.path(), url);
        command.env("XDG_STATE_HOME", &state).args(arguments);
        said(command)
    };
    let url = server.url();
    run(&url, &["put", "/home", r#"{"name":"Cottage","temp":21.5}"#]);
    let unix = format!("unix:{}", socket.display());
    for url in [&url, &unix] {
        assert_eq!(run(url, &["cat", "/home/name"]), "Cottage\n");
        assert_eq!(run(url, &["cat", "/home/temp"]), "21.5\n");
        assert_eq!(run(url, &["cat", "/none"]), "");
        assert_eq!(run(url, &["cat", "/home"]), "{\n  \"name\": \"Cottage\",\n  \"temp\": 21.5\n}\n");
        assert_eq!(run(url, &["cat", "/home", "--render", "text"]), "name: Cottage\ntemp: 21.5\n");
        assert_eq!(run(url, &["get", "/home/name"]), "\"Cottage\"\n");
    }
    // A stale announcement does no harm; nobody listens there.
    std::fs::remove_file(&socket).unwrap();
    assert_eq!(run(&url, &["cat", "/home/name"]), "Cottage\n");
    quiet(server, &[]);
}
