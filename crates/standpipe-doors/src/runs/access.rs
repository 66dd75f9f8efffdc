//! Who may do what with runs. One place for all of it: rules decide what is seen, stopped and removed, and which
//! jobs are started; commands that no configuration names are run for an operator only, whom no rule makes.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::{self, HeaderMap};
use serde_json::{Value, json};
use standpipe_engine::{Database, Error, ErrorKind, Identity};
use standpipe_runs::{Name, ParamType, RunId, RunRecord, Runs};
use standpipe_tree::Path;

use super::no_job;
use crate::dispatch::Dispatch;

/// What a caller may do, by the rules of the moment it is asked.
pub(crate) struct Access<'a> {
    identity: &'a Identity,
    operator: bool,
    database: Arc<Database>,
}

impl<'a> Access<'a> {
    /// Of the one who calls; runs and jobs are values of the default database. `operator`: it may have any command run.
    pub(crate) fn of(dispatch: &Dispatch, identity: &'a Identity, operator: bool) -> Result<Self, Error> {
        Ok(Self { identity, operator, database: dispatch.database(None)? })
    }

    /// Who it is, as the record of a run says.
    pub(crate) fn by(&self) -> &str {
        if self.operator { "local" } else { self.identity.actor() }
    }

    fn is_admin(&self) -> bool {
        self.operator || *self.identity == Identity::Admin
    }

    fn read(&self, path: &str) -> Result<(), Error> {
        if self.is_admin() {
            return Ok(());
        }
        self.database.check_read(&self.database.try_snapshot()?, self.identity, &location(path)?, None)
    }

    /// Those of the records that it may see, on one snapshot.
    pub(crate) fn seen<'r>(&self, records: &'r [RunRecord]) -> Result<Vec<&'r RunRecord>, Error> {
        if self.is_admin() {
            return Ok(records.iter().collect());
        }
        let snapshot = self.database.try_snapshot()?;
        let may_see = |record: &&RunRecord| {
            let path = location(&format!("/runs/{}", record.id));
            path.is_ok_and(|path| self.database.check_read(&snapshot, self.identity, &path, None).is_ok())
        };
        Ok(records.iter().filter(may_see).collect())
    }

    fn write(&self, path: &str, new_data: &Value) -> Result<(), Error> {
        if self.is_admin() {
            return Ok(());
        }
        self.database.check_write(
            &self.database.try_snapshot()?,
            self.identity,
            &location(path)?,
            &new_data.to_string(),
        )
    }

    /// May it see the run?
    pub(crate) fn may_see(&self, id: &RunId) -> Result<(), Error> {
        self.read(&format!("/runs/{id}"))
    }

    /// May it read what is at this path of the default database?
    pub(crate) fn may_read(&self, path: &str) -> Result<(), Error> {
        self.read(path)
    }

    /// May it see the job?
    pub(crate) fn may_see_job(&self, job: &Name) -> Result<(), Error> {
        self.read(&format!("/jobs/{job}"))
    }

    /// May it stop the run?
    pub(crate) fn may_stop(&self, id: &RunId) -> Result<(), Error> {
        self.write(&format!("/runs/{id}/stop"), &json!(true))
    }

    /// May it remove the run? As if it removed its value.
    pub(crate) fn may_remove(&self, id: &RunId) -> Result<(), Error> {
        self.write(&format!("/runs/{id}"), &Value::Null)
    }

    /// May it remove many at once?
    pub(crate) fn may_prune(&self) -> Result<(), Error> {
        if self.is_admin() { Ok(()) } else { Err(Error::denied()) }
    }

    /// May it have a command run that no configuration names?
    pub(crate) fn may_run_anything(&self) -> Result<(), Error> {
        if self.operator {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Denied,
            "commands are run only for the user of this server, on its machine (the secret in its data folder's \
             admin.token over loopback, or its Unix socket); others start jobs of the configuration: POST /jobs/NAME",
        ))
    }

    /// May it start the job with these parameters?
    pub(crate) fn may_start(&self, job: &Name, params: &BTreeMap<String, Value>, runs: &Runs) -> Result<(), Error> {
        let spec = runs.job(job).ok_or_else(|| no_job(job))?.spec;
        // Without parameters there would be nothing to write, and `.validate` would not be asked.
        let data = if params.is_empty() { json!(true) } else { json!(params) };
        self.write(&format!("/jobs/{job}/start"), &data)?;
        match &spec.scope {
            Some(scope) if !self.is_admin() && !has_scope(self.identity, scope) => Err(Error::new(
                ErrorKind::Denied,
                format!("the token's scope must hold {scope:?} to start the job {job}"),
            )),
            _ => Ok(()),
        }
    }

    /// May it start again what this run did?
    pub(crate) fn may_repeat(&self, record: &RunRecord, runs: &Runs) -> Result<(), Error> {
        match &record.job {
            Some(job) => {
                let spec = runs.job(job).ok_or_else(|| no_job(job))?.spec;
                let kind = |name: &str| {
                    spec.params.iter().find(|(known, _)| known.as_str() == name).map(|(_, spec)| spec.kind)
                };
                let typed = |(name, text): (&String, &String)| (name.clone(), typed(kind(name), text));
                self.may_start(job, &record.params.iter().map(typed).collect(), runs)
            }
            None => self.may_run_anything(),
        }
    }
}

/// A parameter as its caller gave it, for the rules: the record has its text.
fn typed(kind: Option<ParamType>, text: &str) -> Value {
    match kind {
        Some(ParamType::Integer | ParamType::Boolean) => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
        Some(ParamType::String) | None => json!(text),
    }
}

fn location(path: &str) -> Result<Path, Error> {
    Path::parse(path).map_err(|error| Error::bad_request(error.to_string()))
}

/// Does the `scope` of the caller's token, words with spaces between (RFC 8693 §4.2), hold this one?
fn has_scope(identity: &Identity, wanted: &str) -> bool {
    let scope = identity.auth().and_then(|auth| auth.pointer("/token/scope")?.as_str());
    scope.is_some_and(|scope| scope.split_ascii_whitespace().any(|have| have == wanted))
}

/// Did a proxy pass it on? Then the peer on this machine is not who asks.
pub(crate) fn is_forwarded(headers: &HeaderMap) -> bool {
    let told = [header::FORWARDED.as_str(), header::VIA.as_str(), "x-forwarded-for", "x-real-ip"];
    told.iter().any(|name| headers.contains_key(*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_words() {
        let of = |scope: Value| Identity::user(json!({ "uid": "u", "token": { "scope": scope } }));
        let check = |scope: Value, good| assert_eq!(has_scope(&of(scope.clone()), "jobs:run"), good, "{scope}");
        check(json!("jobs:run"), true);
        check(json!("read jobs:run write"), true);
        check(json!("jobs:runs"), false);
        check(json!(["jobs:run"]), false);
        check(json!(""), false);
        assert!(!has_scope(&Identity::Anonymous, "jobs:run"));
    }

    #[test]
    fn a_proxy_is_not_who_asks() {
        let header =
            |name: &str| HeaderMap::from_iter([(name.parse().unwrap(), header::HeaderValue::from_static("x"))]);
        assert!(!is_forwarded(&header("host")));
        for name in ["forwarded", "Via", "X-Forwarded-For", "x-real-ip"] {
            assert!(is_forwarded(&header(name)), "{name}");
        }
    }
}
