//! `KEYS`, `SCAN`, `HSCAN`, `DBSIZE`. The keys of a database are the paths of its leaves, in the
//! tree's order. A cursor is a number that stands for a place in that order; the server remembers a bounded number of
//! them, so a scan sees everything that is there from its beginning to its end, whatever else changes.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;
use standpipe_engine::{Error, ErrorKind};
use standpipe_tree::{Path, RowCursor as _, is_priority_key, unescape_key};

use super::call::{Call, Fault, Held, Ran, is};
use super::{glob, hashes};

/// Places of scans under way that are remembered; of more the oldest is forgotten.
const CURSORS_MAX: usize = 4_096;

/// Keys one step looks at, at most, whatever `COUNT` says.
const COUNT_MAX: usize = 10_000;

/// The places that cursors stand for.
#[derive(Debug, Default)]
pub(super) struct Cursors(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    next: u64,
    /// Oldest first, by ascending number.
    places: VecDeque<(u64, Arc<[u8]>)>,
}

impl Cursors {
    fn keep(&self, place: &[u8]) -> u64 {
        let mut remembered = self.0.lock();
        remembered.next += 1;
        let number = remembered.next;
        remembered.places.push_back((number, place.into()));
        if remembered.places.len() > CURSORS_MAX {
            remembered.places.pop_front();
        }
        number
    }

    fn place(&self, number: u64) -> Option<Arc<[u8]>> {
        let remembered = self.0.lock();
        let at = remembered.places.binary_search_by_key(&number, |(kept, _)| *kept).ok()?;
        Some(remembered.places[at].1.clone())
    }
}

pub(super) fn dbsize(call: &mut Call<'_>) -> Ran {
    let mut count = 0;
    every_leaf(call, &[], usize::MAX, |_, _| {
        count += 1;
        Ok(())
    })?;
    call.reply.integer(count);
    Ok(None)
}

pub(super) fn keys(call: &mut Call<'_>) -> Ran {
    let pattern = call.arg(1);
    let mut found: Vec<String> = Vec::new();
    let mut bytes = 0;
    every_leaf(call, &[], usize::MAX, |call, key| {
        if glob::matches(pattern, key.as_bytes()) {
            bytes += key.len() + 16;
            call.check_reply(bytes)?;
            found.push(key);
        }
        Ok(())
    })?;
    call.reply.array(found.len());
    found.iter().for_each(|key| call.reply.bulk(key.as_bytes()));
    Ok(None)
}

/// Visits leaves from a place on, at most `max`; gives the place to go on from, if there is more.
fn every_leaf(
    call: &Call<'_>,
    from: &[u8],
    max: usize,
    mut visit: impl FnMut(&Call<'_>, String) -> Result<(), Fault>,
) -> Result<Option<Vec<u8>>, Fault> {
    let mut cursor = call.look.cursor(&Path::root())?;
    let mut row = cursor.seek(from)?;
    let mut seen = 0;
    while let Some((key, _)) = row {
        if !is_priority_key(key) {
            if seen == max {
                return Ok(Some(key.to_vec()));
            }
            seen += 1;
            let path = Path::decode(key).ok_or_else(|| Error::new(ErrorKind::Internal, "a key can't be read"))?;
            visit(call, call.separator.key(&path))?;
        }
        row = cursor.next()?;
    }
    Ok(None)
}

/// `MATCH`, `COUNT`, `TYPE` and `NOVALUES`.
struct Options<'a> {
    pattern: Option<&'a [u8]>,
    count: usize,
    only_type: Option<&'a [u8]>,
    values: bool,
}

