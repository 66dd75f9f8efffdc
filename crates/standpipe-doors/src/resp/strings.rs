//! Commands on one text: `GET`, `SET`, counters, `APPEND`, and those on keys as such: `DEL`, `EXISTS`, `TYPE`.

use standpipe_tree::{Leaf, Path, Rows};

use super::call::{Call, Fault, Held, Ran, float, is, merge, remove, set};
use super::keys::{leaf, text};

pub(super) fn get(call: &mut Call<'_>) -> Ran {
    let path = call.path(1)?;
    call.value(&path)?;
    Ok(None)
}

pub(super) fn mget(call: &mut Call<'_>) -> Ran {
    call.reply.array(call.args.len() - 1);
    for at in 1..call.args.len() {
        let path = call.path(at)?;
        call.value(&path)?;
        call.check_reply(0)?;
    }
    Ok(None)
}

/// The options of `SET`.
#[derive(Default)]
struct SetOptions {
    only_new: bool,
    only_old: bool,
    get: bool,
}

fn set_options(args: &[&[u8]]) -> Result<SetOptions, Fault> {
    let mut options = SetOptions::default();
    for arg in args {
        match arg {
            arg if is(arg, "nx") => options.only_new = true,
            arg if is(arg, "xx") => options.only_old = true,
            arg if is(arg, "get") => options.get = true,
            arg if is(arg, "keepttl") => {}
            arg if ["ex", "px", "exat", "pxat"].iter().any(|name| is(arg, name)) => {
                return Err(Fault::err(
                    "values do not expire here; STANDPIPE.LEASE ties one to this connection, and it goes when that closes",
                ));
            }
            _ => return Err(Fault::SYNTAX),
        }
    }
    if options.only_new && options.only_old { Err(Fault::SYNTAX) } else { Ok(options) }
}

pub(super) fn set_command(call: &mut Call<'_>) -> Ran {
    let options = set_options(&call.args[3..])?;
    let (path, value) = (call.path(1)?, leaf(call.arg(2))?);
    check_root(&path)?;
    call.check_above(&path)?;
    let plain = !(options.only_new || options.only_old || options.get);
    let there = !plain && call.look.exists(&path)?;
    let written = !(there && options.only_new || !there && options.only_old);
    if options.get {
        call.value(&path)?;
    } else if written {
        call.reply.ok();
    } else {
        call.reply.null();
    }
    Ok(written.then(|| set(path, value)))
}

pub(super) fn setnx(call: &mut Call<'_>) -> Ran {
    let (path, value) = (call.path(1)?, leaf(call.arg(2))?);
    check_root(&path)?;
    call.check_above(&path)?;
    let there = call.look.exists(&path)?;
    call.reply.integer(i64::from(!there));
    Ok((!there).then(|| set(path, value)))
}

pub(super) fn getset(call: &mut Call<'_>) -> Ran {
    let (path, value) = (call.path(1)?, leaf(call.arg(2))?);
    check_root(&path)?;
    call.check_above(&path)?;
    call.value(&path)?;
    Ok(Some(set(path, value)))
}

pub(super) fn getdel(call: &mut Call<'_>) -> Ran {
    let path = call.path(1)?;
    let there = call.look.exists(&path)?;
    call.value(&path)?;
    Ok(there.then(|| remove(path)))
}

pub(super) fn mset(call: &mut Call<'_>) -> Ran {
    if call.args.len().is_multiple_of(2) {
        return Err(Fault::err("wrong number of arguments for 'mset' command"));
    }
    let mut writes: Vec<(Path, Rows)> = Vec::with_capacity(call.args.len() / 2);
    for at in (1..call.args.len()).step_by(2) {
        let path = call.path(at)?;
        check_root(&path)?;
        call.check_above(&path)?;
        writes.push((path, Rows::from_leaf(leaf(call.arg(at + 1))?)));
    }
    // Of one key given twice the last value counts; sorting keeps equal keys in their order.
    writes.reverse();
    writes.sort_by(|a, b| a.0.as_str().cmp(b.0.as_str()));
    writes.dedup_by(|later, kept| later.0 == kept.0);
    check_apart(writes.iter().map(|(path, _)| path))?;
    call.reply.ok();
    Ok(Some(merge(Path::root(), writes)))
}

/// One write can't put a value at a path and another one below it.
fn check_apart<'p>(paths: impl Iterator<Item = &'p Path>) -> Result<(), Fault> {
    let mut encoded: Vec<Vec<u8>> = paths.map(Path::encode).collect();
    encoded.sort();
    match encoded.windows(2).any(|pair| pair[1].starts_with(&pair[0])) {
        true => Err(Fault::err("one key lies below another one of the same command")),
        false => Ok(()),
    }
}

