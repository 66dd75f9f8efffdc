//! Appending to streams that clients own: they begin with their first record, and `.write` rules of the default database
//! at their path say who may. What runs say is theirs alone.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use standpipe_engine::{Appender, Channel, NewRecord, Outcome};
use standpipe_engine::{Error, ErrorKind, Identity};
use standpipe_tree::{Path, write_json_string};

use super::no_stream;
use crate::dispatch::Dispatch;

/// What begins paths of streams that the server itself writes.
const OWN: [&str; 2] = ["runs", "jobs"];

/// Refuses what is no place for a stream of clients.
pub(crate) fn check_user_path(path: &Path) -> Result<(), Error> {
    match path.segments().next() {
        None => Err(Error::bad_request("a stream needs a path of at least one key")),
        Some(first) if OWN.contains(&first) => Err(Error::bad_request(format!(
            "streams below /{first} are written by the server alone; append to one elsewhere, such as /log/{first}"
        ))),
        Some(_) => Ok(()),
    }
}

/// A record of now.
pub(crate) fn record(channel: Channel, bytes: Bytes) -> NewRecord {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    NewRecord { channel, at_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX), bytes }
}

/// The lines of a text as records, each with its end; what follows the last end is one too.
pub(crate) fn lines(text: &Bytes) -> Vec<NewRecord> {
    text.split_inclusive(|byte| *byte == b'\n').map(|line| record(Channel::Out, text.slice_ref(line))).collect()
}

impl Dispatch {
    /// Appends records, which are committed when this returns; the first append begins the stream. Gives the number
    /// that the next record will have, or a later one where others append too.
    ///
    /// # Errors
    /// `BadRequest` for a path that is not for clients, `Denied`, `Conflict` once it has ended, `TooLarge` for a record.
    pub(crate) async fn append(&self, identity: &Identity, path: &Path, records: Vec<NewRecord>) -> Result<u64, Error> {
        self.hand_over(identity, path, records).await?.flush().await
    }

    /// As [`Dispatch::append`], and leaves the waiting for the commit to the caller.
    pub(crate) async fn hand_over(
        &self,
        identity: &Identity,
        path: &Path,
        records: Vec<NewRecord>,
    ) -> Result<Appender, Error> {
        check_user_path(path)?;
        if *identity != Identity::Admin {
            let whole: Vec<u8> = records.iter().flat_map(|record| record.bytes.iter().copied()).collect();
            let mut json = Vec::with_capacity(whole.len() + 2);
            write_json_string(&String::from_utf8_lossy(&whole), &mut json);
            self.check_append(identity, path, &String::from_utf8_lossy(&json)).await?;
        }
        let appender = self.appender(path).await?;
        appender.append(records).await?;
        Ok(appender)
    }

    /// Ends a stream of clients: nothing can be appended any more.
    ///
    /// # Errors
    /// As [`Dispatch::append`]; `NotFound`.
    pub(crate) async fn end_stream(&self, identity: &Identity, path: &Path, state: &str) -> Result<(), Error> {
        check_user_path(path)?;
        self.check_append(identity, path, "null").await?;
        self.streams().join(path)?.end(Outcome::of(state)).await
    }

    /// Removes a stream of clients.
    ///
    /// # Errors
    /// As [`Dispatch::end_stream`].
    pub(crate) async fn remove_stream(&self, identity: &Identity, path: Path) -> Result<(), Error> {
        check_user_path(&path)?;
        self.check_append(identity, &path, "null").await?;
        if self.streams().head(&path)?.is_none() {
            return Err(no_stream(&path));
        }
        self.streams().remove(vec![path]).await
    }

    /// Asks the rules as if `json` were written at `path`: the text that is appended, or `null` for an end.
    async fn check_append(&self, identity: &Identity, path: &Path, json: &str) -> Result<(), Error> {
        let database = self.database(None)?;
        database.check_entry(identity)?;
        let snapshot = database.snapshot().await?;
        database.check_write(&snapshot, identity, path, json)
    }

    /// The appender of a stream of clients, which this begins if there is none.
    async fn appender(&self, path: &Path) -> Result<Appender, Error> {
        loop {
            match self.streams().join(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                joined => return joined,
            }
            match self.streams().create(path).await {
                // Somebody else has begun it meanwhile.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                created => return created,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_ends() {
        let check = |text: &'static str, expected: &[&str]| {
            let got = lines(&Bytes::from_static(text.as_bytes()));
            assert_eq!(
                got.iter().map(|record| &record.bytes[..]).collect::<Vec<_>>(),
                expected.iter().map(|line| line.as_bytes()).collect::<Vec<_>>(),
                "{text:?}"
            );
        };
        check("", &[]);
        check("a", &["a"]);
        check("a\nb", &["a\n", "b"]);
        check("\n\na\r\n", &["\n", "\n", "a\r\n"]);
    }

    #[test]
    fn what_the_server_writes_is_not_for_clients() {
        let check = |path: &str, expected: bool| {
            assert_eq!(check_user_path(&Path::parse(path).unwrap()).is_ok(), expected, "{path}");
        };
        check("chat/log", true);
        check("runsome", true);
        check("runs/a@1/out", false);
        check("jobs/a", false);
        check("", false);
    }
}
