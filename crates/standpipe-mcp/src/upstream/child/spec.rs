//! What a process behind the gateway is started as.

use std::collections::BTreeMap;
use std::path::PathBuf;

use standpipe_runs::Spec;

use super::super::{EraChoice, ServerLimits};

/// Whether legacy sessions share a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A process for each session.
    #[default]
    Session,
    /// One process for all sessions.
    Shared,
}

impl Mode {
    /// As in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Shared => "shared",
        }
    }
}

/// A server that is a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildSpec {
    /// For people, logs and the paths of its endpoint.
    pub name: String,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Its whole environment: see [`environment`].
    pub env: BTreeMap<String, String>,
    /// Where it is started; `None` is our own folder.
    pub cwd: Option<PathBuf>,
    /// Whether legacy sessions share a process.
    pub mode: Mode,
    /// Which era it speaks.
    pub era: EraChoice,
    /// Whether it is started at once, not by the first who needs it.
    pub eager: bool,
    /// What it may take.
    pub limits: ServerLimits,
}

impl ChildSpec {
    /// A server of this name that is started so; everything else as by default.
    pub fn new(name: impl Into<String>, argv: Vec<String>, env: BTreeMap<String, String>) -> Self {
        Self {
            name: name.into(),
            argv,
            env,
            cwd: None,
            mode: Mode::default(),
            era: EraChoice::default(),
            eager: false,
            limits: ServerLimits::default(),
        }
    }

    /// For the launcher.
    pub(super) fn launched(&self) -> Spec {
        Spec { argv: self.argv.clone(), cwd: self.cwd.clone(), env: self.env.clone(), input: true, ..Spec::default() }
    }
}

/// Variables of ours that any process may see (spec mcp §4.4); all `LC_*` too.
const INHERITED: [&str; 7] = ["PATH", "HOME", "LANG", "TERM", "TMPDIR", "USER", "SHELL"];

/// The environment of a process: the few of our own variables that are no secret, and what its configuration names.
pub fn environment(
    ours: impl IntoIterator<Item = (String, String)>,
    configured: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let may_see = |name: &str| INHERITED.contains(&name) || name.starts_with("LC_");
    let mut all: BTreeMap<_, _> = ours.into_iter().filter(|(name, _)| may_see(name)).collect();
    all.extend(configured.iter().map(|(name, value)| (name.clone(), value.clone())));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_sees_none_of_our_secrets() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let ours = [pair("PATH", "/bin"), pair("LC_ALL", "C"), pair("STANDPIPE_TOKEN", "s"), pair("AWS_KEY", "s")];
        let configured = BTreeMap::from([pair("PATH", "/opt"), pair("API_KEY", "its own")]);
        let expected = BTreeMap::from([pair("API_KEY", "its own"), pair("LC_ALL", "C"), pair("PATH", "/opt")]);
        assert_eq!(environment(ours, &configured), expected);
    }
}
