//! Tables of the configuration that may be there several times (`[[pipe]]`, `[[auth.key]]`), and the names of
//! their settings: `pipe.002.mode` is the third pipe's, so that they sort as they come. And those that have a name of
//! their own (`[job.nightly]`), whose settings are `job.nightly.schedule`.

/// The lists and the keys that an item may have.
const LISTS: [(&str, &[&str]); 2] = [
    ("pipe", &["path", "folder", "file", "mode", "render", "database", "perm"]),
    ("auth.key", &["file", "url", "algorithm", "kid", "issuer", "audience", "administrators"]),
];

/// Tables of named tables, and the keys that each may have.
const NAMED: [(&str, &[&str]); 1] = [("job", &crate::jobs::KEYS)];

/// A setting of a named table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member<'n> {
    /// `job`.
    pub(super) table: &'static str,
    /// `nightly`.
    pub(super) name: &'n str,
    /// `schedule`.
    pub(super) key: &'n str,
}

impl<'n> Member<'n> {
    /// What the name of a setting says, if it is one of a named table.
    pub(super) fn named(setting: &'n str) -> Option<Self> {
        NAMED.iter().find_map(|(table, _)| {
            let (name, key) = setting.strip_prefix(table)?.strip_prefix('.')?.split_once('.')?;
            Some(Self { table, name, key })
        })
    }

    /// The keys it might be.
    pub(super) fn keys(&self) -> &'static [&'static str] {
        NAMED.iter().find(|(table, _)| *table == self.table).map_or(&[], |(_, keys)| keys)
    }
}

/// Is this a table of named tables?
pub(super) fn is_named(table: &str) -> bool {
    NAMED.iter().any(|(known, _)| *known == table)
}

/// A setting of an item of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item<'n> {
    pub(super) list: &'static str,
    pub(super) index: usize,
    pub(super) key: &'n str,
}

impl<'n> Item<'n> {
    /// What the name of a setting says, if it is one of an item.
    pub(super) fn named(name: &'n str) -> Option<Self> {
        LISTS.iter().find_map(|(list, _)| {
            let (index, key) = name.strip_prefix(list)?.strip_prefix('.')?.split_once('.')?;
            Some(Self { list, index: index.parse().ok()?, key })
        })
    }

    /// The setting as its user names it: `pipe.mode`.
    pub(super) fn shown(&self) -> String {
        format!("{}.{}", self.list, self.key)
    }
}

/// The name of a setting of an item.
pub(super) fn item_name(list: &str, index: usize, key: &str) -> String {
    format!("{list}.{index:03}.{key}")
}

/// The name of a list's setting in an error about the values, as `auth.key[2].file`.
pub(super) fn item_of_path(path: &str) -> Option<String> {
    lists().find_map(|list| {
        let (index, rest) = path.strip_prefix(list)?.strip_prefix('[')?.split_once(']')?;
        Some(item_name(list, index.parse().ok()?, rest.trim_start_matches('.')))
    })
}

/// Is this a list and no table?
pub(super) fn is_list(name: &str) -> bool {
    lists().any(|list| list == name)
}

pub(super) fn lists() -> impl Iterator<Item = &'static str> {
    LISTS.iter().map(|(list, _)| *list)
}

/// The keys that an item of the list may have.
pub(super) fn keys_of(list: &str) -> &'static [&'static str] {
    LISTS.iter().find(|(name, _)| *name == list).map_or(&[], |(_, keys)| keys)
}
