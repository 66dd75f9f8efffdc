//! Which children are indexed by what: the `.indexOn` of all rules, by place (firebase-rtdb.md §11.1).
//!
//! A key that the rules name hides `$name` beside it, also where it declares no index.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use super::OrderBy;
use crate::key::segment_len;
use crate::path::Path;

/// All declared indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexTree {
    root: IndexNode,
}

/// What is indexed at and below one location, or at all that one `$name` stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexNode {
    /// By encoded key, sorted.
    named: Vec<(Box<[u8]>, IndexNode)>,
    any: Option<Box<IndexNode>>,
    orders: Vec<IndexOrder>,
    /// Is there an index here or below?
    reaches: bool,
}

/// One order in which the children of a location are indexed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexOrder {
    /// Stands for the order in keys of an index: the same for the same order, always.
    pub id: [u8; 8],
    /// Encoded path below the child at which its value is; empty for the child's own.
    pub below: Box<[u8]>,
}

impl IndexOrder {
    /// The order by value, or by the value at a path below; `None` for those that need no index.
    pub fn of(order_by: &OrderBy) -> Option<IndexOrder> {
        let below = match order_by {
            OrderBy::Value => Vec::new(),
            OrderBy::Child(path) => path.encode(),
            OrderBy::Key | OrderBy::Priority => return None,
        };
        let mut hasher = SipHasher13::new();
        hasher.write(&below);
        Some(IndexOrder { id: hasher.finish().to_be_bytes(), below: below.into() })
    }
}

impl IndexNode {
    /// The node of a location whose children are indexed by `orders`, and these below it; keys are encoded.
    pub fn new(orders: &[OrderBy], named: Vec<(Box<[u8]>, IndexNode)>, any: Option<IndexNode>) -> IndexNode {
        let mut orders: Vec<IndexOrder> = orders.iter().filter_map(IndexOrder::of).collect();
        orders.sort_by_key(|order| order.id);
        orders.dedup();
        let mut named = named;
        named.sort_by(|a, b| a.0.cmp(&b.0));
        let reaches = !orders.is_empty()
            || named.iter().any(|(_, node)| node.reaches)
            || any.as_ref().is_some_and(|node| node.reaches);
        IndexNode { named, any: any.map(Box::new), orders, reaches }
    }

    /// By what the children here are indexed.
    pub fn orders(&self) -> &[IndexOrder] {
        &self.orders
    }

    /// What is indexed at and below the child with this encoded key, if anything is.
    pub fn child(&self, segment: &[u8]) -> Option<&IndexNode> {
        let node = match self.named.binary_search_by(|named| (*named.0).cmp(segment)) {
            Ok(at) => Some(&self.named[at].1),
            Err(_) => self.any.as_deref(),
        };
        node.filter(|node| node.reaches)
    }

    /// The encoded keys below which alone there are indexes; `None` where that may be any key.
    pub fn only_named(&self) -> Option<impl Iterator<Item = &[u8]>> {
        let any = self.any.as_ref().is_some_and(|any| any.reaches);
        (!any).then(|| self.named.iter().filter(|(_, node)| node.reaches).map(|(key, _)| &**key))
    }

    /// The orders in which anything at or below is indexed.
    pub fn orders_below(&self) -> Vec<[u8; 8]> {
        let mut ids = Vec::new();
        self.ids(&mut ids);
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn has(&self, id: [u8; 8]) -> bool {
        self.orders.iter().any(|order| order.id == id)
    }

    fn ids(&self, found: &mut Vec<[u8; 8]>) {
        found.extend(self.orders.iter().map(|order| order.id));
        self.named.iter().for_each(|(_, node)| node.ids(found));
        self.any.iter().for_each(|node| node.ids(found));
    }

    /// Is the index of one order declared at the same places?
    fn same(id: [u8; 8], one: Option<&IndexNode>, two: Option<&IndexNode>) -> bool {
        let (one, two) = match (one, two) {
            (None, None) => return true,
            (one, two) => (one.unwrap_or(&NOTHING), two.unwrap_or(&NOTHING)),
        };
        one.has(id) == two.has(id)
            && Self::same(id, one.any.as_deref(), two.any.as_deref())
            && one.named.iter().chain(&two.named).all(|(key, _)| Self::same(id, one.child(key), two.child(key)))
    }
}

static NOTHING: IndexNode = IndexNode { named: Vec::new(), any: None, orders: Vec::new(), reaches: false };

impl IndexTree {
    /// The indexes declared at and below the root.
    pub fn new(root: IndexNode) -> IndexTree {
        IndexTree { root }
    }

