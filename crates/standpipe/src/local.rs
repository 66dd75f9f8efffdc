//! The client verbs on a data folder that no server holds: the same calls, answered by the engine
//! in this process. It parses no arguments and prints nothing.

use std::io::Write;
use std::path::Path;

use crate::client::Call;
use crate::exit::{Failure, Result};

/// A data folder held by this process, and one database in it.
#[derive(Debug)]
pub(crate) struct Folder;

impl Folder {
    /// Opens database `db` (the default one where not named) of the folder, creating both if new.
    pub(crate) fn open(_dir: &Path, _db: Option<&str>) -> Result<Self> {
        Err(Failure::failed("opening a folder is not wired"))
    }

    /// Does what the REST door would do for this call, as administrator. The answer's body goes to
    /// `out`; none for a silent one.
    pub(crate) fn call(&mut self, _call: &Call, _out: &mut dyn Write) -> Result<()> {
        Err(Failure::failed("opening a folder is not wired"))
    }

    /// Writes a compact copy of the database.
    pub(crate) fn backup(&mut self, _out: &mut std::fs::File) -> Result<()> {
        Err(Failure::failed("opening a folder is not wired"))
    }
}

/// Puts the backup file `source` in place as database `db` of a folder; refuses one that has it.
pub(crate) fn restore(_source: &Path, _dir: &Path, _db: Option<&str>) -> Result<()> {
    Err(Failure::failed("opening a folder is not wired"))
}

/// Verifies database `db`, or all, and writes one line of JSON for each.
pub(crate) fn verify(_dir: &Path, _db: Option<&str>, _out: &mut dyn Write) -> Result<()> {
    Err(Failure::failed("opening a folder is not wired"))
}
