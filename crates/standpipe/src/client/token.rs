//! Where the commands of the user who runs a server find its administrator token and its Unix socket: files
//! of that user for each port of this machine. What a token allows is the server's.

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

fn dir() -> Option<PathBuf> {
    state_dir(|name| std::env::var_os(name))
}

fn file(port: u16) -> Option<PathBuf> {
    Some(dir()?.join(format!("admin-{port}.token")))
}

fn operator_file(port: u16) -> Option<PathBuf> {
    Some(dir()?.join(format!("operator-{port}.token")))
}

const SOCKET: &str = "socket-";

fn socket_file(port: u16) -> Option<PathBuf> {
    Some(dir()?.join(format!("{SOCKET}{port}")))
}

/// Lets this user's commands use the token of the server on `port`.
pub(crate) fn announce(port: u16, secret: &str) -> io::Result<()> {
    place(file(port), secret)
}

/// Lets this user's commands about runs use the secret of the development server on `port`. Its other commands are
/// anonymous as before: rules that are being written should be felt.
pub(crate) fn announce_operator(port: u16, secret: &str) -> io::Result<()> {
    place(operator_file(port), secret)
}

fn place(file: Option<PathBuf>, secret: &str) -> io::Result<()> {
    let file = file.ok_or(io::ErrorKind::NotFound)?;
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    write(&file, secret)
}

/// Lets this user's commands use the Unix socket of the server on `port`.
pub(crate) fn announce_socket(port: u16, socket: &Path) -> io::Result<()> {
    let file = socket_file(port).ok_or(io::ErrorKind::NotFound)?;
    if let Some(dir) = file.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(file, std::path::absolute(socket)?.as_os_str().as_encoded_bytes())
}

/// The server on `port` has stopped.
pub(crate) fn withdraw(port: u16) {
    for file in [file(port), operator_file(port)].into_iter().flatten() {
        let _gone_already = std::fs::remove_file(file);
    }
}

/// Nor is its Unix socket to be had any more.
pub(crate) fn withdraw_socket(port: u16) {
    if let Some(file) = socket_file(port) {
        let _gone_already = std::fs::remove_file(file);
    }
}

/// The token of this user's server at a loopback address, if one was announced.
pub(crate) fn find(authority: &str) -> Option<String> {
    let text = std::fs::read_to_string(file(loopback_port(authority)?)?).ok()?;
    Some(text.trim().to_owned())
}

/// The secret by which this user may have commands run by the server at a loopback address.
pub(crate) fn find_operator(authority: &str) -> Option<String> {
    let text = std::fs::read_to_string(operator_file(loopback_port(authority)?)?).ok();
    text.map(|text| text.trim().to_owned()).or_else(|| find(authority))
}

/// The Unix socket of this user's server at a loopback address, if one was announced.
pub(crate) fn find_socket(authority: &str) -> Option<PathBuf> {
    Some(std::fs::read_to_string(socket_file(loopback_port(authority)?)?).ok()?.into())
}

/// The token of this user's server that listens on a Unix socket, if both were announced.
pub(crate) fn find_by_socket(socket: &Path) -> Option<String> {
    let socket = std::path::absolute(socket).ok()?;
    let entries = std::fs::read_dir(dir()?).ok()?.flatten();
    let ports = entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix(SOCKET)?.parse().ok());
    let mut ports = ports.filter(|port| {
        let announced = socket_file(*port).and_then(|file| std::fs::read_to_string(file).ok());
        announced.is_some_and(|announced| Path::new(&announced) == socket)
    });
    Some(std::fs::read_to_string(file(ports.next()?)?).ok()?.trim().to_owned())
}

fn loopback_port(authority: &str) -> Option<u16> {
    let (host, port) = authority.rsplit_once(':')?;
    let loopback = host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().ok()?.is_loopback();
    port.parse().ok().filter(|_| loopback)
}
