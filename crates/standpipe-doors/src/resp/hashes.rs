//! Commands on a hash: the children of a path. A child that is a node itself shows as its compact JSON.

use std::collections::hash_map::{Entry, HashMap};
use std::ops::ControlFlow;

use standpipe_tree::{Format, Path, Rows, unescape_key};

use super::call::{Call, Child, Fault, Held, Ran, merge};
use super::keys::{leaf, text};
use super::strings::{add, check_root};

/// The path of the hash, unless a leaf is there.
fn hash(call: &Call<'_>) -> Result<Path, Fault> {
    let path = call.path(1)?;
    check_root(&path)?;
    match call.look.held(&path)? {
        Held::Leaf(_) => Err(Fault::WRONG_TYPE),
        _ => Ok(path),
    }
}

pub(super) fn hget(call: &mut Call<'_>) -> Ran {
    let path = hash(call)?;
    let field = call.field(&path, 2)?;
    call.value(&field)?;
    Ok(None)
}

pub(super) fn hmget(call: &mut Call<'_>) -> Ran {
    let path = hash(call)?;
    call.reply.array(call.args.len() - 2);
    for at in 2..call.args.len() {
        let field = call.field(&path, at)?;
        call.value(&field)?;
        call.check_reply(0)?;
    }
    Ok(None)
}

/// `HSET` and `HMSET` differ in their reply.
fn put_fields(call: &mut Call<'_>) -> Result<(i64, Option<standpipe_engine::Op>), Fault> {
    if !call.args.len().is_multiple_of(2) {
        let name = String::from_utf8_lossy(call.arg(0)).to_ascii_lowercase();
        return Err(Fault::err(format!("wrong number of arguments for '{name}' command")));
    }
    let path = hash(call)?;
    call.check_above(&path)?;
    let mut writes: HashMap<Path, Rows> = HashMap::with_capacity(call.args.len() / 2);
    let mut new = 0;
    for at in (2..call.args.len()).step_by(2) {
        let rows = Rows::from_leaf(leaf(call.arg(at + 1))?);
        match writes.entry(call.field(&path, at)?) {
            Entry::Occupied(mut earlier) => {
                earlier.insert(rows);
            }
            Entry::Vacant(first) => {
                new += i64::from(!call.look.exists(first.key())?);
                first.insert(rows);
            }
        }
    }
    Ok((new, Some(merge(path, writes.into_iter().collect()))))
}

pub(super) fn hset(call: &mut Call<'_>) -> Ran {
    let (new, op) = put_fields(call)?;
    call.reply.integer(new);
    Ok(op)
}

pub(super) fn hmset(call: &mut Call<'_>) -> Ran {
    let (_, op) = put_fields(call)?;
    call.reply.ok();
    Ok(op)
}

pub(super) fn hsetnx(call: &mut Call<'_>) -> Ran {
    let path = hash(call)?;
    let field = call.field(&path, 2)?;
    let there = call.look.exists(&field)?;
    let rows = Rows::from_leaf(leaf(call.arg(3))?);
    call.check_above(&path)?;
    call.reply.integer(i64::from(!there));
    Ok((!there).then(|| merge(path, vec![(field, rows)])))
}

pub(super) fn hdel(call: &mut Call<'_>) -> Ran {
    let path = hash(call)?;
    let mut gone: HashMap<Path, Rows> = HashMap::new();
    for at in 2..call.args.len() {
        let field = call.field(&path, at)?;
        if call.look.exists(&field)? {
            gone.insert(field, Rows::default());
        }
    }
    call.reply.integer(gone.len() as i64);
    Ok((!gone.is_empty()).then(|| merge(path, gone.into_iter().collect())))
}

pub(super) fn hexists(call: &mut Call<'_>) -> Ran {
    let path = hash(call)?;
    let field = call.field(&path, 2)?;
    call.reply.integer(i64::from(call.look.exists(&field)?));
    Ok(None)
}

pub(super) fn hstrlen(call: &mut Call<'_>) -> Ran {
    let path = hash(call)?;
    let field = call.field(&path, 2)?;
    let length = match call.look.held(&field)? {
        Held::Nothing => 0,
        Held::Leaf(leaf) => text(&leaf).len(),
        Held::Node => call.json(&field, Format::Plain)?.len(),
    };
    call.reply.integer(length as i64);
    Ok(None)
}

pub(super) fn hincrby(call: &mut Call<'_>) -> Ran {
    let path = hash(call)?;
    let field = call.field(&path, 2)?;
    let by = call.integer(3)?;
    match add(call, field, by) {
        Err(Fault::Redis(text)) if text.contains("not an integer") => Err(Fault::err("hash value is not an integer")),
        other => other,
    }
}

pub(super) fn hlen(call: &mut Call<'_>) -> Ran {
    let path = hash(call)?;
    let mut count = 0;
    call.children(&path, |_, _| {
        count += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    call.reply.integer(count);
    Ok(None)
}

/// Names and values as they will be replied.
fn entries(call: &Call<'_>, names: bool, values: bool) -> Result<Vec<Vec<u8>>, Fault> {
    let path = hash(call)?;
    let mut texts: Vec<Vec<u8>> = Vec::new();
    let mut bytes = 0;
    call.children(&path, |name, child| {
        if names {
            texts.push(unescape_key(name).into_owned().into_bytes());
        }
        if values {
            texts.push(child_text(call, &path, name, &child)?);
        }
        bytes += name.len() + texts.last().map_or(0, Vec::len) + 16;
        call.check_reply(bytes)?;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(texts)
}

/// A child's value: a leaf's text, or the JSON of a node.
pub(super) fn child_text(call: &Call<'_>, path: &Path, name: &str, child: &Child<'_>) -> Result<Vec<u8>, Fault> {
    match child {
        Child::Leaf(leaf) => Ok(text(leaf).into_owned()),
        Child::Node => {
            let below = path.child(name).map_err(|error| Fault::err(error.to_string()))?;
            call.json(&below, Format::Plain)
        }
    }
}

pub(super) fn hgetall(call: &mut Call<'_>) -> Ran {
    let texts = entries(call, true, true)?;
    call.reply.map(texts.len() / 2);
    texts.iter().for_each(|text| call.reply.bulk(text));
    Ok(None)
}

pub(super) fn hkeys(call: &mut Call<'_>) -> Ran {
    list(call, true)
}

pub(super) fn hvals(call: &mut Call<'_>) -> Ran {
    list(call, false)
}

fn list(call: &mut Call<'_>, names: bool) -> Ran {
    let texts = entries(call, names, !names)?;
    call.reply.array(texts.len());
    texts.iter().for_each(|text| call.reply.bulk(text));
    Ok(None)
}
