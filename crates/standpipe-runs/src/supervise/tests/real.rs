//! Real processes that behave: what they are given, what is heard of them, what they used.

use super::super::process::{Processes, proc, thread};
use super::*;
use crate::command::{PtySize, Stdin};

/// A bench of real processes, and what this process had before.
pub(super) struct Real {
    bench: Bench,
    before: (usize, usize),
}

impl std::ops::Deref for Real {
    type Target = Bench;

    fn deref(&self) -> &Bench {
        &self.bench
    }
}

/// Descriptors and tasks.
fn held(bench: &Bench) -> (usize, usize) {
    (std::fs::read_dir("/proc/self/fd").unwrap().count(), bench.supervisor.attempts())
}

pub(super) async fn real() -> Real {
    limited(Limits::default()).await
}

pub(super) async fn limited(limits: Limits) -> Real {
    launching(limits, |dir| Processes::new(dir, None)).await
}

/// As on a system without cgroups.
pub(super) async fn ungrouped(limits: Limits) -> Real {
    launching(limits, Processes::ungrouped).await
}

async fn launching(limits: Limits, launcher: impl FnOnce(&std::path::Path) -> Processes) -> Real {
    let bench = Bench::with(limits, |dir| Arc::new(launcher(dir)));
    // Whatever is made once is there after the first process.
    bench.run(command(&["/bin/true"])).await.check(TaskState::Succeeded, Some(0));
    let before = held(&bench);
    Real { bench, before }
}

