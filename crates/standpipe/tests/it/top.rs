//! `standpipe top` against a server with a known load: the figures, and a terminal that is left as it was.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use standpipe_testkit::http::Conn;
use standpipe_testkit::{Launch, Server, binary, until};

use crate::support::{dev, metric, quiet, write};

fn top(server: &Server, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("top").args(["--url", &server.url()]).args(arguments);
    command.env_remove("STANDPIPE_TOKEN").output().unwrap()
}

#[test]
fn one_look_has_all_figures() {
    let server = dev();
    let addr = server.addr();
    write(addr, "PUT", "/a.json", "1");
    let _watchers: Vec<_> = (0..3).map(|_| crate::watches::open(addr, "/a.json", None)).collect();
    let mut idle: Vec<_> = (0..5).map(|_| Conn::open(addr).unwrap()).collect();
    idle.iter_mut().for_each(|conn| assert_eq!(conn.request("GET", "/a.json", &[], b"").unwrap().status, 200));
    let look = std::thread::scope(|scope| {
        let looking = scope.spawn(|| top(&server, &["--once", "--json", "--interval", "2"]));
        // Its first look is the only request besides: what comes behind that is within the interval.
        let begun = metric(addr, "standpipe_connections_accepted_total");
        assert!(until(|| metric(addr, "standpipe_connections_accepted_total") > begun));
        std::thread::park_timeout(Duration::from_millis(200));
        for n in 0..40 {
            write(addr, "PUT", "/a.json", &n.to_string());
        }
        looking.join().unwrap()
    });
    assert!(look.status.success(), "{}", String::from_utf8_lossy(&look.stderr));
    let look: Value = serde_json::from_slice(&look.stdout).unwrap();
    let number = |at: &str| look.pointer(at).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {at} in {look}"));
    assert_eq!(number("/watchers"), 3.0);
    assert_eq!(number("/doors/http/states/watching"), 3.0);
    assert!(number("/doors/http/open") >= 8.0 && number("/doors/http/states/idle") >= 5.0, "{look}");
    assert_eq!(number("/databases/default/rev"), 41.0);
    assert_eq!(number("/databases/default/commits_synced"), 1.0);
    let seconds = number("/rates/seconds");
    assert!((0.9..30.0).contains(&seconds), "{seconds}");
    let happened = |at: &str| (number(at) * seconds).round();
    assert!((1.0..=40.0).contains(&happened("/rates/databases/default/commits_per_s")), "{look}");
    assert!((2.0..=60.0).contains(&happened("/rates/doors/http/requests_per_s")), "{look}");
    assert!(number("/rates/out_bytes_per_s") > 0.0 && number("/rates/databases/default/commit_ms") > 0.0);
    quiet(server, &[]);
}

#[test]
fn a_table_is_plain_text() {
    let server = dev();
    write(server.addr(), "PUT", "/a.json", "1");
    let look = top(&server, &["--once", "--interval", "0.1"]);
    let text = String::from_utf8(look.stdout).unwrap();
    assert!(look.status.success() && !text.contains('\u{1b}'), "{text}");
    for part in [
        "standpipe top  http://",
        "DOOR",
        "http",
        "QUEUE",
        "write",
        "DATABASE",
        "default",
        "no slow peers",
        "refusals: none",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    quiet(server, &[]);
}

#[test]
fn what_can_not_be_shown_is_told() {
    let check = |output: Output, code: i32, told: &str| {
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{complaint}");
        assert!(complaint.contains(told), "{told:?} is not in {complaint}");
    };
    let server = Launch::serve().start().unwrap();
    check(top(&server, &["--once"]), 4, "--token-file");
    check(top(&server, &[]), 2, "standpipe top --once");
    check(top(&server, &["--once", "--interval", "0"]), 2, "0.1 to 3600");
    let mut server = dev();
    server.stop().unwrap();
    check(top(&server, &["--once"]), 3, "can't reach");
}

/// In a terminal that `script` makes; left out where there is none.
#[test]
fn a_terminal_is_left_as_it_was() {
    let server = dev();
    let shown = |command: &str, input: &[u8]| {
        let top = format!("{} top --url {} --token owner --interval 0.1", binary().display(), server.url());
        let mut script = Command::new("script");
        script
            .args(["-qec", &format!("stty rows 24 cols 80; {}", command.replace("TOP", &top)), "/dev/null"])
            .env("TERM", "xterm");
        let spawned = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut script = match spawned {
            Ok(script) => script,
            Err(error) => return eprintln!("left out: a terminal needs `script`: {error}"),
        };
        let mut stdin = script.stdin.take().unwrap();
        let asked = metric(server.addr(), "standpipe_requests_begun_total");
        // It is there, and has drawn more than once.
        assert!(until(|| metric(server.addr(), "standpipe_requests_begun_total") > asked + 20));
        stdin.write_all(input).unwrap();
        let output = script.wait_with_output().unwrap();
        drop(stdin);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{command}: {text}");
        let (entered, left) = (text.find("\u{1b}[?1049h"), text.rfind("\u{1b}[?1049l"));
        assert!(entered.is_some() && entered < left, "{command}: {text:?}");
        assert!(text.contains("standpipe") && text.contains("DOOR"), "{text:?}");
    };
    shown("TOP", b"q");
    shown("TOP", b"\x03");
    shown("timeout --foreground --preserve-status -s TERM 3 TOP", b"");
    quiet(server, &[]);
}
