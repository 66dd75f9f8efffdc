//! Parameters of a pipeline: what a file declares, and the values of one run.

use std::collections::BTreeMap;

use super::fields::{Fields, as_name, entries, list, word};
use super::problems::{Problems, suggestion};
use super::tree::{Node, Value};

/// Longest value of a parameter, in bytes: it becomes a variable and an argument.
const VALUE_BYTES_MAX: usize = 4 << 10;

/// A parameter that a pipeline takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Param {
    /// Its value where none is given; one must be given when `None`.
    pub default: Option<String>,
    /// The values it may have; any when empty.
    pub choices: Vec<String>,
}

/// Why parameters were refused, as a sentence for whoever gave them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WrongParam(String);

/// `name = "default"`, or `{ default, choices }`.
pub(super) fn read(node: &Node, problems: &mut Problems<'_>) -> Option<BTreeMap<String, Param>> {
    let mut params = BTreeMap::new();
    for entry in entries(node, "params (name and default)", problems)? {
        let name = as_name(&entry.key, &entry.key_span, problems);
        let param = param(&entry.node, problems);
        params.extend(name.map(String::from).zip(param));
    }
    Some(params)
}

fn param(node: &Node, problems: &mut Problems<'_>) -> Option<Param> {
    if !matches!(node.value, Value::Table(_)) {
        return word(node, problems).map(|default| Param { default: Some(default), choices: Vec::new() });
    }
    let mut fields = Fields::of(node, "a parameter", problems)?;
    let default = fields.read("default", problems, word);
    let words = |node: &Node, problems: &mut Problems<'_>| {
        Some(list(node).iter().filter_map(|item| word(item, problems)).collect::<Vec<_>>())
    };
    let choices = fields.read("choices", problems, words).unwrap_or_default();
    fields.finish(problems);
    if let Some(default) = &default
        && !choices.is_empty()
        && !choices.contains(default)
    {
        problems.add(&node.span, format!("the default {default:?} is none of the choices"), "add it to `choices`");
    }
    Some(Param { default, choices })
}

/// The values of all parameters of a run.
pub(super) fn values(
    params: &BTreeMap<String, Param>,
    given: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, WrongParam> {
    if let Some(unknown) = given.keys().find(|name| !params.contains_key(*name)) {
        let known = params.keys().map(String::as_str);
        let help = suggestion(unknown, known.clone()).unwrap_or_else(|| match params.len() {
            0 => "it takes none".to_owned(),
            _ => format!("it takes {}", known.collect::<Vec<_>>().join(", ")),
        });
        return Err(WrongParam(format!("the pipeline has no parameter `{unknown}`; {help}")));
    }
    params.iter().map(|(name, param)| Ok((name.clone(), value(name, param, given.get(name))?))).collect()
}

fn value(name: &str, param: &Param, given: Option<&String>) -> Result<String, WrongParam> {
    let Some(value) = given.or(param.default.as_ref()) else {
        return Err(WrongParam(format!("the parameter `{name}` has no value; give one: --param {name}=VALUE")));
    };
    if value.len() > VALUE_BYTES_MAX || value.contains('\0') {
        return Err(WrongParam(format!(
            "the value of the parameter `{name}` is longer than {VALUE_BYTES_MAX} bytes or holds a zero byte; shorten it"
        )));
    }
    if !param.choices.is_empty() && !param.choices.contains(value) {
        let choices = param.choices.join(", ");
        return Err(WrongParam(format!("{value:?} is no value of the parameter `{name}`; use one of {choices}")));
    }
    Ok(value.clone())
}
