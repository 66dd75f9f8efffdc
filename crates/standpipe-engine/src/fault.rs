//! Named points at which tests end the process, compiled in only with the feature `fault`.

/// Ends the process at once when `STANDPIPE_FAULT` names this point.
#[cfg(feature = "fault")]
pub(crate) fn point(name: &str) {
    if std::env::var_os("STANDPIPE_FAULT").is_some_and(|wanted| wanted == name) {
        std::process::abort();
    }
}

/// Nothing, in a product build.
#[cfg(not(feature = "fault"))]
#[inline]
pub(crate) fn point(_name: &str) {}
