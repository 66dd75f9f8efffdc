//! The query string of a REST request (firebase-rtdb §9.2), read once into typed options. Unknown
//! names are ignored, as the service does; known ones with senseless values are refused.

use std::borrow::Cow;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use standpipe_engine::Error;
use standpipe_tree::{Format, Query, ShallowRange, parse_rest};

/// Longest `timeout` the protocol allows.
const TIMEOUT_MAX: Duration = Duration::from_secs(15 * 60);

/// How the answer is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Print {
    /// On one line.
    #[default]
    Compact,
    /// Indented.
    Pretty,
    /// Not at all: 204.
    Silent,
}

/// Everything the query string says.
#[derive(Clone, Debug)]
pub(crate) struct Params<'a> {
    /// `ns`.
    pub(crate) namespace: Option<Cow<'a, str>>,
    /// `s`: the session that a WebSocket is to carry on.
    pub(crate) session: Option<Cow<'a, str>>,
    /// `ls`: the session of the Firebase protocol that the client had before.
    pub(crate) last_session: Option<Cow<'a, str>>,
    /// `auth` or `access_token`.
    pub(crate) credential: Option<Cow<'a, str>>,
    /// `auth_variable_override`: JSON.
    pub(crate) auth_override: Option<Cow<'a, str>>,
    /// `print`.
    pub(crate) print: Print,
    /// `format`.
    pub(crate) format: Format,
    /// `shallow`.
    pub(crate) shallow: Option<ShallowRange>,
    /// `orderBy` and its bounds and limits.
    pub(crate) query: Option<Query>,
    /// `callback`: JSONP.
    pub(crate) callback: Option<Cow<'a, str>>,
    /// `download`.
    pub(crate) download: Option<Cow<'a, str>>,
    /// `timeout`.
    pub(crate) timeout: Option<Duration>,
    /// `writeSizeLimit`, as the longest time a write may take.
    pub(crate) write_budget: Option<Duration>,
    /// `deep`: a PATCH puts leaves and removes nothing else.
    pub(crate) deep: bool,
    /// `lease`: what is written goes with the connection.
    pub(crate) lease: bool,
    /// `x-http-method-override`.
    pub(crate) method_override: Option<Cow<'a, str>>,
    /// `at_least`: the revision a read must show.
    pub(crate) at_least: Option<u64>,
}

impl Default for Params<'_> {
    fn default() -> Self {
        Self {
            namespace: None,
            session: None,
            last_session: None,
            credential: None,
            auth_override: None,
            print: Print::default(),
            format: Format::Plain,
            shallow: None,
            query: None,
            callback: None,
            download: None,
            timeout: None,
            write_budget: None,
            deep: false,
            lease: false,
            method_override: None,
            at_least: None,
        }
    }
}

impl<'a> Params<'a> {
    /// Reads a query string, still percent-encoded.
    pub(crate) fn parse(query: Option<&'a str>) -> Result<Self, Error> {
        let mut params = Self::default();
        let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(params) };
        let mut filters: Vec<(Cow<'a, str>, Cow<'a, str>)> = Vec::new();
        let mut shallow = None;
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            match &*name {
                "ns" => params.namespace = Some(value),
                "s" => params.session = Some(value),
                "ls" => params.last_session = Some(value),
                "auth" | "access_token" => params.credential = Some(value),
                "auth_variable_override" => params.auth_override = Some(value),
                "print" => params.print = print(&value)?,
                "format" => params.format = format(&value)?,
                "deep" => params.deep = boolean("deep", &value)?,
                "lease" => params.lease = lease(&value)?,
                // `sizes` is ours: with it a listing tells leaves from nodes.
                "shallow" if value == "sizes" => shallow = Some(true),
                "shallow" => shallow = boolean("shallow", &value)?.then_some(false),
                "callback" => params.callback = Some(identifier(value)?),
                "download" => params.download = Some(value),
                "timeout" => params.timeout = Some(timeout(&value)?),
                "writeSizeLimit" => params.write_budget = write_budget(&value)?,
                "x-http-method-override" => params.method_override = Some(value),
                "at_least" => params.at_least = Some(revision(&value)?),
                "orderBy" | "startAt" | "startAfter" | "endAt" | "endBefore" | "equalTo" | "limitToFirst"
                | "limitToLast" => filters.push((name, value)),
                _ => {}
            }
        }
        if let Some(sizes) = shallow {
            params.shallow = Some(ShallowRange { sizes, ..shallow_options(&filters)? });
        } else if !filters.is_empty() {
            let pairs: Vec<(&str, &str)> = filters.iter().map(|(name, value)| (&**name, &**value)).collect();
            params.query = parse_rest(&pairs).map_err(|error| Error::bad_request(error.to_string()))?;
        }
        Ok(params)
    }
}

/// A name or value of a query, decoded.
pub(super) fn decode(text: &str) -> Result<Cow<'_, str>, Error> {
    let invalid = |_| Error::bad_request("Invalid query string: percent-encoded bytes are not UTF-8");
    if text.contains('+') {
        // Forms write a space so; nobody writes a plus sign unencoded in a value.
        let spaced = text.replace('+', " ");
        let decoded = percent_decode_str(&spaced).decode_utf8().map_err(invalid)?;
        return Ok(Cow::Owned(decoded.into_owned()));
    }
    percent_decode_str(text).decode_utf8().map_err(invalid)
}

