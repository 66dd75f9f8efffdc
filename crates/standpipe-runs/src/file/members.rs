//! A matrix multiplied: one task for each combination of its values, with their names and with `${matrix.x}` put in
//! where a shell can't read it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::problems::Problems;
use super::task::Draft;
use crate::name::Name;
use crate::plan::{Task, variable_of};

/// The tasks of a draft: itself, or the members of its matrix; at most `room`, which is counted before they are made.
pub(super) fn members(draft: &Draft, room: usize, problems: &mut Problems<'_>) -> Option<Vec<Task>> {
    if draft.matrix.is_empty() {
        return (room > 0).then(|| vec![draft.task.clone()]);
    }
    let count = draft.matrix.iter().try_fold(1_usize, |product, (_, values)| product.checked_mul(values.len()));
    // What is excluded is only known afterwards; a matrix that is mostly holes is better written as a list.
    if count.is_none_or(|count| count > room) {
        return None;
    }
    let mut members = Vec::new();
    for combination in combinations(&draft.matrix) {
        let values: BTreeMap<String, String> = combination.iter().cloned().collect();
        if draft
            .exclude
            .iter()
            .any(|out| !out.is_empty() && out.iter().all(|(key, value)| values.get(key) == Some(value)))
        {
            continue;
        }
        members.push(member(draft, &combination, values, problems)?);
    }
    if members.is_empty() {
        problems.add(&draft.matrix_span, "every combination is excluded", "leave at least one");
    }
    Some(members)
}

fn combinations(lists: &[(String, Vec<String>)]) -> Vec<Vec<(String, String)>> {
    lists.iter().fold(vec![Vec::new()], |begun, (list, values)| {
        let with = |head: &Vec<(String, String)>, value: &String| {
            let mut head = head.clone();
            head.push((list.clone(), value.clone()));
            head
        };
        begun.iter().flat_map(|head| values.iter().map(move |value| with(head, value))).collect()
    })
}

fn member(
    draft: &Draft,
    combination: &[(String, String)],
    values: BTreeMap<String, String>,
    problems: &mut Problems<'_>,
) -> Option<Task> {
    let name = member_name(&draft.name, combination).or_else(|| {
        let help = "shorten the task's name or the values";
        problems.add(&draft.matrix_span, "the name of a member is longer than 64 characters", help);
        None
    })?;
    let mut task = Task { name, member_of: Some(draft.name.clone()), ..draft.task.clone() };
    let fill = |text: &str, problems: &mut Problems<'_>| {
        filled(text, &values).map_err(|list| {
            let help = format!("its lists are {}", values.keys().cloned().collect::<Vec<_>>().join(", "));
            problems.add(&draft.command_span, format!("the matrix has no list `{list}`"), help);
        })
    };
    // A shell's line has none, which was checked; a variable holds the values there.
    for argument in &mut task.command.argv {
        *argument = fill(argument, problems).ok()?;
    }
    for value in task.command.env.values_mut() {
        *value = fill(value, problems).ok()?;
    }
    if let Some(cwd) = task.command.cwd.as_ref().and_then(|cwd| cwd.to_str()) {
        task.command.cwd = Some(PathBuf::from(fill(cwd, problems).ok()?));
    }
    for artefact in &mut task.artefacts {
        artefact.path = fill(&artefact.path, problems).ok()?;
        if let Err(why) = crate::artefacts::relative(&artefact.path) {
            problems.add(&draft.matrix_span, why, "a value of the matrix is part of an artefact's file");
        }
    }
    let variables = values.iter().map(|(list, value)| (variable_of("MATRIX_", list), value.clone()));
    task.command.env.extend(variables);
    task.matrix = values;
    Some(task)
}

/// `test-linux-1`: what a name can't hold becomes `_`.
fn member_name(base: &Name, combination: &[(String, String)]) -> Option<Name> {
    let mut name = base.as_str().to_owned();
    for (_, value) in combination {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
        name.push('-');
        name.extend(value.chars().map(plain));
    }
    name.parse().ok()
}

/// The text with each `${matrix.list}` replaced; the name of a list that there is not, else.
fn filled(text: &str, values: &BTreeMap<String, String>) -> Result<String, String> {
    const BEGIN: &str = "${matrix.";
    let (mut filled, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(BEGIN) {
        let after = &rest[at + BEGIN.len()..];
        let Some(end) = after.find('}') else { break };
        filled.push_str(&rest[..at]);
        filled.push_str(values.get(&after[..end]).ok_or_else(|| after[..end].to_owned())?);
        rest = &after[end + 1..];
    }
    filled.push_str(rest);
    Ok(filled)
}
