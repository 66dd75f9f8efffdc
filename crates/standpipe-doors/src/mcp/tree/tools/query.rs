//! `tree_query`: some of a place's children, by key, value or a child's value.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use standpipe_engine::{Error, ErrorKind, Snapshot, query_keys};
use standpipe_serve::{Class, Deadline};
use standpipe_tree::{DEPTH_MAX, Path, Query, parse_rest};

use super::super::look::{Timed, Wanted, on_snapshot, value};
use super::super::path::canonical;
use super::get::BYTES_MAX;
use super::{Call, Code, Hints, Needs, Outcome, Tool, ToolError, raw, schema_of, whole};

/// Children in one answer, at most.
const ITEMS_MAX: usize = 1_000;

pub(super) const TOOL: Tool = Tool {
    name: "tree_query",
    title: "Select children",
    description: "Selects children of a path, ordered by key, value or a child's value, within bounds and limits. Use it for the \
        newest, the highest, or all with a certain field. Scans the children unless the rules declare an index (.indexOn). At \
        most 1,000 children and 1 MiB; truncated: true says that there are more.",
    hints: Hints::LOOKS,
    scope: "tree:read",
    needs: Needs::Tree,
    input: schema_of::<Arguments>,
    output: schema_of::<Selected>,
    call,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// The place whose children are looked at, as /a/b/c.
    path: String,
    /// "$key", "$value", or the path of a child's field. "$key" by default.
    #[serde(default)]
    #[schemars(with = "String")]
    order_by: Option<String>,
    /// Only from this value on (a string when ordered by key).
    #[serde(default)]
    #[schemars(with = "Scalar")]
    start_at: Option<Box<RawValue>>,
    /// Only up to this value.
    #[serde(default)]
    #[schemars(with = "Scalar")]
    end_at: Option<Box<RawValue>>,
    /// Only with this value.
    #[serde(default)]
    #[schemars(with = "Scalar")]
    equal_to: Option<Box<RawValue>>,
    /// Only so many, from the beginning of the order.
    #[serde(default, deserialize_with = "whole")]
    #[schemars(with = "u64", range(min = 1))]
    limit_to_first: Option<u64>,
    /// Only so many, from its end.
    #[serde(default, deserialize_with = "whole")]
    #[schemars(with = "u64", range(min = 1))]
    limit_to_last: Option<u64>,
}

/// What a bound may be.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Scalar {
    Text(String),
    Number(f64),
    Truth(bool),
}

#[derive(Serialize, JsonSchema)]
struct Selected {
    /// The place, with a leading slash.
    path: String,
    /// The children, in the order asked for.
    items: Vec<Item>,
    /// Whether more were selected than are here.
    truncated: bool,
}

#[derive(Serialize, JsonSchema)]
struct Item {
    key: String,
    #[schemars(with = "serde_json::Value")]
    value: Box<RawValue>,
}

fn call(call: Call<'_>) -> BoxFuture<'_, Result<Outcome, ToolError>> {
    select(call).boxed()
}

async fn select(call: Call<'_>) -> Result<Outcome, ToolError> {
    let arguments: Arguments = call.arguments()?;
    let path = call.path(&arguments.path)?;
    let query = arguments.query()?;
    let database = call.request.database(call.tree)?;
    let snapshot = database.snapshot().await?;
    database.check_read(&snapshot, call.request.identity(), &path, Some(&query))?;
    database.check_index(&path, &query)?;
    let children_max = database.config().query_children_max;
    let (deadline, at) = (call.request.deadline(), path.clone());
    let job = move |snapshot: &Snapshot| selected(snapshot, &at, &query, children_max, deadline);
    match on_snapshot(call.request, snapshot, path, Class::Bulk, deadline, job).await {
        Ok(selected) => Ok(Outcome::of(&selected)),
        Err(error) if error.kind() == ErrorKind::TooLarge => {
            Err(ToolError::from(error).with("limit", children_max as u64))
        }
        Err(error) => Err(error.into()),
    }
}

impl Arguments {
    /// The query, in the words of the REST API.
    fn query(&self) -> Result<Query, ToolError> {
        let order_by = self.order_by.as_deref().unwrap_or("$key");
        let order_by = serde_json::Value::from(order_by).to_string();
        let mut pairs = vec![("orderBy", order_by)];
        for (name, bound) in [("startAt", &self.start_at), ("endAt", &self.end_at), ("equalTo", &self.equal_to)] {
            pairs.extend(bound.as_ref().map(|bound| (name, bound.get().to_owned())));
        }
        for (name, limit) in [("limitToFirst", self.limit_to_first), ("limitToLast", self.limit_to_last)] {
            pairs.extend(limit.map(|limit| (name, limit.to_string())));
        }
        match parse_rest(&pairs) {
            Ok(Some(query)) => Ok(query),
            Ok(None) => unreachable!("an order is always given"),
            Err(error) => Err(ToolError::new(Code::InvalidArgument, snake(&error.to_string()), "Correct the query")),
        }
    }
}

/// A sentence about parameters of the REST API, with the names that they have here.
fn snake(sentence: &str) -> String {
    const NAMES: [(&str, &str); 6] = [
        ("orderBy", "order_by"),
        ("startAt", "start_at"),
        ("endAt", "end_at"),
        ("equalTo", "equal_to"),
        ("limitToFirst", "limit_to_first"),
        ("limitToLast", "limit_to_last"),
    ];
    NAMES.iter().fold(sentence.to_owned(), |sentence, (name, here)| sentence.replace(name, here))
}

fn selected(
    snapshot: &Snapshot,
    path: &Path,
    query: &Query,
    children_max: usize,
    deadline: Deadline,
) -> Result<Selected, Error> {
    let keys = query_keys(snapshot, path, query, children_max)?;
    let mut selected = Selected { path: canonical(path), items: Vec::new(), truncated: false };
    let mut room = BYTES_MAX;
    for key in keys {
        // What is stored at a key can be named.
        let Ok(child) = path.child(&key) else { continue };
        let wanted = Wanted { depth: DEPTH_MAX, bytes_max: room };
        let value = value(&mut Timed::new(snapshot.cursor(&child), deadline), wanted)?;
        let Some(json) = value.json.filter(|_| selected.items.len() < ITEMS_MAX) else {
            selected.truncated = true;
            break;
        };
        room = room.saturating_sub(json.len() + key.len());
        selected.items.push(Item { key: key.into(), value: raw(json) });
    }
    Ok(selected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_use_the_names_of_here() {
        let here = snake("limitToFirst and limitToLast cannot be used together");
        assert_eq!(here, "limit_to_first and limit_to_last cannot be used together");
    }
}
