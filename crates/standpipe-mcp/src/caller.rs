//! Who sends a message, as far as what answers it needs to know. How a credential is judged is the doors' business.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use standpipe_engine::Identity;
use standpipe_serve::Session;

/// Who sends a message. Each message brings its own: a session of the protocol may be used over many connections.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Whom limits count, and whom a session belongs to: `admin`, `user:<uid>`, or `anonymous:<address>`.
    pub principal: Arc<str>,
    /// As the rules see it.
    pub identity: Identity,
    /// When the identity ends.
    pub expires_at: Option<SystemTime>,
    /// Whether it may have any command run.
    pub operator: bool,
    /// What its credential is narrowed to.
    pub scopes: Scopes,
    /// The connection that the message came over.
    pub session: Session,
    /// The headers of the HTTP request that it came in, for traces and tapes; `None` over other ways. Credentials (`authorization`, `cookie`,
    /// `proxy-authorization`) are not among them, so that nothing behind a door can pass them on.
    pub headers: Option<Arc<HeaderMap>>,
}

impl Caller {
    /// A caller without a connection, who is judged as nobody: for tests.
    #[doc(hidden)]
    pub fn detached(principal: &str) -> Self {
        Self {
            principal: principal.into(),
            identity: Identity::Anonymous,
            expires_at: None,
            operator: false,
            scopes: Scopes::all(),
            session: Session::detached(standpipe_serve::Limits::default()),
            headers: None,
        }
    }
}

/// What a credential is narrowed to (spec mcp §2.4): `tree:read`, `tree:write`, `runs:read`, `runs:start`, `gateway:<server>`. The rules
/// still decide about each path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(Option<Arc<str>>);

impl Scopes {
    /// A credential that is not narrowed.
    pub fn all() -> Self {
        Self(None)
    }

    /// Scopes as a token has them: separated by spaces.
    pub fn only(scopes: &str) -> Self {
        Self(Some(scopes.into()))
    }

    /// Whether `scope` is among them. Writing includes reading.
    pub fn allow(&self, scope: &str) -> bool {
        let Some(scopes) = &self.0 else { return true };
        scopes.split(' ').any(|has| {
            has == scope || matches!((has, scope), ("tree:write", "tree:read") | ("runs:start", "runs:read"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_narrow() {
        assert!(Scopes::all().allow("gateway:x"));
        let scopes = Scopes::only("openid tree:write gateway:a");
        let allowed = ["tree:read", "tree:write", "gateway:a", "gateway:ab", "runs:read", "tree"]
            .map(|scope| scopes.allow(scope));
        assert_eq!(allowed, [true, true, true, false, false, false]);
    }
}
