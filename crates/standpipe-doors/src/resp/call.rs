//! One data command in the middle of being answered: its arguments, the tree it looks at, and the
//! helpers its file uses. Which tree that is, a snapshot or the writer's open transaction, is all the
//! same to a command: reads and writes are written once, for `EXEC` as for everything else.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use standpipe_engine::{Database, Error, ErrorKind, Identity, Op, Snapshot, StoreCursor, View};
use standpipe_tree::{
    CHILDREN, Format, JsonStream, Leaf, Location, PAST, Path, Progress, RowCursor as _, Rows, decode_key,
};

use super::keys::{self, Separator};
use super::reply::{Reply, Version};
use super::scan::Cursors;

/// JSON is made in pieces of this size, between which the limit of a reply is looked at.
const PIECE_BYTES: usize = 64 << 10;

/// Why a command is not carried out.
#[derive(Debug)]
pub(super) enum Fault {
    /// What redis itself would say, code included.
    Redis(Cow<'static, str>),
    /// What the engine or the serving core says.
    Engine(Error),
}

impl Fault {
    /// An error with redis' general code.
    pub(super) fn err(sentence: impl AsRef<str>) -> Self {
        Self::Redis(format!("ERR {}", sentence.as_ref()).into())
    }

    pub(super) const SYNTAX: Self = Self::Redis(Cow::Borrowed("ERR syntax error"));
    pub(super) const NOT_INTEGER: Self = Self::Redis(Cow::Borrowed("ERR value is not an integer or out of range"));
    pub(super) const NOT_FLOAT: Self = Self::Redis(Cow::Borrowed("ERR value is not a valid float"));
    pub(super) const WRONG_TYPE: Self =
        Self::Redis(Cow::Borrowed("WRONGTYPE Operation against a key holding the wrong kind of value"));
    pub(super) const BELOW_VALUE: Self =
        Self::Redis(Cow::Borrowed("WRONGTYPE A key above this one holds a value; remove it first"));
}

impl<E: Into<Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Engine(error.into())
    }
}

/// What a command leads to beside its reply.
pub(super) type Ran = Result<Option<Op>, Fault>;

/// A data command.
pub(super) type Run = fn(&mut Call<'_>) -> Ran;

/// The tree a command looks at.
#[derive(Clone, Copy)]
pub(super) enum Look<'a> {
    Snapshot(&'a Snapshot, Reader<'a>),
    Writer(&'a View<'a>),
}

/// Who looks, at which database.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) database: &'a Database,
    pub(super) identity: &'a Identity,
}

/// What is at a path.
pub(super) enum Held<'a> {
    Nothing,
    Leaf(Leaf<'a>),
    Node,
}

impl<'a> Look<'a> {
    /// A cursor over what is at and below `path`, for who may read that: there is no other way to look.
    pub(super) fn cursor(self, path: &Path) -> Result<StoreCursor<'a>, Error> {
        self.check_read(path)?;
        Ok(match self {
            Self::Snapshot(snapshot, _) => snapshot.cursor(path),
            Self::Writer(view) => view.cursor(path),
        })
    }

    fn check_read(self, path: &Path) -> Result<(), Error> {
        match self {
            Self::Snapshot(snapshot, Reader { database, identity }) => {
                database.check_read(snapshot, identity, path, None)
            }
            Self::Writer(view) => view.check_read(path),
        }
    }

    pub(super) fn held(self, path: &Path) -> Result<Held<'a>, Error> {
        Ok(match self.cursor(path)?.seek(&[])? {
            None => Held::Nothing,
            Some((&[], value)) => Held::Leaf(decoded(value)?),
            Some(_) => Held::Node,
        })
    }

    /// Is there a leaf at one of the path's ancestors? One that can't be read is not told of: a write below
    /// it takes its place, as through every other door.
    pub(super) fn leaf_above(self, path: &Path) -> Result<bool, Error> {
        let leaf = match self {
            Self::Writer(view) => view.leaf_above(path)?,
            Self::Snapshot(snapshot, _) => {
                let mut above = path.parent();
                while let Some(path) = &above
                    && snapshot.leaf(&path.encode())?.is_none()
                {
                    above = path.parent();
                }
                above
            }
        };
        Ok(leaf.is_some_and(|leaf| self.check_read(&leaf).is_ok()))
    }

    pub(super) fn exists(self, path: &Path) -> Result<bool, Error> {
        Ok(self.cursor(path)?.seek(&[])?.is_some())
    }
}

