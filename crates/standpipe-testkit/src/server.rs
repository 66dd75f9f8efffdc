//! A `standpipe` process under test: started on a free port and a data folder of its own, asked
//! for its address by its ready line, stopped or killed by id. What it serves is the test's.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::LIMIT;

/// Lines of stdout held between the process and a test that does not read them.
const STDOUT_LINES: usize = 1_024;

/// The binary under test: what cargo says it built, else the one beside this test binary.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("CARGO_BIN_EXE_standpipe") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a running test has a path");
    let target = test.ancestors().nth(2).expect("test binaries are in target/PROFILE/deps");
    target.join(format!("standpipe{}", std::env::consts::EXE_SUFFIX))
}

/// A program or file that `cargo xtask test` installs below `target/tools`; `None` where that has
/// not run, so that a test can leave out what needs it.
pub fn tool(path: &str) -> Option<PathBuf> {
    let test = std::env::current_exe().expect("a running test has a path");
    let target = test.ancestors().nth(3).expect("test binaries are in target/PROFILE/deps");
    let tool = target.join("tools").join(path);
    tool.exists().then_some(tool)
}

/// How to start a server: the words of its command, then what the test adds. Variables of this process that
/// configure Standpipe are kept away from it.
#[derive(Clone, Debug)]
pub struct Launch {
    words: &'static [&'static str],
    keeps_data: bool,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    data: Option<PathBuf>,
    port: u16,
}

impl Launch {
    /// `standpipe dev` with a fresh data folder.
    pub fn dev() -> Self {
        Self::new(&["dev"], true)
    }

    /// `standpipe serve` with a fresh data folder.
    pub fn serve() -> Self {
        Self::new(&["serve"], true)
    }

    /// `standpipe mcp gateway`, which has no data folder; what it is to start goes last, behind `--`.
    pub fn gateway() -> Self {
        Self::new(&["mcp", "gateway"], false)
    }

    fn new(words: &'static [&'static str], keeps_data: bool) -> Self {
        Self { words, keeps_data, arguments: Vec::new(), variables: Vec::new(), data: None, port: 0 }
    }

    /// Adds command line arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Uses this data folder, which outlives the server, in place of a fresh one.
    #[must_use]
    pub fn data(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data = Some(dir.into());
        self
    }

    /// Listens on a port that stays the same over restarts, for clients that come back by
    /// themselves.
    #[must_use]
    pub fn same_port(mut self) -> Self {
        self.port = lasting_port();
        self
    }

    /// Starts the process and waits until it is ready.
    ///
    /// # Errors
    /// It did not start, ended first (the error holds its stderr), or was not ready in time.
    pub fn start(self) -> Result<Server> {
        let temporary = match self.data {
            Some(_) => None,
            None => Some(tempfile::tempdir()?),
        };
        let data = self.data.clone().or(temporary.as_ref().map(|dir| dir.path().join("data")));
        let data = data.expect("given or made above");
        let process = Process::start(&self, &data)?;
        Ok(Server { launch: self, data, _temporary: temporary, process })
    }

    fn command(&self, data: &Path) -> Command {
        let mut command = Command::new(binary());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("STANDPIPE_") {
                command.env_remove(name);
            }
        }
        command.args(self.words).args(["--listen", &format!("127.0.0.1:{}", self.port)]);
        if self.keeps_data {
            command.arg("--data").arg(data);
        }
        command.args(&self.arguments);
        // What a server leaves for the commands of its user.
        command.env("XDG_STATE_HOME", data.with_extension("state"));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// A running server. Dropping it kills the process.
#[derive(Debug)]
pub struct Server {
    launch: Launch,
    data: PathBuf,
    _temporary: Option<TempDir>,
    process: Process,
}

impl Server {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.process.addr
    }

    /// `http://` and the address.
    pub fn url(&self) -> String {
        format!("http://{}", self.process.addr)
    }

    /// Where another door of it listens, as its ready line says.
    pub fn door(&self, name: &str) -> Option<&str> {
        door(self.process.said.last()?, name)
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The id of the process.
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Everything it has written to stderr so far. Complete after [`Self::stop`] or [`Self::kill`].
    pub fn stderr(&self) -> String {
        self.process.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The lines it has written to stdout so far.
    pub fn stdout(&mut self) -> &[String] {
        let said = self.process.stdout.get_mut().unwrap_or_else(PoisonError::into_inner).try_iter();
        self.process.said.extend(said);
        &self.process.said
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    ///
    /// # Errors
    /// It did not end in time; it is killed then.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(rustix::process::Signal::TERM)?;
        self.wait()
    }

    /// Kills it at once (SIGKILL), as a crash would.
    ///
    /// # Errors
    /// The process can't be waited for.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.process.child.kill()?;
        self.wait()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has ended already.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw);
        Ok(rustix::process::kill_process(pid.context("no such process id")?, signal)?)
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// It did not end in time; it is killed then.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.process.wait()
    }

    /// Starts it again on the same data folder, with the same arguments, on another port (but see
    /// [`Launch::same_port`]). Kills the process first if it still runs.
    ///
    /// # Errors
    /// As [`Launch::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.process.end();
        self.process = Process::start(&self.launch, &self.data)?;
        Ok(())
    }
}

