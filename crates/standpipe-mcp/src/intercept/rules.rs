//! What a rule says: read strictly from JSON, and matched against a call. What is done then is the hook's business.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use regex::Regex;
use serde::Deserialize;
use serde_json::value::RawValue;
use standpipe_wire::jsonrpc::Message;

use crate::tape::{canonical, members};
use crate::{Fault, Metrics, fault};

/// Rules of one configuration.
const RULES_MAX: usize = 256;
/// Longest delay, in milliseconds: that of the longest call that any limit allows by default.
const DELAY_MS_MAX: u64 = 600_000;

/// Why rules can't be meant; the text names the place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RulesError(String);

/// Rules, in the order in which they are tried.
#[derive(Clone, Debug, Default)]
pub struct Rules(Vec<Template>);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleConfig {
    name: Option<String>,
    #[serde(default, rename = "match")]
    when: MatchConfig,
    action: ActionConfig,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MatchConfig {
    method: Option<String>,
    name: Option<String>,
    server: Option<String>,
    principal: Option<String>,
    arguments: Vec<ArgumentConfig>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ArgumentConfig {
    at: String,
    equals: Option<Box<RawValue>>,
    matches: Option<String>,
    exists: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ActionConfig {
    Pass(PassConfig),
    Block(FaultConfig),
    Delay(DelayConfig),
    Mock(MockConfig),
    Fail(FailConfig),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PassConfig {}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultConfig {
    code: Option<i64>,
    message: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DelayConfig {
    ms: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MockConfig {
    result: Option<Box<RawValue>>,
    text: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FailConfig {
    after: Option<u64>,
    every: Option<u64>,
    code: Option<i64>,
    message: Option<String>,
}

/// A rule before anything is counted by it.
#[derive(Clone, Debug)]
struct Template {
    name: Arc<str>,
    when: Arc<When>,
    action: Action,
}

/// A rule in force.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: Arc<str>,
    pub(super) matched: Arc<AtomicU64>,
    when: Arc<When>,
    pub(super) action: Action,
}

/// What a rule looks at; what is not given is not looked at.
#[derive(Debug)]
struct When {
    method: Option<Glob>,
    name: Option<Glob>,
    server: Option<Glob>,
    principal: Option<Glob>,
    arguments: Vec<Argument>,
}

#[derive(Debug)]
struct Argument {
    at: Vec<String>,
    is: Is,
}

#[derive(Debug)]
enum Is {
    /// In the form of [`canonical`].
    Equal(Vec<u8>),
    Like(Regex),
    There(bool),
}

/// What is done about a call.
#[derive(Debug)]
pub(super) enum Action {
    Pass,
    Block {
        code: i64,
        message: Option<String>,
    },
    Delay {
        ms: u64,
    },
    /// The result, and the same as modern clients expect it.
    Mock {
        result: String,
        modern: String,
    },
    Fail {
        when: Turn,
        code: i64,
        message: Option<String>,
    },
}

impl Clone for Action {
    fn clone(&self) -> Self {
        match self {
            Self::Pass => Self::Pass,
            Self::Block { code, message } => Self::Block { code: *code, message: message.clone() },
            Self::Delay { ms } => Self::Delay { ms: *ms },
            Self::Mock { result, modern } => Self::Mock { result: result.clone(), modern: modern.clone() },
            Self::Fail { when, code, message } => {
                let when = Turn { seen: AtomicU64::new(0), ..*when };
                Self::Fail { when, code: *code, message: message.clone() }
            }
        }
    }
}

/// Which of the calls that a rule matches are meant.
#[derive(Debug)]
pub(super) struct Turn {
    after: u64,
    every: u64,
    seen: AtomicU64,
}

impl Turn {
    /// Counts a call, and says whether it is one of them.
    pub(super) fn is_now(&self) -> bool {
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        seen > self.after && (seen - self.after).is_multiple_of(self.every)
    }
}

impl Rules {
    /// Reads a list of rules.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(json: &str) -> Result<Self, RulesError> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let configs: Vec<RuleConfig> = serde_path_to_error::deserialize(&mut deserializer)
            .map_err(|error| RulesError(format!("rules{}: {}", place(error.path()), error.inner())))?;
        deserializer.end().map_err(|error| RulesError(format!("rules: {error}")))?;
        if configs.len() > RULES_MAX {
            return Err(RulesError(format!("there are {} rules, and at most {RULES_MAX} are taken", configs.len())));
        }
        let rules = configs
            .into_iter()
            .enumerate()
            .map(|(at, config)| Template::new(at, config).map_err(|why| RulesError(format!("rules[{at}]{why}"))));
        rules.collect::<Result<_, _>>().map(Self)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn counted(&self, metrics: &Metrics) -> Arc<[Rule]> {
        let rule = |template: &Template| Rule {
            name: template.name.clone(),
            matched: metrics.rule(&template.name),
            when: template.when.clone(),
            action: template.action.clone(),
        };
        self.0.iter().map(rule).collect()
    }
}

/// A path of serde as this configuration writes places.
fn place(path: &serde_path_to_error::Path) -> String {
    let path = path.to_string();
    match path.as_str() {
        "." => String::new(),
        inner if inner.starts_with('[') => inner.to_owned(),
        inner => format!(".{inner}"),
    }
}

impl Template {
    /// # Errors
    /// The place below the rule, and what is wrong there.
    fn new(at: usize, config: RuleConfig) -> Result<Self, String> {
        let name = config.name.map_or_else(|| format!("rule {}", at + 1), |name| format!("{name:.100}"));
        let MatchConfig { method, name: called, server, principal, arguments } = config.when;
        let arguments = arguments
            .into_iter()
            .enumerate()
            .map(|(at, argument)| Argument::new(argument).map_err(|why| format!(".match.arguments[{at}]: {why}")));
        let when = When {
            method: method.map(Glob),
            name: called.map(Glob),
            server: server.map(Glob),
            principal: principal.map(Glob),
            arguments: arguments.collect::<Result<_, _>>()?,
        };
        let action = Action::new(config.action).map_err(|why| format!(".action{why}"))?;
        Ok(Self { name: name.into(), when: Arc::new(when), action })
    }
}

impl Argument {
    fn new(config: ArgumentConfig) -> Result<Self, String> {
        let ArgumentConfig { at, equals, matches, exists } = config;
        let Some(rest) = at.strip_prefix('/') else {
            return Err(format!("\"at\" is no JSON pointer into the arguments: {at:?}; write one such as \"/path\""));
        };
        let is = match (equals, matches, exists) {
            (Some(value), None, None) => Is::Equal(canonical(value.get().as_bytes(), &[])),
            (None, Some(pattern), None) => Is::Like(
                Regex::new(&pattern).map_err(|error| format!("\"matches\" is no regular expression: {error}"))?,
            ),
            (None, None, Some(exists)) => Is::There(exists),
            _ => return Err("give one of \"equals\", \"matches\" and \"exists\"".into()),
        };
        let at = rest.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect();
        Ok(Self { at, is })
    }

    fn matches(&self, arguments: Option<&str>) -> Result<bool, Fault> {
        let found = match arguments {
            Some(arguments) => pointed(arguments, &self.at)?,
            None => None,
        };
        Ok(match (&self.is, found) {
            (Is::There(exists), found) => found.is_some() == *exists,
            (_, None) => false,
            (Is::Equal(value), Some(found)) => canonical(found.as_bytes(), &[]) == *value,
            (Is::Like(pattern), Some(found)) => match serde_json::from_str::<Cow<'_, str>>(found) {
                Ok(text) => pattern.is_match(&text),
                Err(_) => pattern.is_match(found),
            },
        })
    }
}

impl Action {
    fn new(config: ActionConfig) -> Result<Self, String> {
        Ok(match config {
            ActionConfig::Pass(PassConfig {}) => Self::Pass,
            ActionConfig::Block(FaultConfig { code, message }) => {
                Self::Block { code: code_or(code, fault::DENIED).map_err(|why| format!(".block{why}"))?, message }
            }
            ActionConfig::Delay(DelayConfig { ms }) if (1..=DELAY_MS_MAX).contains(&ms) => Self::Delay { ms },
            ActionConfig::Delay(DelayConfig { ms }) => {
                return Err(format!(".delay.ms: {ms} is not between 1 and {DELAY_MS_MAX}"));
            }
            ActionConfig::Mock(mock) => Self::mock(mock).map_err(|why| format!(".mock{why}"))?,
            ActionConfig::Fail(FailConfig { after, every, code, message }) => {
                if every == Some(0) {
                    return Err(".fail.every: it is 0, and every how many calls should fail? Write 1 for all".into());
                }
                let when = Turn { after: after.unwrap_or(0), every: every.unwrap_or(1), seen: AtomicU64::new(0) };
                let code = code_or(code, fault::UPSTREAM_DIED).map_err(|why| format!(".fail{why}"))?;
                Self::Fail { when, code, message }
            }
        })
    }

    fn mock(config: MockConfig) -> Result<Self, String> {
        let result = match (config.result, config.text) {
            (Some(result), None) if result.get().starts_with('{') => result.get().to_owned(),
            (Some(_), None) => return Err(".result: it is no object".into()),
            (None, Some(text)) => {
                let text = serde_json::to_string(&text).map_err(|error| format!(".text: {error}"))?;
                format!("{{\"content\":[{{\"type\":\"text\",\"text\":{text}}}]}}")
            }
            _ => return Err(": give one of \"result\" and \"text\"".into()),
        };
        let known = members(&result).map_err(|error| format!(".result: {error}"))?;
        let modern = match (known.iter().any(|(name, _)| name == "resultType"), known.is_empty()) {
            (true, _) => result.clone(),
            (false, true) => r#"{"resultType":"complete"}"#.to_owned(),
            (false, false) => format!("{{\"resultType\":\"complete\",{}", &result[1..]),
        };
        Ok(Self::Mock { result, modern })
    }
}

/// A code that may be answered with: those that the protocol reserves for itself mean what it says.
fn code_or(code: Option<i64>, default: i64) -> Result<i64, String> {
    match code {
        Some(code @ -32_099..=-32_000) => {
            Err(format!(".code: {code} is reserved by the protocol; take one outside of -32099 to -32000"))
        }
        code => Ok(code.unwrap_or(default)),
    }
}

impl Rule {
    /// # Errors
    /// A member that is looked at stands twice.
    pub(super) fn matches(&self, asked: &Asked<'_>) -> Result<bool, Fault> {
        let When { method, name, server, principal, arguments } = &*self.when;
        let is = |glob: &Option<Glob>, text: Option<&str>| {
            glob.as_ref().is_none_or(|glob| text.is_some_and(|text| glob.matches(text)))
        };
        if !(is(method, asked.message.method())
            && is(server, Some(asked.server))
            && is(principal, Some(asked.principal)))
        {
            return Ok(false);
        }
        if name.is_some() && !is(name, asked.name()?.as_deref()) {
            return Ok(false);
        }
        if arguments.is_empty() {
            return Ok(true);
        }
        let given = asked.arguments()?;
        for argument in arguments {
            if !argument.matches(given)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What the caller is told.
    pub(super) fn says(&self, message: Option<&str>, what: &str) -> String {
        message.map_or_else(|| format!("{what} by {} of the gateway's rules", self.name), str::to_owned)
    }
}

/// A call as rules look at it.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    server: &'a str,
    principal: &'a str,
    message: &'a Message,
}

impl<'a> Asked<'a> {
    pub(super) fn new(server: &'a str, principal: &'a str, message: &'a Message) -> Self {
        Self { server, principal, message }
    }

    /// The name of a tool or prompt, or the URI of a resource.
    fn name(&self) -> Result<Option<String>, Fault> {
        let text = |member| self.message.text_at(&[member]).map_err(|_| doubled(member));
        Ok(text("name")?.or(text("uri")?))
    }

    fn arguments(&self) -> Result<Option<&'a str>, Fault> {
        let found = self.message.at(&["arguments"]).map_err(|_| doubled("arguments"))?;
        Ok(found.and_then(|span| std::str::from_utf8(self.message.slice(span)).ok()))
    }
}

fn doubled(member: &str) -> Fault {
    Fault::new(
        fault::INVALID_PARAMS,
        format!("the member {member:?} stands twice, so it can't be told which is meant; send it once"),
    )
}

/// The value that a pointer leads to, as it stands.
fn pointed<'a>(json: &'a str, at: &[String]) -> Result<Option<&'a str>, Fault> {
    let mut value = json;
    for part in at {
        let inner = match value.as_bytes().first() {
            Some(b'{') => {
                let mut found = members(value).unwrap_or_default().into_iter().filter(|(name, _)| name == part);
                let inner = found.next();
                if found.next().is_some() {
                    return Err(doubled(part));
                }
                inner.map(|(_, value)| value)
            }
            Some(b'[') => part
                .parse::<usize>()
                .ok()
                .and_then(|index| serde_json::from_str::<Vec<&RawValue>>(value).ok()?.get(index).copied()),
            _ => None,
        };
        match inner {
            Some(inner) => value = inner.get(),
            None => return Ok(None),
        }
    }
    Ok(Some(value))
}

/// A pattern in which `*` stands for any text, and `?` for one character.
struct Glob(String);

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Glob {
    /// Whether the whole of `text` is as the pattern says. Takes time of the product of both lengths at most.
    fn matches(&self, text: &str) -> bool {
        let (mut pattern, mut rest) = (self.0.chars(), text.chars());
        // Behind the last star, and what it stands for at least up to now.
        let mut star = None;
        loop {
            let before = (pattern.clone(), rest.clone());
            match (pattern.next(), rest.next()) {
                (None, None) => return true,
                (Some('*'), _) => {
                    star = Some((pattern.clone(), before.1.clone()));
                    rest = before.1;
                }
                (Some('?'), Some(_)) => {}
                (Some(wanted), Some(letter)) if wanted == letter => {}
                _ => {
                    let Some((behind, taken)) = &mut star else { return false };
                    if taken.next().is_none() {
                        return false;
                    }
                    (pattern, rest) = (behind.clone(), taken.clone());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_texts() {
        let check = |pattern: &str, text: &str, expected: bool| {
            assert_eq!(Glob(pattern.into()).matches(text), expected, "{pattern} {text}");
        };
        check("", "", true);
        check("*", "", true);
        check("*", "abc", true);
        check("a*c", "abbc", true);
        check("a*c", "abcb", false);
        check("a*b*c", "a-b-b-c", true);
        check("**a", "bba", true);
        check("a?c", "aäc", true);
        check("a?", "a", false);
        check("abc", "ab", false);
        check("ab", "abc", false);
        check("*a*a*a*a*a*b", &"a".repeat(2_000), false);
    }

    #[test]
    fn what_can_not_be_meant_is_refused_with_its_place() {
        let check = |rules: &str, expected: &str| {
            let error = Rules::parse(rules).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("{}", "rules: invalid type: map");
        check("[] x", "rules: trailing");
        check(r#"[{"action":{"block":{}}},{"match":{}}]"#, "rules[1]: missing field `action`");
        check(r#"[{"match":{"methods":"x"},"action":{"pass":{}}}]"#, "rules[0].match.methods: unknown field `methods`");
        check(r#"[{"action":{"drop":{}}}]"#, "unknown variant `drop`");
        check(r#"[{"action":{"block":{"kode":1}}}]"#, "unknown field `kode`");
        check(r#"[{"action":{"block":{"code":-32001}}}]"#, "rules[0].action.block.code: -32001 is reserved");
        check(r#"[{"action":{"delay":{"ms":0}}}]"#, "rules[0].action.delay.ms: 0");
        check(r#"[{"action":{"delay":{"ms":600001}}}]"#, "600001");
        check(r#"[{"action":{"fail":{"every":0}}}]"#, "rules[0].action.fail.every");
        check(r#"[{"action":{"mock":{}}}]"#, "rules[0].action.mock: give one of");
        check(r#"[{"action":{"mock":{"result":[]}}}]"#, "rules[0].action.mock.result");
        let argument =
            |argument: &str| format!(r#"[{{"match":{{"arguments":[{argument}]}},"action":{{"pass":{{}}}}}}]"#);
        check(&argument(r#"{"at":"path","exists":true}"#), "rules[0].match.arguments[0]: \"at\" is no JSON pointer");
        check(&argument(r#"{"at":"/a"}"#), "give one of");
        check(&argument(r#"{"at":"/a","matches":"("}"#), "no regular expression");
        let many = format!("[{}]", vec![r#"{"action":{"pass":{}}}"#; RULES_MAX + 1].join(","));
        check(&many, "257 rules");
    }
}
