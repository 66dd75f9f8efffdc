//! Query watches: the window of a query, and how it moves. What enters comes whole, what leaves
//! comes as null, what changed comes whole again (firebase-rtdb §6.3).

use std::collections::HashMap;
use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher13};
use standpipe_tree::{Format, JsonStream, Path, Progress, Query, QueryError, RowCursor, select, write_json_string};

use crate::error::{Error, ErrorKind, Result};
use crate::store::Snapshot;

/// The children a query selects at `snapshot`, in index order.
pub fn query_keys(snapshot: &Snapshot, path: &Path, query: &Query, children_max: usize) -> Result<Vec<Box<str>>> {
    let mut cursor = snapshot.cursor(path);
    match select(&mut cursor, query, children_max) {
        Ok(selection) => Ok(selection.keys),
        Err(QueryError::TooMany) => Err(Error::new(
            ErrorKind::TooLarge,
            format!("the query would scan more than {children_max} children; narrow it or raise query_children_max"),
        )),
        Err(QueryError::Cursor(error)) => Err(error.into()),
    }
}

/// The children a query watch shows, with a fingerprint of each.
#[derive(Debug)]
pub struct Window {
    path: Path,
    query: Query,
    children_max: usize,
    shown: HashMap<Box<str>, u128>,
}

impl Window {
    /// The window at `snapshot`, and its value as JSON.
    pub fn open(snapshot: &Snapshot, path: Path, query: Query, children_max: usize) -> Result<(Self, Vec<u8>)> {
        let keys = query_keys(snapshot, &path, &query, children_max)?;
        let mut shown = HashMap::with_capacity(keys.len());
        for key in &keys {
            shown.insert(key.clone(), fingerprint(snapshot, &path, key)?);
        }
        let mut json = Vec::new();
        let mut stream = JsonStream::children(Format::Plain, false, keys);
        while stream.fill(&mut snapshot.cursor(&path), &mut json, usize::MAX)? == Progress::More {}
        Ok((Self { path, query, children_max, shown }, json))
    }

    /// Gives the query back, to open the window anew.
    pub fn into_query(self) -> Query {
        self.query
    }

    /// Moves the window to `snapshot`: the children that differ as one JSON object, or `None`.
    pub fn advance(&mut self, snapshot: &Snapshot) -> Result<Option<Vec<u8>>> {
        let keys = query_keys(snapshot, &self.path, &self.query, self.children_max)?;
        let mut json = vec![b'{'];
        let mut now = HashMap::with_capacity(keys.len());
        for key in keys {
            let print = fingerprint(snapshot, &self.path, &key)?;
            if self.shown.remove(&key) != Some(print) {
                member(&mut json, &key);
                let child = child(&self.path, &key)?;
                let mut stream = JsonStream::new(Format::Plain, false);
                while stream.fill(&mut snapshot.cursor(&child), &mut json, usize::MAX)? == Progress::More {}
            }
            now.insert(key, print);
        }
        for gone in std::mem::replace(&mut self.shown, now).into_keys() {
            member(&mut json, &gone);
            json.extend_from_slice(b"null");
        }
        json.push(b'}');
        Ok((json.len() > 2).then_some(json))
    }
}

fn member(json: &mut Vec<u8>, key: &str) {
    if json.len() > 1 {
        json.push(b',');
    }
    write_json_string(key, json);
    json.push(b':');
}

fn child(path: &Path, key: &str) -> Result<Path> {
    path.child(key).map_err(Error::internal)
}

/// A fingerprint of a child's rows. Not a hash against adversaries: a collision hides one event.
fn fingerprint(snapshot: &Snapshot, path: &Path, key: &str) -> Result<u128> {
    let mut cursor = snapshot.cursor(&child(path, key)?);
    let mut hasher = SipHasher13::new();
    let mut row = cursor.seek(&[])?;
    while let Some((key, value)) = row {
        hasher.write(&(key.len() as u64).to_le_bytes());
        hasher.write(key);
        hasher.write(&(value.len() as u64).to_le_bytes());
        hasher.write(value);
        row = cursor.next()?;
    }
    Ok(hasher.finish128().as_u128())
}