/// One process and the threads that read its output.
#[derive(Debug)]
struct Process {
    child: Child,
    addr: SocketAddr,
    /// Lines of stdout; closed when the process has closed it, that is at its end.
    stdout: Mutex<Receiver<String>>,
    /// Lines taken from there.
    said: Vec<String>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    fn start(launch: &Launch, data: &Path) -> Result<Self> {
        let mut command = launch.command(data);
        let mut child = command.spawn().with_context(|| format!("can't start {command:?}: cargo build first"))?;
        let (sender, stdout) = sync_channel(STDOUT_LINES);
        let stderr = Arc::new(Mutex::new(String::new()));
        let out = child.stdout.take().expect("piped above");
        let err = child.stderr.take().expect("piped above");
        let log = Arc::clone(&stderr);
        let readers = vec![
            std::thread::spawn(move || each_line(out, |line| drop(sender.try_send(line.trim_end().to_owned())))),
            std::thread::spawn(move || {
                each_line(err, |line| log.lock().unwrap_or_else(PoisonError::into_inner).push_str(line));
            }),
        ];
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut process = Self { child, addr: unknown, stdout: Mutex::new(stdout), said: Vec::new(), stderr, readers };
        process.addr = process.ready()?;
        Ok(process)
    }

    /// Reads lines up to the ready line.
    fn ready(&mut self) -> Result<SocketAddr> {
        loop {
            match self.stdout.get_mut().unwrap_or_else(PoisonError::into_inner).recv_timeout(LIMIT) {
                Ok(line) => {
                    let addr = ready_address(&line).map(str::to_owned);
                    self.said.push(line);
                    if let Some(addr) = addr {
                        return addr.parse().with_context(|| format!("no address: {addr:?}"));
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("not ready after {LIMIT:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.wait()?;
                    let log = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
                    bail!("ended before it was ready: {status}\n{log}");
                }
            }
        }
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        loop {
            match self.stdout.get_mut().unwrap_or_else(PoisonError::into_inner).recv_timeout(LIMIT) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    self.end();
                    bail!("still running after {LIMIT:?}");
                }
            }
        }
        let status = self.child.wait()?;
        self.join();
        Ok(status)
    }

    /// Kills and reaps the process; nothing happens if it has ended.
    fn end(&mut self) {
        // Both fail only where the process was reaped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.join();
    }

    fn join(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().expect("the readers don't panic");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A free port that the system gives to nobody who asks for any port, clients included: it would
/// be taken while a server restarts.
fn lasting_port() -> u16 {
    // Tests on other threads look for one, too.
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let taken = TAKEN.fetch_add(1, Ordering::Relaxed);
    let start = u16::try_from((std::process::id() + 37 * taken) % 20_000).expect("below 20,000");
    let ports = (0..20_000).map(|n| 10_000 + (start + n) % 20_000);
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.into_iter().find(is_free).expect("one of 20,000 ports is free")
}

/// The address in `standpipe ready http://ADDRESS data=DIR`.
fn ready_address(line: &str) -> Option<&str> {
    line.strip_prefix("standpipe ready http://")?.split_whitespace().next()
}

/// The place of a door in a line such as `standpipe ready http://ADDRESS resp=ADDRESS data=DIR`.
fn door<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let (doors, _data) = line.split_once(" data=")?;
    doors.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn each_line(pipe: impl Read, mut take: impl FnMut(&str)) {
    let (mut pipe, mut line) = (BufReader::new(pipe), Vec::new());
    while let Ok(1..) = pipe.read_until(b'\n', &mut line) {
        take(&String::from_utf8_lossy(&line));
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_holds_the_address() {
        let check = |line, expected| assert_eq!(ready_address(line), expected, "{line}");
        check("standpipe ready http://127.0.0.1:9000 data=/tmp/a b", Some("127.0.0.1:9000"));
        check("standpipe ready http://[::1]:9 data=x", Some("[::1]:9"));
        check("put a value: curl http://127.0.0.1:9000", None);
    }

    #[test]
    fn the_ready_line_holds_other_doors() {
        let line = "standpipe ready http://[::1]:9 line=/run/l resp=127.0.0.1:6380 data=/tmp/resp=x y";
        assert_eq!(door(line, "resp"), Some("127.0.0.1:6380"));
        assert_eq!(door(line, "line"), Some("/run/l"));
        assert_eq!(door(line, "data"), None);
    }
}
