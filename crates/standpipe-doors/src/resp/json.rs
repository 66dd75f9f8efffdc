//! The part of RedisJSON that maps: one document at a key, paths made of names (`$`, `.`, `$.a.b`, `.a["b"]`).
//! Wildcards, filters and array commands do not.

use standpipe_tree::{Format, JsonStream, ParseLimits, Path, escape_key, parse_value};

use super::call::{Call, Fault, Held, Ran, is, remove};
use super::strings::check_root;

/// A path within a document: the location it names, and whether replies are lists of matches (`$`).
struct Within {
    path: Path,
    list: bool,
}

fn within(document: &Path, text: &[u8]) -> Result<Within, Fault> {
    let text = std::str::from_utf8(text).map_err(|_| Fault::err("a path must be UTF-8"))?;
    let (list, mut rest) = match text.strip_prefix('$') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let wrong = || Fault::err(format!("path '{text}' is not one of names: use $.a.b or $[\"a\"]"));
    let mut path = document.clone();
    if rest == "." && !list {
        rest = "";
    }
    while !rest.is_empty() {
        let (name, left) = if let Some(quoted) = rest.strip_prefix("[\"").or_else(|| rest.strip_prefix("['")) {
            let close = if rest.starts_with("[\"") { "\"]" } else { "']" };
            quoted.split_once(close).ok_or_else(wrong)?
        } else if let Some(index) = rest.strip_prefix('[') {
            let (index, left) = index.split_once(']').ok_or_else(wrong)?;
            index.parse::<u32>().map_err(|_| wrong())?;
            (index, left)
        } else {
            let name = rest.strip_prefix('.').unwrap_or(if list || path != *document { "" } else { rest });
            let end = name.find(['.', '[']).unwrap_or(name.len());
            name.split_at(end)
        };
        if name.is_empty() || name == "*" {
            return Err(wrong());
        }
        path = path.child(&escape_key(name)).map_err(|error| Fault::err(error.to_string()))?;
        rest = left;
    }
    Ok(Within { path, list })
}

pub(super) fn get(call: &mut Call<'_>) -> Ran {
    let document = call.path(1)?;
    if !call.look.exists(&document)? {
        call.reply.null();
        return Ok(None);
    }
    // Options that only change the looks take a value each; the compact form is what there is.
    let mut args = &call.args[2..];
    while let [name, _, rest @ ..] = args
        && ["indent", "newline", "space"].iter().any(|option| is(name, option))
    {
        args = rest;
    }
    let mut json = Vec::new();
    match args {
        [] => one(call, &within(&document, b".")?, &mut json)?,
        [path] => one(call, &within(&document, path)?, &mut json)?,
        paths => {
            json.push(b'{');
            for path in paths {
                if json.len() > 1 {
                    json.push(b',');
                }
                standpipe_tree::write_json_string(&String::from_utf8_lossy(path), &mut json);
                json.push(b':');
                one(call, &within(&document, path)?, &mut json)?;
                call.check_reply(json.len())?;
            }
            json.push(b'}');
        }
    }
    call.reply.bulk(&json);
    Ok(None)
}

/// The value, or with `$` the list of matches, of which there is one at most.
fn one(call: &Call<'_>, within: &Within, json: &mut Vec<u8>) -> Result<(), Fault> {
    let there = call.look.exists(&within.path)?;
    if !there && !within.list {
        return Err(Fault::err("path does not exist"));
    }
    if within.list {
        json.push(b'[');
    }
    if there {
        json.extend_from_slice(&call.json(&within.path, Format::Plain)?);
    }
    if within.list {
        json.push(b']');
    }
    Ok(())
}

pub(super) fn set(call: &mut Call<'_>) -> Ran {
    let document = call.path(1)?;
    check_root(&document)?;
    call.check_above(&document)?;
    let Within { path, .. } = within(&document, call.arg(2))?;
    let (only_new, only_old) = match &call.args[4..] {
        [] => (false, false),
        [option] if is(option, "nx") => (true, false),
        [option] if is(option, "xx") => (false, true),
        _ => return Err(Fault::SYNTAX),
    };
    if path != document && !call.look.exists(&document)? {
        return Err(Fault::err("new objects must be created at the root"));
    }
    let parent = path.parent().unwrap_or_default();
    let holder = path == document || matches!(call.look.held(&parent)?, Held::Node);
    let there = call.look.exists(&path)?;
    if !holder || there && only_new || !there && only_old {
        call.reply.null();
        return Ok(None);
    }
    let rows = parse_value(call.arg(3), &ParseLimits::below(&path)).map_err(|error| Fault::err(error.to_string()))?;
    call.reply.ok();
    Ok(Some(standpipe_engine::Op::Set { location: standpipe_tree::Location::Node(path), rows }))
}

pub(super) fn del(call: &mut Call<'_>) -> Ran {
    let document = call.path(1)?;
    check_root(&document)?;
    let path = match call.args.get(2) {
        Some(text) => within(&document, text)?.path,
        None => document,
    };
    let there = call.look.exists(&path)?;
    call.reply.integer(i64::from(there));
    Ok(there.then(|| remove(path)))
}

pub(super) fn type_of(call: &mut Call<'_>) -> Ran {
    let document = call.path(1)?;
    let within = within(&document, call.args.get(2).copied().unwrap_or(b"."))?;
    let name = match call.look.held(&within.path)? {
        Held::Nothing => None,
        Held::Leaf(leaf) => Some(match leaf {
            standpipe_tree::Leaf::Bool(_) => "boolean",
            standpipe_tree::Leaf::Int(_) => "integer",
            standpipe_tree::Leaf::Double(_) => "number",
            standpipe_tree::Leaf::Str(_) => "string",
        }),
        Held::Node => {
            // Dense integer keys show as an array, and the first byte tells.
            let mut first = Vec::new();
            JsonStream::new(Format::Plain, false).fill(&mut call.look.cursor(&within.path)?, &mut first, 1)?;
            Some(if first.first() == Some(&b'[') { "array" } else { "object" })
        }
    };
    match (name, within.list) {
        (Some(name), true) => {
            call.reply.array(1);
            call.reply.bulk(name.as_bytes());
        }
        (Some(name), false) => call.reply.bulk(name.as_bytes()),
        (None, true) => call.reply.array(0),
        (None, false) => call.reply.null(),
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_names_are_read() {
        fn check(text: &str, expected: Option<(&str, bool)>) {
            let read = within(&Path::parse("doc").unwrap(), text.as_bytes());
            let read = read.ok().map(|within| (within.path.as_str().to_owned(), within.list));
            assert_eq!(read.as_ref().map(|(path, list)| (path.as_str(), *list)), expected, "{text}");
        }
        check("$", Some(("doc", true)));
        check(".", Some(("doc", false)));
        check("$.a.b", Some(("doc/a/b", true)));
        check(".a", Some(("doc/a", false)));
        check("a.b", Some(("doc/a/b", false)));
        check("$[\"x.y\"][0].z", Some(("doc/x%2Ey/0/z", true)));
        check("$.*", None);
        check("$..a", None);
        check("$.", None);
        check("$[-1]", None);
        check("$[\"a", None);
    }
}
