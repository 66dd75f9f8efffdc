//! Whether a request about runs comes from who it seems to come from: a page of another origin brings what lets its user in.

use http::request::Parts;
use standpipe_engine::{Error, ErrorKind};

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
}
