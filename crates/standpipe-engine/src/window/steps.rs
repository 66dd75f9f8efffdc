//! A window through several changes at once, as it stood after each of them: who listens to the newest message is
//! told of every message, also of those that left the window again before anybody looked.
//!
//! The trees in between are gone, so each is made of what the changes say of the children they touch, and of the
//! newest tree for all others. Where that does not say enough (a part of a child was written that is written
//! again later, or what moves in from outside), the child waits for the last step, which is exact.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;

use standpipe_tree::{
    Change, ChangeKind, IndexValue, Location, OrderBy, Rows, Side, compare_keys, encode_key, segment_len, to_json,
};

use super::{Ordered, Window, child_value, gone, member, order_in, touched_by};
use crate::error::Result;
use crate::hub::TopicEvent;
use crate::store::Snapshot;

/// What a child is ordered by, where it is known.
type Order = Option<Ordered>;

impl Window {
    /// Moves the window through `events`, the changes since it was last moved, to `snapshot`, which shows all
    /// of them and nothing else: the children that differ after each, as one JSON object, with its revision.
    pub fn follow(&mut self, snapshot: &Snapshot, events: &[Arc<TopicEvent>]) -> Result<Vec<(u64, Vec<u8>)>> {
        let Some((last, before)) = events.split_last() else { return Ok(Vec::new()) };
        let mut moves = Vec::new();
        let mut touched = self.touched(super::Touched::Events(std::slice::from_ref(last)));
        if !before.is_empty() {
            let stale = self.steps(snapshot, events, before, &mut moves)?;
            touched = touched.zip(stale).map(|(touched, stale)| touched.union(&stale).cloned().collect());
        }
        if let Some(json) = self.move_to(snapshot, touched)? {
            moves.push((last.rev, json));
        }
        Ok(moves)
    }

    /// All steps but the last; says which children are not shown as they are, `None` where that may be all.
    fn steps(
        &mut self,
        snapshot: &Snapshot,
        events: &[Arc<TopicEvent>],
        before: &[Arc<TopicEvent>],
        moves: &mut Vec<(u64, Vec<u8>)>,
    ) -> Result<Option<HashSet<Box<str>>>> {
        let Some(mut steps) = Steps::begin(self, snapshot, events)? else { return Ok(None) };
        for (index, event) in before.iter().enumerate() {
            steps.step(index, &event.change)?;
            if let Some(json) = steps.told() {
                moves.push((event.rev, json));
            }
        }
        let Steps { shown, stale, .. } = steps;
        self.shown = shown.into_keys().collect();
        Ok(Some(stale))
    }
}

struct Steps<'w> {
    window: &'w Window,
    snapshot: &'w Snapshot,
    /// The children shown, with what each is ordered by; an outer `None` where that is not known.
    shown: HashMap<Box<str>, Option<Order>>,
    /// Children that are not shown as they are.
    stale: HashSet<Box<str>>,
    /// The last change that touches a child, and the last that touches all.
    last: HashMap<Box<str>, usize>,
    last_of_all: Option<usize>,
    /// There may be children in the range of the query that are not shown.
    outside: bool,
    /// Places in the window that children from outside have taken, whoever they are.
    holes: usize,
    /// What this step tells: values, and what is gone.
    step: BTreeMap<Box<str>, Option<Vec<u8>>>,
}

impl<'w> Steps<'w> {
    /// `None` where a change does not say which children it touches.
    fn begin(window: &'w Window, snapshot: &'w Snapshot, events: &[Arc<TopicEvent>]) -> Result<Option<Self>> {
        let encoded = window.path.encode();
        let (mut last, mut last_of_all) = (HashMap::new(), None);
        for (index, event) in events.iter().enumerate() {
            let mut children = HashSet::new();
            match touched_by(&event.change, &window.path, &encoded, &mut children) {
                Some(()) => last.extend(children.into_iter().map(|child| (child, index))),
                None if event.change.kind == ChangeKind::Overlay => return Ok(None),
                None => last_of_all = Some(index),
            }
        }
        let mut shown = HashMap::with_capacity(window.shown.len());
        for key in &window.shown {
            let known = !last.contains_key(key) && last_of_all.is_none();
            let order =
                if known { child_value(snapshot, &window.path, &segment(key), &window.query.order_by)? } else { None };
            shown.insert(key.clone(), order);
        }
        let outside = window.query.limit.is_some_and(|limit| shown.len() >= limit.count);
        let (stale, step) = (HashSet::new(), BTreeMap::new());
        Ok(Some(Self { window, snapshot, shown, stale, last, last_of_all, outside, holes: 0, step }))
    }

    fn step(&mut self, index: usize, change: &Change) -> Result<()> {
        let path = &self.window.path;
        let mut children = HashSet::new();
        if touched_by(change, path, &path.encode(), &mut children).is_none() {
            self.replace_all(change);
            return Ok(());
        }
        for key in children {
            let segment = segment(&key);
            let whole = change.writes.iter().find(|write| match &write.location {
                Location::Node(at) => {
                    change.kind != ChangeKind::Overlay && at.relative_to(path).is_some_and(|at| at.encode() == segment)
                }
                Location::Priority(_) => false,
            });
            let is_final = self.last.get(&key).is_none_or(|last| *last <= index) && self.last_of_all < Some(index);
            match whole {
                Some(write) => self.place_rows(key, &write.rows),
                None if is_final => {
                    let order = child_value(self.snapshot, path, &segment, &self.window.query.order_by)?;
                    let mut json = Vec::new();
                    if order.is_some() {
                        self.window.value(self.snapshot, &key, &mut json)?;
                    }
                    self.place(key, order, json);
                }
                None => {
                    self.stale.insert(key);
                }
            }
        }
        Ok(())
    }

