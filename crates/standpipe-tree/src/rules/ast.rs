//! The parser of expressions: words in, a tree of operations out. Precedence is JavaScript's.
//!
//! Chains of `&&` and of `||` are one node each, so that only real nesting counts as depth.

use std::ops::Range;

use super::error::Problem;
use super::lex::{Lexer, Token};
use super::limits::EXPRESSION_DEPTH_MAX;

/// An operation and its place in the expression.
#[derive(Clone, Debug)]
pub(super) struct Expr {
    pub(super) span: Range<usize>,
    pub(super) kind: Kind,
    /// Levels of operations, this one included.
    height: usize,
}

/// What an operation is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    Regex { pattern: String, flags: String },
    Name(String),
    List(Vec<Expr>),
    Member(Box<Expr>, String),
    Index(Box<Expr>, Box<Expr>),
    Call(Box<Expr>, Vec<Expr>),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Binary(Operator, Box<Expr>, Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Choice(Box<Expr>, Box<Expr>, Box<Expr>),
}

/// An operator with two operands that are always both evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

impl Operator {
    /// As it is written.
    pub(super) fn symbol(self) -> &'static str {
        match self {
            Operator::Add => "+",
            Operator::Subtract => "-",
            Operator::Multiply => "*",
            Operator::Divide => "/",
            Operator::Remainder => "%",
            Operator::Less => "<",
            Operator::LessOrEqual => "<=",
            Operator::Greater => ">",
            Operator::GreaterOrEqual => ">=",
            Operator::Equal => "==",
            Operator::NotEqual => "!=",
        }
    }
}

/// How tightly operators bind, loosest first.
const CHOICE: u8 = 1;
const OR: u8 = 2;
const AND: u8 = 3;
const UNARY: u8 = 8;

/// What a symbol is between two operands.
fn binary(symbol: &str) -> Option<(u8, Operator)> {
    Some(match symbol {
        "==" | "===" => (4, Operator::Equal),
        "!=" | "!==" => (4, Operator::NotEqual),
        "<" => (5, Operator::Less),
        "<=" => (5, Operator::LessOrEqual),
        ">" => (5, Operator::Greater),
        ">=" => (5, Operator::GreaterOrEqual),
        "+" => (6, Operator::Add),
        "-" => (6, Operator::Subtract),
        "*" => (7, Operator::Multiply),
        "/" => (7, Operator::Divide),
        "%" => (7, Operator::Remainder),
        _ => return None,
    })
}

