//! `decide`: turns a write as asked for into a plain effect, or refuses it. Access, conditions, the clock
//! and generated ids are used here, once, on the writer's open transaction, so each decision
//! sees the writes before it. It writes nothing.

use std::sync::Arc;

use standpipe_tree::{Change, ChangeKind, Location, Path, PushIds, Rows, Write, server_value};

use crate::error::{Error, ErrorKind, Result};
use crate::identity::{Access, Identity};
use crate::intent::{Condition, Intent, Op};
use crate::lease::{Lease, LeaseLimits, decode_location};
use crate::record::Effect;
use crate::store::keys::tree_key;
use crate::view::View;

/// What a decision may depend on besides the tree.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) now_ms: u64,
    pub(crate) access: Access,
    pub(crate) leases: LeaseLimits,
    pub(crate) push_ids: &'a mut PushIds,
}

/// An accepted intent.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) effect: Effect,
    pub(crate) pushed: Option<String>,
}

/// May this intent be decided at all: has its caller the right, and do its conditions hold?
pub(crate) fn admit(view: &View, intent: &Intent, context: &Context) -> Result<()> {
    context.access.check_write(&intent.identity)?;
    intent.conditions.iter().try_for_each(|condition| check(view, condition))
}

/// Decides one plain write. Computed writes and batches are made of such.
pub(crate) fn decide(view: &View, op: &Op, identity: &Identity, context: &mut Context) -> Result<Decision> {
    let now_ms = context.now_ms;
    let change = match op {
        Op::Set { location, rows } => Change {
            kind: ChangeKind::Set,
            base: location.path().clone(),
            writes: vec![resolve(view, location.clone(), rows, now_ms)?],
        },
        Op::Merge { base, writes } => Change {
            kind: ChangeKind::Merge,
            base: base.clone(),
            writes: writes
                .iter()
                .map(|(location, rows)| resolve(view, location.clone(), rows, now_ms))
                .collect::<Result<_>>()?,
        },
        Op::Overlay { base, rows } => Change {
            kind: ChangeKind::Overlay,
            base: base.clone(),
            writes: vec![resolve(view, Location::Node(base.clone()), rows, now_ms)?],
        },
        Op::Push { base, rows } => return push(view, base, rows, context),
        Op::Rules(text) => {
            if *identity != Identity::Admin {
                return Err(Error::denied());
            }
            return Ok(Decision { effect: Effect::Rules(text.clone()), pushed: None });
        }
        Op::Arm { lease, location, rows } => {
            let writes = vec![Write { location: location.clone(), rows: rows.clone() }];
            return Ok(Decision { effect: arm(view, lease, identity, writes, context)?, pushed: None });
        }
        Op::Disarm { lease, path } => {
            return Ok(Decision { effect: Effect::Disarm(lease.id(), path.clone()), pushed: None });
        }
        Op::Compute(_) | Op::Batch(_) | Op::Release(_) => unreachable!("the writer takes these apart"),
    };
    Ok(Decision { effect: Effect::Change(Arc::new(change)), pushed: None })
}

/// What a write tied to a lease arms: the removal of all it writes.
pub(crate) fn tie(
    view: &View,
    lease: &Lease,
    identity: &Identity,
    change: &Change,
    context: &Context,
) -> Result<Option<Effect>> {
    let mut writes = Vec::new();
    let mut remove = |location| writes.push(Write { location, rows: Rows::default() });
    for write in change.writes.iter().filter(|write| !write.rows.is_empty()) {
        if change.kind == ChangeKind::Overlay {
            let base = write.location.path().encode();
            let keys = write.rows.iter().map(|(key, _)| [&base[..], key].concat());
            keys.filter_map(|key| decode_location(&key)).for_each(&mut remove);
        } else {
            remove(write.location.clone());
        }
    }
    if writes.is_empty() { Ok(None) } else { arm(view, lease, identity, writes, context).map(Some) }
}

fn arm(view: &View, lease: &Lease, identity: &Identity, writes: Vec<Write>, context: &Context) -> Result<Effect> {
    lease.holds(view.check_lease_room(lease.id(), &writes, context.leases)?);
    let change = Change { kind: ChangeKind::Merge, base: Path::root(), writes };
    Ok(Effect::Arm(lease.id(), identity.clone(), Arc::new(change)))
}

fn push(view: &View, base: &Path, rows: &Rows, context: &mut Context) -> Result<Decision> {
    let key = context.push_ids.next(context.now_ms, crate::random::bytes());
    let path = base.child(&key).map_err(|error| Error::bad_request(error.to_string()))?;
    let write = resolve(view, Location::Node(path.clone()), rows, context.now_ms)?;
    let change = Change { kind: ChangeKind::Set, base: path, writes: vec![write] };
    Ok(Decision { effect: Effect::Change(Arc::new(change)), pushed: Some(key) })
}

fn check(view: &View, condition: &Condition) -> Result<()> {
    if standpipe_tree::etag(&mut view.cursor(&condition.path))? == condition.etag {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "ETag does not match the current value"))
}

/// Replaces server values by what they mean now.
fn resolve(view: &View, location: Location, rows: &Rows, now_ms: u64) -> Result<Write> {
    if !rows.has_server_values() {
        return Ok(Write { location, rows: rows.clone() });
    }
    let base = tree_key(&location.encode());
    let rows = server_value::resolve(rows, now_ms, |relative| view.leaf_at(&[&base[..], relative].concat()))?;
    Ok(Write { location, rows })
}
