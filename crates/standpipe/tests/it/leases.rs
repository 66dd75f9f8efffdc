//! Presence: what is tied to a connection goes with it, however it ends, and a client that holds
//! something there writes it again when the server is back.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use serde_json::{Value, json};
use standpipe_testkit::http::{Conn, Stream, request};
use standpipe_testkit::{Baseline, Launch, Server, binary, until};

use crate::cli::{Cli, Follow};
use crate::support::{balanced, dev, metric, quiet, write};

/// Follows a path from its value now on.
fn stream(server: &Server, target: &str) -> Stream {
    Stream::open(server.addr(), target, &[]).unwrap()
}

/// The next change: its path and data.
fn change(stream: &mut Stream) -> (String, Value) {
    let (_, mut told, _) = stream.change().unwrap();
    (told["path"].as_str().unwrap().to_owned(), told["data"].take())
}

fn expect(stream: &mut Stream, path: &str, data: Value) {
    assert_eq!(change(stream), (path.to_owned(), data));
}

fn get(server: &Server, target: &str) -> Value {
    request(server.addr(), "GET", target, &[], b"").unwrap().json().unwrap()
}

/// A write over this connection that is tied to it.
fn leased(conn: &mut Conn, method: &str, target: &str, body: &str) {
    let got = conn.request(method, target, &[], body.as_bytes()).unwrap();
    assert_eq!(got.status, 200, "{method} {target}: {}", got.text());
}

/// `standpipe VERB … --while-connected`.
fn hold(cli: &Cli, arguments: &[&str]) -> Follow {
    cli.follow(binary(), &[arguments, &["--while-connected"]].concat())
}

/// Counters balance and nothing is held any more than at the start.
fn nothing_is_left(server: &Server, before: &Baseline) {
    assert!(until(|| balanced(server.addr()).is_ok()), "{:?}", balanced(server.addr()));
    let now = || Baseline::of(server.pid()).unwrap();
    assert!(until(|| now().is_back_at(before)), "{:?} after {before:?}", now());
}

#[test]
fn what_is_tied_to_a_connection_goes_with_it() {
    let server = dev();
    let mut watch = stream(&server, "/.json");
    expect(&mut watch, "/", Value::Null);
    let before = Baseline::of(server.pid()).unwrap();
    let mut conn = Conn::open(server.addr()).unwrap();
    leased(&mut conn, "PUT", "/a/b.json?lease=connection", "1");
    leased(&mut conn, "PATCH", "/a.json?lease=connection", r#"{"c":2,"d/e":3}"#);
    leased(&mut conn, "POST", "/list.json?lease=connection", "4");
    leased(&mut conn, "PUT", "/kept.json", "5");
    for _ in 0..4 {
        change(&mut watch);
    }
    // The connection gives its buffers back; it is still one.
    assert!(until(|| metric(server.addr(), "standpipe_connections_open") > 1));
    assert_eq!(get(&server, "/a.json"), json!({"b": 1, "c": 2, "d": {"e": 3}}));
    drop(conn);
    let gone: Vec<_> = (0..4).map(|_| change(&mut watch)).collect();
    assert!(gone.iter().all(|(_, data)| data.is_null()), "{gone:?}");
    assert_eq!(get(&server, "/.json"), json!({"kept": 5}));
    drop(watch);
    nothing_is_left(&server, &before);
    quiet(server, &[]);
}

#[test]
fn a_lease_that_could_not_last_is_refused() {
    let server = dev();
    let refused = |method: &str, target: &str, headers: &[(&str, &str)], part: &str| {
        let got = request(server.addr(), method, target, headers, b"1").unwrap();
        assert!(got.status == 400 && got.text().contains(part), "{method} {target}: {}", got.text());
    };
    refused("PUT", "/a.json?lease=connection", &[("Connection", "close")], "stays open");
    refused("DELETE", "/a.json?lease=connection", &[("Connection", "keep-alive")], "PUT, PATCH and POST");
    refused("PUT", "/a.json?lease=hour", &[], "lease must be");
    let mut conn = Conn::open(server.addr()).unwrap();
    let many: serde_json::Map<_, _> = (0..1_001).map(|n| (n.to_string(), json!(n))).collect();
    let got = conn.request("PATCH", "/a.json?lease=connection", &[], json!(many).to_string().as_bytes()).unwrap();
    assert!(got.status == 413 && got.text().contains("lease_locations_max"), "{}", got.text());
    assert_eq!(get(&server, "/.json"), Value::Null);
}

#[test]
fn a_hundred_connections_in_two_databases_all_go() {
    let server = dev();
    for database in ["/.json", "/.json?ns=other"] {
        write(server.addr(), "PUT", database, "null");
    }
    let before = Baseline::of(server.pid()).unwrap();
    let conns: Vec<_> = (0..100)
        .map(|n| {
            let mut conn = Conn::open(server.addr()).unwrap();
            leased(&mut conn, "PUT", &format!("/on/{n}.json?lease=connection"), "true");
            leased(&mut conn, "PUT", &format!("/on/{n}.json?lease=connection&ns=other"), "true");
            conn
        })
        .collect();
    let count = |target: &str| get(&server, target).as_array().map_or(0, Vec::len);
    assert_eq!((count("/on.json"), count("/on.json?ns=other")), (100, 100));
    drop(conns);
    assert!(until(|| get(&server, "/.json").is_null() && get(&server, "/.json?ns=other").is_null()));
    nothing_is_left(&server, &before);
}

#[test]
fn a_stop_releases_before_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Launch::dev().data(dir.path().join("data")).start().unwrap();
    let mut conn = Conn::open(server.addr()).unwrap();
    leased(&mut conn, "PUT", "/here.json?lease=connection", "1");
    let data = server.data().to_str().unwrap().to_owned();
    let cli = Cli::new(&server);
    assert!(server.stop().unwrap().success());
    // It looks, and opens nothing that could release a lease.
    let verified: Value = serde_json::from_str(&cli.ok(&["verify", "--data", &data])).unwrap();
    assert_eq!(verified["rows"], json!(0));
}

