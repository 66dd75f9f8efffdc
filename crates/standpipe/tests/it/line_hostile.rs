//! Peers of the line door that are slow, silent, too many or broken: each is told in the protocol and closed at
//! its limit, and leaves nothing behind.

use std::time::{Duration, Instant};

use standpipe_testkit::http::request;
use standpipe_testkit::{Baseline, Lines, Server, until};

use crate::line::{alike, dev_with, open};
use crate::support::{Random, balanced, descriptors, metric, quiet, write};

/// Runs `scenario` with these limits; afterwards counters balance and nothing is held.
fn check(limits: &str, scenario: impl FnOnce(&Server)) {
    let (server, _config) = dev_with(limits);
    write(server.addr(), "PUT", "/kept.json", "1");
    assert_eq!(open(&server).ask("GET /kept").unwrap(), "1");
    let before = Baseline::of(server.pid()).unwrap();
    scenario(&server);
    assert!(until(|| balanced(server.addr()).is_ok()), "{:?}", balanced(server.addr()));
    let workers = metric(server.addr(), "standpipe_workers") as usize;
    let mut after = before;
    let back = until(|| {
        after = Baseline::of(server.pid()).unwrap();
        after.threads <= before.threads + workers && after.descriptors <= before.descriptors
    });
    assert!(back, "before {before:?}, after {after:?}");
    assert_eq!(open(&server).ask("GET /kept").unwrap(), "1");
    quiet(server, &[]);
}