impl Real {
    /// Nothing is left: no process, no descriptor, no task.
    pub(super) async fn gone(self) {
        let left = || {
            let children =
                proc::children().into_iter().filter(|(pid, _)| thread::is_ours(*pid) || is_orphan(*pid)).count();
            (children, held(&self.bench))
        };
        if !alone() {
            return self.bench.supervisor.close().await;
        }
        let settled = tokio::time::timeout(LONG, async {
            while left() != (0, self.before) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        if settled.await.is_err() {
            panic!("left {:?}, before {:?}: {:?}", left(), self.before, proc::children());
        }
        self.bench.supervisor.close().await;
    }
}

/// Whether a child of this process is in another session, as only what we started is.
fn is_orphan(pid: i32) -> bool {
    proc::session(pid) != proc::session(std::process::id() as i32)
}

#[tokio::test]
async fn the_exit_code_the_signal_and_the_last_byte_are_told() {
    let real = real().await;
    let done = real.run(shell("printf 'out\\nlast'; printf bad >&2; exit 7")).await;
    done.check(TaskState::Failed, Some(7));
    assert_eq!((done.out().as_str(), done.bytes(Channel::Err)), ("out\nlast", b"bad".to_vec()));
    let done = real.run(shell("kill -USR1 $$")).await;
    assert_eq!((done.end.state, done.end.ended.signal), (TaskState::Failed, Some(10)));
    real.gone().await;
}

#[tokio::test]
async fn a_process_gets_what_is_said_and_nothing_else() {
    let real = real().await;
    let mut env = command(&["/usr/bin/env"]);
    env.env.insert("ONLY".to_owned(), "this".to_owned());
    env.cwd = Some("/".into());
    let done = real.run(env).await;
    let names: Vec<&str> = done.out().leak().lines().filter_map(|line| line.split('=').next()).collect();
    let own = ["STANDPIPE_NODE", "ONLY", "STANDPIPE_ATTEMPT", "STANDPIPE_RUN", "STANDPIPE_TASK"];
    assert_eq!(names, own);
    // Three descriptors, and the one of the listing itself.
    let done = real
        .run(shell("cd /; pwd; ls -l /proc/self/fd | grep -c -- '->'; cat /proc/self/status | grep -E 'Sig(Blk|Ign)'"))
        .await;
    let none = "0000000000000000";
    assert_eq!(done.out(), format!("/\n4\nSigBlk:\t{none}\nSigIgn:\t{none}\n"));
    let done = real
        .run(Command { cwd: Some("/usr".into()), ..shell("pwd; ulimit -Sn; echo $$; cut -d' ' -f5,6 /proc/$$/stat") })
        .await;
    let lines: Vec<String> = done.out().lines().map(str::to_owned).collect();
    assert_eq!((lines[0].as_str(), lines[1].as_str()), ("/usr", "1024"));
    assert_eq!(lines[3], format!("{0} {0}", lines[2]), "a group and a session of its own");
    real.gone().await;
}

#[tokio::test]
async fn what_can_not_be_started_says_what_to_do() {
    let real = real().await;
    let dir = real.dir.path();
    let file = |name: &str, text: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let gone = file("gone", "#!/no/such/thing\n", 0o755);
    let plain = file("plain", "text", 0o644);
    let text = file("text", "just text", 0o755);
    let large = "x".repeat(200 << 10);
    let table = [
        (command(&["no-such-program-at-all"]), "there is no program no-such-program-at-all in PATH (/usr/local/sbin:"),
        (command(&["/no/such"]), "there is no program /no/such"),
        (command(&[&gone]), "its #! line names one that is not there"),
        (command(&[&plain]), "may not be executed"),
        (command(&[&text]), "is no program of this machine"),
        (command(&["/"]), "may not be executed"),
        (command(&["/bin/true", &large]), "are too long"),
        (command(&[]), "no program to start"),
        (
            Command { cwd: Some("/no/such".into()), ..command(&["/bin/true"]) },
            "can't be started in /no/such: No such file",
        ),
        (
            Command { cwd: Some("/etc/passwd".into()), ..command(&["/bin/true"]) },
            "can't be started in /etc/passwd: Not a dir",
        ),
    ];
    for (command, told) in table {
        let done = real.run(command).await;
        done.check(TaskState::Failed, None);
        assert!(done.reason().contains(told), "{:?} lacks {told:?}", done.reason());
        assert_eq!(done.notes()[0]["event"], "not_started");
    }
    real.gone().await;
}

#[tokio::test]
async fn input_is_nothing_a_text_or_a_stream() {
    let real = real().await;
    assert_eq!(real.run(command(&["cat"])).await.out(), "");
    let text = "line\n".repeat(100_000);
    let fed = Command { stdin: Stdin::Data(text.clone()), ..command(&["cat"]) };
    assert_eq!(real.run(fed).await.out(), text);
    // One that does not read it.
    let deaf = Command { stdin: Stdin::Data(text), ..command(&["true"]) };
    real.run(deaf).await.check(TaskState::Succeeded, Some(0));
    let source = real.stream().await;
    let record = |bytes: &'static [u8], channel| standpipe_engine::NewRecord {
        channel,
        at_ms: standpipe_engine::Clock::System.now_ms(),
        bytes: bytes.into(),
    };
    source.append(vec![record(b"early\n", Channel::Out), record(b"{}", Channel::Note)]).await.unwrap();
    let path = source.path().to_string();
    let (running, own, heard) = real.begin(Command { stdin: Stdin::Stream(path), ..command(&["cat"]) }).await;
    real.wait_for(&own, "early").await;
    source.append(vec![record(b"late\xff\n", Channel::Err)]).await.unwrap();
    source.end(standpipe_engine::Outcome::of("succeeded")).await.unwrap();
    let done = real.finish(running, &own, heard).await;
    assert_eq!(done.bytes(Channel::Out), b"early\nlate\xff\n");
    let nowhere = Command { stdin: Stdin::Stream("no/such".to_owned()), ..command(&["cat"]) };
    let done = real.run(nowhere).await;
    done.check(TaskState::Failed, None);
    assert!(done.reason().contains("can't read its input, the stream no/such"), "{}", done.reason());
    drop(source);
    real.gone().await;
}

#[tokio::test]
async fn a_terminal_is_one_and_its_output_is_whole() {
    let real = real().await;
    let pty = Some(PtySize { rows: 30, cols: 99 });
    let line = "stty size; test -t 1 && test -t 2 && echo both; cat; seq 1 20000; printf last";
    let done = real.run(Command { pty, stdin: Stdin::Data("typed\n".to_owned()), ..shell(line) }).await;
    done.check(TaskState::Succeeded, Some(0));
    let out = done.out();
    assert!(out.contains("30 99\r\nboth\r\n"), "{}", &out[..80]);
    assert_eq!(out.matches("typed\r\n").count(), 2, "its echo, and what cat writes");
    assert!(out.contains("\r\n19999\r\n20000\r\nlast"));
    let quiet = real.run(Command { pty, ..shell("cat; tty >/dev/tty; echo end") }).await;
    assert!(quiet.out().ends_with("end\r\n"), "{:?}", quiet.out());
    real.gone().await;
}

#[tokio::test]
async fn bytes_survive_whatever_they_are() {
    let real = real().await;
    let file = real.dir.path().join("bytes");
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&file, &bytes).unwrap();
    let done = real.run(command(&["cat", file.to_str().unwrap()])).await;
    assert!(done.bytes(Channel::Out) == bytes);
    std::fs::write(&file, vec![b'x'; 1_000_000]).unwrap();
    let done = real.run(command(&["cat", file.to_str().unwrap()])).await;
    assert_eq!((done.bytes(Channel::Out).len(), done.end.usage.lines), (1_000_000, 0));
    assert!(done.records.iter().all(|(_, bytes)| bytes.len() <= 64 << 10));
    // A burst, and gone at once.
    let done = real.run(command(&["head", "-c", "1048576", "/dev/zero"])).await;
    assert_eq!(done.bytes(Channel::Out), vec![0; 1 << 20]);
    real.gone().await;
}