fn decoded(value: &[u8]) -> Result<Leaf<'_>, Error> {
    Leaf::decode(value).ok_or_else(|| Error::new(ErrorKind::Internal, "a value can't be read"))
}

/// A data command with what it works on.
pub(super) struct Call<'a> {
    pub(super) look: Look<'a>,
    /// The arguments, the command's name first.
    pub(super) args: &'a [&'a [u8]],
    pub(super) reply: Reply<'a>,
    pub(super) separator: Separator,
    /// Bytes of a reply at most.
    pub(super) reply_max: usize,
    /// Where scans are.
    pub(super) cursors: &'a Cursors,
}

impl<'a> Call<'a> {
    pub(super) fn arg(&self, at: usize) -> &'a [u8] {
        self.args[at]
    }

    /// The path of the key at `at`.
    pub(super) fn path(&self, at: usize) -> Result<Path, Fault> {
        self.separator.path(self.args[at])
    }

    /// The path of the field at `at` of the hash at `path`.
    pub(super) fn field(&self, path: &Path, at: usize) -> Result<Path, Fault> {
        path.child(&keys::field_key(self.args[at])?).map_err(|error| Fault::err(error.to_string()))
    }

    pub(super) fn integer(&self, at: usize) -> Result<i64, Fault> {
        integer(self.args[at]).ok_or(Fault::NOT_INTEGER)
    }

    /// Replies with a text, or null.
    pub(super) fn text(&mut self, leaf: Option<&Leaf<'_>>) {
        match leaf {
            Some(leaf) => self.reply.bulk(&keys::text(leaf)),
            None => self.reply.null(),
        }
    }

    /// Replies with what is at `path`: a leaf's text, or the compact JSON of what is below.
    pub(super) fn value(&mut self, path: &Path) -> Result<(), Fault> {
        match self.look.held(path)? {
            Held::Nothing => self.reply.null(),
            Held::Leaf(leaf) => self.reply.bulk(&keys::text(&leaf)),
            Held::Node => {
                let json = self.json(path, Format::Plain)?;
                self.reply.bulk(&json);
            }
        }
        Ok(())
    }

    /// The JSON of what is at `path`, within the limit of a reply.
    pub(super) fn json(&self, path: &Path, format: Format) -> Result<Vec<u8>, Fault> {
        let mut json = Vec::new();
        let mut cursor = self.look.cursor(path)?;
        let mut stream = JsonStream::new(format, false);
        while stream.fill(&mut cursor, &mut json, PIECE_BYTES)? == Progress::More {
            self.check_reply(json.len())?;
        }
        Ok(json)
    }

    /// Is there room in the reply for `more` bytes?
    pub(super) fn check_reply(&self, more: usize) -> Result<(), Fault> {
        if self.reply.out.len() + more <= self.reply_max {
            return Ok(());
        }
        Err(crate::dispatch::too_large(self.reply_max).into())
    }

    /// Refuses to write below a leaf: the tree would replace it, and a client of redis knows of no such thing.
    pub(super) fn check_above(&self, path: &Path) -> Result<(), Fault> {
        if self.look.leaf_above(path)? { Err(Fault::BELOW_VALUE) } else { Ok(()) }
    }

    /// The children of the node at `path`, in the tree's order, until `visit` has enough.
    pub(super) fn children(
        &self,
        path: &Path,
        mut visit: impl FnMut(&str, Child<'a>) -> Result<ControlFlow<()>, Fault>,
    ) -> Result<(), Fault> {
        self.children_from(path, &[], |_, name, child| visit(name, child))
    }

    /// As [`Call::children`], from the encoded key `from` on; `visit` is told each one's.
    pub(super) fn children_from(
        &self,
        path: &Path,
        from: &[u8],
        mut visit: impl FnMut(&[u8], &str, Child<'a>) -> Result<ControlFlow<()>, Fault>,
    ) -> Result<(), Fault> {
        let mut cursor = self.look.cursor(path)?;
        let mut row = cursor.seek(if from.is_empty() { &[CHILDREN] } else { from })?;
        let mut name = String::new();
        while let Some((key, value)) = row {
            name.clear();
            let Some(end) = decode_key(key, &mut name) else { break };
            let child = if end == key.len() { Child::Leaf(decoded(value)?) } else { Child::Node };
            if visit(&key[..end], &name, child)?.is_break() {
                break;
            }
            row = match cursor.next()? {
                Some((next, _)) if next.starts_with(&key[..end]) => cursor.seek(&[&key[..end], &[PAST]].concat())?,
                row => row,
            };
        }
        Ok(())
    }
}

/// One child of a node.
pub(super) enum Child<'a> {
    Leaf(Leaf<'a>),
    Node,
}

/// A decimal integer as redis reads them: no blanks, no sign but `-`, no leading zeros.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let number: i64 = text.parse().ok()?;
    (itoa::Buffer::new().format(number) == text).then_some(number)
}

