//! Streams as redis has them: `XADD`, `XLEN`, `XRANGE`, `XREVRANGE`, `XREAD` and `XINFO STREAM`. A record's id is its place
//! and `-1`, so that ids rise and the first record lies behind `0`. The end of a stream is one entry more, which only
//! `XREAD` shows.

use std::future::pending;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::select_all;
use standpipe_engine::{Channel, From, Head};
use standpipe_engine::{Error, ErrorKind, Identity};
use standpipe_serve::Session;
use standpipe_tree::StreamRecord;
use standpipe_tree::{Path, write_json_string};
use standpipe_wire::records::{self, entry_id};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::call::{Fault, integer, is};
use super::client::{Client, Done, Next};
use super::reply::{Reply, Version};
use crate::commands::Turn;
use crate::dispatch::{Dispatch, Watcher, refused, too_large};
use crate::streams::{Beginnings, Part, Viewing, end_of, record, records_of};

type Answered = Result<Next, Fault>;

/// What a command needs to look at streams while others are answered.
struct Looker {
    dispatch: Dispatch,
    session: Session,
    identity: Identity,
    version: Version,
    reply_max: usize,
}

impl Looker {
    fn of(client: &Client, turn: &Turn<'_>) -> Self {
        Self {
            dispatch: client.shared.dispatch.clone(),
            session: turn.session.clone(),
            identity: client.identity.clone(),
            version: client.version,
            reply_max: turn.limits.reply_bytes_max,
        }
    }

