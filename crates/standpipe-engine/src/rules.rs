//! The rules in force: which ones a decision goes by, and what they are asked. What rules mean is
//! `standpipe_tree::rules`' business.
//!
//! Three places ask: a read on its snapshot ([`Database::check_read`]), a write inside `decide`, on the
//! writer's transaction, and an act that is judged as a write and is none ([`Database::check_write`]). Administrators are never judged.

use std::sync::Arc;

use standpipe_tree::rules::{Request, RuleSet, Tree, Verdict};
use standpipe_tree::{
    Change, ChangeKind, IndexTree, Location, OwnedLeaf, ParseLimits, Path, Query, Write, parse_value, server_value,
};
use tokio::sync::watch;

use crate::database::Database;
use crate::error::{Error, Result};
use crate::identity::{Access, Identity};
use crate::store::{Snapshot, StoreCursor};
use crate::view::View;

/// The rules of one database, as the text put last says, and the indexes they declare.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// How often rules were put; 0 where never.
    pub(crate) version: u64,
    standing: Standing,
    pub(crate) indexes: IndexTree,
}

#[derive(Debug, Default)]
enum Standing {
    /// None were ever put: [`Access`] decides.
    #[default]
    Never,
    Set(Arc<RuleSet>),
    /// The stored text is no rules of this version of the program: administrators only, so that no
    /// misunderstanding opens what was closed.
    Unreadable(String),
}

/// Who asks, when, and under which settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) access: Access,
    pub(crate) now_ms: u64,
    pub(crate) trace: bool,
}

impl Rules {
    /// The rules of a text that was stored as version `version`.
    pub(crate) fn stored(version: u64, text: &str) -> Self {
        match RuleSet::compile(text) {
            Ok(rules) => Self { version, indexes: rules.index_tree(), standing: Standing::Set(Arc::new(rules)) },
            Err(error) => {
                Self { version, standing: Standing::Unreadable(error.to_string()), indexes: IndexTree::default() }
            }
        }
    }

    /// Why the stored text can't be used, if it can't.
    pub(crate) fn unreadable(&self) -> Option<&str> {
        if let Standing::Unreadable(why) = &self.standing { Some(why) } else { None }
    }

    pub(crate) fn set(&self) -> Option<&Arc<RuleSet>> {
        if let Standing::Set(rules) = &self.standing { Some(rules) } else { None }
    }

    /// May the caller read `path`, with all that is below it?
    pub(crate) fn check_read<T: Tree<Error = heed::Error>>(
        &self,
        caller: Caller<'_>,
        tree: &T,
        path: &Path,
        query: Option<&Query>,
    ) -> Result<()> {
        self.judge(caller, |rules, request| rules.read(&Request { query, ..*request }, tree, path))
    }

    /// May the caller make `change`, whose server values are resolved?
    pub(crate) fn check_write<T: Tree<Error = heed::Error>>(
        &self,
        caller: Caller<'_>,
        before: &T,
        change: &Change,
    ) -> Result<()> {
        self.judge(caller, |rules, request| rules.write(request, before, change))
    }

    fn judge(
        &self,
        caller: Caller<'_>,
        ask: impl FnOnce(&RuleSet, &Request<'_>) -> heed::Result<Verdict>,
    ) -> Result<()> {
        let Caller { identity, access, now_ms, trace } = caller;
        let rules = match &self.standing {
            _ if *identity == Identity::Admin => return Ok(()),
            Standing::Never => return access.check(identity),
            Standing::Unreadable(_) => return Err(Error::denied()),
            Standing::Set(rules) => rules,
        };
        let trace = trace || identity.traced();
        let request = Request { auth: identity.auth(), now_ms, query: None, trace };
        match ask(rules, &request)? {
            Verdict::Allowed => Ok(()),
            Verdict::Denied(denial) => Err(Error::denied_by(denial)),
        }
    }
}

impl Tree for Snapshot {
    type Error = heed::Error;
    type Cursor<'a> = StoreCursor<'a>;

