//! The security rules language (firebase-rtdb §11): a text is compiled once into a [`RuleSet`], which then
//! judges reads and writes of a [`Tree`].
//!
//! Pure: no clock, no store, no logger. Administrators never get here; which requests are judged, and on
//! which snapshot, is the engine's. The way of a text: `source` reads JSON with comments, `lex` and `ast`
//! read expressions, `check` refuses what can't be right and makes `code`. The way of a question: `decide`
//! walks the rules, `eval` evaluates, `after` looks at the tree as a change will leave it.

mod after;
mod ast;
mod audit;
mod check;
mod code;
mod compile;
mod coverage;
mod decide;
mod error;
mod eval;
mod index;
mod lex;
pub mod limits;
mod pattern;
mod source;
mod tree;
mod value;
mod verdict;

pub use check::{METHODS, Method as LanguageMethod, VARIABLES};
pub use error::{DIAGNOSTICS_MAX, Diagnostic, RulesError};
pub use index::{IndexRule, IndexSegment};
pub use tree::Tree;
pub use verdict::{Denial, Method, Request, RuleKind, Verdict, Violation};

use crate::change::Change;
use crate::path::Path;
use crate::query::{IndexTree, OrderBy};
use code::Code;
use compile::{Compiled, RuleNode};

/// Compiled rules: immutable but for their coverage counters.
#[derive(Debug)]
pub struct RuleSet {
    text: String,
    root: RuleNode,
    code: Code,
    indexes: Vec<IndexRule>,
}

impl RuleSet {
    /// Compiles a rules text.
    ///
    /// # Errors
    /// Everything that is wrong with it, up to [`DIAGNOSTICS_MAX`] things.
    pub fn compile(text: &str) -> Result<RuleSet, RulesError> {
        let Compiled { root, code, indexes } = compile::compile(text)?;
        Ok(RuleSet { text: text.to_owned(), root, code, indexes })
    }

    /// The source as it was given, comments included.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The source as strict JSON: without comments, trailing commas and line ends in strings.
    pub fn strict_text(&self) -> String {
        source::strict(&self.text)
    }

    /// How many `.read`, `.write` and `.validate` rules there are.
    pub fn rule_count(&self) -> usize {
        self.code.rules.len()
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
    pub fn read<T: Tree>(&self, request: &Request<'_>, tree: &T, path: &Path) -> Result<Verdict, T::Error> {
        decide::read(self, request, tree, path)
    }

    /// May `change`, whose server values are resolved, be made to the tree `before`?
    ///
    /// # Errors
    /// Only those of the tree.
    pub fn write<T: Tree>(&self, request: &Request<'_>, before: &T, change: &Change) -> Result<Verdict, T::Error> {
        decide::write(self, request, before, change)
    }

    /// Tells `found` of every location whose value its `.validate` refuses, as if it were written again as it is
    /// by somebody who is not signed in.
    ///
    /// # Errors
    /// Only those of the tree.
    pub fn audit<T: Tree>(&self, tree: &T, now_ms: u64, mut found: impl FnMut(Violation)) -> Result<(), T::Error> {
        audit::audit(self, tree, now_ms, &mut found)
    }

    /// How often each expression, and each part of it, was evaluated to what, by requests with
    /// [`Request::trace`]: `{"rules": [{path, rule, line, column, expression, counts, parts}]}`.
    pub fn coverage(&self) -> serde_json::Value {
        coverage::report(self)
    }
}

#[cfg(test)]
mod tests;