#[test]
fn a_killed_server_has_released_everything_before_it_is_read_again() {
    let mut server = Launch::dev().same_port().start().unwrap();
    let cli = Cli::new(&server);
    let _holds = hold(&cli, &["put", "/cli", "1"]);
    let mut conn = Conn::open(server.addr()).unwrap();
    leased(&mut conn, "PUT", "/raw.json?lease=connection", "1");
    assert!(until(|| metric(server.addr(), "standpipe_watchers") == 1));
    assert_eq!(get(&server, "/.json"), json!({"cli": 1, "raw": 1}));
    server.kill().unwrap();
    server.restart().unwrap();
    assert_eq!(get(&server, "/raw.json"), Value::Null, "the first read");
    // The command comes back by itself.
    assert!(until(|| get(&server, "/.json") == json!({"cli": 1})));
}

#[test]
fn the_command_holds_it_until_ctrl_c_or_its_death() {
    let server = dev();
    let cli = Cli::new(&server);
    write(server.addr(), "PUT", "/home/kept.json", "0");
    let mut watch = stream(&server, "/home.json");
    expect(&mut watch, "/", json!({"kept": 0}));
    let before = Baseline::of(server.pid()).unwrap();
    for signal in [Signal::INT, Signal::KILL] {
        let mut put = hold(&cli, &["put", "/home/ann", r#"{"at":"desk"}"#]);
        expect(&mut watch, "/ann", json!({"at": "desk"}));
        // The stream holds the connection from here on.
        assert!(until(|| metric(server.addr(), "standpipe_watchers") == 2));
        let status = put.signal(signal);
        assert_eq!(status.code(), (signal == Signal::INT).then_some(0), "{status}");
        expect(&mut watch, "/ann", Value::Null);
    }
    let mut patch = hold(&cli, &["patch", "/home", r#"{"x/y":1,"kept":null}"#]);
    let (_, told) = change(&mut watch);
    assert_eq!(told, json!({"x/y": 1, "kept": null}));
    assert!(until(|| metric(server.addr(), "standpipe_watchers") == 2));
    assert!(patch.signal(Signal::INT).success());
    expect(&mut watch, "/x/y", Value::Null);
    let mut push = hold(&cli, &["push", "/home", "7"]);
    let key: String = serde_json::from_str(&push.line()).unwrap();
    expect(&mut watch, &format!("/{key}"), json!(7));
    assert!(until(|| metric(server.addr(), "standpipe_watchers") == 2));
    assert!(push.signal(Signal::INT).success());
    expect(&mut watch, &format!("/{key}"), Value::Null);
    nothing_is_left_but(&server, &before, 1);
    drop(watch);
    quiet(server, &[]);
}

/// As [`nothing_is_left`], with streams still open.
fn nothing_is_left_but(server: &Server, before: &Baseline, streams: u64) {
    let now = || Baseline::of(server.pid()).unwrap();
    assert!(until(|| now().is_back_at(before)), "{:?} after {before:?}", now());
    assert_eq!(metric(server.addr(), "standpipe_watchers"), streams);
}

#[test]
fn the_command_says_why_it_can_not() {
    let mut server = dev();
    let cli = Cli::new(&server);
    write(server.addr(), "PUT", "/claim.json", "1");
    let claim = ["put", "/claim", "2", "--if-match", "null_etag", "--while-connected"];
    assert!(cli.fails(4, &claim).contains("another"));
    assert!(cli.fails(1, &["put", "/a", "[", "--while-connected"]).contains("JSON"));
    assert!(cli.fails(2, &["put", "/a", "1", "--while-connected", "--data", "x"]).contains("--data"));
    server.kill().unwrap();
    assert!(cli.fails(3, &["put", "/a", "1", "--while-connected"]).contains("can't reach"));
}

#[test]
fn curl_holds_a_node_with_a_stream_on_the_same_connection() {
    let server = dev();
    let cli = Cli::new(&server);
    let mut watch = stream(&server, "/.json");
    expect(&mut watch, "/", Value::Null);
    let (put, listen) = (format!("{}/here.json?lease=connection", server.url()), format!("{}/here.json", server.url()));
    let accept = "accept: text/event-stream";
    let mut curl = cli.follow("curl", &["-sS", "-X", "PUT", "-d", "1", &put, "--next", "-sSN", "-H", accept, &listen]);
    expect(&mut watch, "/here", json!(1));
    assert!(until(|| metric(server.addr(), "standpipe_watchers") == 2));
    assert_eq!(get(&server, "/here.json"), json!(1));
    curl.signal(Signal::KILL);
    expect(&mut watch, "/here", Value::Null);
}

#[test]
fn an_http_2_connection_holds_a_node_over_all_its_streams() {
    use http_body_util::{BodyExt as _, Full};
    let server = dev();
    let mut watch = stream(&server, "/.json");
    expect(&mut watch, "/", Value::Null);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let io = hyper_util::rt::TokioIo::new(tokio::net::TcpStream::connect(server.addr()).await.unwrap());
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut sender, driver) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        tokio::spawn(driver);
        let request = |method: &str, target: &str, accept: &str, body: &'static str| {
            let uri = format!("{}{target}", server.url());
            let body = Full::<bytes::Bytes>::from(body);
            http::Request::builder().method(method).uri(uri).header("accept", accept).body(body).unwrap()
        };
        let put = sender.send_request(request("PUT", "/here.json?lease=connection", "*/*", "1")).await.unwrap();
        assert_eq!(put.status(), 200);
        let listen = sender.send_request(request("GET", "/here.json", "text/event-stream", "")).await.unwrap();
        let mut body = listen.into_body();
        body.frame().await.unwrap().unwrap();
        assert_eq!(get(&server, "/here.json"), json!(1));
    });
    // With its tasks, the connection.
    drop(runtime);
    expect(&mut watch, "/here", json!(1));
    expect(&mut watch, "/here", Value::Null);
}