#[tokio::test]
async fn what_was_used_is_counted_over_all_that_came_of_it() {
    let real = real().await;
    let done = real.run(shell("i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done")).await;
    done.check(TaskState::Succeeded, Some(0));
    assert!(done.end.usage.cpu_ms >= 5, "{:?}", done.end.usage);
    assert!(done.end.usage.memory_bytes_max > 100 << 10, "{:?}", done.end.usage);
    real.gone().await;
}

#[tokio::test]
async fn a_blocked_stream_blocks_the_process_and_loses_nothing() {
    let real = real().await;
    let mut slow = shell("seq 1 30000");
    slow.output.bytes_per_s_max = Some(400_000);
    let begun = std::time::Instant::now();
    let done = real.run(slow).await;
    let expected: String = (1..=30000).map(|n| format!("{n}\n")).collect();
    assert!(done.out() == expected);
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    real.gone().await;
}

/// Figures for people: `cargo test --release -p standpipe-runs -- --ignored --nocapture speed`.
#[tokio::test]
#[ignore = "measures"]
async fn speed() {
    let real = real().await;
    let cpu = || {
        let times = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<i64> =
            times.rsplit(')').next().unwrap().split(' ').filter_map(|field| field.parse().ok()).collect();
        (fields[10] + fields[11]) * 10
    };
    let (begun, before) = (std::time::Instant::now(), cpu());
    for _ in 0..250 {
        let runs = (0..4).map(|_| real.run(command(&["/bin/true"])));
        futures_util::future::join_all(runs).await;
    }
    let took = begun.elapsed();
    println!(
        "true, 4 at once: {:.0} a second; {} ms of our own processor time in {took:?}",
        1000.0 / took.as_secs_f64(),
        cpu() - before
    );
    for line in [
        "yes 'a line of sixty bytes, as it is written by many programs, ok' | head -c 1000000000",
        "head -c 1000000000 /dev/zero",
    ] {
        let (begun, before) = (std::time::Instant::now(), cpu());
        let (mut running, ..) = real.begin(shell(line)).await;
        let end = running.ended().await;
        let took = begun.elapsed();
        assert_eq!((end.state, end.usage.bytes), (TaskState::Succeeded, 1_000_000_000));
        let rate = 1000.0 / took.as_secs_f64();
        println!(
            "{line}: {rate:.0} MB/s, {} lines; {} ms of our own processor time in {took:?}",
            end.usage.lines,
            cpu() - before
        );
    }
    real.gone().await;
}

#[tokio::test]
async fn a_cgroup_that_can_not_be_made_is_missed_only_where_it_is_a_limit() {
    let real = real().await;
    let done = real.run(shell("sed -n 's/^0:://p' /proc/self/cgroup")).await;
    let out = done.out();
    let Some((home, _)) = out.trim_end().rsplit_once('/').filter(|(home, _)| home.contains("standpipe-")) else {
        eprintln!("left out: there are no cgroups here");
        return real.gone().await;
    };
    let home = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(|all| std::path::PathBuf::from(format!("{all}{home}")));
    let home = home.into_iter().find(|dir| dir.is_dir()).unwrap();
    let removed = tokio::time::timeout(LONG, async {
        while std::fs::remove_dir(&home).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    removed.await.unwrap();
    real.run(command(&["/bin/true"])).await.check(TaskState::Succeeded, Some(0));
    let mut limited = command(&["/bin/true"]);
    limited.resources.processes = Some(100);
    let done = real.run(limited).await;
    assert_eq!(done.end.state, TaskState::Failed, "{:?}", done.end);
    real.gone().await;
}
