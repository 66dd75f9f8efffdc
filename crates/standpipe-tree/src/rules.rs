//! The security rules language (firebase-rtdb §11): a text is compiled once into a [`RuleSet`], which then
//! judges reads and writes of a [`Tree`].
//!
//! Pure: no clock, no store, no logger. Administrators never get here; which requests are judged, and on
//! which snapshot, is the engine's.

mod compile;
mod error;
mod index;
pub mod limits;
mod source;
mod tree;
mod verdict;

pub use error::{DIAGNOSTICS_MAX, Diagnostic, RulesError};
pub use index::{IndexRule, IndexSegment};
pub use tree::Tree;
pub use verdict::{Denial, Method, Request, RuleKind, Verdict};

use crate::change::Change;
use crate::key::segment_len;
use crate::path::Path;
use crate::query::{IndexTree, OrderBy};
use compile::{Expression, RuleNode};

/// Compiled rules: immutable but for their coverage counters.
#[derive(Debug)]
pub struct RuleSet {
    text: String,
    root: RuleNode,
    indexes: Vec<IndexRule>,
}

impl RuleSet {
    /// Compiles a rules text.
    ///
    /// # Errors
    /// Everything that is wrong with it, up to [`DIAGNOSTICS_MAX`] things.
    pub fn compile(text: &str) -> Result<RuleSet, RulesError> {
        let (root, indexes) = compile::compile(text)?;
        Ok(RuleSet { text: text.to_owned(), root, indexes })
    }

    /// The source as it was given, comments included.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Every index that `.indexOn` declares, in an order that depends on nothing but what is declared.
    pub fn indexes(&self) -> &[IndexRule] {
        &self.indexes
    }

    /// The same by place, for whoever keeps the indexes.
    pub fn index_tree(&self) -> IndexTree {
        IndexTree::new(self.root.index_node())
    }

    /// Whether the children of `parent` may be ordered so: always by key and by priority, otherwise where an
    /// index is declared.
    pub fn index_for(&self, parent: &Path, order_by: &OrderBy) -> bool {
        if matches!(order_by, OrderBy::Key | OrderBy::Priority) {
            return true;
        }
        let mut node = &self.root;
        for key in parent.segments() {
            match node.child_named(key) {
                Some(child) => node = child,
                None => return false,
            }
        }
        node.indexes.contains(order_by)
    }

    /// May `path` be read, with all that is below it?
    ///
    /// # Errors
    /// Only those of the tree.
    pub fn read<T: Tree>(&self, request: &Request<'_>, _tree: &T, path: &Path) -> Result<Verdict, T::Error> {
        let encoded = path.encode();
        Ok(granted(&self.root, &encoded, |node| node.read.as_ref(), request))
    }

    /// May `change`, whose server values are resolved, be made to the tree `before`?
    ///
    /// # Errors
    /// Only those of the tree.
    pub fn write<T: Tree>(&self, request: &Request<'_>, _before: &T, change: &Change) -> Result<Verdict, T::Error> {
        for write in &change.writes {
            let encoded = write.location.path().encode();
            if granted(&self.root, &encoded, |node| node.write.as_ref(), request) != Verdict::Allowed {
                return Ok(Verdict::Denied(None));
            }
        }
        Ok(Verdict::Allowed)
    }

    /// How often each expression was evaluated, and to what.
    pub fn coverage(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

fn granted(
    root: &RuleNode,
    path: &[u8],
    rule: impl Fn(&RuleNode) -> Option<&Expression>,
    request: &Request<'_>,
) -> Verdict {
    let (mut node, mut rest) = (root, path);
    loop {
        if rule(node).is_some_and(|rule| rule.holds(request)) {
            return Verdict::Allowed;
        }
        let Some(len) = segment_len(rest) else { return Verdict::Denied(None) };
        let Some(child) = node.child(&rest[..len]) else { return Verdict::Denied(None) };
        (node, rest) = (child, &rest[len..]);
    }
}
