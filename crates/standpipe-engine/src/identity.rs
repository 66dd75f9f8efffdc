//! Who asks, and what a database allows where no rules were ever put. Rules are `rules`' business.

use std::sync::Arc;

use serde_json::Value;

use crate::error::{Error, Result};

/// The verified identity behind a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Identity {
    /// No credential was given.
    #[default]
    Anonymous,
    /// A user.
    User(Arc<User>),
    /// The administrator: rules do not apply.
    Admin,
}

/// A user, as rules see one.
#[derive(Debug, PartialEq)]
pub struct User {
    auth: Value,
    text: Box<str>,
    traced: bool,
}

impl User {
    /// `auth.uid`; empty when there is none.
    pub fn uid(&self) -> &str {
        self.auth.get("uid").and_then(Value::as_str).unwrap_or_default()
    }

    /// What `auth` is in rules: for the bearer of a token `{"uid", "provider", "token": claims}`.
    pub fn auth(&self) -> &Value {
        &self.auth
    }

    /// [`User::auth`] as text.
    pub fn auth_json(&self) -> &str {
        &self.text
    }
}

impl Identity {
    /// The user for whom `auth` is this in rules.
    pub fn user(auth: Value) -> Self {
        let text = auth.to_string().into();
        Self::User(Arc::new(User { auth, text, traced: false }))
    }

    /// An administrator who acts as the user for whom `auth` is this: rules apply, and a refusal says why
    /// ([`crate::Error::denial`]).
    pub fn acting_as(auth: Value) -> Self {
        let text = auth.to_string().into();
        Self::User(Arc::new(User { auth, text, traced: true }))
    }

    /// Whether whoever asks may know why rules refuse something.
    pub(crate) fn traced(&self) -> bool {
        matches!(self, Self::User(user) if user.traced)
    }

    /// What `auth` is in rules; `None` is null.
    pub fn auth(&self) -> Option<&Value> {
        match self {
            Self::User(user) => Some(user.auth()),
            Self::Anonymous | Self::Admin => None,
        }
    }

    /// The name written into records for audit.
    pub fn actor(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
            Self::User(user) => user.uid(),
            Self::Admin => "admin",
        }
    }
}

/// What a database without rules allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Everybody may read and write: `standpipe dev`.
    Open,
    /// Only administrators: `standpipe serve`.
    #[default]
    Locked,
}

impl Access {
    /// May `identity` read and write? The refusal is [`crate::ErrorKind::Denied`].
    pub fn check(self, identity: &Identity) -> Result<()> {
        match (self, identity) {
            (Self::Open, _) | (_, Identity::Admin) => Ok(()),
            (Self::Locked, _) => Err(Error::denied()),
        }
    }
}
