//! Conditions of tasks: `succeeded(build) && params.deploy == 'yes'`. Read and checked when a plan is, decided by a pure
//! function when all that the task needs has ended.
//!
//! ```text
//! or    = and { "||" and }
//! and   = not { "&&" not }
//! not   = "!" not | "(" or ")" | call | compare | "true" | "false"
//! call  = ("succeeded" | "failed" | "skipped") "(" task ")" | ("always" | "success" | "failure") "(" ")"
//! compare = value ("==" | "!=") value
//! value = 'text' | "text" | params.NAME | matrix.NAME | outputs.TASK.NAME
//! ```

use std::borrow::Cow;

/// Longest condition, in bytes.
const TEXT_BYTES_MAX: usize = 4 << 10;
/// Brackets and `!` in each other.
const DEPTH_MAX: usize = 32;

/// A condition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum When {
    Constant(bool),
    Not(Box<When>),
    All(Vec<When>),
    Any(Vec<When>),
    /// Of one task, or of all members of a matrix: `succeeded` of all, `failed` and `skipped` of any.
    Is(Is, String),
    /// Whatever happened to what it needs.
    Always,
    /// Everything it needs ended well: what holds where there is no condition.
    Success,
    /// Something it needs, directly or not, has failed.
    Failure,
    Equal(Operand, Operand),
}

/// What a condition asks about a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Is {
    Succeeded,
    Failed,
    Skipped,
}

/// A text, or where one comes from. What is not there is the empty text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    Text(String),
    Param(String),
    Matrix(String),
    Output { task: String, name: String },
}

/// What a condition refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refers<'w> {
    Task(&'w str),
    Output { task: &'w str, name: &'w str },
    Param(&'w str),
    Matrix(&'w str),
}

/// What a condition looks at, for one task.
pub(crate) trait Facts {
    /// Whether this is so of the task (or the members) of that name.
    fn is(&self, is: Is, task: &str) -> bool;
    /// Whether everything it needs ended well.
    fn success(&self) -> bool;
    /// Whether something it needs, directly or not, has failed.
    fn failure(&self) -> bool;
    /// The value of an operand that is no text itself.
    fn value(&self, refers: Refers<'_>) -> Option<&str>;
}

/// What is wrong with a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WhenError {
    pub(crate) message: String,
    pub(crate) help: &'static str,
}

const HELP: &str =
    "conditions look like: succeeded(build) && params.deploy == 'yes'; docs/pipelines.md has all of them";

/// Reads a condition.
pub(crate) fn parse(text: &str) -> Result<When, WhenError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(wrong(
            format!("longer than {TEXT_BYTES_MAX} bytes"),
            "decide it in a task, and ask for its output",
        ));
    }
    let mut reader = Reader { rest: text, depth: 0 };
    let when = reader.any()?;
    match reader.peek() {
        "" => Ok(when),
        rest => Err(unexpected(rest, "the end, && or ||")),
    }
}

impl When {
    /// Whether it holds. As with a task that has no condition, what the task needs must have ended well, unless the
    /// condition itself asks how that ended.
    pub(crate) fn holds(&self, facts: &impl Facts) -> bool {
        (self.looks_at_states() || facts.success()) && self.evaluate(facts)
    }

    fn evaluate(&self, facts: &impl Facts) -> bool {
        match self {
            Self::Constant(value) => *value,
            Self::Not(inner) => !inner.evaluate(facts),
            Self::All(parts) => parts.iter().all(|part| part.evaluate(facts)),
            Self::Any(parts) => parts.iter().any(|part| part.evaluate(facts)),
            Self::Is(is, task) => facts.is(*is, task),
            Self::Always => true,
            Self::Success => facts.success(),
            Self::Failure => facts.failure(),
            Self::Equal(left, right) => left.value(facts) == right.value(facts),
        }
    }

    /// Whether it asks how tasks ended.
    pub(crate) fn looks_at_states(&self) -> bool {
        match self {
            Self::Not(inner) => inner.looks_at_states(),
            Self::All(parts) | Self::Any(parts) => parts.iter().any(Self::looks_at_states),
            Self::Is(..) | Self::Always | Self::Success | Self::Failure => true,
            Self::Constant(_) | Self::Equal(..) => false,
        }
    }

    /// Everything it refers to.
    pub(crate) fn each_reference<'w>(&'w self, each: &mut impl FnMut(Refers<'w>)) {
        match self {
            Self::Not(inner) => inner.each_reference(each),
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.each_reference(each)),
            Self::Is(_, task) => each(Refers::Task(task)),
            Self::Equal(left, right) => left.refers().into_iter().chain(right.refers()).for_each(each),
            Self::Constant(_) | Self::Always | Self::Success | Self::Failure => {}
        }
    }
}

