//! The one table from error kinds to each protocol's own words, and to what they count as.

use http::StatusCode;
use standpipe_engine::{Error, ErrorKind, Identity};
use standpipe_serve::Outcome;
use standpipe_serve::Refusal;
use standpipe_wire::resp;

use crate::auth::EXPIRED;

/// Longest error that a line holds.
const SENTENCE_CHARS_MAX: usize = 1_000;

/// The status a REST client sees that was not let in.
pub(crate) fn http_refusal(refusal: Refusal) -> StatusCode {
    match refusal {
        Refusal::Rate { .. } => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Plaintext => StatusCode::BAD_REQUEST,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// The status a REST client sees (firebase-rtdb §9.5).
pub(crate) fn http_status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::BadRequest => StatusCode::BAD_REQUEST,
        // Firebase answers 401 to both: the client tells them apart by the text.
        ErrorKind::Unauthenticated | ErrorKind::Denied => StatusCode::UNAUTHORIZED,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::PRECONDITION_FAILED,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::Overloaded | ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Deadline => StatusCode::REQUEST_TIMEOUT,
        // nginx' "client closed request": nobody is there to read it.
        ErrorKind::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The code in front of a RESP error: those that clients of redis know how to treat.
pub(crate) fn resp_code(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Unauthenticated => "WRONGPASS",
        ErrorKind::Denied => "NOPERM",
        ErrorKind::Overloaded => "BUSY",
        ErrorKind::Unavailable => "TRYAGAIN",
        ErrorKind::BadRequest
        | ErrorKind::NotFound
        | ErrorKind::Conflict
        | ErrorKind::TooLarge
        | ErrorKind::Deadline
        | ErrorKind::Cancelled
        | ErrorKind::Internal => "ERR",
    }
}

/// An error as a RESP client is told; logs what a person should look at.
pub(crate) fn resp_text(error: &Error, identity: &Identity) -> String {
    log(error);
    // Redis has a code of its own for who has said nothing about itself.
    if error.kind() == ErrorKind::Denied && *identity == Identity::Anonymous {
        return "NOAUTH Authentication required.".into();
    }
    format!("{} {}", resp_code(error.kind()), error.message())
}

/// [`resp_text`] as the bytes of a reply.
pub(crate) fn resp_line(error: &Error) -> Vec<u8> {
    let mut line = Vec::new();
    resp::reply::error(&resp_text(error, &Identity::Anonymous), &mut line);
    line
}

/// An error as a line, its end included: the kind's name, a sentence, and for what may come again how long
/// to wait.
pub(crate) fn line_text(error: &Error) -> String {
    log(error);
    let wait = error.retry_after().map(|after| format!(" (after {} ms)", after.as_millis())).unwrap_or_default();
    let text = format!("ERR {} {}{wait}", error.kind().as_str(), error.message());
    // What was sent may be quoted in it, however long and whatever it is.
    text.chars().take(SENTENCE_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).chain(['\n']).collect()
}

/// The status that a client of Firebase's realtime protocol sees (firebase-rtdb §5.2).
pub(crate) fn firebase_status(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::BadRequest | ErrorKind::NotFound => "invalid",
        ErrorKind::Unauthenticated if error.message() == EXPIRED => "expired_token",
        ErrorKind::Unauthenticated => "invalid_token",
        ErrorKind::Denied => "permission_denied",
        ErrorKind::Conflict => "datastale",
        ErrorKind::TooLarge => "too_big",
        ErrorKind::Overloaded | ErrorKind::Unavailable | ErrorKind::Deadline | ErrorKind::Cancelled => "unavailable",
        ErrorKind::Internal => "internal_error",
    }
}

/// How a request ended that was answered with an error.
pub(crate) fn outcome(kind: ErrorKind) -> Outcome {
    match kind {
        ErrorKind::Overloaded | ErrorKind::Unavailable => Outcome::Refused,
        ErrorKind::Deadline => Outcome::TimedOut,
        _ => Outcome::Finished,
    }
}

/// Logs a refusal; an internal error is for a person to look at, and why rules refuse for those who test them.
pub(crate) fn log(error: &Error) {
    if error.kind() == ErrorKind::Internal {
        tracing::error!(?error, "request failed");
    } else if let Some(why) = denial_line(error) {
        tracing::info!("denied: {why}");
    } else {
        tracing::debug!(?error, "request refused");
    }
}

/// Longest line that tells why rules refuse.
const DENIAL_BYTES_MAX: usize = 500;

/// Which rule refused and why, where that may be told, on one line of printable ASCII.
pub(crate) fn denial_line(error: &Error) -> Option<String> {
    let text = error.denial()?.to_string();
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        // What is cut ends in dots.
        if line.len() + 16 > DENIAL_BYTES_MAX {
            line.push_str("...");
            break;
        }
        match character {
            ' '..='~' => line.push(character),
            other => line.extend(other.escape_unicode()),
        }
    }
    Some(line)
}
