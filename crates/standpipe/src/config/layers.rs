//! Settings in layers: each named value with the place it was last set. The names and types are
//! those of the defaults, so a new field of [`Values`] needs nothing here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::file;
use super::lists::{Item, Member, is_list, is_named, item_name, item_of_path, keys_of};
use super::{Origin, Values};
use crate::cli::NodeArgs;
use crate::exit::{Failure, Result};

/// Variables that other parts of the program read.
const OTHER_VARIABLES: [&str; 6] = ["CONFIG", "DB", "LOG", "RULES", "TOKEN", "URL"];
/// Variables that a cluster sets for a service that happens to be named like us.
const FOREIGN_VARIABLES: [&str; 2] = ["PORT", "SERVICE_"];

/// A setting as its user names it.
fn shown(name: &str) -> String {
    Item::named(name).map_or_else(|| name.to_owned(), |item| item.shown())
}

/// Values by `table.key`.
#[derive(Debug)]
pub(super) struct Layers(BTreeMap<String, (toml::Value, Origin)>);

impl Layers {
    pub(super) fn new(defaults: &Values) -> Self {
        let tables = toml::Table::try_from(defaults).expect("settings are tables of plain values");
        let mut entries = BTreeMap::new();
        for (table, keys) in tables {
            for (key, value) in keys.as_table().into_iter().flatten() {
                let name = format!("{table}.{key}");
                if !is_list(&name) {
                    entries.insert(name, (value.clone(), Origin::Default));
                }
            }
        }
        Self(entries)
    }

    pub(super) fn file(&mut self, path: &Path, text: &str) -> Result<()> {
        file::read(path, text)?.into_iter().try_for_each(|entry| self.set(&entry.name, entry.value, entry.origin))
    }

    /// Every `STANDPIPE_…` variable is a setting, or known to another part, or a mistake.
    pub(super) fn environment(&mut self, variables: impl Iterator<Item = (OsString, OsString)>) -> Result<()> {
        for (variable, text) in variables {
            let variable = variable.to_string_lossy().into_owned();
            let Some(short) = variable.strip_prefix("STANDPIPE_") else { continue };
            if OTHER_VARIABLES.contains(&short) || FOREIGN_VARIABLES.iter().any(|foreign| short.starts_with(foreign)) {
                continue;
            }
            // Items of lists have no names that a variable could have, and named tables too many.
            let single = |name: &&String| Item::named(name).is_none() && Member::named(name).is_none();
            let mut named = self.0.keys().filter(single);
            let Some(name) = named.find(|name| variable_of(name) == variable).cloned() else {
                let known = self.0.keys().map(|name| variable_of(name)).collect::<Vec<_>>();
                return Err(unknown(&format!("unknown variable {variable}"), &variable, known.iter()));
            };
            let text = text.to_string_lossy();
            let value = typed(&self.0[&name].0, &text)
                .ok_or_else(|| Failure::usage(format!("variable {variable}={text}: not a value for {name}")))?;
            self.set(&name, value, Origin::Variable(variable))?;
        }
        Ok(())
    }

    pub(super) fn arguments(&mut self, arguments: &NodeArgs) -> Result<()> {
        let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        let (path, socket) = (text(&arguments.data), text(&arguments.socket));
        for spec in &arguments.auth {
            self.auth(spec)?;
        }
        for (name, argument, given) in [
            ("tls.self_signed", "--tls-self-signed", arguments.tls_self_signed),
            ("server.insecure", "--insecure", arguments.insecure),
            (
                "server.dangerously_expose_emulator",
                "--dangerously-expose-emulator",
                arguments.dangerously_expose_emulator,
            ),
        ] {
            if given {
                self.set(name, true.into(), Origin::Argument(argument))?;
            }
        }
        for (name, argument, text) in [
            ("server.listen", "--listen", arguments.listen.clone()),
            ("server.socket", "--socket", socket),
            ("server.line", "--line", arguments.line.clone()),
            ("server.resp", "--resp", arguments.resp.clone()),
            ("mcp.listen", "--mcp", arguments.mcp.clone()),
            ("mcp.line", "--mcp-line", arguments.mcp_line.clone()),
            ("mcp.servers", "--mcp-servers", text(&arguments.mcp_servers)),
            ("server.data", "--data", path),
            ("tls.name", "--tls", arguments.tls.clone()),
            ("tls.listen", "--tls-listen", arguments.tls_listen.clone()),
            ("server.log_format", "--log-format", arguments.log_format.and_then(choice)),
            ("engine.durability", "--durability", arguments.durability.and_then(choice)),
        ] {
            if let Some(text) = text {
                self.set(name, text.into(), Origin::Argument(argument))?;
            }
        }
        Ok(())
    }

