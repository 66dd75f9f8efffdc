//! The guard, on its own: what it kills when the server's end of its pipe closes, and what it does not.

use std::process::{Child, Command, Stdio};

use standpipe_testkit::until;

fn guard(mark: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_standpipe"));
    command.args(["guard", mark]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

fn bearer(mark: &str) -> Child {
    Command::new("sleep").arg("60").env("STANDPIPE_NODE", mark).spawn().unwrap()
}

fn has_ended(child: &mut Child) -> bool {
    child.try_wait().unwrap().is_some()
}

#[test]
fn when_the_server_is_gone_all_that_bears_its_mark_is_killed_and_nothing_else() {
    let mark = format!("test-{:x}", std::process::id());
    let other = format!("{mark}0");
    let mut guard = guard(&mark);
    let mut meant = [bearer(&mark), bearer(&mark)];
    let mut another = bearer(&other);
    // A request to end is not heeded: it ends with its server.
    let pid = rustix::process::Pid::from_raw(i32::try_from(guard.id()).unwrap()).unwrap();
    assert!(until(|| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", guard.id())).unwrap();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
        u64::from_str_radix(ignored, 16).unwrap() & (1 << 14) != 0
    }));
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(!has_ended(&mut meant[0]) && !has_ended(&mut guard));
    drop(guard.stdin.take());
    assert!(guard.wait().unwrap().success());
    assert!(until(|| meant.iter_mut().all(has_ended)));
    assert!(!has_ended(&mut another));
    another.kill().unwrap();
    another.wait().unwrap();
}