#[test]
fn a_loss_that_the_server_notices_late_does_not_take_the_node_for_good() {
    let server = dev();
    let proxy = Proxy::start(server.addr());
    let cli = Cli::at(format!("http://{}", proxy.addr));
    let mut watch = stream(&server, "/p.json");
    expect(&mut watch, "/", Value::Null);
    let _holds = hold(&cli, &["put", "/p", "1"]);
    expect(&mut watch, "/", json!(1));
    assert!(until(|| metric(server.addr(), "standpipe_watchers") == 2));
    // The client knows, the server does not: what it writes on coming back changes nothing yet.
    proxy.cut(0, Side::Client);
    assert!(until(|| metric(server.addr(), "standpipe_watchers") == 3));
    // Now the server does, and removes what is there.
    proxy.cut(0, Side::Server);
    expect(&mut watch, "/", Value::Null);
    expect(&mut watch, "/", json!(1));
}

/// Which end of a connection.
#[derive(Clone, Copy)]
enum Side {
    Client,
    Server,
}

/// Passes bytes on, until one side of a connection is cut without a word to the other.
struct Proxy {
    addr: SocketAddr,
    pairs: Arc<Mutex<Vec<(TcpStream, TcpStream)>>>,
}

impl Proxy {
    fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let pairs = Arc::<Mutex<Vec<_>>>::default();
        let known = pairs.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(to).unwrap());
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || pass(from, to));
                }
                known.lock().unwrap().push((client, server));
            }
        });
        Self { addr, pairs }
    }

    fn cut(&self, connection: usize, side: Side) {
        let pairs = self.pairs.lock().unwrap();
        let (client, server) = &pairs[connection];
        let stream = match side {
            Side::Client => client,
            Side::Server => server,
        };
        stream.shutdown(Shutdown::Both).unwrap();
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 4_096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}
