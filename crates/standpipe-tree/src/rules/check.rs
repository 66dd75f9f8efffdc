//! The type checker: refuses expressions that could never be right, and turns the others into [`Code`]
//! (firebase-rtdb §11.7).
//!
//! What comes from data or from tokens may be of any type; whether it is the right one shows only when the
//! rule is evaluated. What is known to be wrong is refused here.

use std::ops::Range;

use super::ast::{Expr, Kind, Operator};
use super::code::{Code, Id, Op, PathPart, QueryField};
use super::error::Problem;
use super::pattern;
use super::verdict::RuleKind;
use crate::path::Path;

/// The types that a value may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Types(u8);

impl Types {
    const NULL: Types = Types(1);
    const BOOL: Types = Types(2);
    const NUMBER: Types = Types(4);
    const TEXT: Types = Types(8);
    /// A part of `auth`, which may have members.
    const OBJECT: Types = Types(16);
    const SNAPSHOT: Types = Types(32);
    /// Any primitive.
    const ANY: Types = Types(15);
    /// `auth`, and anything in it.
    const CLAIM: Types = Types(31);

    const fn or(self, other: Types) -> Types {
        Types(self.0 | other.0)
    }

    fn may_be(self, other: Types) -> bool {
        self.0 & other.0 != 0
    }

    fn only(self, other: Types) -> bool {
        self.0 & !other.0 == 0
    }
}

/// A method of snapshots or of texts.
#[derive(Debug)]
pub struct Method {
    /// Its name.
    pub name: &'static str,
    /// Whether snapshots have it; otherwise texts do.
    pub of_snapshots: bool,
    /// Its arguments, as in documentation.
    pub arguments: &'static str,
}

const fn method(of_snapshots: bool, name: &'static str, arguments: &'static str) -> Method {
    Method { name, of_snapshots, arguments }
}

/// Every method there is.
pub const METHODS: [Method; 17] = [
    method(true, "val", ""),
    method(true, "child", "path"),
    method(true, "parent", ""),
    method(true, "hasChild", "path"),
    method(true, "hasChildren", "[paths]"),
    method(true, "exists", ""),
    method(true, "getPriority", ""),
    method(true, "isNumber", ""),
    method(true, "isString", ""),
    method(true, "isBoolean", ""),
    method(false, "contains", "text"),
    method(false, "beginsWith", "text"),
    method(false, "endsWith", "text"),
    method(false, "replace", "text, text"),
    method(false, "toLowerCase", ""),
    method(false, "toUpperCase", ""),
    method(false, "matches", "/pattern/"),
];

/// Every member of `query`.
const QUERY_FIELDS: [(&str, QueryField, Types); 9] = [
    ("orderByKey", QueryField::OrderByKey, Types::BOOL),
    ("orderByPriority", QueryField::OrderByPriority, Types::BOOL),
    ("orderByValue", QueryField::OrderByValue, Types::BOOL),
    ("orderByChild", QueryField::OrderByChild, Types::TEXT.or(Types::NULL)),
    ("startAt", QueryField::StartAt, Types::ANY),
    ("endAt", QueryField::EndAt, Types::ANY),
    ("equalTo", QueryField::EqualTo, Types::ANY),
    ("limitToFirst", QueryField::LimitToFirst, Types::NUMBER.or(Types::NULL)),
    ("limitToLast", QueryField::LimitToLast, Types::NUMBER.or(Types::NULL)),
];

/// Every variable there is, `$` names aside.
pub const VARIABLES: [&str; 6] = ["auth", "now", "root", "data", "newData", "query"];

/// What an expression may refer to.
#[derive(Debug)]
pub(super) struct Scope<'a> {
    pub(super) kind: RuleKind,
    /// The `$` names of the rule's path, each with its depth.
    pub(super) captures: &'a [(String, usize)],
}

/// Checks the expression of a rule and appends its operations to `code`.
pub(super) fn check(expr: &Expr, scope: &Scope<'_>, code: &mut Code) -> Result<Id, Problem> {
    let (id, types) = Checker { scope, code }.expr(expr)?;
    if types != Types::BOOL {
        let problem = Problem::new(expr.span.clone(), "a rule must be a boolean expression");
        return Err(problem.help("compare the value, for example with == true or != null"));
    }
    Ok(id)
}

struct Checker<'a> {
    scope: &'a Scope<'a>,
    code: &'a mut Code,
}

type Checked = Result<(Id, Types), Problem>;