fn options<'a>(args: &[&'a [u8]], hash: bool) -> Result<Options<'a>, Fault> {
    let mut options = Options { pattern: None, count: 10, only_type: None, values: true };
    let mut args = args.iter();
    while let Some(name) = args.next() {
        if hash && is(name, "novalues") {
            options.values = false;
            continue;
        }
        let value = *args.next().ok_or(Fault::SYNTAX)?;
        match name {
            name if is(name, "match") => options.pattern = Some(value),
            name if is(name, "type") && !hash => options.only_type = Some(value),
            name if is(name, "count") => {
                let count = super::call::integer(value).ok_or(Fault::NOT_INTEGER)?;
                options.count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or(Fault::SYNTAX)?;
            }
            _ => return Err(Fault::SYNTAX),
        }
    }
    options.count = options.count.min(COUNT_MAX);
    Ok(options)
}

/// The place a cursor argument stands for; empty at the start.
fn place(cursors: &Cursors, cursor: &[u8]) -> Result<Arc<[u8]>, Fault> {
    let number = std::str::from_utf8(cursor).ok().and_then(|text| text.parse::<u64>().ok());
    match number.ok_or(Fault::err("invalid cursor"))? {
        0 => Ok(Arc::default()),
        number => cursors.place(number).ok_or(Fault::err("this cursor is not known any more; begin again with 0")),
    }
}

fn reply(call: &mut Call<'_>, cursors: &Cursors, rest: Option<Vec<u8>>, texts: &[Vec<u8>]) {
    let number = rest.map_or(0, |place| cursors.keep(&place));
    call.reply.array(2);
    call.reply.bulk(number.to_string().as_bytes());
    call.reply.array(texts.len());
    texts.iter().for_each(|text| call.reply.bulk(text));
}

pub(super) fn scan(call: &mut Call<'_>) -> Ran {
    let cursors = call.cursors;
    let from = place(cursors, call.arg(1))?;
    let options = options(&call.args[2..], false)?;
    let strings = options.only_type.is_none_or(|wanted| is(wanted, "string"));
    let mut found: Vec<Vec<u8>> = Vec::new();
    let rest = every_leaf(call, &from, options.count, |_, key| {
        if strings && options.pattern.is_none_or(|pattern| glob::matches(pattern, key.as_bytes())) {
            found.push(key.into_bytes());
        }
        Ok(())
    })?;
    reply(call, cursors, rest, &found);
    Ok(None)
}

pub(super) fn hscan(call: &mut Call<'_>) -> Ran {
    let cursors = call.cursors;
    let path = call.path(1)?;
    if matches!(call.look.held(&path)?, Held::Leaf(_)) {
        return Err(Fault::WRONG_TYPE);
    }
    let from = place(cursors, call.arg(2))?;
    let options = options(&call.args[3..], true)?;
    let mut texts: Vec<Vec<u8>> = Vec::new();
    let (mut seen, mut rest, mut bytes) = (0, None, 0);
    // The place is the encoded key of the child to go on with.
    call.children_from(&path, &from, |key, name, child| {
        if seen == options.count {
            rest = Some(key.to_vec());
            return Ok(ControlFlow::Break(()));
        }
        seen += 1;
        let field = unescape_key(name).into_owned().into_bytes();
        if options.pattern.is_none_or(|pattern| glob::matches(pattern, &field)) {
            let value = if options.values { Some(hashes::child_text(call, &path, name, &child)?) } else { None };
            bytes += field.len() + value.as_ref().map_or(0, Vec::len) + 32;
            call.check_reply(bytes)?;
            texts.push(field);
            texts.extend(value);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    reply(call, cursors, rest, &texts);
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_the_oldest_goes_first() {
        let cursors = Cursors::default();
        let first = cursors.keep(b"first");
        assert_eq!(cursors.place(first).as_deref(), Some(&b"first"[..]));
        let last = (0..CURSORS_MAX).map(|_| cursors.keep(b"x")).last().unwrap();
        assert_eq!(cursors.place(first), None);
        assert_eq!(cursors.place(last).as_deref(), Some(&b"x"[..]));
        assert_eq!(cursors.place(last + 1), None);
    }
}
