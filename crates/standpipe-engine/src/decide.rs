//! `decide`: turns a write as asked for into a plain effect, or refuses it. Rules, conditions, the clock
//! and generated ids are used here, once, on the writer's open transaction, so each decision
//! sees the writes before it. It writes nothing.

use std::sync::Arc;

use standpipe_tree::rules::RuleSet;
use standpipe_tree::{Change, ChangeKind, Location, Path, PushIds, Rows, Write, server_value};

use crate::error::{Error, ErrorKind, Result};
use crate::identity::{Access, Identity};
use crate::intent::{Condition, Op};
use crate::lease::{Lease, LeaseLimits, decode_location};
use crate::record::Effect;
use crate::rules::Caller;
use crate::store::keys::tree_key;
use crate::view::View;

/// What a decision may depend on besides the tree.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) now_ms: u64,
    pub(crate) access: Access,
    pub(crate) trace_denials: bool,
    pub(crate) leases: LeaseLimits,
    pub(crate) push_ids: &'a mut PushIds,
}

/// An accepted intent.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) effect: Effect,
    pub(crate) pushed: Option<String>,
}

impl Context<'_> {
    /// Who asks, as rules see it.
    pub(crate) fn caller<'i>(&self, identity: &'i Identity) -> Caller<'i> {
        Caller { identity, access: self.access, now_ms: self.now_ms, trace: self.trace_denials }
    }
}

/// Do the conditions of an intent hold? Rules come first: who may not write is not told, and why a write
/// is refused only tells who may read the location.
pub(crate) fn check_conditions(view: &View, conditions: &[Condition]) -> Result<()> {
    for condition in conditions {
        if standpipe_tree::etag(&mut view.cursor(&condition.path))? != condition.etag {
            view.check_read(&condition.path)?;
            return Err(Error::new(ErrorKind::Conflict, "ETag does not match the current value"));
        }
    }
    Ok(())
}

/// As [`check_conditions`], where no write has been allowed yet: a location that can't be read has no
/// condition.
pub(crate) fn check_first(view: &View, conditions: &[Condition]) -> Result<()> {
    conditions.iter().try_for_each(|condition| view.check_read(&condition.path))?;
    check_conditions(view, conditions)
}

/// Decides one plain write. Computed writes and batches are made of such.
pub(crate) fn decide(view: &View, op: &Op, context: &mut Context) -> Result<Decision> {
    let change = match op {
        Op::Push { base, rows } => return push(view, base, rows, context),
        Op::Rules(text) => return rules(view, text),
        Op::Arm { lease, location, rows } => {
            let rehearsed = set(view, location, rows, context.now_ms)?;
            view.check_write(&rehearsed)?;
            let writes = vec![Write { location: location.clone(), rows: rows.clone() }];
            return Ok(Decision { effect: arm(view, lease, writes, context)?, pushed: None });
        }
        Op::Disarm { lease, path } => {
            return Ok(Decision { effect: Effect::Disarm(lease.id(), path.clone()), pushed: None });
        }
        op => plain(view, op, context.now_ms)?,
    };
    view.check_write(&change)?;
    Ok(Decision { effect: Effect::Change(Arc::new(change)), pushed: None })
}

/// A write to known locations, server values resolved.
fn plain(view: &View, op: &Op, now_ms: u64) -> Result<Change> {
    Ok(match op {
        Op::Set { location, rows } => set(view, location, rows, now_ms)?,
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
        _ => unreachable!("the writer takes these apart"),
    })
}

fn set(view: &View, location: &Location, rows: &Rows, now_ms: u64) -> Result<Change> {
    let write = resolve(view, location.clone(), rows, now_ms)?;
    Ok(Change { kind: ChangeKind::Set, base: location.path().clone(), writes: vec![write] })
}

/// Rules that do not compile are refused here, so that those in force stay.
fn rules(view: &View, text: &str) -> Result<Decision> {
    if *view.identity() != Identity::Admin {
        return Err(Error::denied());
    }
    RuleSet::compile(text).map_err(|error| Error::bad_request(error.to_string()))?;
    Ok(Decision { effect: Effect::Rules(text.to_owned()), pushed: None })
}

/// What a write tied to a lease arms: the removal of all it writes.
pub(crate) fn tie(view: &View, lease: &Lease, change: &Change, context: &Context) -> Result<Option<Effect>> {
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
    if writes.is_empty() { Ok(None) } else { arm(view, lease, writes, context).map(Some) }
}

fn arm(view: &View, lease: &Lease, writes: Vec<Write>, context: &Context) -> Result<Effect> {
    lease.holds(view.check_lease_room(lease.id(), &writes, context.leases)?);
    let change = Change { kind: ChangeKind::Merge, base: Path::root(), writes };
    Ok(Effect::Arm(lease.id(), view.identity().clone(), Arc::new(change)))
}

fn push(view: &View, base: &Path, rows: &Rows, context: &mut Context) -> Result<Decision> {
    let key = context.push_ids.next(context.now_ms, crate::random::bytes());
    let path = base.child(&key).map_err(|error| Error::bad_request(error.to_string()))?;
    let write = resolve(view, Location::Node(path.clone()), rows, context.now_ms)?;
    let change = Change { kind: ChangeKind::Set, base: path, writes: vec![write] };
    view.check_write(&change)?;
    Ok(Decision { effect: Effect::Change(Arc::new(change)), pushed: Some(key) })
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