impl Checker<'_> {
    fn push(&mut self, op: Op, span: &Range<usize>) -> Id {
        self.code.push(op, span.clone())
    }

    fn expr(&mut self, expr: &Expr) -> Checked {
        let (op, types) = match &expr.kind {
            Kind::Null => (Op::Null, Types::NULL),
            Kind::Bool(value) => (Op::Bool(*value), Types::BOOL),
            Kind::Number(number) => (Op::Number(*number), Types::NUMBER),
            Kind::Text(text) => (Op::Text(text.as_str().into()), Types::TEXT),
            Kind::Name(name) => self.variable(name, expr)?,
            Kind::Regex { .. } => {
                return Err(wrong(expr, "a regular expression may only be the argument of matches()"));
            }
            Kind::List(_) => return Err(wrong(expr, "a list may only be the argument of hasChildren()")),
            Kind::Member(object, name) => self.member(object, name, expr)?,
            Kind::Index(object, index) => self.index(object, index, expr)?,
            Kind::Call(function, arguments) => self.call(function, arguments, expr)?,
            Kind::Not(operand) => (Op::Not(self.boolean(operand, "! takes a boolean")?), Types::BOOL),
            Kind::Negative(operand) => {
                let (id, types) = self.expr(operand)?;
                match (types.may_be(Types::NUMBER), self.code.op(id)) {
                    (false, _) => return Err(wrong(operand, "- takes a number")),
                    (true, Op::Number(number)) => (Op::Number(-number), Types::NUMBER),
                    (true, _) => (Op::Negative(id), Types::NUMBER),
                }
            }
            Kind::Binary(operator, left, right) => self.binary(*operator, left, right)?,
            Kind::And(items) => (Op::And(self.booleans(items, "&&")?), Types::BOOL),
            Kind::Or(items) => (Op::Or(self.booleans(items, "||")?), Types::BOOL),
            Kind::Choice(condition, yes, no) => {
                let condition = self.boolean(condition, "the condition of ? must be a boolean")?;
                let ((yes_id, a), (no_id, b)) = (self.expr(yes)?, self.expr(no)?);
                if a.may_be(Types::SNAPSHOT) != b.may_be(Types::SNAPSHOT) {
                    return Err(wrong(no, "both values of ? must be snapshots, or none"));
                }
                (Op::Choice(condition, yes_id, no_id), a.or(b))
            }
        };
        Ok((self.push(op, &expr.span), types))
    }

    fn variable(&mut self, name: &str, expr: &Expr) -> Result<(Op, Types), Problem> {
        if name.starts_with('$') {
            return match self.scope.captures.iter().find(|capture| capture.0 == name) {
                Some((_, depth)) => Ok((Op::Capture(*depth), Types::TEXT)),
                None => Err(wrong(expr, format!("unknown variable {name}"))
                    .help(format!("{name} must be a key on the way from \"rules\" to this rule"))),
            };
        }
        match name {
            "auth" => Ok((Op::Auth, Types::CLAIM)),
            "now" => Ok((Op::Now, Types::NUMBER)),
            "root" => Ok((Op::Root, Types::SNAPSHOT)),
            "data" => Ok((Op::Data, Types::SNAPSHOT)),
            "newData" if self.scope.kind == RuleKind::Read => {
                Err(wrong(expr, "there is no newData in a .read rule").help("write data"))
            }
            "newData" => Ok((Op::NewData, Types::SNAPSHOT)),
            "query" => Err(wrong(expr, "query is no value: ask for one of its members")),
            _ => Err(wrong(expr, format!("unknown variable {name}"))
                .help(format!("there are {} and $ names", VARIABLES.join(", ")))),
        }
    }

    fn boolean(&mut self, expr: &Expr, message: &str) -> Result<Id, Problem> {
        match self.expr(expr)? {
            (id, Types::BOOL) => Ok(id),
            _ => Err(wrong(expr, message).help("compare the value, for example with == true or != null")),
        }
    }

    fn booleans(&mut self, items: &[Expr], symbol: &str) -> Result<Box<[Id]>, Problem> {
        items.iter().map(|item| self.boolean(item, &format!("{symbol} takes booleans"))).collect()
    }

    fn binary(&mut self, operator: Operator, left: &Expr, right: &Expr) -> Result<(Op, Types), Problem> {
        let ((a, a_types), (b, b_types)) = (self.expr(left)?, self.expr(right)?);
        let symbol = operator.symbol();
        let (wanted, said, result) = match operator {
            Operator::Equal | Operator::NotEqual => {
                (Types::CLAIM, "a number, a string, a boolean or null: did you mean .val()?", Types::BOOL)
            }
            Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
                (Types::NUMBER.or(Types::TEXT), "a number or a string", Types::BOOL)
            }
            Operator::Add => {
                let both = Types::NUMBER.or(Types::TEXT);
                let result = match (a_types.may_be(Types::TEXT), b_types.may_be(Types::TEXT)) {
                    (false, false) => Types::NUMBER,
                    _ if a_types == Types::TEXT || b_types == Types::TEXT => Types::TEXT,
                    _ => both,
                };
                (both, "a number or a string", result)
            }
            _ => (Types::NUMBER, "a number", Types::NUMBER),
        };
        for (expr, types, side) in [(left, a_types, "left"), (right, b_types, "right")] {
            if !types.may_be(wanted) {
                return Err(wrong(expr, format!("the {side} operand of {symbol} must be {said}")));
            }
        }
        Ok((Op::Binary(operator, a, b), result))
    }

    fn member(&mut self, object: &Expr, name: &str, expr: &Expr) -> Result<(Op, Types), Problem> {
        if matches!(&object.kind, Kind::Name(object) if object == "query") {
            return match QUERY_FIELDS.iter().find(|field| field.0 == name) {
                Some((_, field, types)) => Ok((Op::Query(*field), *types)),
                None => Err(wrong(expr, format!("query has no member {name}"))
                    .help(format!("it has {}", QUERY_FIELDS.map(|field| field.0).join(", ")))),
            };
        }
        let (id, types) = self.expr(object)?;
        if types.may_be(Types::OBJECT) && name != "length" {
            return Ok((Op::Member(id, name.into()), Types::CLAIM));
        }
        if types.may_be(Types::TEXT) && name == "length" {
            // In what is in `auth` it may also be a claim of that name: evaluation looks.
            let types = if types.may_be(Types::OBJECT) { Types::CLAIM } else { Types::NUMBER };
            return Ok((Op::Length(id), types));
        }
        if METHODS.iter().any(|method| method.name == name && has(types, method)) {
            return Err(wrong(expr, format!("{name} is a method")).help(format!("write {name}()")));
        }
        Err(no_member(types, name, expr))
    }

    fn index(&mut self, object: &Expr, index: &Expr, expr: &Expr) -> Result<(Op, Types), Problem> {
        if let Kind::Text(name) = &index.kind {
            return self.member(object, name, expr);
        }
        if matches!(&object.kind, Kind::Name(object) if object == "query") {
            return Err(wrong(index, "only auth and what is in it can be asked for a computed member"));
        }
        let (id, types) = self.expr(object)?;
        if !types.may_be(Types::OBJECT) {
            return Err(wrong(index, "only auth and what is in it can be asked for a computed member"));
        }
        let (by, by_types) = self.expr(index)?;
        if !by_types.may_be(Types::TEXT.or(Types::NUMBER)) {
            return Err(wrong(index, "a member is asked for by a string"));
        }
        Ok((Op::Index(id, by), Types::CLAIM))
    }

    fn call(&mut self, function: &Expr, arguments: &[Expr], expr: &Expr) -> Result<(Op, Types), Problem> {
        let (object, name) = match &function.kind {
            Kind::Member(object, name) => (object, name),
            Kind::Index(object, index) => match &index.kind {
                Kind::Text(name) => (object, name),
                _ => return Err(wrong(index, "a method must be named, not computed")),
            },
            _ => return Err(wrong(function, "only methods can be called")),
        };
        if matches!(&object.kind, Kind::Name(object) if object == "query") {
            return Err(wrong(function, "query has no methods"));
        }
        let (of, types) = self.expr(object)?;
        let method = METHODS.iter().find(|method| method.name == *name && has(types, method));
        let Some(method) = method else {
            return Err(match name.as_str() {
                "length" if types.may_be(Types::TEXT) => {
                    wrong(function, "length is no method").help("write .length without brackets")
                }
                _ => no_member(types, name, function),
            });
        };
        if method.of_snapshots {
            self.of_snapshot(of, name, arguments, expr)
        } else {
            self.of_text(of, name, arguments, expr)
        }
    }

    fn of_snapshot(&mut self, of: Id, name: &str, arguments: &[Expr], expr: &Expr) -> Result<(Op, Types), Problem> {
        Ok(match (name, arguments) {
            ("child", [path]) => (Op::Child(of, self.path(path, "child() takes a string")?), Types::SNAPSHOT),
            ("hasChild", [path]) => (Op::HasChild(of, self.path(path, "hasChild() takes a string")?), Types::BOOL),
            ("hasChildren", []) => (Op::HasChildren(of), Types::BOOL),
            ("hasChildren", [Expr { kind: Kind::List(items), .. }]) if !items.is_empty() => {
                let paths = items.iter().map(|item| self.path(item, "hasChildren() takes a list of strings"));
                (Op::HasAllChildren(of, paths.collect::<Result<_, _>>()?), Types::BOOL)
            }
            ("hasChildren", [other, ..]) => {
                return Err(wrong(other, "hasChildren() takes one list of strings with something in it, or nothing"));
            }
            ("child" | "hasChild", _) => return Err(wrong(expr, format!("{name}() takes one string"))),
            (_, [other, ..]) => return Err(wrong(other, format!("{name}() takes nothing"))),
            ("val", _) => (Op::Val(of), Types::ANY),
            ("parent", _) => (Op::Parent(of), Types::SNAPSHOT),
            ("exists", _) => (Op::Exists(of), Types::BOOL),
            ("getPriority", _) => (Op::Priority(of), Types::ANY),
            ("isNumber", _) => (Op::IsNumber(of), Types::BOOL),
            ("isString", _) => (Op::IsString(of), Types::BOOL),
            _ => (Op::IsBoolean(of), Types::BOOL),
        })
    }

    fn of_text(&mut self, of: Id, name: &str, arguments: &[Expr], expr: &Expr) -> Result<(Op, Types), Problem> {
        let message = format!("{name}() takes a string");
        Ok(match (name, arguments) {
            ("contains", [text]) => (Op::Contains(of, self.text(text, &message)?), Types::BOOL),
            ("beginsWith", [text]) => (Op::BeginsWith(of, self.text(text, &message)?), Types::BOOL),
            ("endsWith", [text]) => (Op::EndsWith(of, self.text(text, &message)?), Types::BOOL),
            ("replace", [from, to]) => {
                let message = "replace() takes two strings";
                (Op::Replace(of, self.text(from, message)?, self.text(to, message)?), Types::TEXT)
            }
            ("replace", _) => return Err(wrong(expr, "replace() takes two strings")),
            ("toLowerCase", []) => (Op::LowerCase(of), Types::TEXT),
            ("toUpperCase", []) => (Op::UpperCase(of), Types::TEXT),
            ("toLowerCase" | "toUpperCase", [other, ..]) => {
                return Err(wrong(other, format!("{name}() takes nothing")));
            }
            ("matches", [Expr { kind: Kind::Regex { pattern, flags }, span, .. }]) => {
                let regex = pattern::compile(pattern, flags).map_err(|error| {
                    let at = span.start + 1 + error.at;
                    Problem::new(at..(at + 1).min(span.end), error.message)
                })?;
                (Op::Matches(of, Box::new(regex)), Types::BOOL)
            }
            ("matches", _) => return Err(wrong(expr, "matches() takes one regular expression, as /pattern/")),
            _ => return Err(wrong(expr, format!("{name}() takes one string"))),
        })
    }

    /// An argument that must be a string.
    fn text(&mut self, expr: &Expr, message: &str) -> Result<Id, Problem> {
        if matches!(expr.kind, Kind::Regex { .. }) {
            return Err(wrong(expr, message));
        }
        let (id, types) = self.expr(expr)?;
        if types.may_be(Types::TEXT) { Ok(id) } else { Err(wrong(expr, message)) }
    }

    /// An argument that must be a path.
    fn path(&mut self, expr: &Expr, message: &str) -> Result<PathPart, Problem> {
        if let Kind::Text(text) = &expr.kind {
            // As on the hosted service, a path that no location can have is no mistake: nothing is there.
            let mut encoded = Vec::new();
            let valid = Path::encode_text(text, &mut encoded).is_ok();
            return Ok(PathPart::Literal(valid.then(|| encoded.into())));
        }
        let id = self.text(expr, message)?;
        Ok(match self.code.op(id) {
            Op::Capture(depth) => PathPart::Capture(*depth),
            _ => PathPart::Computed(id),
        })
    }
}

fn has(types: Types, method: &Method) -> bool {
    types.may_be(if method.of_snapshots { Types::SNAPSHOT } else { Types::TEXT })
}

fn no_member(types: Types, name: &str, expr: &Expr) -> Problem {
    let (what, methods) = match () {
        () if types.may_be(Types::SNAPSHOT) => ("a snapshot", true),
        () if types.may_be(Types::TEXT) => ("a string", false),
        () if types.only(Types::NUMBER) => return wrong(expr, format!("a number has no {name}")),
        () if types.only(Types::BOOL) => return wrong(expr, format!("a boolean has no {name}")),
        () => return wrong(expr, format!("this value has no {name}")),
    };
    let names: Vec<_> =
        METHODS.iter().filter(|method| method.of_snapshots == methods).map(|method| method.name).collect();
    wrong(expr, format!("{what} has no {name}")).help(format!("it has {}", names.join(", ")))
}

fn wrong(expr: &Expr, message: impl Into<String>) -> Problem {
    Problem::new(expr.span.clone(), message)
}
