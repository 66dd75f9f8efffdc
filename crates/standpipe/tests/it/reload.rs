//! The configuration read again while the server runs: on SIGHUP and when the file changes, all of
//! it or nothing, with every connection left alone.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::json;
use standpipe_testkit::http::{Conn, request};
use standpipe_testkit::{Baseline, LIMIT, Launch, Server, until};

use crate::support::{quiet, write};
use crate::watches::{next, open};

/// What the log says of changes that can't take effect yet; no fault of the server.
const WAITING: &str = "wait for a restart";
/// What it says of a file that is wrong.
const REFUSED: &str = "the configuration is refused";

/// A server and its configuration file.
struct Configured {
    server: Server,
    file: PathBuf,
    dir: tempfile::TempDir,
}

impl Configured {
    fn start(launch: Launch, config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("standpipe.toml");
        std::fs::write(&file, config).unwrap();
        let server = launch.args(["--config".as_ref(), file.as_os_str()]).start().unwrap();
        Self { server, file, dir }
    }

    fn dev(config: &str) -> Self {
        Self::start(Launch::dev(), config)
    }

    fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// Does `change` and waits until what comes of it is counted as `outcome`.
    fn becomes(&self, outcome: &str, change: impl FnOnce()) {
        let name = format!("standpipe_config_reloads_total{{outcome=\"{outcome}\"}} ");
        let count = || {
            let metrics = request(self.addr(), "GET", "/metrics", &[], b"").unwrap().text();
            let line = metrics.lines().find_map(|line| line.strip_prefix(&name)).map(str::to_owned);
            line.unwrap_or_else(|| panic!("no {name}in {metrics}")).parse::<u64>().unwrap()
        };
        let before = count();
        change();
        assert!(until(|| count() > before), "not {outcome}: {}", self.server.stderr());
    }

    /// Writes the file as an editor does that keeps it.
    fn write(&self, config: &str) {
        std::fs::write(&self.file, config).unwrap();
    }
}

fn can_watch(addr: SocketAddr) -> bool {
    let accept = [("Accept", "text/event-stream")];
    let mut conn = Conn::open(addr).unwrap();
    conn.send(&conn.encode("GET", "/a.json", &accept, b"").unwrap()).unwrap();
    conn.response(true).unwrap().status == 200
}

#[test]
fn limits_change_under_open_connections() {
    let set = Configured::dev("[limits]\nwatchers_max = 2\n");
    let addr = set.addr();
    let mut streams = [open(addr, "/a.json", None), open(addr, "/a.json", None)];
    streams.iter_mut().for_each(|stream| assert_eq!(next(stream).data, json!(null)));
    let mut kept = Conn::open(addr).unwrap();
    assert_eq!(kept.request("GET", "/a.json", &[], b"").unwrap().status, 200);
    assert!(!can_watch(addr), "two watchers are the limit");
    set.becomes("applied", || set.write("[limits]\nwatchers_max = 3\n"));
    assert!(can_watch(addr));
    set.becomes("applied", || set.write("[limits]\nwatchers_max = 1\n"));
    assert!(until(|| !can_watch(addr)), "one is, and two are there");
    for value in 1..=3 {
        write(addr, "PUT", "/a.json", &value.to_string());
        streams.iter_mut().for_each(|stream| assert_eq!(next(stream).data, json!(value)));
    }
    assert_eq!(kept.request("GET", "/a.json", &[], b"").unwrap().text(), "3", "the same connection");
    let log = set.server.stderr();
    assert!(log.contains("in force now: limits.watchers_max: 3 → 1"), "{log}");
    drop(streams);
    quiet(set.server, &[]);
}

#[test]
fn limits_of_the_engine_change_too() {
    let set = Configured::dev("[limits]\nquery_children_max = 2\n");
    write(set.addr(), "PUT", "/a.json", r#"{"x":1,"y":2,"z":3}"#);
    let query = || request(set.addr(), "GET", "/a.json?orderBy=%22$value%22&limitToFirst=1", &[], b"").unwrap().status;
    assert_ne!(query(), 200);
    set.becomes("applied", || set.write("[limits]\nquery_children_max = 3\n"));
    assert_eq!(query(), 200);
}

#[test]
fn files_that_are_replaced_are_seen() {
    let set = Configured::dev("");
    let other = set.dir.path().join("new.toml");
    let replace = |config: &str| {
        std::fs::write(&other, config).unwrap();
        std::fs::rename(&other, &set.file).unwrap();
    };
    set.becomes("applied", || replace("[limits]\ndrain_ms = 1001\n"));
    set.becomes("applied", || replace("[limits]\ndrain_ms = 1002\n"));
    set.becomes("unchanged", || replace("[limits]\ndrain_ms = 1_002\n"));
    set.becomes("refused", || std::fs::remove_file(&set.file).unwrap());
    set.becomes("applied", || replace(""));
    let before = Baseline::of(set.server.pid()).unwrap();
    for n in 0..5 {
        set.becomes("applied", || replace(&format!("[limits]\ndrain_ms = 200{n}\n")));
    }
    assert!(until(|| Baseline::of(set.server.pid()).unwrap().is_back_at(&before)));
    quiet(set.server, &[REFUSED]);
}

/// As clusters mount a configuration: `standpipe.toml → ..data/standpipe.toml`, `..data → ..1`, and
/// the middle link is swapped.
#[test]
fn folders_that_are_swapped_are_seen() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let version = |name: &str, config: &str| {
        std::fs::create_dir(at(name)).unwrap();
        std::fs::write(at(name).join("standpipe.toml"), config).unwrap();
    };
    version("..1", "[limits]\ndrain_ms = 1001\n");
    symlink("..1", at("..data")).unwrap();
    symlink("..data/standpipe.toml", at("standpipe.toml")).unwrap();
    let file = at("standpipe.toml");
    let server = Launch::dev().args(["--config".as_ref(), file.as_os_str()]).start().unwrap();
    let set = Configured { server, file, dir: tempfile::tempdir().unwrap() };
    let swap = |target: &str| {
        symlink(target, at("..tmp")).unwrap();
        std::fs::rename(at("..tmp"), at("..data")).unwrap();
    };
    for n in 2..5 {
        version(&format!("..{n}"), &format!("[limits]\ndrain_ms = 100{n}\n"));
        set.becomes("applied", || swap(&format!("..{n}")));
        std::fs::remove_dir_all(at(&format!("..{}", n - 1))).unwrap();
    }
    set.becomes("applied", || std::fs::write(at("..4/standpipe.toml"), "[limits]\ndrain_ms = 9\n").unwrap());
    quiet(set.server, &[]);
}