    /// Everything at the path is new.
    fn replace_all(&mut self, change: &Change) {
        let path = &self.window.path;
        let above = change.writes.iter().find(|write| write.location.path().contains(path));
        let rows = above
            .map(|write| write.rows.subtree(&path.relative_to(write.location.path()).unwrap_or_default().encode()));
        let rows = rows.unwrap_or_default();
        let mut children: Vec<(Box<str>, Rows)> = Vec::new();
        let mut at: Vec<u8> = Vec::new();
        for (key, _) in rows.iter() {
            let Some(len) = segment_len(key).filter(|len| key[..*len] != at) else { continue };
            at = key[..len].to_vec();
            let mut name = String::new();
            if standpipe_tree::decode_key(&at, &mut name).is_some() {
                children.push((name.into(), rows.subtree(&at)));
            }
        }
        let before = std::mem::take(&mut self.shown);
        (self.outside, self.holes) = (false, 0);
        self.stale.clear();
        for (key, rows) in children {
            self.place_rows(key, &rows);
        }
        self.step.retain(|key, value| value.is_some() || before.contains_key(key));
        for key in before.into_keys().filter(|key| !self.shown.contains_key(key)) {
            self.step.insert(key, None);
        }
    }

    fn place_rows(&mut self, key: Box<str>, rows: &Rows) {
        let order = order_in(&mut rows.cursor(), &self.window.query.order_by);
        let order = order.unwrap_or_else(|never: Infallible| match never {});
        let json = to_json(&mut rows.cursor(), self.window.format).unwrap_or_else(|never| match never {});
        self.place(key, order, json);
    }

    /// A child is this now: it is shown, or leaves, or stays outside.
    fn place(&mut self, key: Box<str>, order: Option<Order>, json: Vec<u8>) {
        self.stale.remove(&key);
        let inside = order.as_ref().is_some_and(|order| self.window.query.selects(&segment(&key), value(order)));
        if !inside {
            if self.shown.contains_key(&key) {
                self.leave(key);
                self.holes += usize::from(self.outside);
            }
            return;
        }
        let Some(limit) = self.window.query.limit else { return self.show(key, order, json) };
        // Its place in the order may be another one now, so it has to make its way in again.
        let was_shown = self.shown.remove(&key).is_some();
        let full = self.shown.len() + self.holes >= limit.count;
        let boundary = self.boundary(limit.side);
        let order_known = order.as_ref();
        let better = boundary.as_ref().and_then(|boundary| {
            let theirs = self.shown.get(boundary)?.as_ref()?;
            Some(self.is_better(limit.side, (order_known?, &key), (theirs, boundary)))
        });
        match better {
            // What is outside may be better than this one.
            _ if !full && (!self.outside || !was_shown) => self.show(key, order, json),
            Some(true) if full && self.holes > 0 => {
                self.holes -= 1;
                self.show(key, order, json);
            }
            Some(true) => {
                if full && let Some(boundary) = boundary {
                    self.leave(boundary);
                    self.outside = true;
                }
                self.show(key, order, json);
            }
            Some(false) | None => {
                self.outside = true;
                if was_shown {
                    // Whether it stays is known when what is outside is.
                    self.shown.insert(key.clone(), order);
                }
                self.stale.insert(key);
            }
        }
    }

    fn show(&mut self, key: Box<str>, order: Option<Order>, json: Vec<u8>) {
        self.step.insert(key.clone(), Some(json));
        self.shown.insert(key, order);
    }

    fn leave(&mut self, key: Box<str>) {
        self.shown.remove(&key);
        self.step.insert(key, None);
    }

    /// The child shown that goes first when there is no room.
    fn boundary(&self, side: Side) -> Option<Box<str>> {
        let known = self.shown.iter().filter_map(|(key, order)| Some((key, order.as_ref()?)));
        let last = known.reduce(|a, b| if self.is_better(side, (a.1, a.0), (b.1, b.0)) { b } else { a })?;
        Some(last.0.clone())
    }

    fn is_better(&self, side: Side, a: (&Order, &str), b: (&Order, &str)) -> bool {
        let by_key = || compare_keys(a.1, b.1);
        let order = match self.window.query.order_by {
            OrderBy::Key => by_key(),
            _ => value(a.0).compare(&value(b.0)).then_with(by_key),
        };
        order == if side == Side::First { Ordering::Less } else { Ordering::Greater }
    }

    /// What the step has come to.
    fn told(&mut self) -> Option<Vec<u8>> {
        let mut json = vec![b'{'];
        for (key, value) in std::mem::take(&mut self.step) {
            match value {
                Some(value) => {
                    member(&mut json, &key);
                    json.extend_from_slice(&value);
                }
                None => gone(&key, &mut json),
            }
        }
        json.push(b'}');
        (json.len() > 2).then_some(json)
    }
}

fn segment(key: &str) -> Vec<u8> {
    let mut segment = Vec::with_capacity(key.len() + 2);
    encode_key(key, &mut segment);
    segment
}

fn value(order: &Order) -> IndexValue<'_> {
    order.as_ref().map_or(IndexValue::Absent, Ordered::as_index_value)
}
