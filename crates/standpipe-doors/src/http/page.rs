//! The page of one run: a file of HTML that is the same for every run, and the modules and styles it asks for, all
//! embedded. What it shows it fetches from the addresses that every client has, with the reader's own credential; so
//! nothing here looks at a run, a rule or a token.

use std::sync::LazyLock;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use super::Answer;
use super::body::Content;

/// Only our own modules and styles, only our own server to talk to, no frame around it: what a process writes may
/// hold anything, and none of it must ever run.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

/// A file of the page: its name, its media type, its bytes.
type File = (&'static str, &'static str, &'static [u8]);

macro_rules! files {
    ($($name:literal $media:ident,)*) => {
        &[$(($name, $media, include_bytes!(concat!("../../assets/run/", $name)))),*]
    };
}

/// The page itself comes first.
static FILES: &[File] = files![
    "page.html" HTML,
    "page.css" CSS,
    "page.js" JS,
    "ansi.js" JS,
    "lines.js" JS,
    "view.js" JS,
    "source.js" JS,
    "graph.js" JS,
    "summary.js" JS,
];

/// The entity tags of the files, by their content (RFC 9110 §8.8.3).
static TAGS: LazyLock<Vec<HeaderValue>> = LazyLock::new(|| FILES.iter().map(|(_, _, bytes)| tag(bytes)).collect());

fn tag(bytes: &[u8]) -> HeaderValue {
    let digest = digest::digest(&digest::SHA256, bytes);
    let hex: String = digest.as_ref().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::try_from(format!("\"{hex}\"")).expect("hexadecimal digits are good in a header")
}

/// The page of a run, whichever it is.
pub(super) fn page(request: &HeaderMap) -> Answer {
    answer(0, request)
}

/// A file that the page asks for, `/assets/run/<name>`; `None` where there is no such file.
pub(super) fn asset(name: &str, request: &HeaderMap) -> Option<Answer> {
    let index = FILES.iter().position(|(have, media, _)| *have == name && *media != HTML)?;
    Some(answer(index, request))
}

/// Whether who asks would rather have the page than JSON: it names `text/html`, before or without `application/json`.
/// Browsers do; other clients take anything.
pub(super) fn wants_page(request: &HeaderMap) -> bool {
    let accept = request.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut ranges = accept.split(',').map(|range| range.split(';').next().unwrap_or_default().trim());
    let told = |range: &&str| ["text/html", "application/json"].iter().any(|media| range.eq_ignore_ascii_case(media));
    ranges.find(told).is_some_and(|range| range.eq_ignore_ascii_case("text/html"))
}

fn answer(index: usize, request: &HeaderMap) -> Answer {
    let (_, media, bytes) = FILES[index];
    let tag = &TAGS[index];
    let known = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let unchanged = known.flat_map(|tags| tags.split(',')).any(|known| known.trim().trim_start_matches("W/") == tag);
    let mut answer = Response::new(Content::Full(if unchanged { Bytes::new() } else { Bytes::from_static(bytes) }));
    if unchanged {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = answer.headers_mut();
    headers.insert(header::ETAG, tag.clone());
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // The same address is JSON for other clients.
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn browsers_get_the_page_and_others_json() {
        for (accept, expected) in [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("TEXT/HTML", true),
            ("text/html;level=1", true),
            ("application/json, text/html", false),
            ("*/*", false),
            ("", false),
            (",;,", false),
        ] {
            assert_eq!(wants_page(&headers(header::ACCEPT, accept)), expected, "{accept}");
        }
        assert!(!wants_page(&HeaderMap::new()));
    }

    #[test]
    fn files_are_told_by_their_content() {
        let nobody = HeaderMap::new();
        let first = asset("ansi.js", &nobody).unwrap();
        assert_eq!(first.headers()[header::CONTENT_TYPE], JS);
        assert_eq!(first.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
        let tag = first.headers()[header::ETAG].to_str().unwrap();
        for (known, status) in [
            (tag.to_owned(), 304),
            (format!("\"x\", W/{tag}"), 304),
            ("\"x\"".to_owned(), 200),
            ("garbage,,\"".to_owned(), 200),
        ] {
            let answer = asset("ansi.js", &headers(header::IF_NONE_MATCH, &known)).unwrap();
            assert_eq!(answer.status(), status, "{known}");
        }
        assert_ne!(TAGS[1], TAGS[2]);
        for unknown in ["", "page.html", "../page.css", "page.css/", "PAGE.CSS"] {
            assert!(asset(unknown, &nobody).is_none(), "{unknown}");
        }
    }

    #[test]
    fn the_page_runs_nothing_inline_and_asks_nobody_else() {
        for (name, _, bytes) in FILES {
            let text = std::str::from_utf8(bytes).unwrap();
            for inline in ["<script>", " style=\"", " onclick", "innerHTML", "outerHTML", "document.write", "eval("] {
                assert!(!text.contains(inline), "{name}: {inline}");
            }
            // The name of a vocabulary is an address that nobody is asked at.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http://") && !text.contains("https://"), "{name} names another server");
        }
    }
}
