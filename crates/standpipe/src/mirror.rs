//! `standpipe mirror`: a file that always holds the value at a path, replaced whole after every change,
//! and a command that is run when it has changed. Reads are the client's; what is followed is the server's.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::Notify;

use crate::cli::MirrorArgs;
use crate::client::{Client, watch};
use crate::exit::{Exit, Failure, Result};
use crate::pipe::{Stop, document};

/// Largest value that is mirrored.
const DOCUMENT_BYTES_MAX: usize = 256 << 20;
/// Between tries to read a value that has changed.
const RETRY: Duration = Duration::from_millis(500);

/// Keeps the copy until it is told to stop.
///
/// # Errors
/// The first connection fails; later, a refusal that won't change by asking again, or a file that can't be
/// written.
pub(crate) fn run(arguments: &MirrorArgs) -> Result<()> {
    let client = Client::new(&arguments.url, &arguments.access)?;
    if let Some(folder) = arguments.file.parent() {
        std::fs::create_dir_all(folder).map_err(|error| Failure::file(folder, &error))?;
    }
    let mirror = Mirror { client: &client, arguments, changed: Notify::new(), replaced: Notify::new() };
    client.block_on(async {
        let mut stop = Stop::new()?;
        tokio::select! {
            // Only failures end these.
            done = mirror.follow() => done,
            done = mirror.copy() => done,
            () = mirror.command() => Ok(()),
            () = stop.told() => Ok(()),
        }
    })
}

struct Mirror<'a> {
    client: &'a Client,
    arguments: &'a MirrorArgs,
    /// The value is another than the one that was read; said any number of times it is heard once.
    changed: Notify,
    /// So is the file.
    replaced: Notify,
}

impl Mirror<'_> {
    async fn follow(&self) -> Result<()> {
        let mut reached = |_| {
            self.changed.notify_one();
            Ok(())
        };
        watch::follow(self.client, &self.arguments.path, &mut reached).await
    }

    async fn copy(&self) -> Result<()> {
        let MirrorArgs { path, file, render, .. } = self.arguments;
        let mut holds = std::fs::read(file).ok();
        loop {
            self.changed.notified().await;
            let document = loop {
                match document(self.client, path, (*render).into(), DOCUMENT_BYTES_MAX).await {
                    Err(failure) if failure.exit == Exit::Unreachable || failure.retry_after.is_some() => {
                        tracing::debug!(?failure, "can't read the value yet");
                        tokio::time::sleep(failure.retry_after.unwrap_or(RETRY)).await;
                    }
                    done => break done?,
                }
            };
            if holds.as_ref() != Some(&document) {
                replace(file, &document).map_err(|error| Failure::file(file, &error))?;
                holds = Some(document);
                self.replaced.notify_one();
            }
        }
    }

    /// Runs the command after a change, one at a time; changes meanwhile are one more run together.
    async fn command(&self) {
        let Some(command) = &self.arguments.on_change else { return std::future::pending().await };
        loop {
            self.replaced.notified().await;
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(command).stdin(std::process::Stdio::null()).kill_on_drop(true);
            match shell.status().await {
                Ok(status) if status.success() => {}
                Ok(status) => eprintln!("--on-change {command}: {status}"),
                Err(error) => eprintln!("--on-change {command}: {error}"),
            }
        }
    }
}

/// Replaces a file in one step, for its readers; it keeps its permissions, and a new one is its owner's only.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or(io::ErrorKind::InvalidFilename)?);
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let fill = || {
        let mut options = File::options();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&part)?;
        if let Ok(found) = std::fs::metadata(path) {
            file.set_permissions(found.permissions())?;
        }
        file.write_all(bytes)?;
        std::fs::rename(&part, path)
    };
    let done = fill();
    if done.is_err() {
        let _the_first_failure_is_told = std::fs::remove_file(&part);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_keeps_its_permissions_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("copy.json");
        replace(&path, b"1").unwrap();
        let mut permissions = std::fs::metadata(&path).unwrap().permissions();
        permissions.set_readonly(true);
        std::fs::set_permissions(&path, permissions.clone()).unwrap();
        replace(&path, b"22").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"22");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions(), permissions);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace(&dir.path().join("none").join("x"), b"1").is_err());
    }
}
