//! `decide`: turns an intent into a plain effect, or refuses it. Access, conditions, the clock
//! and generated ids are used here, once, on the writer's open transaction, so each decision
//! sees the writes before it. It writes nothing.

use std::sync::Arc;

use heed::RwTxn;
use standpipe_tree::{Change, ChangeKind, Location, OwnedLeaf, Path, PushIds, Rows, Write, server_value};

use crate::apply::PRIORITY_MARK;
use crate::error::{Error, ErrorKind, Result};
use crate::identity::{Access, Identity};
use crate::intent::{Condition, Intent, Op};
use crate::record::Effect;
use crate::store::Store;
use crate::store::keys::tree_key;

/// What a decision may depend on besides the tree.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) now_ms: u64,
    pub(crate) access: Access,
    pub(crate) push_ids: &'a mut PushIds,
}

/// An accepted intent.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) effect: Effect,
    pub(crate) pushed: Option<String>,
}

/// The tree as the writer's transaction sees it.
pub(crate) struct View<'a, 's> {
    pub(crate) store: &'a Store,
    pub(crate) txn: &'a RwTxn<'s>,
}

/// Decides one intent.
pub(crate) fn decide(view: &View, intent: &Intent, context: &mut Context) -> Result<Decision> {
    context.access.check_write(&intent.identity)?;
    if let Some(condition) = &intent.condition {
        view.check(condition)?;
    }
    let now_ms = context.now_ms;
    let change = match &intent.op {
        Op::Set { location, rows } => Change {
            kind: ChangeKind::Set,
            base: location.path().clone(),
            writes: vec![view.resolve(location.clone(), rows, now_ms)?],
        },
        Op::Merge { base, writes } => Change {
            kind: ChangeKind::Merge,
            base: base.clone(),
            writes: writes
                .iter()
                .map(|(location, rows)| view.resolve(location.clone(), rows, now_ms))
                .collect::<Result<_>>()?,
        },
        Op::Overlay { base, rows } => Change {
            kind: ChangeKind::Overlay,
            base: base.clone(),
            writes: vec![view.resolve(Location::Node(base.clone()), rows, now_ms)?],
        },
        Op::Push { base, rows } => return push(view, base, rows, context),
        Op::Rules(text) => {
            if intent.identity != Identity::Admin {
                return Err(Error::denied());
            }
            return Ok(Decision { effect: Effect::Rules(text.clone()), pushed: None });
        }
    };
    Ok(Decision { effect: Effect::Change(Arc::new(change)), pushed: None })
}

fn push(view: &View, base: &Path, rows: &Rows, context: &mut Context) -> Result<Decision> {
    let key = context.push_ids.next(context.now_ms, crate::random::bytes());
    let path = base.child(&key).map_err(|error| Error::bad_request(error.to_string()))?;
    let write = view.resolve(Location::Node(path.clone()), rows, context.now_ms)?;
    let change = Change { kind: ChangeKind::Set, base: path, writes: vec![write] };
    Ok(Decision { effect: Effect::Change(Arc::new(change)), pushed: Some(key) })
}

impl View<'_, '_> {
    fn check(&self, condition: &Condition) -> Result<()> {
        let mut cursor = self.store.cursor(self.txn, &condition.path.encode());
        if standpipe_tree::etag(&mut cursor)? == condition.etag {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, "ETag does not match the current value"))
    }

    /// Replaces server values by what they mean now.
    fn resolve(&self, location: Location, rows: &Rows, now_ms: u64) -> Result<Write> {
        if !rows.has_server_values() {
            return Ok(Write { location, rows: rows.clone() });
        }
        let mut base = tree_key(&location.path().encode());
        if matches!(location, Location::Priority(_)) {
            base.push(PRIORITY_MARK);
        }
        let mut current = |relative: &[u8]| -> Result<Option<OwnedLeaf>> {
            let key = [&base[..], relative].concat();
            let value = self.store.tree.get(self.txn, &key)?;
            Ok(value.and_then(OwnedLeaf::decode))
        };
        let rows = server_value::resolve(rows, now_ms, &mut current)?;
        Ok(Write { location, rows })
    }
}
