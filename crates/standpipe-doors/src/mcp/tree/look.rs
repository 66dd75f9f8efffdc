//! A look at one place of the tree: its value, as far as it is wanted, and its ETag, both of one snapshot. Memory is bounded by what is
//! wanted, however much there is; time by the deadline.

use standpipe_engine::{Error, ErrorKind, Snapshot};
use standpipe_serve::{Class, Cost, Deadline};
use standpipe_tree::{Format, JsonStream, Path, Progress, Row, RowCursor, etag};

use super::Tree;
use super::request::Request;
use crate::dispatch::{cost, run};

/// JSON written between two looks at how much it is.
const SLICE_BYTES: usize = 64 << 10;
/// Rows read between two looks at the clock.
const ROWS_A_LOOK: u32 = 4_096;

/// How much of a value is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Levels of objects.
    pub(crate) depth: usize,
    /// The longest JSON text.
    pub(crate) bytes_max: usize,
}

/// What is at a place.
#[derive(Debug)]
pub(crate) struct Look {
    /// The revision it is of.
    pub(crate) rev: u64,
    /// Whether anything is there.
    pub(crate) exists: bool,
    /// The value as JSON; `None` where that is longer than wanted.
    pub(crate) json: Option<Vec<u8>>,
    /// Length of the JSON text, wanted or not.
    pub(crate) bytes: u64,
    /// Whether objects were left out that lie too deep.
    pub(crate) cut: bool,
    /// The ETag of the whole value.
    pub(crate) etag: String,
}

impl Look {
    /// Whether something of the value is missing.
    pub(crate) fn is_truncated(&self) -> bool {
        self.cut || self.json.is_none()
    }

    /// The value, or `null` where it is longer than wanted.
    pub(crate) fn json(&self) -> &[u8] {
        self.json.as_deref().unwrap_or(b"null")
    }
}

/// Looks at `path`, as the caller.
///
/// # Errors
/// What the rules, the limits and the store say.
pub(crate) async fn look(tree: &Tree, request: &Request, path: &Path, wanted: Wanted) -> Result<Look, Error> {
    let database = request.database(tree)?;
    let snapshot = database.snapshot().await?;
    database.check_read(&snapshot, request.identity(), path, None)?;
    look_on(request, snapshot, path, wanted).await
}

/// As [`look`], on a snapshot on which reading has been allowed.
///
/// # Errors
/// What the limits and the store say.
pub(crate) async fn look_on(request: &Request, snapshot: Snapshot, path: &Path, wanted: Wanted) -> Result<Look, Error> {
    let deadline = request.deadline();
    let path = path.clone();
    on_snapshot(request, snapshot, path.clone(), Class::Bulk, deadline, move |snapshot| {
        let mut cursor = Timed::new(snapshot.cursor(&path), deadline);
        let exists = cursor.seek(&[])?.is_some();
        let value = value(&mut cursor, wanted)?;
        let etag = etag(&mut Timed::new(snapshot.cursor(&path), deadline))?;
        Ok(Look { rev: snapshot.rev(), exists, json: value.json, bytes: value.bytes, cut: value.cut, etag })
    })
    .await
}

/// Runs a job on a snapshot: here where there is little at `path`; else on a worker, in the `class` of what is long.
///
/// # Errors
/// What the limits say, or the job.
pub(crate) async fn on_snapshot<T: Send + 'static>(
    request: &Request,
    snapshot: Snapshot,
    path: Path,
    class: Class,
    deadline: Deadline,
    job: impl FnOnce(&Snapshot) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let session = request.session();
    let cost = cost(&snapshot, &path, session.limits().reply_chunk_bytes)?;
    let class = if cost == Cost::Small { Class::Read } else { class };
    run(session, class, cost, deadline, move || job(&snapshot)).await
}

/// A value as JSON.
#[derive(Debug)]
pub(crate) struct Value {
    /// The text; `None` where it is longer than wanted.
    pub(crate) json: Option<Vec<u8>>,
    /// Its length.
    pub(crate) bytes: u64,
    /// Whether objects were left out.
    pub(crate) cut: bool,
}

/// Writes the cursor's value as JSON, and only counts from where that is longer than wanted.
///
/// # Errors
/// The cursor's.
pub(crate) fn value<'a, C: RowCursor<'a>>(cursor: &mut C, wanted: Wanted) -> Result<Value, C::Error> {
    let mut stream = JsonStream::new(Format::Plain, false).to_depth(wanted.depth);
    let (mut out, mut bytes, mut fits) = (Vec::new(), 0, true);
    loop {
        let progress = stream.fill(cursor, &mut out, SLICE_BYTES)?;
        fits &= out.len() <= wanted.bytes_max;
        if !fits {
            bytes += out.len() as u64;
            out.clear();
        }
        if progress == Progress::Done {
            let json = fits.then_some(out);
            let bytes = json.as_ref().map_or(bytes, |json| json.len() as u64);
            return Ok(Value { json, bytes, cut: stream.was_cut() });
        }
    }
}

/// A cursor that ends with an error once its time is over.
#[derive(Debug)]
pub(crate) struct Timed<C> {
    cursor: C,
    deadline: Deadline,
    rows: u32,
}

impl<C> Timed<C> {
    pub(crate) fn new(cursor: C, deadline: Deadline) -> Self {
        Self { cursor, deadline, rows: 0 }
    }

    fn tick(&mut self) -> Result<(), Error> {
        self.rows += 1;
        if self.rows.is_multiple_of(ROWS_A_LOOK) && self.deadline.expired() {
            return Err(Error::new(ErrorKind::Deadline, "there is too much to look at in the time for one request"));
        }
        Ok(())
    }
}

impl<'a, C: RowCursor<'a>> RowCursor<'a> for Timed<C>
where
    Error: From<C::Error>,
{
    type Error = Error;

    fn seek(&mut self, key: &[u8]) -> Result<Option<Row<'a>>, Error> {
        self.tick()?;
        Ok(self.cursor.seek(key)?)
    }

    fn next(&mut self) -> Result<Option<Row<'a>>, Error> {
        self.tick()?;
        Ok(self.cursor.next()?)
    }

    fn before(&mut self, key: &[u8]) -> Result<Option<Row<'a>>, Error> {
        self.tick()?;
        Ok(self.cursor.before(key)?)
    }
}
