//! The one table from what the server, or the way to it, says to the error numbers of the system.

use fuser::Errno;

use super::text::NoValue;
use crate::exit::Failure;

/// What a program sees for a failed request.
pub(super) fn of(failure: &Failure) -> Errno {
    match failure.status {
        Some(400) => Errno::EINVAL,
        Some(401 | 403) => Errno::EACCES,
        // No such database: an empty location is no failure.
        Some(404) => Errno::ENOENT,
        Some(408) => Errno::ETIMEDOUT,
        // Retention has taken those bytes of a stream.
        Some(410) => Errno::ENODATA,
        // Somebody else wrote since the file was opened.
        Some(412) => Errno::EAGAIN,
        Some(413) => Errno::EFBIG,
        // The disk or the database; its sentence says which, its status only that it can't now.
        Some(503) if failure.cause.contains(" is full") => Errno::ENOSPC,
        Some(429 | 503) => Errno::EAGAIN,
        Some(_) => Errno::EIO,
        // The server can't be reached, or broke off.
        None => Errno::EIO,
    }
}

/// What closing a file says whose content can't be stored.
pub(super) fn of_content(no_value: NoValue) -> Errno {
    match no_value {
        NoValue::Encoding => Errno::EILSEQ,
        NoValue::Json => Errno::EINVAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_numbers() {
        let check = |status, cause: &str, expected| {
            let failure = Failure { status, ..Failure::failed(cause) };
            assert_eq!(of(&failure), expected, "{status:?} {cause}");
        };
        check(Some(401), "Permission denied", Errno::EACCES);
        check(Some(404), "404 Not Found", Errno::ENOENT);
        check(Some(413), "larger than a limit", Errno::EFBIG);
        check(Some(503), "the disk is full; free some space", Errno::ENOSPC);
        check(Some(503), "the database is full: it has reached map_bytes_max", Errno::ENOSPC);
        check(Some(503), "too many writes are waiting", Errno::EAGAIN);
        check(Some(500), "internal error", Errno::EIO);
        check(None, "can't reach http://127.0.0.1:9000", Errno::EIO);
    }
}