fn print(value: &str) -> Result<Print, Error> {
    match value {
        "pretty" => Ok(Print::Pretty),
        "silent" => Ok(Print::Silent),
        _ => Err(Error::bad_request("print must be 'pretty' or 'silent'")),
    }
}

fn format(value: &str) -> Result<Format, Error> {
    match value {
        "export" => Ok(Format::Export),
        // The Node admin client asks rules for 'strict'; it means nothing for data.
        "strict" => Ok(Format::Plain),
        _ => Err(Error::bad_request("format must be 'export'")),
    }
}

fn boolean(name: &str, value: &str) -> Result<bool, Error> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Error::bad_request(format!("{name} must be 'true' or 'false'"))),
    }
}

fn lease(value: &str) -> Result<bool, Error> {
    match value {
        "connection" => Ok(true),
        _ => Err(Error::bad_request("lease must be 'connection'")),
    }
}

fn revision(value: &str) -> Result<u64, Error> {
    value.parse().map_err(|_| Error::bad_request("at_least must be a revision, a whole number"))
}

/// A dotted JavaScript identifier: nothing that could break out of the call.
fn identifier(value: Cow<'_, str>) -> Result<Cow<'_, str>, Error> {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with(|c: char| c.is_ascii_digit())
            && part.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'$')
    };
    if value.len() <= 128 && value.split('.').all(part) {
        return Ok(value);
    }
    Err(Error::bad_request("callback must be a JavaScript identifier"))
}

/// `3ms`, `3s`, `3min`; more than 0, at most 15 minutes.
fn timeout(value: &str) -> Result<Duration, Error> {
    let refused = || Error::bad_request("timeout must be a number and 'ms', 's' or 'min', above 0 and at most 15min");
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = value.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refused())?;
    let duration = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "min" => Duration::from_secs(number.saturating_mul(60)),
        _ => return Err(refused()),
    };
    if duration.is_zero() || duration > TIMEOUT_MAX {
        return Err(refused());
    }
    Ok(duration)
}

fn write_budget(value: &str) -> Result<Option<Duration>, Error> {
    let seconds = match value {
        "tiny" => 1,
        "small" => 10,
        "medium" => 30,
        "large" => 60,
        "unlimited" => return Ok(None),
        _ => {
            return Err(Error::bad_request("writeSizeLimit must be 'tiny', 'small', 'medium', 'large' or 'unlimited'"));
        }
    };
    Ok(Some(Duration::from_secs(seconds)))
}

/// `shallow` goes with nothing but the two filters by which tools page through keys.
fn shallow_options(filters: &[(Cow<'_, str>, Cow<'_, str>)]) -> Result<ShallowRange, Error> {
    let mixed = || Error::bad_request("Mixing 'shallow' and querying parameters is not supported");
    let mut shallow = ShallowRange::default();
    for (name, value) in filters {
        match &**name {
            "limitToFirst" => {
                let limit = value.parse().ok().filter(|limit| *limit > 0);
                shallow.limit =
                    Some(limit.ok_or_else(|| Error::bad_request("limitToFirst must be a positive integer"))?);
            }
            "startAfter" => shallow.after = Some(serde_json::from_str(value).map_err(|_| mixed())?),
            // Keys are in key order anyway.
            "orderBy" if *value == "\"$key\"" => {}
            _ => return Err(mixed()),
        }
    }
    Ok(shallow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str, part: &str) {
        let message = Params::parse(Some(query)).expect_err(query).to_string();
        assert!(message.contains(part), "{query}: {message}");
    }

    #[test]
    fn parameters_are_typed() {
        let params = Params::parse(Some("ns=a-b&print=pretty&format=export&timeout=3min&auth=x%2By&zzz=1")).unwrap();
        assert_eq!(params.namespace.as_deref(), Some("a-b"));
        assert_eq!(params.print, Print::Pretty);
        assert_eq!(params.timeout, Some(Duration::from_secs(180)));
        assert_eq!(params.credential.as_deref(), Some("x+y"));
        let params = Params::parse(Some("shallow=true&limitToFirst=5&startAfter=%22k%22")).unwrap();
        let shallow = params.shallow.unwrap();
        assert_eq!((shallow.after.as_deref(), shallow.limit, shallow.sizes), (Some("k"), Some(5), false));
        assert!(Params::parse(Some("shallow=sizes")).unwrap().shallow.unwrap().sizes);
        assert_eq!(Params::parse(Some("writeSizeLimit=tiny")).unwrap().write_budget, Some(Duration::from_secs(1)));
        assert!(Params::parse(Some("orderBy=%22$key%22&limitToLast=2")).unwrap().query.is_some());
    }

    #[test]
    fn senseless_values_are_refused_with_a_reason() {
        refused("print=loud", "print");
        refused("timeout=0s", "timeout");
        refused("timeout=16min", "timeout");
        refused("timeout=5", "timeout");
        refused("timeout=99999999999999999999s", "timeout");
        refused("shallow=yes", "shallow");
        refused("shallow=true&orderBy=%22a%22", "shallow");
        refused("callback=alert(1)", "identifier");
        refused("callback=", "identifier");
        refused("writeSizeLimit=huge", "writeSizeLimit");
        refused("ns=%ff", "UTF-8");
        refused("lease=forever", "lease");
        refused("limitToFirst=3", "orderBy must be defined");
    }
}