    /// `--auth firebase:PROJECT` or `--auth key:FILE`.
    fn auth(&mut self, spec: &str) -> Result<()> {
        let origin = Origin::Argument("--auth");
        match spec.split_once(':') {
            Some(("firebase", project)) if !project.is_empty() => {
                self.set("auth.firebase_project", project.into(), origin)
            }
            Some(("key", file)) if !file.is_empty() => {
                let indexes = self.0.keys().filter_map(|name| Item::named(name)).filter(|item| item.list == "auth.key");
                let next = indexes.map(|item| item.index + 1).max().unwrap_or(0);
                self.set(&item_name("auth.key", next, "file"), file.into(), origin)
            }
            _ => Err(Failure::usage(format!("--auth {spec}: neither firebase:PROJECT nor key:FILE")).help(
                "as in --auth firebase:my-project, or --auth key:public.pem; the file has more to say in [auth]",
            )),
        }
    }

    fn set(&mut self, name: &str, value: toml::Value, origin: Origin) -> Result<()> {
        if let Some(Item { list, key, .. }) = Item::named(name) {
            let keys = keys_of(list);
            if !keys.contains(&key) {
                let known: Vec<String> = keys.iter().map(|key| format!("{list}.{key}")).collect();
                return Err(unknown(&format!("{origin}: unknown setting {}", shown(name)), &shown(name), known.iter()));
            }
            self.0.insert(name.to_owned(), (value, origin));
            return Ok(());
        }
        if let Some(member) = Member::named(name) {
            if !member.keys().contains(&member.key) {
                let known: Vec<String> =
                    member.keys().iter().map(|key| format!("{}.{}.{key}", member.table, member.name)).collect();
                return Err(unknown(&format!("{origin}: unknown setting {name}"), name, known.iter()));
            }
            self.0.insert(name.to_owned(), (value, origin));
            return Ok(());
        }
        match self.0.get_mut(name) {
            Some(entry) => *entry = (value, origin),
            None => return Err(unknown(&format!("{origin}: unknown setting {name}"), name, self.0.keys())),
        }
        Ok(())
    }

    /// The values in their types.
    pub(super) fn values(&self) -> Result<Values> {
        let mut tables = toml::Table::new();
        let mut lists: BTreeMap<&str, Vec<toml::Value>> = BTreeMap::new();
        for (name, (value, _)) in &self.0 {
            if let Some(Item { list, index, key }) = Item::named(name) {
                let items = lists.entry(list).or_default();
                items.resize_with(items.len().max(index + 1), || toml::Table::new().into());
                items[index].as_table_mut().expect("made above").insert(key.to_owned(), value.clone());
                continue;
            }
            let (table, key) = name.split_once('.').expect("made with a dot");
            let keys = tables.entry(table).or_insert_with(|| toml::Table::new().into());
            let mut keys = keys.as_table_mut().expect("made above");
            let mut key = key;
            if let Some(member) = Member::named(name) {
                let of_name = keys.entry(member.name).or_insert_with(|| toml::Table::new().into());
                (keys, key) = (of_name.as_table_mut().expect("made above"), member.key);
            }
            keys.insert(key.to_owned(), value.clone());
        }
        for (list, items) in lists {
            match list.split_once('.') {
                Some((table, key)) => {
                    let keys = tables.entry(table).or_insert_with(|| toml::Table::new().into());
                    keys.as_table_mut().expect("only tables are there").insert(key.to_owned(), items.into());
                }
                None => drop(tables.insert(list.to_owned(), items.into())),
            }
        }
        serde_path_to_error::deserialize(toml::Value::from(tables)).map_err(|error| {
            let path = error.path().to_string();
            // `pipe[2].mode`, or `pipe[2]` where something is missing: told at its first line.
            let item = item_of_path(&path);
            let in_item = item.is_some() || path.split('.').next().is_some_and(is_named);
            let path = item.unwrap_or(path);
            let named =
                self.0.keys().filter(|name| (in_item && name.starts_with(&path)) || path.starts_with(name.as_str()));
            let name = named.min_by_key(|name| match &self.0[*name].1 {
                Origin::File { line, .. } => *line,
                _ => 0,
            });
            self.wrong(&name.map(String::as_str).into_iter().collect::<Vec<_>>(), error.inner().message())
        })
    }

