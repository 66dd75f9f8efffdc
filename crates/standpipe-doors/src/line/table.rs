//! The commands: one table, from which lines are understood, `HELP` answers, and the page of the door
//! is written.

use standpipe_engine::Error;
use standpipe_serve::CloseReason;

use super::client::{Client, Done};
use super::words::Words;
use super::{connection, data, streams, watches};
use crate::commands::{Answer, Turn};

/// What a command leads to.
pub(super) enum Next {
    /// Its answer is written.
    Answered,
    /// Its answer comes.
    Later(Answer<Done>),
    /// Its answer was the last word.
    Close(CloseReason),
}

/// Carries a command out. An error becomes its answer; nothing has happened then.
pub(super) type Run = fn(&mut Client, Words<'_>, &mut Turn<'_>) -> Result<Next, Error>;

/// A command.
pub(super) struct Spec {
    pub(super) name: &'static str,
    /// What follows the name.
    words: &'static str,
    answer: &'static str,
    summary: &'static str,
    /// It may be begun while earlier ones are under way, for the writer keeps their order.
    pub(super) write: bool,
    pub(super) run: Run,
}

const fn spec(name: &'static str, words: &'static str, answer: &'static str, summary: &'static str, run: Run) -> Spec {
    Spec { name, words, answer, summary, write: false, run }
}

const fn write(name: &'static str, words: &'static str, answer: &'static str, summary: &'static str, run: Run) -> Spec {
    Spec { name, words, answer, summary, write: true, run }
}

/// All of them, in the order of the page.
pub(super) const COMMANDS: &[Spec] = &[
    spec("PING", "[text]", "PONG, or the text", "asks whether the server is there", connection::ping),
    spec("ECHO", "text", "the text, byte for byte", "says the text again", connection::echo),
    spec("TIME", "", "the time", "the server's clock: RFC 3339, milliseconds, UTC", connection::time),
    spec("STATS", "", "JSON", "figures of the server, and the revision of the database", connection::stats),
    spec("AUTH", "token", "OK", "says who you are", connection::auth),
    spec("USE", "[name]", "OK", "chooses the database; without a name the usual one", connection::choose),
    spec(
        "GET",
        "path [name=value ...]",
        "JSON",
        "reads; name=value as in a REST request: orderBy, limitToFirst, shallow",
        data::get,
    ),
    write("SET", "path json", "OK rev", "replaces the value", data::set),
    write("PATCH", "path json", "OK rev", "replaces the children named, and keeps the others", data::patch),
    write("PUSH", "path json", "OK rev key", "adds a child under a new key", data::push),
    write("DEL", "path", "OK rev", "removes the value", data::delete),
    write("LEASE", "path json", "OK rev", "replaces the value, until this connection goes", data::lease),
    write("ONCLOSE", "path json", "OK rev", "writes the value when this connection goes; null removes", data::on_close),
    write("RELEASE", "path", "OK rev", "forgets what LEASE and ONCLOSE left at the path and below", data::release),
    spec(
        "WATCH",
        "path [since] [name=value ...]",
        "WATCHING id rev",
        "the value now, or what has changed since a revision, then every change",
        watches::watch,
    ),
    spec("UNWATCH", "id", "OK", "ends a watch", watches::unwatch),
    spec(
        "TAIL",
        "path [seq] [last=N] [follow=false]",
        "TAILING id seq",
        "the records of a stream from the first, from a place on, or the last ones, then every new one to its end",
        streams::tail,
    ),
    spec("UNTAIL", "id", "OK", "ends a tail", watches::unwatch),
    write("APPEND", "path text", "OK next", "adds a line to a stream, which begins with its first", streams::append),
    spec("CLOSE", "path [state]", "OK", "ends a stream", streams::close),
    spec("HELP", "[command]", "what there is", "all commands as JSON, or one of them", connection::help),
    spec("QUIT", "", "BYE", "closes the connection", connection::quit),
];

/// The command of that name, in letters of any case.
pub(super) fn find(name: &[u8]) -> Option<&'static Spec> {
    COMMANDS.iter().find(|spec| spec.name.as_bytes().eq_ignore_ascii_case(name))
}

/// The command whose name is most like `name`.
pub(super) fn nearest(name: &str) -> &'static str {
    // What comes after the longest name can't bring it nearer.
    let name: String = name.chars().take(32).collect::<String>().to_ascii_uppercase();
    let far = |spec: &&Spec| {
        // Of names as many letters away, the one that begins alike.
        let alike = strsim::jaro_winkler(&name, spec.name);
        (strsim::damerau_levenshtein(&name, spec.name), (1_000.0 * (1.0 - alike)) as u32)
    };
    COMMANDS.iter().min_by_key(far).map_or("HELP", |spec| spec.name)
}

impl Spec {
    /// The command as it is typed.
    pub(super) fn usage(&self) -> String {
        format!("{} {}", self.name, self.words).trim_end().to_owned()
    }

    /// What it does and answers.
    pub(super) fn meaning(&self) -> String {
        format!("{}; answers {}", self.summary, self.answer)
    }
}

/// The table as the page of the door shows it (Markdown).
pub fn page() -> String {
    let cell = |text: &str| text.replace('|', "\\|");
    let row = |spec: &Spec| format!("| `{}` | {} | {} |\n", cell(&spec.usage()), cell(spec.answer), cell(spec.summary));
    "| command | answer | what it does |\n|---|---|---|\n".to_owned() + &COMMANDS.iter().map(row).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_the_nearest_is_named() {
        assert_eq!(find(b"get").map(|spec| spec.name), Some("GET"));
        assert!(find(b"gets").is_none() && find(b"").is_none());
        for (name, expected) in
            [("gte", "GET"), ("WACTH", "WATCH"), ("delete", "DEL"), ("put", "PUSH"), ("exit", "QUIT")]
        {
            assert_eq!(nearest(name), expected, "{name}");
        }
        assert!(!nearest(&"x".repeat(1 << 20)).is_empty());
    }

    #[test]
    fn names_are_in_capitals_and_told_once() {
        let mut names: Vec<_> = COMMANDS.iter().map(|spec| spec.name).collect();
        assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_uppercase())));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), COMMANDS.len());
    }
}