/// Reads one expression; `nodes_left` is how many operations it may still have, and is lowered.
pub(super) fn parse(text: &str, nodes_left: &mut usize) -> Result<Expr, Problem> {
    let mut lexer = Lexer::new(text);
    let (token, span) = lexer.next()?;
    let mut parser = Parser { lexer, token, span, depth: 0, nodes_left };
    let expr = parser.expression(CHOICE)?;
    match parser.token {
        Token::End => Ok(expr),
        _ => Err(parser.unexpected("an operator or the end of the expression")),
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The word at hand, and where it is.
    token: Token,
    span: Range<usize>,
    depth: usize,
    nodes_left: &'a mut usize,
}

impl Parser<'_> {
    fn advance(&mut self) -> Result<(), Problem> {
        (self.token, self.span) = self.lexer.next()?;
        Ok(())
    }

    fn symbol(&self) -> &'static str {
        match self.token {
            Token::Symbol(symbol) => symbol,
            _ => "",
        }
    }

    /// Takes the symbol if it is next.
    fn take(&mut self, symbol: &str) -> Result<bool, Problem> {
        let found = self.symbol() == symbol;
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn expect(&mut self, symbol: &str) -> Result<(), Problem> {
        if self.take(symbol)? { Ok(()) } else { Err(self.unexpected(&format!("{symbol:?}"))) }
    }

    fn unexpected(&self, wanted: &str) -> Problem {
        let found = match &self.token {
            Token::End => "the end of the expression".to_owned(),
            Token::Number(number) => format!("the number {number}"),
            Token::Text(_) => "a string".to_owned(),
            Token::Name(name) => format!("{name:?}"),
            Token::Symbol(symbol) => format!("{symbol:?}"),
        };
        let problem = Problem::new(self.span.clone(), format!("expected {wanted}, found {found}"));
        match self.symbol() {
            "=" => problem.help("write == to compare; rules can't assign"),
            ";" => problem.help("a rule is one expression; join conditions with && or ||"),
            "**" => problem.help("there is no power operator"),
            _ => problem,
        }
    }

    fn node(&mut self, span: Range<usize>, kind: Kind) -> Result<Expr, Problem> {
        let below = match &kind {
            Kind::List(items) | Kind::And(items) | Kind::Or(items) => height(items),
            Kind::Member(a, _) | Kind::Not(a) | Kind::Negative(a) => a.height,
            Kind::Index(a, b) | Kind::Binary(_, a, b) => a.height.max(b.height),
            // A method and its call are one.
            Kind::Call(function, items) => match &function.kind {
                Kind::Member(a, _) | Kind::Index(a, _) => a.height.max(height(items)),
                _ => function.height.max(height(items)),
            },
            Kind::Choice(a, b, c) => a.height.max(b.height).max(c.height),
            _ => 0,
        };
        if below >= EXPRESSION_DEPTH_MAX {
            return Err(too_deep(span));
        }
        let Some(left) = self.nodes_left.checked_sub(1) else {
            return Err(Problem::new(span, "the rules have too many operations"));
        };
        *self.nodes_left = left;
        Ok(Expr { span, kind, height: below + 1 })
    }

    /// An expression whose operators bind at least as tightly as `tightness`.
    fn expression(&mut self, tightness: u8) -> Result<Expr, Problem> {
        if self.depth >= EXPRESSION_DEPTH_MAX {
            return Err(too_deep(self.span.clone()));
        }
        self.depth += 1;
        let mut left = self.unary()?;
        loop {
            let symbol = self.symbol();
            left = match symbol {
                "?" if tightness <= CHOICE => self.choice(left)?,
                "||" if tightness <= OR => self.chain(left, "||", AND, Kind::Or)?,
                "&&" if tightness <= AND => self.chain(left, "&&", AND + 1, Kind::And)?,
                _ => match binary(symbol) {
                    Some((binds, operator)) if binds >= tightness => {
                        self.advance()?;
                        let right = self.expression(binds + 1)?;
                        let span = left.span.start..right.span.end;
                        self.node(span, Kind::Binary(operator, Box::new(left), Box::new(right)))?
                    }
                    _ => break,
                },
            };
        }
        self.depth -= 1;
        Ok(left)
    }

    /// `first op second op third…`, at the first operator.
    fn chain(
        &mut self,
        first: Expr,
        symbol: &str,
        tightness: u8,
        kind: fn(Vec<Expr>) -> Kind,
    ) -> Result<Expr, Problem> {
        let start = first.span.start;
        let mut items = vec![first];
        while self.take(symbol)? {
            items.push(self.expression(tightness)?);
        }
        let end = items.last().map_or(start, |last| last.span.end);
        self.node(start..end, kind(items))
    }

    fn choice(&mut self, condition: Expr) -> Result<Expr, Problem> {
        self.advance()?;
        let yes = self.expression(CHOICE)?;
        self.expect(":")?;
        let no = self.expression(CHOICE)?;
        let span = condition.span.start..no.span.end;
        self.node(span, Kind::Choice(Box::new(condition), Box::new(yes), Box::new(no)))
    }

    fn unary(&mut self) -> Result<Expr, Problem> {
        let kind = match self.symbol() {
            "!" => Kind::Not,
            "-" => Kind::Negative,
            _ => return self.postfix(),
        };
        let start = self.span.start;
        self.advance()?;
        let operand = self.expression(UNARY)?;
        self.node(start..operand.span.end, kind(Box::new(operand)))
    }

    fn postfix(&mut self) -> Result<Expr, Problem> {
        let mut expr = self.primary()?;
        loop {
            let start = expr.span.start;
            match self.symbol() {
                "." => {
                    self.advance()?;
                    let Token::Name(name) = self.token.clone() else { return Err(self.unexpected("a name")) };
                    let span = start..self.span.end;
                    self.advance()?;
                    expr = self.node(span, Kind::Member(Box::new(expr), name))?;
                }
                "[" => {
                    self.advance()?;
                    let index = self.expression(CHOICE)?;
                    let span = start..self.span.end;
                    self.expect("]")?;
                    expr = self.node(span, Kind::Index(Box::new(expr), Box::new(index)))?;
                }
                "(" => {
                    self.advance()?;
                    let (arguments, end) = self.items(")")?;
                    expr = self.node(start..end, Kind::Call(Box::new(expr), arguments))?;
                }
                _ => return Ok(expr),
            }
        }
    }

    /// Expressions with commas between them, and where the closing bracket ends.
    fn items(&mut self, close: &str) -> Result<(Vec<Expr>, usize), Problem> {
        let mut items = Vec::new();
        let mut end = self.span.end;
        if self.take(close)? {
            return Ok((items, end));
        }
        loop {
            items.push(self.expression(CHOICE)?);
            end = self.span.end;
            if self.take(close)? {
                return Ok((items, end));
            }
            if !self.take(",")? {
                return Err(self.unexpected(&format!("\",\" or {close:?}")));
            }
        }
    }

    fn primary(&mut self) -> Result<Expr, Problem> {
        let span = self.span.clone();
        let kind = match self.token.clone() {
            Token::Number(number) => Kind::Number(number),
            Token::Text(text) => Kind::Text(text),
            Token::Name(name) => match name.as_str() {
                "true" => Kind::Bool(true),
                "false" => Kind::Bool(false),
                "null" => Kind::Null,
                "var" | "let" | "const" | "function" | "return" | "if" | "new" | "typeof" | "in" => {
                    let problem = Problem::new(span, format!("{name:?} is not part of the language"));
                    return Err(problem.help("a rule is one expression"));
                }
                _ => Kind::Name(name),
            },
            Token::Symbol("/") => {
                let (pattern, flags, span) = self.lexer.regex(span.start)?;
                self.advance()?;
                return self.node(span, Kind::Regex { pattern, flags });
            }
            Token::Symbol("(") => {
                self.advance()?;
                let inner = self.expression(CHOICE)?;
                self.expect(")")?;
                return Ok(inner);
            }
            Token::Symbol("[") => {
                self.advance()?;
                let (items, end) = self.items("]")?;
                return self.node(span.start..end, Kind::List(items));
            }
            _ => return Err(self.unexpected("a value")),
        };
        self.advance()?;
        self.node(span, kind)
    }
}

fn height(items: &[Expr]) -> usize {
    items.iter().map(|item| item.height).max().unwrap_or(0)
}

fn too_deep(span: Range<usize>) -> Problem {
    Problem::new(span, format!("the expression is nested deeper than {EXPRESSION_DEPTH_MAX} levels"))
}
