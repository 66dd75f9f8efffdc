//! Where a server's administrator token is found by the commands of the user who runs it: a file of
//! that user for each port of this machine. What a token allows is the server's.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::position::state_dir;

/// Writes a token that only its owner can read.
pub(crate) fn write(file: &Path, secret: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(file)?;
    writeln!(file, "{secret}")?;
    file.sync_all()
}

fn file(port: u16) -> Option<PathBuf> {
    Some(state_dir(|name| std::env::var_os(name))?.join(format!("admin-{port}.token")))
}

/// Lets this user's commands use the token of the server on `port`.
pub(crate) fn announce(port: u16, secret: &str) -> io::Result<()> {
    let file = file(port).ok_or(io::ErrorKind::NotFound)?;
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    write(&file, secret)
}

/// The server on `port` has stopped.
pub(crate) fn withdraw(port: u16) {
    if let Some(file) = file(port) {
        let _gone_already = std::fs::remove_file(file);
    }
}

/// The token of this user's server at a loopback address, if one was announced.
pub(crate) fn find(authority: &str) -> Option<String> {
    let (host, port) = authority.rsplit_once(':')?;
    let loopback = host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().ok()?.is_loopback();
    let text = std::fs::read_to_string(file(port.parse().ok()?)?).ok()?;
    loopback.then(|| text.trim().to_owned())
}
