//! `standpipe config show`: the settings as a file that could be used as one, each line with the
//! place its value comes from.

use std::io::Write;

use super::changes::is_live;
use super::layers::{Layers, variable_of};
use super::lists::{Item, Member};
use super::{Mode, Values, checked, layers};
use crate::cli::NodeArgs;
use crate::exit::{Failure, Result};

/// Writes the effective settings, or the defaults with the variable that sets each.
///
/// # Errors
/// Those of loading the settings, and of writing.
pub(crate) fn show(mode: Mode, arguments: &NodeArgs, defaults: bool, out: &mut dyn Write) -> Result<()> {
    let text = if defaults {
        lines(&Layers::new(&Values::defaults(mode)), |name, _| variable_of(name))
    } else {
        let layers = layers(mode, arguments, std::env::vars_os())?;
        checked(&layers)?;
        lines(&layers, |_, origin| origin)
    };
    out.write_all(text.as_bytes()).map_err(|error| Failure::output(&error))
}

fn lines(layers: &Layers, remark: impl Fn(&str, String) -> String) -> String {
    let (mut text, mut current) = (String::new(), "");
    for (name, value, origin) in layers.entries() {
        let item = Item::named(name);
        let (table, key) = match (item, Member::named(name)) {
            // One table for each item: up to the dot before the key.
            (Some(Item { key, .. }), _) => (&name[..name.len() - key.len()], key),
            (None, Some(Member { key, .. })) => (&name[..name.len() - key.len() - 1], key),
            (None, None) => name.split_once('.').expect("made with a dot"),
        };
        if table != current {
            let when =
                if is_live(name) { "live: a reload applies a change" } else { "boot: a change waits for a restart" };
            let head = item.map_or_else(|| format!("[{table}]"), |item| format!("[[{}]]", item.list));
            text += &format!("{}{head:<50} # {when}\n", if current.is_empty() { "" } else { "\n" });
            current = table;
        }
        text += &format!("{:<50} # {}\n", format!("{key} = {value}"), remark(name, origin.to_string()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_a_configuration_file() {
        let mut out = Vec::new();
        show(Mode::Serve, &NodeArgs::default(), true, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let values: Values = toml::from_str(&text).expect(&text);
        assert_eq!(values, Values::defaults(Mode::Serve));
        assert!(text.contains("# STANDPIPE_LIMITS_CONNECTIONS_MAX\n"), "{text}");
    }
}
