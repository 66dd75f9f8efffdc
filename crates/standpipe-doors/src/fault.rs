//! The one table from error kinds to each protocol's own words.

use http::StatusCode;
use standpipe_engine::ErrorKind;
use standpipe_serve::Refusal;

/// The status a REST client sees that was not let in.
pub(crate) fn http_refusal(refusal: Refusal) -> StatusCode {
    match refusal {
        Refusal::Rate { .. } => StatusCode::TOO_MANY_REQUESTS,
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
