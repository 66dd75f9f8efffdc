//! Queries over a snapshot, and query watches: the window of a query and how it moves. What enters comes
//! whole, what leaves comes as null, what changed comes whole again (firebase-rtdb §6.3).
//!
//! Owns which way a query is answered: from an index, by key, or by looking at all children. Whether it is
//! answered at all without an index is [`Database::check_index`]'s to say.

mod steps;

use std::collections::HashSet;
use std::sync::Arc;

use standpipe_tree::{
    Change, ChangeKind, Format, IndexValue, JsonStream, Leaf, Location, OrderBy, OwnedLeaf, PRIORITY, Path, Progress,
    Query, QueryError, RowCursor, Selection, Write, decode_key, encode_key, is_priority_key, segment_len, select,
    select_indexed, write_json_string,
};

use crate::config::QueryUnindexed;
use crate::database::Database;
use crate::error::{Error, ErrorKind, Result};
use crate::hub::TopicEvent;
use crate::index::parent_key;
use crate::store::Snapshot;

/// The children a query selects at `snapshot`, in index order: from an index where one is declared.
///
/// # Errors
/// `TooLarge` where more than `children_max` children would have to be looked at.
pub fn query_keys(snapshot: &Snapshot, path: &Path, query: &Query, children_max: usize) -> Result<Vec<Box<str>>> {
    match selected(snapshot, path, query, children_max) {
        Ok(selection) => Ok(selection.keys),
        Err(QueryError::TooMany) => Err(Error::new(
            ErrorKind::TooLarge,
            format!("the query would scan more than {children_max} children; narrow it or raise query_children_max"),
        )),
        Err(QueryError::Cursor(error)) => Err(error.into()),
    }
}

fn selected(
    snapshot: &Snapshot,
    path: &Path,
    query: &Query,
    children_max: usize,
) -> Result<Selection, QueryError<heed::Error>> {
    if query.order_by == OrderBy::Priority && snapshot.state().priorities == 0 {
        return match query.without_priorities() {
            Some(query) => select(&mut snapshot.cursor(path), &query, children_max),
            None => Ok(Selection::default()),
        };
    }
    let rules = snapshot.indexes();
    let Some(order) = rules.as_ref().and_then(|rules| rules.indexes.order(path, &query.order_by)) else {
        return select(&mut snapshot.cursor(path), query, children_max);
    };
    let parent = path.encode();
    let mut keys = snapshot.store().index_cursor(snapshot.txn(), parent_key(order.id, &parent));
    select_indexed(&mut keys, query, children_max, |segment| {
        let key = [&parent[..], segment, &order.below].concat();
        let found = snapshot.cursor_at(&key).seek(&[])?;
        Ok(found.filter(|(key, _)| key.is_empty()).and_then(|(_, value)| OwnedLeaf::decode(value)))
    })
}

impl Database {
    /// Has a query an index for its order, or needs none?
    pub fn is_indexed(&self, path: &Path, query: &Query) -> bool {
        matches!(query.order_by, OrderBy::Key | OrderBy::Priority)
            || self.store().active_rules().indexes.order(path, &query.order_by).is_some()
    }

    /// May a query be answered: is there an index for its order, or may it do without
    /// ([`crate::EngineConfig::query_unindexed`])?
    ///
    /// # Errors
    /// `BadRequest`, in the words of firebase-rtdb §9.6.
    pub fn check_index(&self, path: &Path, query: &Query) -> Result<()> {
        let refused = match self.config().query_unindexed {
            QueryUnindexed::Allow => false,
            QueryUnindexed::Refuse => true,
            QueryUnindexed::Auto => self.store().active_rules().version > 0,
        };
        if !refused || self.is_indexed(path, query) {
            return Ok(());
        }
        let index = match &query.order_by {
            OrderBy::Child(below) => below.as_str(),
            _ => ".value",
        };
        Err(Error::bad_request(format!(
            r#"Index not defined, add ".indexOn": "{index}", for path "{path}", to the rules"#
        )))
    }
}

