//! The tree as a directory (pipes.md, FUSE): what programs of the system see and do in it, and that it comes
//! and goes without a trace. Left out where there is no `/dev/fuse`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use standpipe_testkit::{Baseline, Launch, Server, binary, until};

use crate::script::get;
use crate::support::{dev, metric, quiet, setting, write};

/// A mounted tree. Dropping it ends it.
struct Mount {
    process: Child,
    dir: tempfile::TempDir,
}

impl Mount {
    /// `standpipe mount`; `None` where there is no FUSE.
    fn start(server: &Server, arguments: &[&str]) -> Option<Self> {
        Self::on(tempfile::tempdir().unwrap(), server, arguments)
    }

    fn on(dir: tempfile::TempDir, server: &Server, arguments: &[&str]) -> Option<Self> {
        if !Path::new("/dev/fuse").exists() {
            eprintln!("left out: a mount needs /dev/fuse");
            return None;
        }
        let mut command = Command::new(binary());
        command.arg("mount").arg(dir.path()).args(["--url", &server.url()]).args(arguments);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        if !said.starts_with("standpipe mounted ") {
            panic!("not mounted: {}", String::from_utf8_lossy(&process.wait_with_output().unwrap().stderr));
        }
        Some(Self { process, dir })
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a script of the shell in the mount.
    fn output(&self, script: &str) -> Output {
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(self.dir.path()).env("LC_ALL", "C").stdin(Stdio::null());
        command.output().unwrap()
    }

    /// What a script prints that must succeed and have nothing to complain of.
    fn sh(&self, script: &str) -> String {
        let output = self.output(script);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && told.is_empty(), "{script}: {}\n{told}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a script that must fail complains of.
    fn fails(&self, script: &str) -> String {
        let output = self.output(script);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{script}: {}{told}", String::from_utf8_lossy(&output.stdout));
        told
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    fn baseline(&self) -> Baseline {
        Baseline::of(self.process.id()).unwrap()
    }

    /// Waits for its end, for which there must be a reason; the folder is there as it was.
    fn ends(mut self) -> ExitStatus {
        let mut status = None;
        assert!(until(|| {
            status = self.process.try_wait().unwrap();
            status.is_some()
        }));
        assert_eq!(std::fs::read_dir(self.dir.path()).unwrap().count(), 0, "the folder is empty again");
        status.unwrap()
    }

    /// Ends it; its log must be silent.
    fn stop(mut self) {
        let mut stderr = self.process.stderr.take().unwrap();
        self.signal(Signal::TERM);
        assert_eq!(self.ends().code(), Some(0));
        let log = std::io::read_to_string(&mut stderr).unwrap();
        assert!(log.is_empty(), "{log}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
        // Nothing where it was unmounted properly.
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).stderr(Stdio::null()).status();
    }
}

/// Plays scripts in order: what each prints, and what the server has then.
fn play(server: &Server, mount: &Mount, rows: &[(&str, &str, serde_json::Value)]) {
    for (script, printed, tree) in rows {
        assert_eq!(mount.sh(script), *printed, "{script}");
        if !tree.is_null() {
            assert_eq!(get(server.addr(), "/"), *tree, "{script}");
        }
    }
}

#[test]
fn programs_find_what_they_expect() {
    let server = dev();
    let home = r#"{"home":{"kitchen":{"temp":21,"on":true,"name":"co\"ttage"},"note":"two\nlines"},"e":""}"#;
    write(server.addr(), "PUT", "/.json", home);
    let Some(mount) = Mount::start(&server, &[]) else { return };
    let none = serde_json::Value::Null;
    play(
        &server,
        &mount,
        &[
            ("ls", "e\nhome\n", none.clone()),
            ("ls -F home", "kitchen/\nnote\n", none.clone()),
            ("cat home/kitchen/*", "co\"ttage\ntrue\n21\n", none.clone()),
            ("cat home/note", "two\nlines\n", none.clone()),
            ("cat e", "", none.clone()),
            (
                "stat -c '%s %F' e home/note home/kitchen",
                "0 regular empty file\n10 regular file\n0 directory\n",
                none.clone(),
            ),
            ("wc -c < home/note", "10\n", none.clone()),
            ("tail -c 6 home/note", "lines\n", none.clone()),
            (
                "find . | sort",
                ".\n./e\n./home\n./home/kitchen\n./home/kitchen/name\n./home/kitchen/on\n./home/kitchen/temp\n./home/note\n",
                none.clone(),
            ),
            ("find . -type f -size -4c | sort", "./e\n./home/kitchen/temp\n", none.clone()),
            ("grep -rl two .", "./home/note\n", none.clone()),
            ("test -d home && test -f e && test ! -e x && echo right", "right\n", none.clone()),
            ("df . | wc -l", "2\n", none),
        ],
    );
    assert!(mount.fails("cat nothing").contains("No such file or directory"));
    assert!(mount.fails("cat home").contains("Is a directory"));
    assert!(mount.fails("ls e/x").contains("Not a directory"));
    mount.stop();
    quiet(server, &[]);
}

#[test]
fn what_is_written_is_stored() {
    let server = dev();
    let Some(mount) = Mount::start(&server, &[]) else { return };
    play(
        &server,
        &mount,
        &[
            ("mkdir -p home/kitchen && ls home", "kitchen\n", json!(null)),
            ("echo 21.5 > home/kitchen/temp", "", json!({"home": {"kitchen": {"temp": 21.5}}})),
            ("echo hello > a && cat a", "hello\n", json!({"home": {"kitchen": {"temp": 21.5}}, "a": "hello"})),
            ("rm -r home", "", json!({"a": "hello"})),
            ("printf 'no newline' > a; echo true > b", "", json!({"a": "no newline", "b": true})),
            (
                "rm b; echo more >> a; echo and more >> a; cat a",
                "no newline\nmore\nand more\n",
                json!({"a": "no newline\nmore\nand more"}),
            ),
            ("truncate -s 2 a", "", json!({"a": "no"})),
            ("touch a c; : > d; cat d", "", json!({"a": "no", "c": "", "d": ""})),
            ("cp a c; mv c e; rm d", "", json!({"a": "no", "e": "no"})),
            ("sed -i s/no/yes/ e && cat e", "yes\n", json!({"a": "no", "e": "yes"})),
            ("printf XX | dd of=e bs=1 seek=1 conv=notrunc status=none", "", json!({"a": "no", "e": "yXX"})),
            ("(echo 1; /bin/echo 2; echo 3) > a", "", json!({"a": "1\n2\n3", "e": "yXX"})),
            ("exec 3<>a; read x <&3; echo $x; rm a; echo lost >&3; exec 3>&-", "1\n", json!({"e": "yXX"})),
            (
                "echo 12345678901234567890123 > e; echo null > f",
                "",
                json!({"e": "12345678901234567890123", "f": "null"}),
            ),
            (
                "chmod 600 e; touch -d yesterday e; cp -p e f; rm e; cat f",
                "12345678901234567890123\n",
                json!({"f": "12345678901234567890123"}),
            ),
            ("set -C; echo me > lock && cat lock", "me\n", json!({"f": "12345678901234567890123", "lock": "me"})),
            ("rm lock f; ls", "", json!(null)),
        ],
    );
    assert!(mount.fails("set -C; echo 1 > lock; echo 2 > lock").contains("cannot create lock"));
    assert_eq!(get(server.addr(), "/lock"), json!(1), "the first one won");
    mount.sh("mkdir x; echo 1 > x/y");
    for (script, told) in [
        ("rmdir x", "not empty"),
        ("mkdir x", "exists"),
        ("mkdir lock", "exists"),
        ("rm x", "directory"),
        ("ln -s a b", "not permitted"),
        ("ln x/y z", "not permitted"),
        ("mkfifo p", "not permitted"),
        ("head -c 11000000 /dev/zero > big", "too large"),
        (
            "printf '\\377' > raw; cp raw raw2; dd if=/dev/urandom of=raw bs=99 count=1 conv=fsync status=none",
            "multibyte",
        ),
    ] {
        let complaint = mount.fails(script).to_lowercase();
        assert!(complaint.contains(told), "{script}: {complaint}");
    }
    assert_eq!(get(server.addr(), "/"), json!({"lock": 1, "x": {"y": 1}}));
    // The refusal is the close's, and a file that never was is logged only.
    drop(mount);
    quiet(server, &[]);
}

/// Keys and names, at the table of `name.rs`: here only that the doors agree.
#[test]
fn names_are_escaped_as_in_every_door() {
    let server = dev();
    write(server.addr(), "PUT", "/.json", r#"{"maya%2Eb@example%2Ecom":1,"a%2Fb":2,"%2E":3,"ä ö":4,"10":5,"9":6}"#);
    let Some(mount) = Mount::start(&server, &[]) else { return };
    assert_eq!(mount.sh("ls -1U"), "9\n10\n%2E\na%2Fb\nmaya.b@example.com\nä ö\n");
    assert_eq!(mount.sh("cat maya.b@example.com a%2Fb %2E 'ä ö'"), "1\n2\n3\n4\n");
    mount.sh("echo x > .value; echo x > '[1]'; echo x > 'new\nline'; mkdir '#'; echo x > '#/$'");
    let written = get(server.addr(), "/");
    for path in ["%2Evalue", "%5B1%5D", "new%0Aline"] {
        assert_eq!(written[path], json!("x"), "{path} is not in {written}");
    }
    assert_eq!(written["%23"]["%24"], json!("x"));
    let long = "n".repeat(769);
    assert!(mount.fails(&format!("echo 1 > {long}")).contains("too long"));
    let deep = ["d"; 33].join("/");
    assert!(mount.fails(&format!("mkdir -p {deep}")).contains("too long"));
    mount.stop();
    quiet(server, &[]);
}

#[test]
fn large_directories_are_listed_whole() {
    let server = dev();
    let members: Vec<_> = (0..2_500).map(|n| format!(r#""k{n:04}":"{}""#, "x".repeat(n % 50))).collect();
    write(server.addr(), "PUT", "/many.json", &format!("{{{}}}", members.join(",")));
    let Some(mount) = Mount::start(&server, &["--path", "/many"]) else { return };
    let sizes: u64 = (0..2_500).map(|n| n % 50).map(|text| if text == 0 { 0 } else { text + 1 }).sum();
    assert_eq!(mount.sh("ls | wc -l"), "2500\n");
    assert_eq!(mount.sh("ls -l | awk '{n += $5} END {print n}'"), format!("{sizes}\n"));
    assert_eq!(mount.sh("find . -type f | wc -l"), "2500\n");
    assert_eq!(mount.sh("cat * | wc -c"), format!("{sizes}\n"));
    mount.sh("rm -r k1*");
    assert_eq!(mount.sh("ls -U | tail -1; ls | wc -l"), "k2499\n1500\n");
    mount.stop();
    quiet(server, &[]);
}

#[test]
fn a_file_is_stored_once_and_a_rename_is_one_step() {
    let server = dev();
    let addr = server.addr();
    write(addr, "PUT", "/a.json", r#"{"x":{"v":1,".priority":3},"y":0}"#);
    let Some(mount) = Mount::start(&server, &[]) else { return };
    let commits = |script: &str| {
        let before = metric(addr, "standpipe_database_rev");
        mount.sh(script);
        metric(addr, "standpipe_database_rev") - before
    };
    assert_eq!(commits("echo 1 > a/y"), 1);
    assert_eq!(commits("printf 1 > a/new; "), 1);
    assert_eq!(commits("cat a/y > a/y2"), 1);
    assert_eq!(commits("touch a/t; test -e a/t"), 1);
    assert_eq!(commits("cat a/y > /dev/null; ls -lR > /dev/null; find . > /dev/null; mkdir d; rmdir d"), 0);
    let mut stream = crate::watches::open(addr, "/a.json", None);
    crate::watches::next(&mut stream);
    assert_eq!(commits("mv a/x a/z"), 1);
    let told = crate::watches::next(&mut stream);
    assert_eq!((told.name.as_str(), told.data), ("patch", json!({"x": null, "z": {"v": 1}})));
    let exported = standpipe_testkit::http::request(addr, "GET", "/a/z.json?format=export", &[], b"").unwrap();
    assert_eq!(exported.json().unwrap(), json!({"v": 1, ".priority": 3}));
    mount.sh("mv -n a/y a/new; test -e a/y; mv a/y2 a/y; mkdir b; mv a/z b/z; cat b/z/v");
    assert!(mount.fails("mv -T b a").contains("not empty"));
    assert!(mount.fails("mv -T a/y b").contains("directory"));
    assert_eq!(get(addr, "/"), json!({"a": {"y": 1, "new": 1, "t": ""}, "b": {"z": {"v": 1}}}));
    drop(stream);
    mount.stop();
    quiet(server, &[]);
}

#[test]
fn nothing_appended_is_lost() {
    let server = dev();
    let Some(mount) = Mount::start(&server, &[]) else { return };
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let script =
                format!("for n in 1 2 3 4 5 6 7 8 9 10; do echo {writer}-$n >> log || echo {writer}-$n >> log; done");
            Command::new("sh").args(["-c", &script]).current_dir(mount.dir.path()).spawn().unwrap()
        })
        .collect();
    writers.into_iter().for_each(|mut writer| assert!(writer.wait().unwrap().success()));
    assert_eq!(mount.sh("sort -u log | wc -l; wc -l < log"), "40\n40\n");
    // Without appending it is a conflict, which is told.
    let mut file = std::fs::File::options().write(true).open(mount.path("log")).unwrap();
    file.write_all(b"X").unwrap();
    write(server.addr(), "PUT", "/log.json", "\"other\"");
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(Errno::AGAIN.raw_os_error()));
    drop(file);
    assert_eq!(get(server.addr(), "/log"), json!("other"));
    mount.stop();
    quiet(server, &[]);
}

#[test]
fn json_files_keep_types() {
    let server = dev();
    write(server.addr(), "PUT", "/.json", r#"{"s":"21.5","n":21.5}"#);
    let Some(mount) = Mount::start(&server, &["--render", "json"]) else { return };
    assert_eq!(mount.sh("cat s n; stat -c %s s n; ls -l | awk '{print $5}' | tail -2"), "\"21.5\"\n21.5\n7\n5\n5\n7\n");
    mount.sh("echo '\"7\"' > s; echo 7 > n; : > e; cat e");
    assert_eq!(get(server.addr(), "/"), json!({"s": "7", "n": 7, "e": ""}));
    assert!(
        mount.fails("echo hello > x; dd if=/dev/zero of=s bs=1 count=1 conv=fsync status=none").contains("Invalid")
    );
    assert_eq!(get(server.addr(), "/s"), json!("7"));
    drop(mount);
    quiet(server, &[]);
}

#[test]
fn read_only_is_that() {
    let server = dev();
    write(server.addr(), "PUT", "/a.json", "1");
    let Some(mount) = Mount::start(&server, &["--read-only"]) else { return };
    for script in ["echo 1 > a", "echo 1 > b", "rm a", "mkdir d", "mv a b", "truncate -s 0 a"] {
        assert!(mount.fails(script).contains("Read-only file system"), "{script}");
    }
    assert_eq!(mount.sh("cat a; stat -c %A a"), "1\n-r--r--r--\n");
    mount.stop();
    quiet(server, &[]);
}

/// Simultaneous `cat`s while the value changes: each prints one version, whole, and none that was
/// replaced before it was started.
fn burst(addr: SocketAddr, mount: &Mount, bytes: usize, readers: usize) {
    let version = |n: usize| format!("{n:06}{}", "x".repeat(bytes - 7));
    let put = |n: usize| write(addr, "PUT", "/doc.json", &format!("\"{}\"", version(n)));
    put(0);
    let mut cats = Vec::new();
    for n in 0..readers {
        if n % 20 == 10 {
            put(n);
        }
        let oldest = if n < 10 { 0 } else { (n - 10) / 20 * 20 + 10 };
        let cat = Command::new("cat").arg(mount.path("doc")).stdout(Stdio::piped()).spawn().unwrap();
        cats.push((oldest, cat));
    }
    // All of them are there at once: each blocks on its full pipe until it is read, in this order.
    for (n, (oldest, cat)) in cats.into_iter().enumerate() {
        let output = cat.wait_with_output().unwrap();
        assert!(output.status.success(), "reader {n}");
        let text = String::from_utf8(output.stdout).unwrap();
        let read: usize = text[..6].parse().unwrap();
        assert!(read >= oldest, "reader {n} of {bytes} bytes: version {read} is older than {oldest}");
        assert_eq!(text, version(read) + "\n", "reader {n}: not whole");
    }
}

#[test]
fn a_full_database_is_a_full_disk() {
    let config = "[engine]\nmap_bytes_initial = 1048576\n[limits]\nmap_bytes_max = 1048576\nchanges_bytes_max = 1\n";
    let (server, _config) = crate::support::dev_with(config);
    let Some(mount) = Mount::start(&server, &[]) else { return };
    mount.sh("mkdir d");
    let big = "x".repeat(100_000);
    let wrote = (0..20).map(|n| {
        let mut file = std::fs::File::create(mount.path(&format!("d/{n}"))).unwrap();
        file.write_all(big.as_bytes()).unwrap();
        file.sync_all()
    });
    let refused: Vec<_> = wrote.filter_map(Result::err).map(|error| error.raw_os_error()).collect();
    assert!(
        !refused.is_empty() && refused.iter().all(|errno| *errno == Some(Errno::NOSPC.raw_os_error())),
        "{refused:?}"
    );
    mount.sh("rm d/0 d/1 d/2; echo 1 > d/0; cat d/0");
    mount.stop();
    quiet(server, &[]);
}

#[test]
fn two_hundred_readers_at_once_are_exact() {
    let server = dev();
    let readers = usize::try_from(setting("STANDPIPE_TEST_READERS", 200)).unwrap();
    write(server.addr(), "PUT", "/doc.json", "1");
    let Some(mount) = Mount::start(&server, &[]) else { return };
    assert_eq!(mount.sh("cat doc"), "1\n");
    assert_eq!(mount.baseline().threads, 3, "one waits, one asks the kernel, one answers");
    burst(server.addr(), &mount, 20_000, readers);
    let before = mount.baseline();
    for bytes in [20_000, 1_000_000] {
        let begun = Instant::now();
        burst(server.addr(), &mount, bytes, readers);
        eprintln!("{readers} readers of {bytes} bytes: {:?}", begun.elapsed());
    }
    // Connections to the server stay for the next; what was open is closed.
    let back = || {
        let now = mount.baseline();
        now.threads <= before.threads && now.children == 0 && now.descriptors <= before.descriptors + 32
    };
    assert!(until(back), "{before:?} {:?}", mount.baseline());
    mount.stop();
    quiet(server, &[]);
}

#[test]
fn a_dead_mount_is_taken_away_at_the_next_start() {
    let server = dev();
    write(server.addr(), "PUT", "/a.json", "1");
    let Some(mut mount) = Mount::start(&server, &[]) else { return };
    mount.process.kill().unwrap();
    mount.process.wait().unwrap();
    let error = std::fs::metadata(mount.dir.path()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::NOTCONN.raw_os_error()));
    let dir = std::mem::replace(&mut mount.dir, tempfile::tempdir().unwrap());
    let again = Mount::on(dir, &server, &[]).unwrap();
    assert_eq!(again.sh("cat a"), "1\n");
    // And one that lives is left alone.
    let mut second = Command::new(binary());
    let second = second.arg("mount").arg(again.dir.path()).args(["--url", &server.url()]).output().unwrap();
    assert!(String::from_utf8_lossy(&second.stderr).contains("is mounted already"));
    assert_eq!(again.sh("cat a"), "1\n");
    again.signal(Signal::INT);
    assert_eq!(again.ends().code(), Some(0));
    quiet(server, &[]);
}

#[test]
fn it_ends_while_it_is_used_and_when_it_is_unmounted() {
    let server = dev();
    write(server.addr(), "PUT", "/a.json", "1");
    let Some(mount) = Mount::start(&server, &[]) else { return };
    let mut draft = std::fs::File::create(mount.path("b")).unwrap();
    draft.write_all(b"x").unwrap();
    let held = std::fs::File::open(mount.path("a")).unwrap();
    mount.signal(Signal::TERM);
    assert_eq!(mount.ends().code(), Some(0));
    assert!(draft.sync_all().is_err() && held.metadata().is_err(), "who has it open is told");
    let mount = Mount::start(&server, &[]).unwrap();
    let unmounted = Command::new("umount").arg(mount.dir.path()).status().unwrap();
    assert!(unmounted.success());
    assert_eq!(mount.ends().code(), Some(0));
    quiet(server, &[]);
}

#[test]
fn a_server_that_is_away_is_an_error_and_never_a_hang() {
    let mut server = Launch::dev().same_port().start().unwrap();
    write(server.addr(), "PUT", "/a.json", "1");
    let Some(mount) = Mount::start(&server, &["--timeout", "1"]) else { return };
    mount.sh("cat a; ls");
    let held = std::fs::File::open(mount.path("a")).unwrap();
    let within = |script: &str, told: &str| {
        let begun = Instant::now();
        let complaint = mount.fails(script);
        assert!(complaint.contains(told), "{script}: {complaint}");
        // One operation, perhaps two in a row; the machine is slow and shared.
        assert!(begun.elapsed() < Duration::from_secs(10), "{script}: {:?}", begun.elapsed());
    };
    server.kill().unwrap();
    ["cat a", "ls", "echo 2 > a", "rm a"].iter().for_each(|script| within(script, "Input/output error"));
    assert_eq!(std::io::read_to_string(held).unwrap(), "1\n", "what is open is a copy");
    server.restart().unwrap();
    assert_eq!(mount.sh("cat a; ls"), "1\na\n");
    server.signal(Signal::STOP).unwrap();
    ["cat a", "ls", "echo 2 > a"].iter().for_each(|script| within(script, "timed out"));
    server.signal(Signal::CONT).unwrap();
    assert!(until(|| mount.output("cat a").status.success()));
    drop(mount);
    quiet(server, &[]);
}

#[test]
fn what_can_not_be_mounted_is_told() {
    let server = dev();
    write(server.addr(), "PUT", "/a.json", "1");
    if Mount::start(&server, &[]).is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let check = |arguments: &[&str], code: i32, told: &[&str]| {
        let output = Command::new(binary()).arg("mount").args(arguments).env_remove("STANDPIPE_URL").output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {complaint}");
        told.iter().for_each(|part| assert!(complaint.contains(part), "{part:?} is not in {complaint}"));
    };
    let (at, url) = (dir.path().to_str().unwrap(), server.url());
    check(&[at, "--url", &url, "--path", "/a"], 1, &["/a is a value", "standpipe get"]);
    check(&["no-such-folder", "--url", &url], 1, &["no-such-folder", "mkdir -p"]);
    check(&[at, "--url", "http://127.0.0.1:1"], 3, &["can't reach", "standpipe dev"]);
    check(&[at, "--url", &url, "--path", "/a.b"], 2, &["a.b"]);
    let locked = Launch::serve().start().unwrap();
    check(&[at, "--url", &locked.url(), "--token", "wrong"], 4, &["--token-file"]);
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(at));
}

#[test]
fn streams_are_files_that_grow() {
    let server = dev();
    let Some(mount) = Mount::start(&server, &[]) else { return };
    let append = |text: &str| {
        let got =
            standpipe_testkit::http::request(server.addr(), "POST", "/streams/chat/log", &[], text.as_bytes()).unwrap();
        assert_eq!(got.status, 200, "{}", got.text());
    };
    append("one\ntwo\n");
    write(server.addr(), "PUT", "/chat/topic.json", "\"tea\"");
    let file = mount.path("chat/log");
    let names = |path: &std::path::Path| {
        let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = entries.collect();
        names.sort();
        names
    };
    assert_eq!(names(&mount.path("chat")), ["log", "topic"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "one\ntwo\n");
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 8);
    assert!(std::fs::write(&file, "mine").is_err() && std::fs::remove_file(&file).is_err());
    assert!(std::fs::rename(&file, mount.path("chat/other")).is_err());
    // Far more than one read of the kernel, at any place.
    let long: String = (0..40_000).map(|n| format!("line {n}\n")).collect();
    append(&long);
    let all = format!("one\ntwo\n{long}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), all);
    let tail = std::process::Command::new("tail").args(["-n", "2"]).arg(&file).output().unwrap();
    assert_eq!(String::from_utf8(tail.stdout).unwrap(), "line 39998\nline 39999\n");
    for follow in ["-f", "-F"] {
        let mut tail = std::process::Command::new("tail");
        tail.args([follow, "-n", "1", "-s", "0.1"]).arg(&file).stdout(std::process::Stdio::piped());
        let mut tail = tail.spawn().unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(tail.stdout.take().unwrap()));
        let first = lines.next().unwrap().unwrap();
        append(&format!("{follow} sees this\n"));
        let second = lines.next().unwrap().unwrap();
        tail.kill().unwrap();
        tail.wait().unwrap();
        assert!(first.starts_with("line 39999") || first == "-f sees this", "{first}");
        assert_eq!(second, format!("{follow} sees this"));
    }
    drop(mount);
    quiet(server, &[]);
}