    fn cursor(&self, path: &Path) -> StoreCursor<'_> {
        Snapshot::cursor(self, path)
    }
}

impl<'v> Tree for View<'v> {
    type Error = heed::Error;
    type Cursor<'a>
        = StoreCursor<'a>
    where
        'v: 'a;

    fn cursor(&self, path: &Path) -> StoreCursor<'_> {
        View::cursor(self, path)
    }
}

impl Database {
    /// May `identity` read `path`, with all that is below it, by `query`, on this snapshot?
    ///
    /// # Errors
    /// `Denied`, with [`Error::denial`] where denials are traced.
    pub fn check_read(
        &self,
        snapshot: &Snapshot,
        identity: &Identity,
        path: &Path,
        query: Option<&Query>,
    ) -> Result<()> {
        if *identity == Identity::Admin {
            return Ok(());
        }
        let rules = snapshot.rules_in_force()?;
        let config = self.config();
        // Without rules no clock is asked for.
        let now_ms = if rules.set().is_some() { config.clock.now_ms() } else { 0 };
        let caller = Caller { identity, access: config.access, now_ms, trace: config.trace_denials };
        rules.check_read(caller, snapshot, path, query)
    }

    /// May `identity` write `json` at `path`, as the rules judge a write on this snapshot? Nothing is written: this is for
    /// acts that are no writes and that rules decide on as if they were, such as starting a job.
    ///
    /// # Errors
    /// `Denied`, with [`Error::denial`] where denials are traced; `BadRequest` where `json` is no value.
    pub fn check_write(&self, snapshot: &Snapshot, identity: &Identity, path: &Path, json: &str) -> Result<()> {
        let rows = parse_value(json.as_bytes(), &ParseLimits::below(path))
            .map_err(|error| Error::bad_request(error.to_string()))?;
        if *identity == Identity::Admin {
            return Ok(());
        }
        let (rules, config) = (snapshot.rules_in_force()?, self.config());
        let now_ms = config.clock.now_ms();
        let base = path.encode();
        let rows = server_value::resolve(&rows, now_ms, |relative| {
            let leaf = snapshot.leaf(&[&base[..], relative].concat())?;
            Ok::<_, Error>(leaf.map(OwnedLeaf::from))
        })?;
        let write = Write { location: Location::Node(path.clone()), rows };
        let change = Change { kind: ChangeKind::Set, base: path.clone(), writes: vec![write] };
        let caller = Caller { identity, access: config.access, now_ms, trace: config.trace_denials };
        rules.check_write(caller, snapshot, &change)
    }

    /// May `identity` do what no rule speaks of, such as messages between clients, or a look at the
    /// server itself? Administrators may, and everybody where no rules were put and access is open.
    ///
    /// # Errors
    /// `Denied`.
    pub fn check_unruled(&self, identity: &Identity) -> Result<()> {
        let rules = self.store().active_rules();
        let access = if rules.version == 0 { self.config().access } else { Access::Locked };
        access.check(identity)
    }

    /// Is it of use to let `identity` in at all? Where rules were put that is for them to say, place by
    /// place.
    ///
    /// # Errors
    /// `Denied`.
    pub fn check_entry(&self, identity: &Identity) -> Result<()> {
        let ruled = self.store().active_rules().version > 0;
        if ruled { Ok(()) } else { self.config().access.check(identity) }
    }

    /// The rules in force; `None` where none were ever put, or where what is stored can't be used.
    pub fn rules(&self) -> Option<Arc<RuleSet>> {
        self.store().active_rules().set().cloned()
    }

    /// Counts up whenever the rules change: whoever watches asks again. By then no event of a later
    /// revision than the change's has been told.
    pub fn rules_changed(&self) -> watch::Receiver<u64> {
        self.store().rules_changed()
    }
}
