//! Who may do what with runs. One place for all of it: rules decide what is seen, stopped and removed, and which
//! jobs are started; commands that no configuration names are run for an operator only, whom no rule makes.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header;
use http::request::Parts;
use serde_json::{Value, json};
use standpipe_engine::{Database, Error, ErrorKind, Identity};
use standpipe_runs::{Name, ParamType, RunId, RunRecord, Runs};
use standpipe_tree::Path;

use super::{Call, no_job};

/// What a caller may do, by the rules of the moment it is asked.
pub(super) struct Access<'a> {
    identity: &'a Identity,
    operator: bool,
    database: Arc<Database>,
}

impl<'a> Access<'a> {
    /// Of the one who calls; runs and jobs are values of the default database.
    pub(super) fn of(call: &'a Call<'_>) -> Result<Self, Error> {
        let database = call.dispatch.database(None)?;
        Ok(Self { identity: &call.identity, operator: call.operator && !is_forwarded(call.parts), database })
    }

    /// Who it is, as the record of a run says.
    pub(super) fn by(&self) -> &str {
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
    pub(super) fn seen<'r>(&self, records: &'r [RunRecord]) -> Result<Vec<&'r RunRecord>, Error> {
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
    pub(super) fn may_see(&self, id: &RunId) -> Result<(), Error> {
        self.read(&format!("/runs/{id}"))
    }

    /// May it see the job?
    pub(super) fn may_see_job(&self, job: &Name) -> Result<(), Error> {
        self.read(&format!("/jobs/{job}"))
    }

    /// May it stop the run?
    pub(super) fn may_stop(&self, id: &RunId) -> Result<(), Error> {
        self.write(&format!("/runs/{id}/stop"), &json!(true))
    }

    /// May it remove the run? As if it removed its value.
    pub(super) fn may_remove(&self, id: &RunId) -> Result<(), Error> {
        self.write(&format!("/runs/{id}"), &Value::Null)
    }

    /// May it remove many at once?
    pub(super) fn may_prune(&self) -> Result<(), Error> {
        if self.is_admin() { Ok(()) } else { Err(Error::denied()) }
    }

    /// May it have a command run that no configuration names?
    pub(super) fn may_run_anything(&self) -> Result<(), Error> {
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
    pub(super) fn may_start(&self, job: &Name, params: &BTreeMap<String, Value>, runs: &Runs) -> Result<(), Error> {
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
    pub(super) fn may_repeat(&self, record: &RunRecord, runs: &Runs) -> Result<(), Error> {
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
fn is_forwarded(parts: &Parts) -> bool {
    let told = [header::FORWARDED.as_str(), header::VIA.as_str(), "x-forwarded-for", "x-real-ip"];
    told.iter().any(|name| parts.headers.contains_key(*name))
}

/// Refuses what a page of another origin asks for: a browser sends it with whatever lets its user in.
///
/// # Errors
/// `Denied`.
pub(super) fn same_origin(parts: &Parts) -> Result<(), Error> {
    let headers = &parts.headers;
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = parts.uri.authority().map(http::uri::Authority::as_str).or_else(|| text("host"));
    let origin = text("origin");
    let own = origin.is_none_or(|origin| {
        let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        authority.zip(host).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host))
    });
    if own && text("sec-fetch-site") != Some("cross-site") {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Denied,
        format!("a page of another origin ({}) can't control runs: open the one of this server", origin.unwrap_or("?")),
    ))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri("/runs");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_our_own_pages_control_runs() {
        let check = |headers: &[(&str, &str)], good: bool| {
            let headers = [&[("host", "db.example.com:9000")], headers].concat();
            assert_eq!(same_origin(&parts(&headers)).is_ok(), good, "{headers:?}");
        };
        check(&[], true);
        check(&[("origin", "http://db.example.com:9000")], true);
        check(&[("origin", "https://DB.example.com:9000")], true);
        check(&[("origin", "http://db.example.com")], false);
        check(&[("origin", "http://db.example.com:9001")], false);
        check(&[("origin", "http://evil.example")], false);
        check(&[("origin", "http://db.example.com:9000.evil.example")], false);
        check(&[("origin", "null")], false);
        check(&[("origin", "")], false);
        check(&[("origin", "file://")], false);
        check(&[("sec-fetch-site", "cross-site")], false);
        check(&[("sec-fetch-site", "same-origin")], true);
        assert!(same_origin(&parts(&[("origin", "http://a")])).is_err());
    }

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
        assert!(!is_forwarded(&parts(&[("host", "a")])));
        for name in ["forwarded", "Via", "X-Forwarded-For", "x-real-ip"] {
            assert!(is_forwarded(&parts(&[(name, "x")])), "{name}");
        }
    }
}
