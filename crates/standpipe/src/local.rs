//! The client verbs on a data folder that no server holds: a server inside this process answers
//! them, so that a folder and a server mean the same by the same words. It parses no arguments.

use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use standpipe_doors::Authority;
use standpipe_engine::{Committed, Database, Databases, Identity, Intent, Op, database_names};
use standpipe_serve::Limits;
use standpipe_tree::Rows;
use tokio::sync::oneshot;

use crate::cli::AccessArgs;
use crate::client::{Call, Client};
use crate::exit::{Failure, Result};
use crate::node::{Listen, Node, with_limits};

/// Overlays on their way: one is written while the next is parsed, and one waits.
const PENDING_MAX: usize = 2;

/// Longer than any disk takes for one update.
const WRITE_MAX: Duration = Duration::from_secs(300);

/// The database that is meant where none is named.
const DEFAULT: &str = "default";

/// A data folder held by this process, and one database in it.
#[derive(Debug)]
pub(crate) struct Folder {
    node: Option<Node>,
    client: Client,
    database: Arc<Database>,
    /// Overlays the writer has not answered yet, oldest first.
    pending: VecDeque<oneshot::Receiver<standpipe_engine::Result<Committed>>>,
}

impl Folder {
    /// Opens database `db` (the default one where not named) of the folder, creating both if new.
    pub(crate) fn open(dir: &Path, db: Option<&str>) -> Result<Self> {
        let name = db.unwrap_or(DEFAULT);
        let limits = Limits::default();
        let config = standpipe_engine::EngineConfig { databases: Databases::OnDemand, ..with_limits(dir, &limits) };
        let token = standpipe_engine::random_token();
        let authority = Authority { admin_token: Some(token.clone()), ..Authority::default() };
        let node = Node::start(config, limits, Listen::http("127.0.0.1:0"), authority, None, None)?;
        let database = node.engine().database(name)?;
        let access = AccessArgs { db: Some(name.to_owned()), token: Some(token), token_file: None };
        let client = Client::new(&node.url(), &access)?;
        Ok(Self { node: Some(node), client, database, pending: VecDeque::new() })
    }

    /// Does what the REST door does for this call, as administrator. The answer's body goes to `out`.
    pub(crate) fn call(&mut self, call: &Call, out: &mut dyn Write) -> Result<()> {
        self.settle()?;
        self.client.call(call, out)
    }

    /// Puts leaves below `base`: the next are parsed while these are written.
    pub(crate) fn overlay(&mut self, base: &standpipe_tree::Path, rows: Rows) -> Result<()> {
        while self.pending.len() >= PENDING_MAX {
            self.answer()?;
        }
        let intent = Intent::new(Op::Overlay { base: base.clone(), rows }, Identity::Admin);
        self.pending.push_back(self.database.submit(intent, Instant::now() + WRITE_MAX)?);
        Ok(())
    }

    /// Waits until all overlays are written.
    pub(crate) fn settle(&mut self) -> Result<()> {
        while !self.pending.is_empty() {
            self.answer()?;
        }
        Ok(())
    }

    fn answer(&mut self) -> Result<()> {
        if let Some(answer) = self.pending.pop_front() {
            answer.blocking_recv().map_err(|_| Failure::failed("the database has stopped"))??;
        }
        Ok(())
    }

    /// Writes a compact copy of the database.
    pub(crate) fn backup(&mut self, out: &mut std::fs::File) -> Result<()> {
        Ok(self.database.backup(out)?)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            self.client.block_on(node.stop());
        }
    }
}

/// Puts the backup file `source` in place as database `db` of a folder; refuses one that has it.
pub(crate) fn restore(source: &Path, dir: &Path, db: Option<&str>) -> Result<()> {
    let name = db.unwrap_or(DEFAULT);
    standpipe_engine::restore(source, dir, name)?;
    Ok(())
}

/// Verifies database `db`, or all and the streams, and writes one line of JSON for each.
pub(crate) fn verify(dir: &Path, db: Option<&str>, out: &mut dyn Write) -> Result<()> {
    let names = match db {
        Some(name) => vec![name.to_owned()],
        None => database_names(dir)?,
    };
    if names.is_empty() {
        return Err(
            Failure::failed(format!("{} holds no database", dir.display())).help("name a data folder: --data DIR")
        );
    }
    for name in names {
        let verified = standpipe_engine::verify(dir, &name)?;
        writeln!(
            out,
            r#"{{"database":"{name}","rev":{},"rows":{},"records":{},"digest":"{:032x}"}}"#,
            verified.rev, verified.rows, verified.records, verified.digest
        )
        .map_err(|error| Failure::output(&error))?;
    }
    let found = if db.is_none() { standpipe_engine::verify_streams(dir)? } else { None };
    if let Some(found) = found.filter(|found| found.streams > 0) {
        let standpipe_engine::StreamsVerified { streams, records, bytes } = found;
        writeln!(out, r#"{{"streams":{streams},"records":{records},"bytes":{bytes}}}"#)
            .map_err(|error| Failure::output(&error))?;
    }
    Ok(())
}