/// A finite or infinite float as redis reads them.
pub(super) fn float(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|number: &f64| !number.is_nan())
}

/// Puts one leaf.
pub(super) fn set(path: Path, leaf: Leaf<'_>) -> Op {
    Op::Set { location: Location::Node(path), rows: Rows::from_leaf(leaf) }
}

/// Removes a location.
pub(super) fn remove(path: Path) -> Op {
    Op::Set { location: Location::Node(path), rows: Rows::default() }
}

/// Several locations below `base` in one write.
pub(super) fn merge(base: Path, mut writes: Vec<(Path, Rows)>) -> Op {
    if let [(path, rows)] = &mut writes[..] {
        return Op::Set { location: Location::Node(path.clone()), rows: std::mem::take(rows) };
    }
    // The order of a change's writes is the tree's.
    writes.sort_by_cached_key(|(path, _)| path.encode());
    Op::Merge { base, writes: writes.into_iter().map(|(path, rows)| (Location::Node(path), rows)).collect() }
}

/// Does an option's text equal `name`, whatever its case?
pub(super) fn is(option: &[u8], name: &str) -> bool {
    option.eq_ignore_ascii_case(name.as_bytes())
}

/// A command copied to be carried out elsewhere: on a worker, or in the writer.
#[derive(Clone)]
pub(super) struct OwnedCall {
    pub(super) run: Run,
    pub(super) args: Arc<[Box<[u8]>]>,
    pub(super) version: Version,
    pub(super) separator: Separator,
    pub(super) reply_max: usize,
    pub(super) cursors: Arc<Cursors>,
}

impl OwnedCall {
    /// Carries it out; its reply, also that it was refused, goes to `out`.
    pub(super) fn run(&self, look: Look<'_>, out: &mut Vec<u8>) -> Result<Option<Op>, Error> {
        let args: Vec<&[u8]> = self.args.iter().map(|arg| &**arg).collect();
        let before = out.len();
        let mut call = Call {
            look,
            args: &args,
            reply: Reply { out, version: self.version },
            separator: self.separator,
            reply_max: self.reply_max,
            cursors: &self.cursors,
        };
        match (self.run)(&mut call) {
            Ok(op) => Ok(op),
            Err(fault) => {
                out.truncate(before);
                match fault {
                    Fault::Redis(text) => Reply { out, version: self.version }.error(&text),
                    Fault::Engine(error) => return Err(error),
                }
                Ok(None)
            }
        }
    }

    /// Bytes it holds while it waits.
    pub(super) fn bytes(&self) -> usize {
        self.args.iter().map(|arg| arg.len() + 16).sum()
    }
}
