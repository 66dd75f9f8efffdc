//! The commands of the door: one table for what they do, for `COMMAND`, and for the page in the docs.

use super::call::Run;
use super::{client, hashes, json, lease, multi, pubsub, scan, server, streams, strings};
use crate::commands::Turn;

/// A command of the connection itself.
pub(super) type ClientRun =
    fn(&mut client::Client, &[&[u8]], &mut Turn<'_>) -> Result<client::Next, super::call::Fault>;

/// A command of the connection that is answered at once.
pub(super) type TalkRun = fn(&mut client::Client, &[&[u8]], &mut Turn<'_>) -> Result<(), super::call::Fault>;

/// What a read looks at, which decides where it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// As many rows as it names keys.
    Point,
    /// The value of one key, mostly a leaf.
    Value,
    /// Whole values.
    Values,
    /// Maybe everything.
    Scan,
}

/// What a command does.
pub(super) enum Does {
    /// Reads the tree.
    Read(Run, Weight),
    /// Looks at the tree and writes, in the writer.
    Write(Run),
    /// Concerns the connection, or the server, and is answered at once; in a transaction once that is committed.
    Talk(TalkRun),
    /// Concerns the connection. None of these is part of a transaction.
    Client(ClientRun),
}

/// A command.
pub(super) struct Spec {
    /// In lower case.
    pub(super) name: &'static str,
    /// Number of arguments, the name included; negative where more are allowed.
    pub(super) arity: i32,
    pub(super) does: Does,
    /// First key, last key (negative: from the end), step; zeros where there is none.
    pub(super) keys: (i32, i32, i32),
    /// May be said by whom nobody knows yet.
    pub(super) before_auth: bool,
    /// Is not queued by `MULTI`.
    pub(super) during_multi: bool,
    /// Is allowed to an RESP2 client that is subscribed.
    pub(super) while_subscribed: bool,
    /// What it does, in a line.
    pub(super) summary: &'static str,
}

impl Spec {
    const fn new(name: &'static str, arity: i32, does: Does, keys: (i32, i32, i32), summary: &'static str) -> Self {
        Self { name, arity, does, keys, before_auth: false, during_multi: false, while_subscribed: false, summary }
    }

    /// Also for whom nobody knows yet.
    const fn before_auth(mut self) -> Self {
        self.before_auth = true;
        self
    }

    /// Also between `MULTI` and `EXEC`, at once.
    const fn during_multi(mut self) -> Self {
        self.during_multi = true;
        self
    }

    const fn while_subscribed(mut self) -> Self {
        self.while_subscribed = true;
        self
    }
}

const NONE: (i32, i32, i32) = (0, 0, 0);
const ONE: (i32, i32, i32) = (1, 1, 1);
const ALL: (i32, i32, i32) = (1, -1, 1);

const fn read(name: &'static str, arity: i32, run: Run, weight: Weight, summary: &'static str) -> Spec {
    Spec::new(name, arity, Does::Read(run, weight), ONE, summary)
}

const fn write(name: &'static str, arity: i32, run: Run, summary: &'static str) -> Spec {
    Spec::new(name, arity, Does::Write(run), ONE, summary)
}

const fn conn(name: &'static str, arity: i32, run: ClientRun, summary: &'static str) -> Spec {
    Spec::new(name, arity, Does::Client(run), NONE, summary)
}

const fn talk(name: &'static str, arity: i32, run: TalkRun, summary: &'static str) -> Spec {
    Spec::new(name, arity, Does::Talk(run), NONE, summary)
}

const fn with_keys(mut spec: Spec, keys: (i32, i32, i32)) -> Spec {
    spec.keys = keys;
    spec
}

/// All commands, by name.
pub(super) static COMMANDS: &[Spec] = &[
    write("append", 3, strings::append, "Appends to a text"),
    conn("auth", -2, server::auth, "Says who the client is: AUTH token").before_auth(),
    talk(
        "client",
        -2,
        server::client,
        "Looks at connections: ID, INFO, LIST, KILL, GETNAME, SETNAME, SETINFO, NO-EVICT, NO-TOUCH",
    ),
    talk("command", -1, server::command, "Lists the commands: COUNT, DOCS, INFO, LIST, GETKEYS"),
    talk("config", -2, server::config, "Shows settings that clients ask for: GET"),
    Spec::new("dbsize", 1, Does::Read(scan::dbsize, Weight::Scan), NONE, "Counts the keys"),
    write("decr", 2, strings::decr, "Subtracts one"),
    write("decrby", 3, strings::decrby, "Subtracts a number"),
    with_keys(write("del", -2, strings::del, "Removes keys and what is below them"), ALL),
    conn("discard", 1, multi::discard, "Forgets a transaction").during_multi(),
    Spec::new("echo", 2, Does::Read(server::echo, Weight::Point), NONE, "Says what it is told"),
    conn("exec", 1, multi::exec, "Carries out a transaction in one commit").during_multi(),
    with_keys(read("exists", -2, strings::exists, Weight::Point, "Counts the keys that exist"), ALL),
    read("get", 2, strings::get, Weight::Value, "The text at a key; the compact JSON of what is below it"),
    write("getdel", 2, strings::getdel, "The text at a key, which is removed"),
    write("getset", 3, strings::getset, "Replaces a text and gives the old one"),
    write("hdel", -3, hashes::hdel, "Removes fields"),
    conn("hello", -1, server::hello, "Chooses the protocol version").before_auth(),
    read("hexists", 3, hashes::hexists, Weight::Point, "Does a field exist?"),
    read("hget", 3, hashes::hget, Weight::Values, "One field"),
    read("hgetall", 2, hashes::hgetall, Weight::Values, "All fields and their values"),
    write("hincrby", 4, hashes::hincrby, "Adds to a field"),
    read("hkeys", 2, hashes::hkeys, Weight::Values, "All fields"),
    read("hlen", 2, hashes::hlen, Weight::Values, "Counts the fields"),
    read("hmget", -3, hashes::hmget, Weight::Values, "Some fields"),
    write("hmset", -4, hashes::hmset, "Sets fields"),
    read("hscan", -3, scan::hscan, Weight::Scan, "Some fields, and where to go on"),
    write("hset", -4, hashes::hset, "Sets fields"),
    write("hsetnx", 4, hashes::hsetnx, "Sets a field that is not there"),
    read("hstrlen", 3, hashes::hstrlen, Weight::Values, "Length of a field's text"),
    read("hvals", 2, hashes::hvals, Weight::Values, "All values"),
    write("incr", 2, strings::incr, "Adds one"),
    write("incrby", 3, strings::incrby, "Adds a number"),
    write("incrbyfloat", 3, strings::incrbyfloat, "Adds a number with a fraction"),
    talk("info", -1, server::info, "Figures about the server"),
    write("json.del", -2, json::del, "Removes a part of a document"),
    write("json.forget", -2, json::del, "Removes a part of a document"),
    read("json.get", -2, json::get, Weight::Values, "Parts of a document"),
    write("json.set", -4, json::set, "Replaces a part of a document"),
    read("json.type", -2, json::type_of, Weight::Values, "The type of a part of a document"),
    Spec::new("keys", 2, Does::Read(scan::keys, Weight::Scan), NONE, "The keys that match a pattern"),
    with_keys(read("mget", -2, strings::mget, Weight::Values, "The texts at some keys"), ALL),
    with_keys(write("mset", -3, strings::mset, "Sets some keys in one write"), (1, -1, 2)),
    conn("multi", 1, multi::multi, "Begins a transaction").during_multi(),
    talk("ping", -1, server::ping, "Is anybody there?").while_subscribed(),
    conn("psubscribe", -2, pubsub::psubscribe, "Subscribes to patterns").while_subscribed(),
    talk("publish", 3, pubsub::publish, "Sends a message to who is subscribed now"),
    talk("pubsub", -2, pubsub::pubsub, "Looks at channels: CHANNELS, NUMSUB, NUMPAT"),
    conn("punsubscribe", -1, pubsub::punsubscribe, "Ends subscriptions to patterns").while_subscribed(),
    conn("quit", -1, server::quit, "Says goodbye").before_auth().during_multi().while_subscribed(),
    conn("reset", 1, server::reset, "Begins anew on this connection").before_auth().during_multi().while_subscribed(),
    Spec::new("scan", -2, Does::Read(scan::scan, Weight::Scan), NONE, "Some keys, and where to go on"),
    talk("select", 2, server::select, "There is one database: 0"),
    write("set", -3, strings::set_command, "Sets a text: NX, XX, GET, KEEPTTL"),
    write("setnx", 3, strings::setnx, "Sets a text that is not there"),
    with_keys(conn("standpipe.lease", 3, lease::lease, "Sets a text that goes when this connection closes"), ONE),
    with_keys(conn("standpipe.onclose", 3, lease::on_close, "Sets a text when this connection closes"), ONE),
    with_keys(
        conn("standpipe.release", 2, lease::release, "Forgets what would happen at close at a key and below"),
        ONE,
    ),
    read("strlen", 2, strings::strlen, Weight::Point, "Length of a text"),
    conn("subscribe", -2, pubsub::subscribe, "Subscribes to channels").while_subscribed(),
    Spec::new("time", 1, Does::Read(server::time, Weight::Point), NONE, "The server's clock"),
    read("type", 2, strings::type_of, Weight::Point, "string, hash or none"),
    with_keys(write("unlink", -2, strings::del, "Removes keys and what is below them"), ALL),
    conn("unsubscribe", -1, pubsub::unsubscribe, "Ends subscriptions").while_subscribed(),
    talk("unwatch", 1, multi::unwatch, "Forgets what was watched"),
    with_keys(
        conn("watch", -2, multi::watch, "Makes a transaction depend on keys being unchanged").during_multi(),
        ALL,
    ),
    with_keys(conn("xadd", -5, streams::xadd, "Appends to a stream, which begins with its first entry"), ONE),
    with_keys(conn("xinfo", -2, streams::xinfo, "Looks at a stream: STREAM"), (2, 2, 1)),
    with_keys(conn("xlen", 2, streams::xlen, "Counts the entries that are kept"), ONE),
    with_keys(conn("xrange", -4, streams::xrange, "Entries between two ids: COUNT"), ONE),
    conn("xread", -4, streams::xread, "Entries behind an id, of some streams: COUNT, BLOCK"),
    with_keys(conn("xrevrange", -4, streams::xrevrange, "Entries between two ids, the newest first: COUNT"), ONE),
];

/// The command called `name`; `last` is the one that was found before.
pub(super) fn find(last: &'static Spec, name: &[u8]) -> Option<&'static Spec> {
    if name.eq_ignore_ascii_case(last.name.as_bytes()) {
        return Some(last);
    }
    let mut lower = [0; 24];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let at = COMMANDS.binary_search_by(|spec| spec.name.as_bytes().cmp(lower)).ok()?;
    Some(&COMMANDS[at])
}

/// The table as the page of the door shows it (Markdown).
pub fn page() -> String {
    let row =
        |spec: &Spec| format!("| `{}` | {} |\n", spec.name.to_ascii_uppercase(), spec.summary.replace('|', "\\|"));
    "| command | what it does |\n|---|---|\n".to_owned() + &COMMANDS.iter().map(row).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_finds_its_commands() {
        assert!(COMMANDS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for spec in COMMANDS {
            let found = find(&COMMANDS[0], spec.name.to_ascii_uppercase().as_bytes()).unwrap();
            assert_eq!(found.name, spec.name);
        }
        assert!(find(&COMMANDS[0], b"nosuchcommand").is_none());
        assert!(find(&COMMANDS[0], &[b'a'; 100]).is_none());
        assert!(find(&COMMANDS[0], b"").is_none());
    }
}