/// What is known of the changes between two positions of a window.
#[derive(Clone, Copy, Debug)]
pub enum Touched<'a> {
    /// All of them.
    Events(&'a [Arc<TopicEvent>]),
    /// Nothing: any child may have changed.
    Unknown,
}

/// The children a query watch shows.
#[derive(Debug)]
pub struct Window {
    path: Path,
    query: Query,
    format: Format,
    children_max: usize,
    shown: HashSet<Box<str>>,
}

impl Window {
    /// The window at `snapshot`, and its value as JSON.
    pub fn open(
        snapshot: &Snapshot,
        path: Path,
        query: Query,
        format: Format,
        children_max: usize,
    ) -> Result<(Self, Vec<u8>)> {
        let keys = query_keys(snapshot, &path, &query, children_max)?;
        let shown = keys.iter().cloned().collect();
        let mut json = Vec::new();
        let mut stream = JsonStream::children(format, false, keys);
        while stream.fill(&mut snapshot.cursor(&path), &mut json, usize::MAX)? == Progress::More {}
        Ok((Self { path, query, format, children_max, shown }, json))
    }

    /// The query.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// Gives the query back, to open the window anew.
    pub fn into_query(self) -> Query {
        self.query
    }

    /// Moves the window to `snapshot`: the children that differ as one JSON object, or `None`.
    ///
    /// `touched` are the changes since the window was last moved, as told to watchers of its path; more of
    /// them do no harm. It costs what they touched and, with a limit, what is shown; without an index for
    /// its order, what there is.
    pub fn advance(&mut self, snapshot: &Snapshot, touched: Touched<'_>) -> Result<Option<Vec<u8>>> {
        let touched = self.touched(touched);
        self.move_to(snapshot, touched)
    }

    fn move_to(&mut self, snapshot: &Snapshot, touched: Option<HashSet<Box<str>>>) -> Result<Option<Vec<u8>>> {
        let mut json = vec![b'{'];
        match (&touched, self.query.limit) {
            (Some(children), None) => self.move_each(snapshot, children, &mut json)?,
            _ => self.move_whole(snapshot, touched.as_ref(), &mut json)?,
        }
        json.push(b'}');
        Ok((json.len() > 2).then_some(json))
    }

    /// Without a limit a child is in the window or not, whatever the others are.
    fn move_each(&mut self, snapshot: &Snapshot, children: &HashSet<Box<str>>, json: &mut Vec<u8>) -> Result<()> {
        for key in children {
            let mut segment = Vec::new();
            encode_key(key, &mut segment);
            let inside = match child_value(snapshot, &self.path, &segment, &self.query.order_by)? {
                None => false,
                Some(value) => {
                    let value = value.as_ref().map_or(IndexValue::Absent, Ordered::as_index_value);
                    self.query.selects(&segment, value)
                }
            };
            if inside {
                self.shown.insert(key.clone());
                self.tell(snapshot, key, json)?;
            } else if self.shown.remove(key) {
                gone(key, json);
            }
        }
        if self.shown.len() > self.children_max {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "the query shows more than {} children; narrow it or raise query_children_max",
                    self.children_max
                ),
            ));
        }
        Ok(())
    }

    fn move_whole(
        &mut self,
        snapshot: &Snapshot,
        touched: Option<&HashSet<Box<str>>>,
        json: &mut Vec<u8>,
    ) -> Result<()> {
        let keys = query_keys(snapshot, &self.path, &self.query, self.children_max)?;
        let mut now = HashSet::with_capacity(keys.len());
        for key in keys {
            let stayed = self.shown.remove(&key);
            if !stayed || touched.is_none_or(|touched| touched.contains(&key)) {
                self.tell(snapshot, &key, json)?;
            }
            now.insert(key);
        }
        for key in std::mem::replace(&mut self.shown, now) {
            gone(&key, json);
        }
        Ok(())
    }

    fn tell(&self, snapshot: &Snapshot, key: &str, json: &mut Vec<u8>) -> Result<()> {
        member(json, key);
        self.value(snapshot, key, json)
    }

    fn value(&self, snapshot: &Snapshot, key: &str, json: &mut Vec<u8>) -> Result<()> {
        let child = self.path.child(key).map_err(Error::internal)?;
        let mut stream = JsonStream::new(self.format, false);
        while stream.fill(&mut snapshot.cursor(&child), json, usize::MAX)? == Progress::More {}
        Ok(())
    }

    /// The children that changes touched; `None` where that may be all of them.
    fn touched(&self, touched: Touched<'_>) -> Option<HashSet<Box<str>>> {
        let Touched::Events(events) = touched else { return None };
        let encoded = self.path.encode();
        let mut children = HashSet::new();
        for event in events {
            touched_by(&event.change, &self.path, &encoded, &mut children)?;
        }
        Some(children)
    }
}

