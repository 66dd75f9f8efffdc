//! How large rules may be, and how much a decision may cost: what keeps a hostile text, or a hostile write
//! under an honest one, from holding the writer. None can be configured.

/// The longest rules text, in bytes.
pub const RULES_BYTES_MAX: usize = 1 << 20;
/// The deepest rules text, in levels of JSON: a path of the greatest depth, and a list in its last node.
pub const RULES_DEPTH_MAX: usize = crate::path::DEPTH_MAX + 3;
/// The longest expression, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 64 << 10;
/// How deeply an expression may be nested. Chains of `&&` and of `||` count once.
pub const EXPRESSION_DEPTH_MAX: usize = 100;
/// The most operators, names and literals in all expressions of a text together.
pub const EXPRESSION_NODES_MAX: usize = 200_000;
/// The longest regular expression, in bytes.
pub const REGEX_BYTES_MAX: usize = 4 << 10;
/// The most memory one compiled regular expression may take, in bytes.
pub const REGEX_COMPILED_BYTES_MAX: usize = 256 << 10;
/// The most regular expressions in a text.
pub const REGEXES_MAX: usize = 200;
/// The most indexes that `.indexOn` may declare in a text.
pub const INDEXES_MAX: usize = 1_000;
/// The longest text an expression may make by `+` or `replace`, in bytes.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// What a decision may cost, in steps: an operator is one, a look into the tree sixteen, and 32 bytes of text are one.
pub const STEPS_MAX: u64 = 2_000_000;
/// What each row written adds to [`STEPS_MAX`].
pub const STEPS_PER_ROW: u64 = 500;