    /// Is no index declared?
    pub fn is_empty(&self) -> bool {
        !self.root.reaches
    }

    /// What is indexed at and below the root, if anything is.
    pub fn root(&self) -> Option<&IndexNode> {
        Some(&self.root).filter(|root| root.reaches)
    }

    /// What is indexed at and below the location with this encoded path, if anything is.
    pub fn at(&self, encoded_path: &[u8]) -> Option<&IndexNode> {
        let (mut node, mut rest) = (self.root()?, encoded_path);
        while let Some(len) = segment_len(rest) {
            node = node.child(&rest[..len])?;
            rest = &rest[len..];
        }
        Some(node)
    }

    /// The index for the children of `parent` in this order, if it is declared.
    pub fn order(&self, parent: &Path, order_by: &OrderBy) -> Option<&IndexOrder> {
        let wanted = IndexOrder::of(order_by)?;
        self.at(&parent.encode())?.orders.iter().find(|order| **order == wanted)
    }

    /// The orders whose indexes are not declared at the same places in both.
    pub fn differences(&self, other: &IndexTree) -> Vec<[u8; 8]> {
        let mut ids = self.root.orders_below();
        other.root.ids(&mut ids);
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| !IndexNode::same(*id, self.root(), other.root()));
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::RuleSet;

    fn tree(rules: &str) -> IndexTree {
        RuleSet::compile(rules).unwrap().index_tree()
    }

    fn by(path: &str) -> OrderBy {
        OrderBy::Child(Path::parse(path).unwrap())
    }

    #[test]
    fn a_named_key_hides_the_wildcard() {
        let rules = r#"{"rules": {"$room": {".indexOn": ["at", ".value"]}, "lobby": {".read": true}, "hall": {".indexOn": "who/name"}}}"#;
        let tree = tree(rules);
        let check = |parent: &str, order_by: &OrderBy, expected: bool| {
            let parent = Path::parse(parent).unwrap();
            assert_eq!(tree.order(&parent, order_by).is_some(), expected, "{parent} {order_by:?}");
            assert_eq!(RuleSet::compile(rules).unwrap().index_for(&parent, order_by), expected);
        };
        check("kitchen", &by("at"), true);
        check("kitchen", &OrderBy::Value, true);
        check("kitchen", &by("who/name"), false);
        check("kitchen/deeper", &by("at"), false);
        check("lobby", &by("at"), false);
        check("hall", &by("who/name"), true);
        check("hall", &OrderBy::Value, false);
        check("", &by("at"), false);
        assert!(!tree.is_empty());
        assert!(tree.root().unwrap().only_named().is_none());
    }

    #[test]
    fn differences_are_those_of_places() {
        let one = tree(r#"{"rules": {"$a": {".indexOn": ["x", "y"]}, "b": {".indexOn": "x"}}}"#);
        let id = |order_by: &OrderBy| IndexOrder::of(order_by).unwrap().id;
        let check = |rules: &str, mut expected: Vec<[u8; 8]>| {
            expected.sort_unstable();
            assert_eq!(one.differences(&tree(rules)), expected, "{rules}");
        };
        check(r#"{"rules": {".read": true, "$other": {".indexOn": ["y", "x"]}, "b": {".indexOn": "x"}}}"#, vec![]);
        check(r#"{"rules": {"$a": {".indexOn": "y"}}}"#, vec![id(&by("x")), id(&by("y"))]); // b is indexed by y, too
        check(
            r#"{"rules": {"$a": {".indexOn": ["x", "y"]}, "b": {".indexOn": "x"}, "c": {}}}"#,
            vec![id(&by("x")), id(&by("y"))],
        );
        check(
            r#"{"rules": {"$a": {".indexOn": ["x", "y"]}, "b": {".indexOn": ["x", ".value"]}}}"#,
            vec![id(&OrderBy::Value)],
        );
        check(r#"{"rules": {}}"#, vec![id(&by("x")), id(&by("y"))]);
    }
}
