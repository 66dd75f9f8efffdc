//! What a request line asks for: the path part of the URL, decoded, and which handler it means.
//! Query parameters are `params`' business, methods the handlers'.

use percent_encoding::percent_decode_str;
use standpipe_engine::Error;
use standpipe_tree::Location;

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
    /// `/`: a word for people and for clients that probe whether the server is up.
    Index,
    /// Nothing is there.
    Unknown,
}

/// Reads the path of a URL, still percent-encoded.
///
/// # Errors
/// `BadRequest` when it is not UTF-8, or holds a key that no key can be.
pub(crate) fn route(path: &str) -> Result<Route, Error> {
    Ok(match path {
        "/" => Route::Index,
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
            None => Route::Unknown,
        },
    })
}

/// Percent-decodes segment by segment, so that an encoded slash can't split a key.
fn location(path: &str) -> Result<Location, Error> {
    if !path.contains('%') {
        return Location::parse(path).map_err(|error| Error::bad_request(error.to_string()));
    }
    let mut decoded = String::with_capacity(path.len());
    for segment in path.split('/') {
        let text = percent_decode_str(segment)
            .decode_utf8()
            .map_err(|_| Error::bad_request("Invalid path: percent-encoded bytes are not UTF-8"))?;
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
        check("/a%00.json", Err(""));
        check("/.hidden/a.json", Err(""));
    }
}