    /// A failure about these settings, naming the places where they were set.
    pub(super) fn wrong(&self, names: &[&str], text: &str) -> Failure {
        let places: Vec<String> = names
            .iter()
            .filter_map(|name| Some((name, &self.0.get(*name)?.1)))
            .filter(|(_, origin)| **origin != Origin::Default)
            .map(|(name, origin)| format!("{origin}: {}: ", shown(name)))
            .collect();
        let help = "change it; standpipe config show lists every value and where it comes from";
        Failure::usage(format!("{}{text}", places.join(""))).help(help)
    }

    /// The settings of a table whose keys `text` mentions.
    pub(super) fn named_in(&self, table: &str, text: &str) -> Vec<String> {
        let words: Vec<&str> = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
        let mentioned =
            |name: &&String| name.split_once('.').is_some_and(|(t, key)| t == table && words.contains(&key));
        self.0.keys().filter(mentioned).cloned().collect()
    }

    /// Name, value and place of every setting, by table.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &toml::Value, &Origin)> {
        self.0.iter().map(|(name, (value, origin))| (name.as_str(), value, origin))
    }
}

/// The variable of a setting: `STANDPIPE_TABLE_KEY`, without the table for what is in `server`.
pub(super) fn variable_of(name: &str) -> String {
    let name = name.strip_prefix("server.").unwrap_or(name);
    format!("STANDPIPE_{}", name.replace('.', "_").to_ascii_uppercase())
}

/// `text` as a value of the same type as `like`; a list is separated by commas.
fn typed(like: &toml::Value, text: &str) -> Option<toml::Value> {
    Some(match like {
        toml::Value::Integer(_) => text.replace('_', "").parse::<i64>().ok()?.into(),
        toml::Value::Boolean(_) => text.parse::<bool>().ok()?.into(),
        toml::Value::Float(_) => text.parse::<f64>().ok()?.into(),
        toml::Value::Array(_) => text.split(',').map(str::trim).collect::<Vec<_>>().into(),
        _ => text.into(),
    })
}

fn choice(value: impl ValueEnum) -> Option<String> {
    Some(value.to_possible_value()?.get_name().to_owned())
}

/// A name that is not known, with the nearest that is.
fn unknown<'n>(cause: &str, name: &str, known: impl Iterator<Item = &'n String>) -> Failure {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |have: &str| strsim::jaro_winkler(have, name).max(strsim::jaro_winkler(&last(have), &last(name)));
    let nearest = known
        // Of two that are as near, what most servers are told.
        .max_by(|a, b| {
            likeness(a).total_cmp(&likeness(b)).then(a.starts_with("server.").cmp(&b.starts_with("server.")))
        })
        .filter(|have| likeness(have) > 0.8);
    let all = "standpipe config show --defaults lists all names";
    Failure::usage(cause).help(match nearest {
        Some(nearest) => format!("did you mean {nearest}? {all}"),
        None => all.to_owned(),
    })
}
