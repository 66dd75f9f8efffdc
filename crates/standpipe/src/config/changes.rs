//! What differs between the settings in force and those just read, and which of it can take effect
//! while the server runs. Applying it is `reload`'s matter.

use super::Values;

/// Does a reload apply a change of this setting? Limits are read at the moment of use, and whom tokens are
/// believed from is exchanged as a whole, as jobs and whom MCP lets in are; everything else is read once, at start. (The certificates in the files
/// that `[tls]` names are read by every reload; which files they are is read at start.)
pub(super) fn is_live(name: &str) -> bool {
    const POLICY: [&str; 6] = ["mcp.anonymous", "mcp.audience", "mcp.hosts", "mcp.origins", "mcp.sse", "mcp.url"];
    ["limits.", "auth.", "job."].iter().any(|table| name.starts_with(table)) || POLICY.contains(&name)
}

/// The names and values of what changed, as text for the log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// What a reload applies.
    pub(crate) live: Vec<String>,
    /// What waits for a restart.
    pub(crate) boot: Vec<String>,
}

impl Changes {
    pub(crate) fn between(old: &Values, new: &Values) -> Self {
        let mut changes = Self::default();
        let (old, new) = (named(old), named(new));
        for (name, value) in &new {
            match old.iter().find(|(known, _)| known == name) {
                Some((_, before)) if before == value => {}
                before => {
                    let before = before.map_or_else(|| "nothing".to_owned(), |(_, before)| before.to_string());
                    let list = if is_live(name) { &mut changes.live } else { &mut changes.boot };
                    list.push(format!("{name}: {before} → {value}"));
                }
            }
        }
        changes
    }
}

/// Every setting by its name; one that is not in a table by its own.
fn named(values: &Values) -> Vec<(String, toml::Value)> {
    let tables = toml::Table::try_from(values).expect("settings are plain values");
    tables
        .into_iter()
        .flat_map(|(table, value)| match value {
            toml::Value::Table(keys) => {
                keys.into_iter().map(|(key, value)| (format!("{table}.{key}"), value)).collect()
            }
            value => vec![(table, value)],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::Mode;
    use super::*;

    #[test]
    fn changes_are_told_apart_by_when_they_take_effect() {
        let old = Values::defaults(Mode::Serve);
        assert_eq!(Changes::between(&old, &old), Changes::default());
        let mut new = old.clone();
        new.limits.drain_ms = 7;
        new.server.listen = "127.0.0.1:1".into();
        new.databases.names.push("b".into());
        let changes = Changes::between(&old, &new);
        assert_eq!(changes.live, ["limits.drain_ms: 10000 → 7"]);
        assert_eq!(
            changes.boot,
            [
                "databases.names: [\"default\"] → [\"default\", \"b\"]",
                "server.listen: \"127.0.0.1:9000\" → \"127.0.0.1:1\""
            ]
        );
    }
}
