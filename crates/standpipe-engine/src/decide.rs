//! `decide`: turns a write as asked for into a plain effect, or refuses it. Rules, conditions, the clock
//! and generated ids are used here, once, on the writer's open transaction, so each decision
//! sees the writes before it. It writes nothing.

use std::sync::Arc;

use standpipe_tree::rules::RuleSet;
use standpipe_tree::{Change, ChangeKind, Location, Path, PushIds, Rows, Write, server_value};

use crate::error::{Error, ErrorKind, Result};
use crate::identity::{Access, Identity};
use crate::intent::{Condition, Op};
use crate::lease::{Lease, LeaseLimits, changed_inside, decode_location, fallen_apart};
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
    /// In this order; none changes nothing.
    pub(crate) effects: Vec<Effect>,
    pub(crate) pushed: Option<String>,
    /// What was written tells of what was there, which the caller may not read.
    pub(crate) secret: bool,
}

impl Decision {
    fn to(effect: Effect) -> Self {
        Self { effects: vec![effect], pushed: None, secret: false }
    }

    fn write(change: Change) -> Self {
        Self::to(Effect::Change(Arc::new(change)))
    }
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
            view.check_write(&set(view, location, rows, context.now_ms)?)?;
            let writes = vec![Write { location: location.clone(), rows: rows.clone() }];
            return arm(view, lease, view.identity(), writes, context).map(Decision::to);
        }
        Op::ArmMerge { lease, base, writes } => {
            let rehearsed = Op::Merge { base: base.clone(), writes: writes.clone() };
            view.check_write(&plain(view, &rehearsed, context.now_ms)?)?;
            let to_write =
                |(location, rows): &(Location, Rows)| Write { location: location.clone(), rows: rows.clone() };
            return arm(view, lease, view.identity(), writes.iter().map(to_write).collect(), context).map(Decision::to);
        }
        Op::Identify { lease } => return Ok(Decision::to(Effect::Identify(lease.id(), view.identity().clone()))),
        Op::Disarm { lease, path } => return disarm(view, lease, path, context),
        op => plain(view, op, context.now_ms)?,
    };
    view.check_write(&change)?;
    Ok(Decision { secret: is_secret(view, op), ..Decision::write(change) })
}

fn is_secret(view: &View, op: &Op) -> bool {
    let hidden = |location: &Location, rows: &Rows| rows.has_increments() && view.check_read(location.path()).is_err();
    match op {
        Op::Set { location, rows } => hidden(location, rows),
        Op::Merge { writes, .. } => writes.iter().any(|(location, rows)| hidden(location, rows)),
        Op::Overlay { base, rows } => hidden(&Location::Node(base.clone()), rows),
        _ => false,
    }
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
    Ok(Decision::to(Effect::Rules(text.to_owned())))
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
    if writes.is_empty() { Ok(None) } else { arm(view, lease, view.identity(), writes, context).map(Some) }
}

/// Arms writes that do not overlap. What is armed above one of them is changed inside, so that no row of a
/// lease is ever below another one.
fn arm(view: &View, lease: &Lease, identity: &Identity, writes: Vec<Write>, context: &Context) -> Result<Effect> {
    let mut arms: Vec<Write> = Vec::with_capacity(writes.len());
    for write in writes {
        let above = match &write.location {
            // Above a priority is its own node, too.
            Location::Priority(path) => view.armed_above(lease.id(), &path.child("x").unwrap_or_default())?,
            Location::Node(path) => view.armed_above(lease.id(), path)?,
        };
        let Some(above) = above else {
            arms.push(write);
            continue;
        };
        let node = above.location.path().clone();
        let known = arms.iter().position(|arm| arm.location == above.location);
        let index = known.unwrap_or_else(|| {
            arms.push(Write { location: above.location, rows: above.rows });
            arms.len() - 1
        });
        let below = write.location.path().relative_to(&node).unwrap_or_default();
        let below = match write.location {
            Location::Node(_) => Location::Node(below),
            Location::Priority(_) => Location::Priority(below),
        };
        arms[index].rows = changed_inside(&arms[index].rows, &below, &write.rows);
    }
    lease.holds(view.check_lease_room(lease.id(), &arms, context.leases)?);
    let change = Change { kind: ChangeKind::Merge, base: Path::root(), writes: arms };
    Ok(Effect::Arm(lease.id(), identity.clone(), Arc::new(change)))
}

fn disarm(view: &View, lease: &Lease, path: &Path, context: &Context) -> Result<Decision> {
    let forget = |path: &Path| Effect::Disarm(lease.id(), path.clone());
    let Some(above) = view.armed_above(lease.id(), path)? else { return Ok(Decision::to(forget(path))) };
    let node = above.location.path();
    let Some(parts) = fallen_apart(node, &above.rows, path) else {
        return Ok(Decision { effects: Vec::new(), pushed: None, secret: false });
    };
    let mut effects = vec![forget(node)];
    if !parts.is_empty() {
        let writes: Vec<Write> =
            parts.into_iter().map(|(path, rows)| Write { location: Location::Node(path), rows }).collect();
        lease.holds(view.check_lease_room(lease.id(), &writes, context.leases)?);
        let change = Change { kind: ChangeKind::Merge, base: Path::root(), writes };
        effects.push(Effect::Arm(lease.id(), above.identity, Arc::new(change)));
    }
    Ok(Decision { effects, pushed: None, secret: false })
}

fn push(view: &View, base: &Path, rows: &Rows, context: &mut Context) -> Result<Decision> {
    let key = context.push_ids.next(context.now_ms, crate::random::bytes());
    let path = base.child(&key).map_err(|error| Error::bad_request(error.to_string()))?;
    let write = resolve(view, Location::Node(path.clone()), rows, context.now_ms)?;
    let change = Change { kind: ChangeKind::Set, base: path, writes: vec![write] };
    view.check_write(&change)?;
    Ok(Decision { pushed: Some(key), ..Decision::write(change) })
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