    /// The stream, if there is one that may be read.
    async fn head(&self, path: &Path) -> Result<Option<Head>, Error> {
        match self.dispatch.find_stream(&self.identity, path).await {
            Ok(head) => Ok(Some(head)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Appends the entry of a record, as long as the reply does not grow too long.
    fn push(&self, record: &StreamRecord<'_>, entries: &mut Vec<Vec<u8>>, bytes: &mut usize) -> Result<(), Error> {
        let mut entry = Vec::new();
        records::put_entry(record, &mut entry);
        *bytes += entry.len();
        if *bytes > self.reply_max {
            return Err(too_large(self.reply_max));
        }
        entries.push(entry);
        Ok(())
    }

    /// Entries of the records in `range` that are left, `count` at most.
    async fn entries(&self, path: &Path, range: RangeInclusive<u64>, count: u64) -> Result<Vec<Vec<u8>>, Error> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        if range.is_empty() || count == 0 {
            return Ok(entries);
        }
        let watcher = Watcher::Fixed(self.identity.clone());
        let mut viewing = self.dispatch.view(watcher, path.clone(), From::Seq(*range.start())).await?;
        while let Some(part) = viewing.take(&self.session).await? {
            match part {
                Part::Records(chunk, records) => {
                    for record in records_of(&chunk, records) {
                        if record.seq > *range.end() || entries.len() as u64 >= count {
                            return Ok(entries);
                        }
                        self.push(&record, &mut entries, &mut bytes)?;
                    }
                }
                Part::Gap { .. } => {}
                Part::Ended(_) => break,
            }
        }
        Ok(entries)
    }
}

/// Where an id is: the place of the record it names, or of the first one behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Names a record.
    On(u64),
    /// Lies before the record of this place, and behind the one before.
    Before(u64),
}

/// Reads an id of a range or of `XREAD`; `last` says which second part is meant where none is given.
fn id(text: &[u8], last: bool) -> Result<At, Fault> {
    let invalid = || Fault::err("Invalid stream ID specified as stream command argument");
    let text = std::str::from_utf8(text).map_err(|_| invalid())?;
    let (seq, second) = match text.split_once('-') {
        Some((seq, second)) => (seq, second.parse().map_err(|_| invalid())?),
        None => (text, if last { u64::MAX } else { 0 }),
    };
    let seq: u64 = seq.parse().map_err(|_| invalid())?;
    Ok(match second {
        0 => At::Before(seq),
        1 => At::On(seq),
        _ => At::Before(seq.saturating_add(1)),
    })
}

/// The records between two ids; `None` where there can be none.
fn span(start: &[u8], end: &[u8]) -> Result<Option<RangeInclusive<u64>>, Fault> {
    let bare = |text: &'static [u8]| move |bound: &[u8]| bound == text;
    let (open, start) = start.strip_prefix(b"(").map_or((false, start), |start| (true, start));
    let first = match (bare(b"-")(start), bare(b"+")(start)) {
        (true, _) => 0,
        (_, true) => return Ok(None),
        _ => match id(start, false)? {
            At::On(seq) if open => seq.saturating_add(1),
            At::On(seq) | At::Before(seq) => seq,
        },
    };
    let (open, end) = end.strip_prefix(b"(").map_or((false, end), |end| (true, end));
    let last = match (bare(b"+")(end), bare(b"-")(end)) {
        (true, _) => Some(u64::MAX),
        (_, true) => None,
        _ => match id(end, true)? {
            At::On(seq) if !open => Some(seq),
            At::On(seq) | At::Before(seq) => seq.checked_sub(1),
        },
    };
    Ok(last.map(|last| first..=last))
}

/// `COUNT n` at the end, if it is there.
fn count(args: &[&[u8]]) -> Result<u64, Fault> {
    match args {
        [] => Ok(u64::MAX),
        [name, number] if is(name, "count") => {
            integer(number).map(|count| u64::try_from(count).unwrap_or(0)).ok_or(Fault::NOT_INTEGER)
        }
        _ => Err(Fault::SYNTAX),
    }
}

fn later(answer: impl Future<Output = Result<Vec<u8>, Error>> + Send + 'static) -> Next {
    Next::Later(Box::pin(async move { Done::Replied(answer.await) }))
}

pub(super) fn xlen(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Answered {
    let (path, looker) = (client.shared.separator.path(args[1])?, Looker::of(client, turn));
    Ok(later(async move {
        let records = looker.head(&path).await?.map_or(0, |head| head.next_seq - head.first_seq);
        let mut out = Vec::new();
        Reply { out: &mut out, version: looker.version }.integer(i64::try_from(records).unwrap_or(i64::MAX));
        Ok(out)
    }))
}

pub(super) fn xrange(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Answered {
    range(client, args[1], span(args[2], args[3])?, count(&args[4..])?, false, turn)
}

pub(super) fn xrevrange(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Answered {
    range(client, args[1], span(args[3], args[2])?, count(&args[4..])?, true, turn)
}

fn range(
    client: &Client,
    key: &[u8],
    span: Option<RangeInclusive<u64>>,
    count: u64,
    newest_first: bool,
    turn: &Turn<'_>,
) -> Answered {
    let (path, looker) = (client.shared.separator.path(key)?, Looker::of(client, turn));
    Ok(later(async move {
        let head = looker.head(&path).await?;
        let mut entries = Vec::new();
        if let (Some(head), Some(span)) = (head, span)
            && let Some(last) = head.next_seq.checked_sub(1)
        {
            let (mut first, last) = (head.first_seq.max(*span.start()), last.min(*span.end()));
            if newest_first {
                first = first.max(last.saturating_sub(count.saturating_sub(1)));
            }
            entries = looker.entries(&path, first..=last, count).await?;
        }
        if newest_first {
            entries.reverse();
        }
        let mut out = Vec::new();
        Reply { out: &mut out, version: looker.version }.array(entries.len());
        entries.iter().for_each(|entry| out.extend_from_slice(entry));
        Ok(out)
    }))
}

pub(super) fn xadd(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Answered {
    let path = client.shared.separator.path(args[1])?;
    let (mut rest, mut create) = (&args[2..], true);
    loop {
        rest = match rest {
            [option, more @ ..] if is(option, "nomkstream") => {
                create = false;
                more
            }
            // How much is kept is for the limits to say, which is what `~` allows.
            [option, about, _, more @ ..] if (is(option, "maxlen") || is(option, "minid")) && *about == b"~" => {
                match more {
                    [limit, _, more @ ..] if is(limit, "limit") => more,
                    more => more,
                }
            }
            [option, ..] if is(option, "maxlen") || is(option, "minid") => {
                return Err(Fault::err(
                    "streams are cut by bytes and age (stream_bytes_max, stream_age_s_max), not to a length; MAXLEN ~ is taken and ignored",
                ));
            }
            _ => break,
        };
    }
    let [id, fields @ ..] = rest else { return Err(Fault::err("wrong number of arguments for 'xadd' command")) };
    if *id != b"*" {
        return Err(Fault::err("the server numbers the records of a stream: the ID must be *"));
    }
    if fields.is_empty() || fields.len() % 2 != 0 {
        return Err(Fault::err("wrong number of arguments for 'xadd' command"));
    }
    let record = new_record(fields)?;
    let looker = Looker::of(client, turn);
    Ok(later(async move {
        let mut out = Vec::new();
        let mut reply = Reply { out: &mut out, version: looker.version };
        if !create && looker.head(&path).await?.is_none() {
            reply.null();
            return Ok(out);
        }
        let next_seq = looker.dispatch.append(&looker.identity, &path, vec![record]).await?;
        reply.bulk(entry_id(next_seq.saturating_sub(1)).as_bytes());
        Ok(out)
    }))
}

/// The record of an entry: `data` is its bytes, `ch` its channel; other fields become one object of JSON on a line.
fn new_record(fields: &[&[u8]]) -> Result<standpipe_engine::NewRecord, Fault> {
    let pairs = || fields.chunks_exact(2).map(|pair| (pair[0], pair[1]));
    let field = |name: &str| pairs().find(|(field, _)| *field == name.as_bytes()).map(|(_, value)| value);
    let channel = match field("ch") {
        None | Some(b"out") => Channel::Out,
        Some(b"err") => Channel::Err,
        Some(b"note") => Channel::Note,
        Some(_) => return Err(Fault::err("ch is out, err or note")),
    };
    if let Some(data) = field("data") {
        if pairs().any(|(field, _)| !matches!(field, b"data" | b"ch" | b"at")) {
            return Err(Fault::err(
                "beside data there can be ch only; without data, all fields become one object of JSON",
            ));
        }
        return Ok(record(channel, data.to_vec().into()));
    }
    let mut json = b"{".to_vec();
    for (name, value) in pairs() {
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| Fault::err("fields are UTF-8; bytes go into data"));
        if json.len() > 1 {
            json.push(b',');
        }
        write_json_string(text(name)?, &mut json);
        json.push(b':');
        write_json_string(text(value)?, &mut json);
    }
    json.extend_from_slice(b"}\n");
    Ok(record(channel, json.into()))
}

/// One stream that `XREAD` reads.
struct Wanted {
    key: Vec<u8>,
    path: Path,
    /// The first record wanted; none: what comes from now on.
    from: Option<u64>,
}

pub(super) fn xread(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Answered {
    let (mut rest, mut count, mut block) = (&args[1..], u64::MAX, None);
    let names = loop {
        rest = match rest {
            [name, number, more @ ..] if is(name, "count") => {
                count = integer(number).and_then(|count| u64::try_from(count).ok()).ok_or(Fault::NOT_INTEGER)?;
                more
            }
            [name, number, more @ ..] if is(name, "block") => {
                let ms = integer(number).ok_or_else(|| Fault::err("timeout is not an integer or out of range"))?;
                block = Some(u64::try_from(ms).map_err(|_| Fault::err("timeout is negative"))?);
                more
            }
            [name, more @ ..] if is(name, "streams") => break more,
            _ => return Err(Fault::SYNTAX),
        };
    };
    if names.is_empty() || names.len() % 2 != 0 {
        return Err(Fault::err(
            "Unbalanced 'xread' list of streams: for each stream key an ID or '$' must be specified.",
        ));
    }
    let (keys, ids) = names.split_at(names.len() / 2);
    let wanted = |(key, text): (&&[u8], &&[u8])| {
        let from = match *text {
            b"$" => None,
            text => Some(match id(text, false)? {
                At::On(seq) => seq.saturating_add(1),
                At::Before(seq) => seq,
            }),
        };
        Ok(Wanted { key: key.to_vec(), path: client.shared.separator.path(key)?, from })
    };
    let wanted = keys.iter().zip(ids).map(wanted).collect::<Result<Vec<_>, Fault>>()?;
    let looker = Looker::of(client, turn);
    let permit = if block.is_some() { Some(turn.session.watch_permit().map_err(refused)?) } else { None };
    let gone = client.gone();
    Ok(later(async move {
        let _permit = permit;
        looker.read(wanted, count, block, gone).await
    }))
}

impl Looker {
    /// Reads until there is something, the time is over or the client is gone.
    async fn read(
        &self,
        wanted: Vec<Wanted>,
        count: u64,
        block: Option<u64>,
        gone: Arc<Notify>,
    ) -> Result<Vec<u8>, Error> {
        // Made before the first look, it hears of what comes after.
        let gone = gone.notified();
        let give_up = async {
            match block {
                None => {}
                Some(0) => pending().await,
                Some(ms) => sleep(Duration::from_millis(ms)).await,
            }
        };
        tokio::pin!(gone, give_up);
        let mut beginnings = self.dispatch.beginnings();
        let mut follows = Vec::with_capacity(wanted.len());
        for Wanted { key, path, from } in wanted {
            let from = match from {
                Some(from) => from,
                // A stream that is not there yet has its first record to come.
                None => self.head(&path).await?.map_or(0, |head| head.next_seq),
            };
            follows.push(Following { key, path, from, viewing: None, over: false });
        }
        loop {
            let mut found = Vec::new();
            for following in &mut follows {
                let entries = following.entries(self, count).await?;
                if !entries.is_empty() {
                    found.push((following.key.clone(), entries));
                }
            }
            if !found.is_empty() || block.is_none() || follows.iter().all(|following| following.over) {
                return Ok(self.reply(&found));
            }
            tokio::select! {
                () = changed(&mut follows, &mut beginnings) => {}
                () = &mut give_up => return Ok(self.reply(&[])),
                () = &mut gone => return Ok(self.reply(&[])),
                () = self.session.closing() => return Err(Error::unavailable("the server is shutting down")),
            }
        }
    }

    fn reply(&self, found: &[(Vec<u8>, Vec<Vec<u8>>)]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut reply = Reply { out: &mut out, version: self.version };
        match (found, self.version) {
            ([], _) => reply.null_array(),
            (found, Version::Two) => reply.array(found.len()),
            (found, Version::Three) => reply.map(found.len()),
        }
        for (key, entries) in found {
            if self.version == Version::Two {
                reply.array(2);
            }
            reply.bulk(key);
            reply.array(entries.len());
            entries.iter().for_each(|entry| reply.out.extend_from_slice(entry));
        }
        out
    }
}

/// One stream that a reader follows.
struct Following {
    key: Vec<u8>,
    path: Path,
    from: u64,
    /// Once it is there.
    viewing: Option<Box<Viewing>>,
    /// There will be no more.
    over: bool,
}

impl Following {
    /// Entries of what is there, `count` at most; behind the last record, the end.
    async fn entries(&mut self, looker: &Looker, count: u64) -> Result<Vec<Vec<u8>>, Error> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        if self.viewing.is_none() && !self.over {
            let Some(head) = looker.head(&self.path).await? else { return Ok(entries) };
            self.over = head.ended.is_some() && self.from > head.next_seq;
            if !self.over {
                let watcher = Watcher::Fixed(looker.identity.clone());
                let viewing = looker.dispatch.view(watcher, self.path.clone(), From::Seq(self.from)).await?;
                self.viewing = Some(Box::new(viewing));
            }
        }
        let Some(viewing) = self.viewing.as_mut().filter(|_| !self.over) else { return Ok(entries) };
        while let Some(part) = viewing.take(&looker.session).await? {
            match part {
                Part::Records(chunk, records) => {
                    for record in records_of(&chunk, records).filter(|record| record.seq >= self.from) {
                        if entries.len() as u64 >= count {
                            return Ok(entries);
                        }
                        looker.push(&record, &mut entries, &mut bytes)?;
                    }
                }
                Part::Gap { .. } => {}
                Part::Ended(outcome) => {
                    self.over = true;
                    if entries.is_empty() {
                        let mut entry = Vec::new();
                        records::put_end_entry(viewing.position(), &end_of(&outcome), &mut entry);
                        entries.push(entry);
                    }
                    break;
                }
            }
        }
        Ok(entries)
    }
}

/// Waits until one of the streams may have more.
async fn changed(follows: &mut [Following], beginnings: &mut Beginnings) {
    let missing = follows.iter().any(|following| !following.over && following.viewing.is_none());
    let there = follows.iter_mut().filter(|following| !following.over);
    let news: Vec<_> = there.filter_map(|following| Some(following.viewing.as_mut()?.changed().boxed())).collect();
    let news = async { if news.is_empty() { pending().await } else { select_all(news).await } };
    tokio::select! {
        _one = news => {}
        () = beginnings.next(), if missing => {}
    }
}

pub(super) fn xinfo(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Answered {
    let [_, what, key, ..] = args else { return Err(Fault::err("wrong number of arguments for 'xinfo' command")) };
    if !is(what, "stream") {
        return Err(Fault::err("XINFO knows STREAM only: streams have no consumer groups here"));
    }
    let (path, looker) = (client.shared.separator.path(key)?, Looker::of(client, turn));
    Ok(later(async move {
        let head = looker.dispatch.find_stream(&looker.identity, &path).await?;
        let last = head.next_seq.checked_sub(1).filter(|last| *last >= head.first_seq);
        let first = match last {
            Some(last) => looker.entries(&path, head.first_seq..=last, 1).await?,
            None => Vec::new(),
        };
        let newest = match last {
            Some(last) => looker.entries(&path, last..=last, 1).await?,
            None => Vec::new(),
        };
        let mut out = Vec::new();
        let mut reply = Reply { out: &mut out, version: looker.version };
        reply.map(8);
        reply.bulk(b"length");
        reply.integer(number(head.next_seq - head.first_seq));
        reply.bulk(b"last-generated-id");
        reply.bulk(head.next_seq.checked_sub(1).map_or_else(|| "0-0".into(), entry_id).as_bytes());
        reply.bulk(b"entries-added");
        reply.integer(number(head.next_seq));
        reply.bulk(b"bytes");
        reply.integer(number(head.bytes));
        reply.bulk(b"groups");
        reply.integer(0);
        reply.bulk(b"state");
        reply.bulk(head.ended.as_ref().map_or("open", |outcome| &outcome.state).as_bytes());
        for (name, entries) in [("first-entry", &first), ("last-entry", &newest)] {
            reply.bulk(name.as_bytes());
            match entries.first() {
                Some(entry) => reply.out.extend_from_slice(entry),
                None => reply.null(),
            }
        }
        Ok(out)
    }))
}

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_places() {
        let check = |text: &str, first, last| {
            let got = |last| id(text.as_bytes(), last).unwrap();
            assert_eq!((got(false), got(true)), (first, last), "{text}");
        };
        check("0", At::Before(0), At::Before(1));
        check("7", At::Before(7), At::Before(8));
        check("7-0", At::Before(7), At::Before(7));
        check("7-1", At::On(7), At::On(7));
        check("7-9", At::Before(8), At::Before(8));
        for wrong in ["", "-", "x", "7-", "-1", "7-x", "1-1-1", "+"] {
            assert!(id(wrong.as_bytes(), false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn spans_hold_what_lies_between_two_ids() {
        let check = |start: &str, end: &str, expected: Option<RangeInclusive<u64>>| {
            let got = span(start.as_bytes(), end.as_bytes()).unwrap().filter(|span| !span.is_empty());
            assert_eq!(got, expected, "{start} {end}");
        };
        check("-", "+", Some(0..=u64::MAX));
        check("3", "5", Some(3..=5));
        check("3-1", "5-1", Some(3..=5));
        check("(3-1", "(5-1", Some(4..=4));
        check("3-2", "5-0", Some(4..=4));
        check("(3", "(5", Some(3..=5));
        check("0-0", "0-0", None);
        check("0-1", "0-1", Some(0..=0));
        check("5", "3", None);
        check("+", "-", None);
    }

    #[test]
    fn entries_become_records() {
        let check = |fields: &[&str], expected: Result<&str, &str>| {
            let fields: Vec<&[u8]> = fields.iter().map(|field| field.as_bytes()).collect();
            match (new_record(&fields), expected) {
                (Ok(record), Ok(bytes)) => assert_eq!(&record.bytes[..], bytes.as_bytes()),
                (Err(Fault::Redis(text)), Err(part)) => assert!(text.contains(part), "{text}"),
                (got, _) => panic!("{fields:?}: {got:?}"),
            }
        };
        check(&["data", "a\n"], Ok("a\n"));
        check(&["ch", "err", "data", ""], Ok(""));
        check(&["temp", "21", "unit", "°C"], Ok("{\"temp\":\"21\",\"unit\":\"°C\"}\n"));
        check(&["ch", "other", "data", "a"], Err("ch is"));
        check(&["data", "a", "b", "c"], Err("beside data"));
    }
}
