//! Who asks, and what a database allows before rules exist. Rules (`.read`, `.write`,
//! `.validate`) come as a later layer at the same two call sites: [`Access::check_read`] on the
//! snapshot of the decision, [`Access::check_write`] inside the writer.

use std::sync::Arc;

use crate::error::{Error, Result};

/// The verified identity behind a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Identity {
    /// No credential was given.
    #[default]
    Anonymous,
    /// A user, with the claims of the token as JSON text.
    User {
        /// The `uid`.
        uid: Arc<str>,
        /// All claims, as one JSON object.
        claims: Arc<str>,
    },
    /// The administrator: rules do not apply.
    Admin,
}

impl Identity {
    /// The name written into records for audit.
    pub fn actor(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
            Self::User { uid, .. } => uid,
            Self::Admin => "admin",
        }
    }
}

/// What a database without evaluated rules allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Everybody may read and write: `standpipe dev`.
    Open,
    /// Only administrators: `standpipe serve`.
    #[default]
    Locked,
}

impl Access {
    /// May `identity` read? The refusal is [`crate::ErrorKind::Denied`].
    pub fn check_read(self, identity: &Identity) -> Result<()> {
        match (self, identity) {
            (Self::Open, _) | (_, Identity::Admin) => Ok(()),
            (Self::Locked, _) => Err(Error::denied()),
        }
    }

    /// May `identity` write? The refusal is [`crate::ErrorKind::Denied`].
    pub fn check_write(self, identity: &Identity) -> Result<()> {
        self.check_read(identity)
    }
}