/// `DEL` and `UNLINK`: what lies below a key goes with it.
pub(super) fn del(call: &mut Call<'_>) -> Ran {
    let mut paths = Vec::with_capacity(call.args.len() - 1);
    for at in 1..call.args.len() {
        paths.push(call.path(at)?);
    }
    paths.sort_by_cached_key(Path::encode);
    paths.dedup();
    let mut gone: Vec<(Path, Rows)> = Vec::with_capacity(paths.len());
    let mut count = 0;
    for path in paths {
        check_root(&path)?;
        if !call.look.exists(&path)? {
            continue;
        }
        count += 1;
        if !gone.last().is_some_and(|(above, _)| above.contains(&path)) {
            gone.push((path, Rows::default()));
        }
    }
    call.reply.integer(count);
    Ok((!gone.is_empty()).then(|| merge(Path::root(), gone)))
}

pub(super) fn exists(call: &mut Call<'_>) -> Ran {
    let mut count = 0;
    for at in 1..call.args.len() {
        let path = call.path(at)?;
        count += i64::from(call.look.exists(&path)?);
    }
    call.reply.integer(count);
    Ok(None)
}

pub(super) fn type_of(call: &mut Call<'_>) -> Ran {
    let path = call.path(1)?;
    call.reply.simple(match call.look.held(&path)? {
        Held::Nothing => "none",
        Held::Leaf(_) => "string",
        Held::Node => "hash",
    });
    Ok(None)
}

pub(super) fn strlen(call: &mut Call<'_>) -> Ran {
    let path = call.path(1)?;
    let length = match call.look.held(&path)? {
        Held::Nothing => 0,
        Held::Leaf(leaf) => text(&leaf).len(),
        Held::Node => return Err(Fault::WRONG_TYPE),
    };
    call.reply.integer(length as i64);
    Ok(None)
}

pub(super) fn append(call: &mut Call<'_>) -> Ran {
    let path = call.path(1)?;
    check_root(&path)?;
    call.check_above(&path)?;
    let mut whole = match call.look.held(&path)? {
        Held::Nothing => Vec::new(),
        Held::Leaf(leaf) => text(&leaf).into_owned(),
        Held::Node => return Err(Fault::WRONG_TYPE),
    };
    whole.extend_from_slice(call.arg(2));
    let value = leaf(&whole)?;
    call.reply.integer(whole.len() as i64);
    Ok(Some(set(path, value)))
}

pub(super) fn incr(call: &mut Call<'_>) -> Ran {
    increment(call, 1)
}

pub(super) fn decr(call: &mut Call<'_>) -> Ran {
    increment(call, -1)
}

pub(super) fn incrby(call: &mut Call<'_>) -> Ran {
    let by = call.integer(2)?;
    increment(call, by)
}

pub(super) fn decrby(call: &mut Call<'_>) -> Ran {
    let by = call.integer(2)?.checked_neg().ok_or(Fault::err("decrement would overflow"))?;
    increment(call, by)
}

fn increment(call: &mut Call<'_>, by: i64) -> Ran {
    let path = call.path(1)?;
    check_root(&path)?;
    add(call, path, by)
}

/// Adds to the integer at `path`, also one of a hash.
pub(super) fn add(call: &mut Call<'_>, path: Path, by: i64) -> Ran {
    call.check_above(&path)?;
    let old = match call.look.held(&path)? {
        Held::Nothing => 0,
        Held::Leaf(leaf) => super::call::integer(&text(&leaf)).ok_or(Fault::NOT_INTEGER)?,
        Held::Node => return Err(Fault::WRONG_TYPE),
    };
    let new = old.checked_add(by).ok_or(Fault::err("increment or decrement would overflow"))?;
    call.reply.integer(new);
    Ok(Some(set(path, Leaf::Int(new))))
}

pub(super) fn incrbyfloat(call: &mut Call<'_>) -> Ran {
    let path = call.path(1)?;
    check_root(&path)?;
    call.check_above(&path)?;
    let by = float(call.arg(2)).ok_or(Fault::NOT_FLOAT)?;
    let old = match call.look.held(&path)? {
        Held::Nothing => 0.0,
        Held::Leaf(leaf) => float(&text(&leaf)).ok_or(Fault::NOT_FLOAT)?,
        Held::Node => return Err(Fault::WRONG_TYPE),
    };
    let new = old + by;
    if !new.is_finite() {
        return Err(Fault::err("increment would produce NaN or Infinity"));
    }
    let new = Leaf::number(new);
    call.text(Some(&new));
    Ok(Some(set(path, new)))
}

/// The whole tree is no key.
pub(super) fn check_root(path: &Path) -> Result<(), Fault> {
    if path.is_root() { Err(Fault::err("a key must not be empty")) } else { Ok(()) }
}