impl Operand {
    fn refers(&self) -> Option<Refers<'_>> {
        Some(match self {
            Self::Text(_) => return None,
            Self::Param(name) => Refers::Param(name),
            Self::Matrix(name) => Refers::Matrix(name),
            Self::Output { task, name } => Refers::Output { task, name },
        })
    }

    fn value<'f>(&'f self, facts: &'f impl Facts) -> &'f str {
        match self {
            Self::Text(text) => text,
            other => other.refers().and_then(|refers| facts.value(refers)).unwrap_or(""),
        }
    }
}

fn wrong(message: impl Into<String>, help: &'static str) -> WhenError {
    WhenError { message: message.into(), help }
}

fn unexpected(found: &str, expected: &str) -> WhenError {
    let found: Cow<'_, str> = match found.chars().take(12).collect::<String>() {
        empty if empty.is_empty() => "the end".into(),
        begin => format!("`{begin}`").into(),
    };
    wrong(format!("{found} where {expected} should be"), HELP)
}

struct Reader<'t> {
    rest: &'t str,
    depth: usize,
}

impl<'t> Reader<'t> {
    fn peek(&mut self) -> &'t str {
        self.rest = self.rest.trim_start();
        self.rest
    }

    fn takes(&mut self, token: &str) -> bool {
        let rest = self.peek().strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, token: &str) -> Result<(), WhenError> {
        if self.takes(token) { Ok(()) } else { Err(unexpected(self.rest, &format!("`{token}`"))) }
    }

    /// A name: letters, digits, `_` and `-`; empty where there is none.
    fn word(&mut self) -> &'t str {
        let rest = self.peek();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-')).unwrap_or(rest.len());
        let (word, rest) = rest.split_at(end);
        self.rest = rest;
        word
    }

    fn name(&mut self, what: &str) -> Result<String, WhenError> {
        match self.word() {
            "" => Err(unexpected(self.rest, what)),
            word => Ok(word.to_owned()),
        }
    }

    fn any(&mut self) -> Result<When, WhenError> {
        self.joined("||", Self::all, When::Any)
    }

    fn all(&mut self) -> Result<When, WhenError> {
        self.joined("&&", Self::one, When::All)
    }

    fn joined(
        &mut self,
        token: &str,
        part: fn(&mut Self) -> Result<When, WhenError>,
        join: fn(Vec<When>) -> When,
    ) -> Result<When, WhenError> {
        let first = part(self)?;
        if !self.peek().starts_with(token) {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.takes(token) {
            parts.push(part(self)?);
        }
        Ok(join(parts))
    }

    fn one(&mut self) -> Result<When, WhenError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(wrong("too many brackets or `!` in each other", "write it flatter"));
        }
        let one = self.one_inside();
        self.depth -= 1;
        one
    }

    fn one_inside(&mut self) -> Result<When, WhenError> {
        if self.takes("(") {
            let inner = self.any()?;
            self.expect(")")?;
            return Ok(inner);
        }
        if !self.peek().starts_with("!=") && self.takes("!") {
            return Ok(When::Not(Box::new(self.one()?)));
        }
        if self.peek().starts_with(['\'', '"']) {
            return self.comparison(None);
        }
        let before = self.rest;
        match self.word() {
            "true" => Ok(When::Constant(true)),
            "false" => Ok(When::Constant(false)),
            "succeeded" => self.of_task(Is::Succeeded),
            "failed" => self.of_task(Is::Failed),
            "skipped" => self.of_task(Is::Skipped),
            "always" => self.call(When::Always),
            "success" => self.call(When::Success),
            "failure" => self.call(When::Failure),
            word @ ("params" | "matrix" | "outputs") => self.comparison(Some(word)),
            _ => Err(unexpected(before, "a condition")),
        }
    }

    fn call(&mut self, when: When) -> Result<When, WhenError> {
        self.expect("(")?;
        self.expect(")")?;
        Ok(when)
    }

    fn of_task(&mut self, is: Is) -> Result<When, WhenError> {
        self.expect("(")?;
        let task = self.name("the name of a task")?;
        self.expect(")")?;
        Ok(When::Is(is, task))
    }

    fn comparison(&mut self, begun: Option<&str>) -> Result<When, WhenError> {
        let left = self.operand(begun)?;
        let equal = self.takes("==");
        if !equal && !self.takes("!=") {
            return Err(unexpected(self.rest, "== or !="));
        }
        let compared = When::Equal(left, self.operand(None)?);
        Ok(if equal { compared } else { When::Not(Box::new(compared)) })
    }

    fn operand(&mut self, begun: Option<&str>) -> Result<Operand, WhenError> {
        if begun.is_none() {
            let rest = self.peek();
            if let Some(quote) = rest.chars().next().filter(|first| matches!(first, '\'' | '"')) {
                let inside = &rest[1..];
                let end = inside.find(quote).ok_or_else(|| wrong("a text without its second quote", HELP))?;
                self.rest = &inside[end + 1..];
                return Ok(Operand::Text(inside[..end].to_owned()));
            }
        }
        let before = self.peek();
        let word = begun.unwrap_or_else(|| self.word());
        match word {
            "params" => Ok(Operand::Param(self.member("the name of a parameter")?)),
            "matrix" => Ok(Operand::Matrix(self.member("the name of a list")?)),
            "outputs" => {
                let task = self.member("the name of a task")?;
                Ok(Operand::Output { task, name: self.member("the name of an output")? })
            }
            _ => Err(unexpected(before, "a text in quotes, params.x, matrix.x or outputs.task.x")),
        }
    }

    fn member(&mut self, what: &str) -> Result<String, WhenError> {
        self.expect(".")?;
        self.name(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a` succeeded, `b` failed, `c` was skipped.
    struct Case {
        success: bool,
    }

    impl Facts for Case {
        fn is(&self, is: Is, task: &str) -> bool {
            matches!((is, task), (Is::Succeeded, "a") | (Is::Failed, "b") | (Is::Skipped, "c"))
        }

        fn success(&self) -> bool {
            self.success
        }

        fn failure(&self) -> bool {
            !self.success
        }

        fn value(&self, refers: Refers<'_>) -> Option<&str> {
            match refers {
                Refers::Param("deploy") => Some("yes"),
                Refers::Matrix("os") => Some("linux"),
                Refers::Output { task: "a", name: "version" } => Some("1.2"),
                _ => None,
            }
        }
    }

    /// Whether it holds where everything went well, and where not.
    fn check(text: &str, expected: (bool, bool)) {
        let when = parse(text).unwrap_or_else(|error| panic!("{text}: {}", error.message));
        let holds = [true, false].map(|success| when.holds(&Case { success }));
        assert_eq!((holds[0], holds[1]), expected, "{text}");
    }

    #[test]
    fn conditions_are_decided() {
        check("true", (true, false));
        check("false", (false, false));
        check("always()", (true, true));
        check("success()", (true, false));
        check("failure()", (false, true));
        check("succeeded(a)", (true, true));
        check(" succeeded( a )&&!failed(a) ", (true, true));
        check("succeeded(b) || failed(b)", (true, true));
        check("skipped(c) && (failed(a) || failed(b)) && !(skipped(a))", (true, true));
        check("failed(a) || failed(b) && failed(c)", (false, false));
        check("!!succeeded(a)", (true, true));
        // What does not ask how tasks ended holds only where they ended well.
        check("params.deploy == 'yes'", (true, false));
        check("params.deploy != \"yes\"", (false, false));
        check("'linux' == matrix.os", (true, false));
        check("outputs.a.version == '1.2' && outputs.a.other == ''", (true, false));
        check("always() && outputs.a.version != '1.2'", (false, false));
        check("params.deploy == params.deploy", (true, false));
        check("''=='' ", (true, false));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |text: &str, says: &str| assert_eq!(parse(text).unwrap_err().message, says, "{text}");
        check("", "the end where a condition should be");
        check("build", "`build` where a condition should be");
        check("succeeded(a", "the end where `)` should be");
        check("succeeded()", "`)` where the name of a task should be");
        check("succeeded(a) succeeded(b)", "`succeeded(b)` where the end, && or || should be");
        check("always(a)", "`a)` where `)` should be");
        check("a == 'b'", "`a == 'b'` where a condition should be");
        check("params.a", "the end where == or != should be");
        check("params.a == b", "`b` where a text in quotes, params.x, matrix.x or outputs.task.x should be");
        check("params.a == 'b", "a text without its second quote");
        check("outputs.a == 'b'", "`== 'b'` where `.` should be");
        check("!= 'a'", "`!= 'a'` where a condition should be");
        check("true &", "`&` where the end, && or || should be");
        check(&"(".repeat(100), "too many brackets or `!` in each other");
        check(&"!".repeat(5000), "longer than 4096 bytes");
        check("é", "`é` where a condition should be");
    }

    #[test]
    fn random_conditions_are_read_or_refused_and_decided_without_a_panic() {
        let parts = [
            "succeeded",
            "failed",
            "(",
            ")",
            "&&",
            "||",
            "!",
            "a",
            "'x'",
            "\"",
            "==",
            "!=",
            "params",
            ".",
            "outputs",
            "matrix",
            "always()",
            "true",
            " ",
            "é",
            "success()",
            "-",
            "'",
        ];
        let mut seed = u64::from(std::process::id()) | 1;
        eprintln!("seed {seed}");
        let (mut read, rounds) = (0, 20_000);
        for _ in 0..rounds {
            let mut text = String::new();
            for _ in 0..seed % 14 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                text += parts[seed as usize % parts.len()];
            }
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) | 1;
            if let Ok(when) = parse(&text) {
                read += 1;
                when.holds(&Case { success: seed % 4 < 2 });
                when.each_reference(&mut |_| {});
            }
        }
        assert!((1..rounds).contains(&read), "{read}");
    }
}