fn closed_for(server: &Server, reason: &str) -> u64 {
    let metrics = request(server.addr(), "GET", "/metrics", &[], b"").unwrap().text();
    let series = "standpipe_connections_closed_total{";
    let mine = metrics.lines().filter(|line| line.starts_with(series) && line.contains(&format!("\"{reason}\"")));
    mine.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[test]
fn a_line_too_long_is_told_and_the_next_one_counts() {
    check("line_bytes_max = 1000", |server| {
        let mut lines = open(server);
        let told = "ERR too_large the line is longer than line_bytes_max (1000); the next one counts again";
        let fits = "x".repeat(995);
        lines.send(format!("ECHO {fits}\nECHO {fits}\r\nECHO {fits}x\nPING\n")).unwrap();
        for expected in [&fits[..], &fits, told, "PONG"] {
            assert_eq!(lines.line().unwrap(), expected);
        }
        // It is told as soon as it is known, and the rest is skipped in whatever pieces it comes.
        let endless = "SET /kept ".repeat(100_000);
        lines.send(&endless).unwrap();
        assert_eq!(lines.line().unwrap(), told);
        lines.send(&endless).unwrap();
        lines.send("\nPING\n").unwrap();
        assert_eq!(lines.line().unwrap(), "PONG");
        // Its error waits for the answers before it.
        lines.send(format!("SET /kept 1\n{endless}\nGET /kept\n")).unwrap();
        assert!(alike(&lines.line().unwrap(), "OK *"));
        assert_eq!(lines.line().unwrap(), told);
        assert_eq!(lines.line().unwrap(), "1");
    });
}

#[test]
fn long_lines_share_one_room() {
    let mib = 1 << 20;
    check(&format!("request_body_bytes_max = {mib}\nbodies_bytes_in_flight_max = {mib}"), |server| {
        let mut first = open(server);
        first.send("x".repeat(mib / 2)).unwrap();
        // It is admitted by turns, so what is there of it may double.
        let told = until(|| {
            let mut other = open(server);
            let _refused_meanwhile = other.send("y".repeat(mib));
            let told = other.rest().unwrap_or_default();
            alike(&told, "ERR overloaded *bodies_bytes_in_flight_max*(after * ms)\n")
        });
        assert!(told, "nobody is refused");
        drop(first);
        assert!(until(|| metric(server.addr(), "standpipe_connections_open") == 1));
        // The room is given back.
        let mut lines = open(server);
        let value = format!("{:?}", "z".repeat(mib / 4));
        assert!(lines.ask(&format!("SET /long {value}")).unwrap().starts_with("OK "));
        assert_eq!(lines.ask("GET /long").unwrap(), value);
        lines.ask("DEL /long").unwrap();
    });
}

#[test]
fn half_a_line_is_waited_for_until_its_deadline() {
    check("request_head_ms_max = 1000\nfirst_byte_ms_max = 1000\nidle_ms_max = 1500", |server| {
        let mut silent = open(server);
        assert_eq!(silent.rest().unwrap(), "BYE first_byte_timeout\n");
        // A byte every now and then does not help.
        let mut slow = open(server);
        let begun = Instant::now();
        let mut said = None;
        while said.is_none() {
            slow.send("x").unwrap();
            said = slow.line_within(Duration::from_millis(20)).unwrap();
            assert!(begun.elapsed() < Duration::from_secs(20), "still open");
        }
        assert_eq!(said.as_deref(), Some("BYE head_timeout"));
        let mut idle = open(server);
        assert_eq!(idle.ask("PING").unwrap(), "PONG");
        assert_eq!(idle.rest().unwrap(), "BYE idle_timeout\n");
        // Who watches is not idle.
        let mut watcher = open(server);
        assert_eq!(watcher.ask("WATCH /kept").unwrap(), "WATCHING 1 1");
        assert_eq!(watcher.line().unwrap(), "EVENT 1 1 put / 1");
        assert_eq!(watcher.line_within(Duration::from_millis(3_000)).unwrap(), None);
        assert_eq!(watcher.ask("PING").unwrap(), "PONG");
    });
}

#[test]
fn who_does_not_read_is_cut() {
    check("write_progress_ms_max = 1500\nwatch_gather_ms = 0", |server| {
        let addr = server.addr();
        let value = format!("\"{}\"", "x".repeat(256 << 10));
        let mut watcher = open(server);
        assert!(watcher.ask("WATCH /big").unwrap().starts_with("WATCHING 1"));
        let before = closed_for(server, "slow_watcher");
        let mut n = 0;
        let cut = until(|| {
            n += 1;
            write(addr, "PUT", "/big.json", if n % 2 == 0 { &value } else { "0" });
            closed_for(server, "slow_watcher") > before
        });
        let metrics = || request(addr, "GET", "/metrics", &[], b"").unwrap().text();
        assert!(cut, "a watcher that reads nothing is still there: {}", metrics());
        // The same for answers.
        write(addr, "PUT", "/big.json", &value);
        let mut asker = open(server);
        asker.send("GET /big\n".repeat(200)).unwrap();
        assert!(until(|| closed_for(server, "write_timeout") > 0), "a reader that reads nothing is still there");
        write(addr, "DELETE", "/big.json", "");
    });
}

#[test]
fn a_slow_watcher_is_told_of_the_gap() {
    check("ring_events_max = 4", |server| {
        let value = "x".repeat(64 << 10);
        let mut watcher = open(server);
        assert_eq!(watcher.ask("WATCH /n").unwrap(), "WATCHING 1 1");
        assert_eq!(watcher.line().unwrap(), "EVENT 1 1 put / null");
        let mut writer = open(server);
        let last = 400;
        for n in 0..=last {
            assert!(writer.ask(&format!("SET /n \"{n} {value}\"")).unwrap().starts_with("OK "));
        }
        let (mut rev, mut resets) = (1, 0);
        loop {
            let line = watcher.line().unwrap();
            if line == "RESET 1 lagged" {
                resets += 1;
                continue;
            }
            let [_, _, at, _, _, json] = line.splitn(6, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let at: u64 = at.parse().unwrap();
            assert!(at > rev, "{at} after {rev}");
            rev = at;
            if json.starts_with(&format!("\"{last} ")) {
                break;
            }
        }
        assert!(resets > 0, "the socket's buffers held everything");
        writer.ask("DEL /n").unwrap();
    });
}

#[test]
fn refusals_are_told_in_the_protocol() {
    let limits = "connections_per_door_max = 3\nwatchers_per_connection_max = 2";
    check(limits, |server| {
        let mut open_ones: Vec<_> = (0..3).map(|_| open(server)).collect();
        open_ones.iter_mut().for_each(|lines| assert_eq!(lines.ask("PING").unwrap(), "PONG"));
        let told = open(server).rest().unwrap();
        assert!(alike(&told, "ERR overloaded *connections_per_door_max*(after * ms)\n"), "{told}");
        let watcher = &mut open_ones[0];
        for id in 1..=2 {
            assert_eq!(watcher.ask("WATCH /kept").unwrap(), format!("WATCHING {id} 1"));
            watcher.line().unwrap();
        }
        let told = watcher.ask("WATCH /kept").unwrap();
        assert!(alike(&told, "ERR overloaded *watchers_per_connection_max*"), "{told}");
        assert_eq!(watcher.ask("UNWATCH 1").unwrap(), "OK");
        assert!(watcher.ask("WATCH /kept").unwrap().starts_with("WATCHING "));
    });
}

#[test]
fn http_on_this_port_is_told_and_closed() {
    check("", |server| {
        for request in ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST /a.json HTTP/1.1\r\nHost: x\r\n\r\nSET /kept 2\r\n"]
        {
            let mut lines = open(server);
            lines.send(request).unwrap();
            let told = lines.rest().unwrap();
            assert_eq!(told, "ERR bad_request this port speaks lines, not HTTP; HELP lists the commands\n");
        }
    });
}

#[test]
fn random_bytes_harm_nobody() {
    check("line_bytes_max = 2000\nfirst_byte_ms_max = 5000", |server| {
        let mut random = Random::new();
        let words = [
            "GET ", "WATCH ", "UNWATCH ", "HELP ", "ECHO ", "\n", "\r\n", "/a", "\"", "\\", " ", "=", "orderBy=", "\0",
            "é",
        ];
        for _ in 0..60 {
            let mut bytes = Vec::new();
            for _ in 0..random.below(400) {
                match random.below(3) {
                    0 => bytes.push(random.below(256) as u8),
                    _ => bytes.extend_from_slice(words[random.below(words.len() as u64) as usize].as_bytes()),
                }
            }
            bytes.extend_from_slice(b"\nECHO the end\n");
            let mut lines = open(server);
            lines.send(&bytes).unwrap();
            lines.finish().unwrap();
            // Bytes that are no text come back as they are in an echo.
            let said = lines.rest_bytes().unwrap();
            assert!(said.ends_with(b"the end\n"), "{}", said.escape_ascii());
        }
    });
}

#[test]
fn a_thousand_idle_ones_cost_the_active_one_nothing() {
    descriptors(4_096);
    check("", |server| {
        let mut idle: Vec<_> = (0..1_000).map(|_| open(server)).collect();
        idle.iter_mut().for_each(|lines| assert_eq!(lines.ask("PING").unwrap(), "PONG"));
        idle[0].ask("WATCH /kept").unwrap();
        let mut active = open(server);
        let begun = Instant::now();
        for n in 0..200 {
            assert!(active.ask(&format!("SET /n {n}")).unwrap().starts_with("OK "));
            assert_eq!(active.ask("GET /n").unwrap(), n.to_string());
        }
        eprintln!("400 requests beside 1,000 idle connections: {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(20));
        active.ask("DEL /n").unwrap();
        idle.iter_mut().skip(1).for_each(|lines| assert_eq!(lines.ask("PING").unwrap(), "PONG"));
    });
}

#[test]
fn a_server_that_stops_says_bye() {
    let (mut server, _config) = dev_with("");
    let mut idle = open(&server);
    assert_eq!(idle.ask("PING").unwrap(), "PONG");
    let mut watcher = open(&server);
    assert_eq!(watcher.ask("WATCH /a").unwrap(), "WATCHING 1 0");
    assert_eq!(watcher.line().unwrap(), "EVENT 1 0 put / null");
    let mut half = open(&server);
    assert_eq!(half.ask("PING").unwrap(), "PONG");
    half.send("SET /a ").unwrap();
    let status = server.stop().unwrap();
    assert!(status.success(), "{status}");
    for lines in [&mut idle, &mut watcher, &mut half] {
        assert_eq!(lines.rest().unwrap(), "BYE shutdown\n");
    }
}

#[test]
fn a_peer_that_resets_leaves_nothing() {
    check("", |server| {
        for n in 0..50 {
            let mut lines = open(server);
            lines.send("WATCH /kept\nGET /kept\n".repeat(1 + n % 3)).unwrap();
        }
        let mut lines = Lines::open(server.door("line").unwrap()).unwrap();
        assert_eq!(lines.ask("PING").unwrap(), "PONG");
    });
}
