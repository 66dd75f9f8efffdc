//! Runs as all doors that control them see them: who may do what, what a request to start one means, and how one is
//! told. How requests come in and answers go out is each door's own.

mod access;
mod request;

use serde_json::Value;
use standpipe_engine::{Error, ErrorKind};
use standpipe_runs::{Name, RunRecord};

pub(crate) use self::access::{Access, is_forwarded};
pub(crate) use self::request::{JobParams, RetryRequest, StartRequest, StopRequest, duration};

/// A run, as its value in the tree tells it, and its id.
pub(crate) fn told(record: &RunRecord, position: Option<usize>) -> Value {
    let mut value = record.value(position);
    value["id"] = record.id.to_string().into();
    without_nulls(&mut value);
    value
}

/// Leaves out what is null, as the tree does.
fn without_nulls(value: &mut Value) {
    if let Value::Object(members) = value {
        members.retain(|_, member| !member.is_null());
        members.values_mut().for_each(without_nulls);
    }
}

pub(crate) fn no_job(name: &Name) -> Error {
    Error::new(ErrorKind::NotFound, format!("no job is called {name}; GET /jobs lists those of the configuration"))
}
