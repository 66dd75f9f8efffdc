//! Scenarios of sessions, in paused time.
