//! What a request line asks for: the path part of the URL, decoded, and which handler it means.
//! Query parameters are `params`' business, methods the handlers'.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use standpipe_engine::Error;
use standpipe_tree::{Location, Path};

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/<path>.json`: a location of the tree.
    Tree(Location),
    /// `/.settings/rules.json`.
    Rules,
    /// `/.inspect/databases.json`.
    Databases,
    /// `/.inspect/backup`.
    Backup,
    /// `/.inspect/coverage.json`.
    Coverage,
    /// `/.inspect/coverage`: the same as a page.
    CoveragePage,
    /// `/.ws`: a session of the Firebase protocol over a WebSocket.
    WebSocket,
    /// `/.lp`: the same by long polling.
    LongPoll,
    /// `/emulators`: where tests that look for the emulators' hub find the database.
    Emulators,
    /// `/.status`.
    Status,
    /// `/healthz`: the process answers.
    Health,
    /// `/readyz`: it takes requests.
    Ready,
    /// `/metrics`, for Prometheus.
    Metrics,
    /// `/openapi.json`: the description of what follows.
    OpenApi,
    /// Below `/runs` and `/jobs`: control of runs, and what they say.
    Runs(Place),
    /// `/streams`: which there are.
    Streams,
    /// `/streams/<path>`: any stream.
    Stream(Path),
    /// `/assets/run/<name>`: a file of the page of a run.
    Asset(String),
    /// `/`: a word for people and for clients that probe whether the server is up.
    Index,
    /// Nothing is there.
    Unknown,
}

/// A place below `/runs` or `/jobs`. A run is named by its id (`nightly@17`), or by its name, which means the newest of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// `/runs`.
    List,
    /// `/runs/prune`, as far as it is posted to: a run may have that name.
    Prune,
    /// `/runs/<run>`.
    Run(String),
    /// `/runs/<run>/out`, or `/runs/<run>/tasks/<task>/out`.
    Output { run: String, task: Option<String> },
    /// `/runs/<run>/stop`, `retry` or `resume`.
    Act { run: String, act: Act },
    /// `/runs/<run>/artefacts/<task>/<name>`.
    Artefact { run: String, task: String, name: String },
    /// `/jobs`.
    Jobs,
    /// `/jobs/<job>`.
    Job(String),
}

/// What is done to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Stop,
    Retry,
    Resume,
}

/// Reads the path of a URL, still percent-encoded.
///
/// # Errors
/// `BadRequest` when it is not UTF-8, or holds a key that no key can be.
pub(crate) fn route(path: &str) -> Result<Route, Error> {
    Ok(match path {
        "/" => Route::Index,
        "/openapi.json" => Route::OpenApi,
        "/healthz" => Route::Health,
        "/readyz" => Route::Ready,
        "/metrics" => Route::Metrics,
        "/.ws" | "/.ws/" => Route::WebSocket,
        "/.lp" | "/.lp/" => Route::LongPoll,
        "/.status" => Route::Status,
        "/.settings/rules.json" => Route::Rules,
        "/.inspect/databases.json" => Route::Databases,
        "/.inspect/backup" => Route::Backup,
        "/.inspect/coverage.json" => Route::Coverage,
        "/.inspect/coverage" => Route::CoveragePage,
        "/emulators" => Route::Emulators,
        path => match path.strip_suffix(".json") {
            Some(path) => Route::Tree(location(path)?),
            None => plain(path)?,
        },
    })
}

/// What is no location of the tree: its addresses end in `.json`, these do not.
fn plain(path: &str) -> Result<Route, Error> {
    if let Some(path) = path.strip_prefix("/streams/") {
        return match location(path)? {
            Location::Node(path) if path.is_root() => Ok(Route::Streams),
            Location::Node(path) => Ok(Route::Stream(path)),
            _ => Ok(Route::Unknown),
        };
    }
    let segments = path.trim_start_matches('/').split('/').map(segment).collect::<Result<Vec<_>, _>>()?;
    let segments: Vec<&str> = segments.iter().map(|segment| &**segment).collect();
    let (run, own) = (|run: &str| run.to_owned(), |text: &str| text.to_owned());
    Ok(Route::Runs(match segments[..] {
        ["runs"] | ["runs", ""] => Place::List,
        ["runs", "prune"] => Place::Prune,
        ["runs", id] => Place::Run(run(id)),
        ["runs", id, "out"] => Place::Output { run: run(id), task: None },
        ["runs", id, "tasks", task, "out"] => Place::Output { run: run(id), task: Some(own(task)) },
        ["runs", id, "stop"] => Place::Act { run: run(id), act: Act::Stop },
        ["runs", id, "retry"] => Place::Act { run: run(id), act: Act::Retry },
        ["runs", id, "resume"] => Place::Act { run: run(id), act: Act::Resume },
        ["runs", id, "artefacts", task, name] => Place::Artefact { run: run(id), task: own(task), name: own(name) },
        ["streams"] => return Ok(Route::Streams),
        ["jobs"] | ["jobs", ""] => Place::Jobs,
        ["jobs", job] => Place::Job(own(job)),
        ["assets", "run", name] => return Ok(Route::Asset(own(name))),
        _ => return Ok(Route::Unknown),
    }))
}

/// One segment, decoded.
fn segment(text: &str) -> Result<Cow<'_, str>, Error> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map_err(|_| Error::bad_request("Invalid path: percent-encoded bytes are not UTF-8"))
}

/// Percent-decodes segment by segment, so that an encoded slash can't split a key.
fn location(path: &str) -> Result<Location, Error> {
    if !path.contains('%') {
        return Location::parse(path).map_err(|error| Error::bad_request(error.to_string()));
    }
    let mut decoded = String::with_capacity(path.len());
    for segment in path.split('/') {
        let text = self::segment(segment)?;
        if text.contains('/') {
            return Err(Error::bad_request("Invalid path: a key can't contain '/'"));
        }
        decoded.push('/');
        decoded.push_str(&text);
    }
    Location::parse(&decoded).map_err(|error| Error::bad_request(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, expected: Result<&str, &str>) {
        let got = route(url).map(|route| match route {
            Route::Tree(Location::Node(path)) => path.to_string(),
            Route::Tree(Location::Priority(path)) => format!("{path} priority"),
            other => format!("{other:?}"),
        });
        match expected {
            Ok(expected) => assert_eq!(got.unwrap(), expected, "{url}"),
            Err(part) => {
                let message = got.expect_err(url).to_string();
                assert!(message.contains(part), "{url}: {message}");
            }
        }
    }

    #[test]
    fn urls_name_locations() {
        check("/.json", Ok("/"));
        check("/a/b.json", Ok("/a/b"));
        check("/a/b/.json", Ok("/a/b"));
        check("//a//b.json", Ok("/a/b"));
        check("/a%20b/%C3%A9.json", Ok("/a b/é"));
        check("/a+b.json", Ok("/a+b"));
        check("/a/.priority.json", Ok("/a priority"));
        check("/a", Ok("Unknown"));
        check("/", Ok("Index"));
        check("/metrics", Ok("Metrics"));
        check("/.status", Ok("Status"));
        check("/.inspect/coverage", Ok("CoveragePage"));
        check("/.inspect/coverage.json", Ok("Coverage"));
        check("/.ws/", Ok("WebSocket"));
        check("/a%2Fb.json", Err("'/'"));
        check("/a%ff.json", Err("UTF-8"));
        check("/a.b.json", Err("."));
        check("/openapi.json", Ok("OpenApi"));
        check("/runs", Ok("Runs(List)"));
        check("/runs/prune", Ok("Runs(Prune)"));
        check("/runs/nightly%4017", Ok("Runs(Run(\"nightly@17\"))"));
        check("/runs/a@1/out", Ok("Runs(Output { run: \"a@1\", task: None })"));
        check("/runs/a@1/tasks/t/out", Ok("Runs(Output { run: \"a@1\", task: Some(\"t\") })"));
        check("/runs/a/stop", Ok("Runs(Act { run: \"a\", act: Stop })"));
        check("/runs/a/artefacts/t/x", Ok("Runs(Artefact { run: \"a\", task: \"t\", name: \"x\" })"));
        check("/runs/a/tasks", Ok("Unknown"));
        check("/runs/a.json", Ok("/runs/a"));
        check("/jobs/nightly", Ok("Runs(Job(\"nightly\"))"));
        check("/assets/run/page.js", Ok("Asset(\"page.js\")"));
        check("/streams/a/b", Ok("Stream(/a/b)"));
        check("/streams", Ok("Streams"));
        check("/streams/", Ok("Streams"));
        check("/runs/%ff", Err("UTF-8"));
        check("/a%00.json", Err(""));
        check("/.hidden/a.json", Err(""));
    }
}
