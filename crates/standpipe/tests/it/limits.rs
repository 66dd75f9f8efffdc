//! What the serving core promises of itself, through the binary: rates, and the status that tells who
//! is there, what they do and who is slow.

use standpipe_testkit::http::{Conn, request};
use standpipe_testkit::{Launch, until};

use crate::support::{dev, dev_with, quiet, write};

const ADMIN: [(&str, &str); 1] = [("Authorization", "Bearer owner")];

#[test]
fn who_asks_too_often_is_told_when_to_come_back() {
    let (server, _dir) = dev_with("[limits]\nrequests_per_s_per_peer_max = 1\nrequests_burst_per_peer_max = 3\n");
    let addr = server.addr();
    let mut kept = Conn::open(addr).unwrap();
    // The rate is that of the address, whatever connections it uses.
    let mut statuses: Vec<u16> = (0..2).map(|_| kept.request("GET", "/a.json", &[], b"").unwrap().status).collect();
    statuses.extend((0..2).map(|_| request(addr, "GET", "/a.json", &[], b"").unwrap().status));
    let refused = kept.request("PUT", "/a.json", &[], b"1").unwrap();
    assert!(statuses[3] == 429 || refused.status == 429, "{statuses:?} {}", refused.status);
    assert_eq!(statuses[..3], [200; 3]);
    if refused.status == 429 {
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert!(refused.json().unwrap()["error"].as_str().unwrap().contains("requests_per_s_per_peer_max"));
    }
    assert!(until(|| kept.request("GET", "/a.json", &[], b"").unwrap().status == 200));
    quiet(server, &[]);
}

#[test]
fn the_status_shows_who_is_there_and_who_is_slow() {
    let locked = Launch::serve().start().unwrap();
    assert_eq!(request(locked.addr(), "GET", "/.status", &[], b"").unwrap().status, 401);
    let server = dev();
    let addr = server.addr();
    assert_eq!(request(addr, "GET", "/.status", &[], b"").unwrap().status, 200);
    assert_eq!(request(addr, "PUT", "/.status", &ADMIN, b"1").unwrap().status, 405);
    let status = || request(addr, "GET", "/.status", &ADMIN, b"").unwrap().json().unwrap();
    // A watcher that reads nothing, and values too large for the buffers in between.
    let mut deaf = Conn::open(addr).unwrap();
    deaf.send(&deaf.encode("GET", "/a.json", &[("Accept", "text/event-stream")], b"").unwrap()).unwrap();
    assert!(until(|| status()["doors"]["http"]["states"]["watching"] == 1));
    let mut fill = 0;
    assert!(until(|| {
        fill += 1;
        write(addr, "PUT", "/a.json", &format!("\"{fill}{}\"", "x".repeat(1 << 20)));
        status()["slowest"][0]["blocked_for_ms"].as_u64() > Some(0)
    }));
    let now = status();
    assert_eq!(now["doors"]["http"]["states"]["blocked"], 1, "{now:#}");
    assert_eq!((&now["slowest"][0]["peer"], &now["watchers"]), (&"127.0.0.1".into(), &1.into()), "{now:#}");
    let metrics = request(addr, "GET", "/metrics", &[], b"").unwrap().text();
    assert!(metrics.contains("standpipe_slowest_peer_blocked_seconds{rank=\"1\",door=\"http\",peer=\"127.0.0.1\"}"));
    drop(deaf);
    assert!(until(|| status()["slowest"].as_array().unwrap().is_empty()));
    quiet(server, &[]);
}

#[test]
fn the_worst_case_is_told_to_who_asks() {
    for (arguments, told) in [(&["-v"][..], true), (&[], false)] {
        let mut server = Launch::dev().args(arguments).start().unwrap();
        // Complete only now.
        assert!(server.stop().unwrap().success());
        assert_eq!(server.stderr().contains("MiB in the worst case"), told, "{}", server.stderr());
    }
}