/// Adds the children of `path` that a change touched; `None` where that may be all of them.
fn touched_by(change: &Change, path: &Path, encoded: &[u8], children: &mut HashSet<Box<str>>) -> Option<()> {
    for write in change.writes.iter().filter(|write| write.touches(path)) {
        match write.location.path().relative_to(path) {
            Some(below) if !below.is_root() => {
                children.insert(below.segments().next().unwrap_or_default().into());
            }
            _ if change.kind == ChangeKind::Overlay => touched_by_overlay(write, encoded, children)?,
            // Of the node's own priority its children know nothing.
            Some(_) if matches!(write.location, Location::Priority(_)) => {}
            _ => return None,
        }
    }
    Some(())
}

fn touched_by_overlay(write: &Write, encoded: &[u8], children: &mut HashSet<Box<str>>) -> Option<()> {
    let base = write.location.path().encode();
    for (key, _) in write.rows.iter() {
        let key = [&base[..], key].concat();
        match key.strip_prefix(encoded) {
            Some(below) if segment_len(below).is_some() => {
                let mut child = String::new();
                decode_key(below, &mut child)?;
                children.insert(child.into());
            }
            Some(below) if is_priority_key(below) => {}
            // A leaf at or above the window's path.
            _ if encoded.starts_with(&key) => return None,
            _ => {}
        }
    }
    Some(())
}

enum Ordered {
    Leaf(OwnedLeaf),
    Node,
}

impl Ordered {
    fn as_index_value(&self) -> IndexValue<'_> {
        match self {
            Self::Leaf(leaf) => IndexValue::Leaf(leaf.as_leaf()),
            Self::Node => IndexValue::Node,
        }
    }
}

/// What a child is ordered by; `None` where there is no such child, an inner `None` where nothing is.
fn child_value(snapshot: &Snapshot, path: &Path, segment: &[u8], by: &OrderBy) -> Result<Option<Option<Ordered>>> {
    let child = [&path.encode()[..], segment].concat();
    Ok(order_in(&mut snapshot.cursor_at(&child), by)?)
}

/// As [`child_value`], of the child that the cursor is at.
fn order_in<'a, C: RowCursor<'a>>(cursor: &mut C, by: &OrderBy) -> Result<Option<Option<Ordered>>, C::Error> {
    let Some((first, _)) = cursor.seek(&[])? else { return Ok(None) };
    let at = match by {
        OrderBy::Key => return Ok(Some(None)),
        OrderBy::Priority => vec![PRIORITY],
        OrderBy::Value => Vec::new(),
        OrderBy::Child(_) if first.is_empty() => return Ok(Some(None)),
        OrderBy::Child(below) => below.encode(),
    };
    Ok(Some(match cursor.seek(&at)? {
        Some((key, value)) if key == at => Leaf::decode(value).map(|leaf| Ordered::Leaf(leaf.into())),
        Some((key, _)) if *by != OrderBy::Priority && key.starts_with(&at) => Some(Ordered::Node),
        _ => None,
    }))
}

fn gone(key: &str, json: &mut Vec<u8>) {
    member(json, key);
    json.extend_from_slice(b"null");
}

fn member(json: &mut Vec<u8>, key: &str) {
    if json.len() > 1 {
        json.push(b',');
    }
    write_json_string(key, json);
    json.push(b':');
}