#[test]
fn a_file_that_is_wrong_changes_nothing() {
    let good = "[limits]\nwatchers_max = 1\n";
    let set = Configured::dev(good);
    let addr = set.addr();
    let mut stream = open(addr, "/a.json", None);
    next(&mut stream);
    let place = set.file.display().to_string();
    let check = |config: &str, told: &[&str]| {
        set.becomes("refused", || set.write(config));
        let log = set.server.stderr();
        told.iter().for_each(|part| assert!(log.contains(&part.replace("FILE", &place)), "{part:?} is not in {log}"));
        assert!(!can_watch(addr), "the limit stays");
        let at_start = Launch::dev().args(["--config", &place]).start().map(|_| ()).unwrap_err().to_string();
        let error = at_start.lines().find(|line| line.starts_with("error: ")).unwrap();
        assert!(log.contains(error), "{error:?} is not in {log}");
    };
    check("[limits]\nwatchers_max = 9\nqqq = 1\n", &["error: FILE:3:1: unknown setting limits.qqq", "help: "]);
    check("[limits]\nwatchers_max = \"many\"\n", &["FILE:2:1: limits.watchers_max: invalid type"]);
    check("[limits]\nwatchers_max = 9\n[server\n", &["FILE:3:8: "]);
    check("[limits]\nwatchers_max = 9\nworkers_min = 9\nworkers_max = 1\n", &["FILE:3:1: limits.workers_min"]);
    check("[limits]\nwatchers_max = 0\n", &["FILE:2:1: limits.watchers_max", "would refuse everything"]);
    set.becomes("unchanged", || set.write(good));
    write(addr, "PUT", "/a.json", "1");
    assert_eq!(next(&mut stream).data, json!(1));
    drop(stream);
    quiet(set.server, &[REFUSED]);
}

#[test]
fn what_needs_a_restart_is_told() {
    let set = Configured::dev("");
    let config = "[engine]\nreaders_max = 77\n[limits]\nwatchers_max = 1\n";
    set.becomes("waiting", || set.write(config));
    let log = set.server.stderr();
    assert!(log.contains("wait for a restart: engine.readers_max: 4096 → 77"), "{log}");
    assert!(log.contains("in force now: limits.watchers_max"), "{log}");
    let _one = open(set.addr(), "/a.json", None);
    assert!(!can_watch(set.addr()), "what can be applied is");
    // It is told each time, for it is not in force yet.
    set.becomes("waiting", || set.write(config));
    set.becomes("applied", || set.write(""));
    quiet(set.server, &[WAITING]);
}

#[test]
fn a_signal_reloads_serve_and_stops_dev() {
    let set = Configured::start(Launch::serve(), "");
    set.becomes("unchanged", || set.server.signal(Signal::HUP).unwrap());
    quiet(set.server, &[]);
    // Without a file too: nothing to watch, but variables and arguments are checked again.
    let server = Launch::serve().start().unwrap();
    let set = Configured { server, file: PathBuf::new(), dir: tempfile::tempdir().unwrap() };
    set.becomes("unchanged", || set.server.signal(Signal::HUP).unwrap());
    quiet(set.server, &[]);
    // The terminal was closed.
    let mut dev = Launch::dev().start().unwrap();
    dev.signal(Signal::HUP).unwrap();
    assert_eq!(dev.wait().unwrap().code(), Some(0));
}

#[test]
fn a_service_manager_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path: &Path = &dir.path().join("notify");
    let manager = UnixDatagram::bind(path).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    let told = || {
        let mut message = [0; 256];
        let length = manager.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let mut server = Launch::serve().env("NOTIFY_SOCKET", path).start().unwrap();
    assert_eq!(told(), "READY=1\n");
    server.signal(Signal::HUP).unwrap();
    let reloading = told();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(told(), "READY=1\n");
    assert_eq!(server.stop().unwrap().code(), Some(0));
    assert_eq!(told(), "STOPPING=1\n");
}
