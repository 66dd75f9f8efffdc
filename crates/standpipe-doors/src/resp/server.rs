//! Commands about the connection and the server: `HELLO`, `AUTH`, `CLIENT`, `COMMAND`, `CONFIG`, `INFO`.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use standpipe_engine::Identity;
use standpipe_serve::{CloseReason, Session, SessionInfo};

use super::call::{Call, Fault, Ran, is};
use super::client::{Client, More, Next};
use super::glob;
use super::reply::{Reply, Version};
use super::table::{COMMANDS, Does, Spec};
use crate::auth::{Caller, Identified};
use crate::commands::Turn;

/// The version of redis whose commands these are.
const REDIS_VERSION: &str = "7.0.15";

/// Longest name a client may give itself.
const NAME_BYTES_MAX: usize = 256;

type Answered = Result<Next, Fault>;

pub(super) fn ping(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Result<(), Fault> {
    let subscribed = client.more.as_ref().is_some_and(|more| more.subscriptions.is_some());
    let mut reply = client.reply(turn.out);
    match args {
        [_] if subscribed && reply.version == Version::Two => {
            reply.array(2);
            reply.bulk(b"pong");
            reply.bulk(b"");
        }
        [_, text] if subscribed && reply.version == Version::Two => {
            reply.array(2);
            reply.bulk(b"pong");
            reply.bulk(text);
        }
        [_] => reply.out.extend_from_slice(b"+PONG\r\n"),
        [_, text] => reply.bulk(text),
        _ => return Err(Fault::err("wrong number of arguments for 'ping' command")),
    }
    Ok(())
}

pub(super) fn echo(call: &mut Call<'_>) -> Ran {
    let text = call.arg(1);
    call.reply.bulk(text);
    Ok(None)
}

pub(super) fn time(call: &mut Call<'_>) -> Ran {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    call.reply.array(2);
    call.reply.bulk(now.as_secs().to_string().as_bytes());
    call.reply.bulk(now.subsec_micros().to_string().as_bytes());
    Ok(None)
}

pub(super) fn quit(client: &mut Client, _: &[&[u8]], turn: &mut Turn<'_>) -> Answered {
    client.reply(turn.out).ok();
    Ok(Next::Close(CloseReason::PeerClosed))
}

pub(super) fn reset(client: &mut Client, _: &[&[u8]], turn: &mut Turn<'_>) -> Answered {
    client.more = None;
    client.identity = Identity::Anonymous;
    client.expiry.set(None);
    client.version = Version::Two;
    client.reply(turn.out).simple("RESET");
    Ok(Next::Answered)
}

pub(super) fn select(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Result<(), Fault> {
    match super::call::integer(args[1]) {
        Some(0) => client.reply(turn.out).ok(),
        Some(_) => return Err(Fault::err("DB index is out of range")),
        None => return Err(Fault::err("invalid DB index")),
    }
    Ok(())
}

pub(super) fn auth(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Answered {
    // With two arguments the first is a user's name, which a token says by itself.
    let token = match args {
        [_, token] | [_, _, token] => token,
        _ => return Err(Fault::SYNTAX),
    };
    let bearer = identify(client, token, turn.session)?;
    client.become_known(bearer, turn)?;
    client.reply(turn.out).ok();
    Ok(Next::Answered)
}

fn identify(client: &Client, token: &[u8], session: &Session) -> Result<Identified, Fault> {
    let token = std::str::from_utf8(token).map_err(|_| Fault::err("a token is text"))?;
    let caller = Caller { credential: Some(token), act_as: None, secure: session.secure() };
    Ok(client.shared.credentials.identify_now(caller)?)
}

pub(super) fn hello(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Answered {
    let (mut version, mut bearer, mut name) = (client.version, None, None);
    let mut rest = &args[1..];
    if let [wanted, more @ ..] = rest {
        version = match super::call::integer(wanted) {
            Some(2) => Version::Two,
            Some(3) => Version::Three,
            Some(_) => return Err(Fault::Redis("NOPROTO unsupported protocol version".into())),
            None => return Err(Fault::err("Protocol version is not an integer or out of range")),
        };
        rest = more;
    }
    while !rest.is_empty() {
        rest = match rest {
            [option, _, token, more @ ..] if is(option, "auth") => {
                bearer = Some(identify(client, token, turn.session)?);
                more
            }
            [option, wanted, more @ ..] if is(option, "setname") => {
                name = Some(client_name(wanted)?);
                more
            }
            _ => return Err(Fault::SYNTAX),
        };
    }
    let identity = bearer.as_ref().map_or(&client.identity, |bearer| &bearer.identity);
    if client.database.check_entry(identity).is_err() {
        return Err(Fault::Redis(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
             <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the \
             same time"
                .into(),
        ));
    }
    client.version = version;
    if let Some(bearer) = bearer {
        client.become_known(bearer, turn)?;
    }
    if let Some(name) = name {
        client.more().name = name;
    }
    let mut reply = client.reply(turn.out);
    reply.map(7);
    let mut text = |name: &str, value: &str| {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    };
    text("server", "redis");
    text("version", REDIS_VERSION);
    text("mode", "standalone");
    text("role", "master");
    reply.bulk(b"proto");
    reply.integer(if version == Version::Three { 3 } else { 2 });
    reply.bulk(b"id");
    reply.integer(turn.session.id() as i64);
    let mut reply = client.reply(turn.out);
    reply.bulk(b"modules");
    reply.array(0);
    Ok(Next::Answered)
}

fn client_name(name: &[u8]) -> Result<String, Fault> {
    let plain = name.iter().all(|byte| (b'!'..=b'~').contains(byte)) && name.len() <= NAME_BYTES_MAX;
    match plain {
        true => Ok(String::from_utf8_lossy(name).into_owned()),
        false => Err(Fault::err("Client names cannot contain spaces, newlines or special characters.")),
    }
}

pub(super) fn client(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Result<(), Fault> {
    match &args[1..] {
        [what] if is(what, "id") => client.reply(turn.out).integer(turn.session.id() as i64),
        [what] if is(what, "getname") => match client.more.as_ref().map(|more| &more.name) {
            Some(name) if !name.is_empty() => client.reply(turn.out).bulk(name.as_bytes()),
            _ => client.reply(turn.out).null(),
        },
        [what, name] if is(what, "setname") => {
            client.more().name = client_name(name)?;
            client.reply(turn.out).ok();
        }
        [what, attribute, value] if is(what, "setinfo") => {
            let value = client_name(value)?;
            match attribute {
                attribute if is(attribute, "lib-name") => client.more().library = value,
                attribute if is(attribute, "lib-ver") => client.more().library_version = value,
                _ => return Err(Fault::err("Unrecognized option for CLIENT SETINFO")),
            }
            client.reply(turn.out).ok();
        }
        // Nothing is evicted here, and nothing is touched: these hold by themselves.
        [what, _] if is(what, "no-evict") || is(what, "no-touch") => client.reply(turn.out).ok(),
        [what] if is(what, "info") => {
            let own = turn.session.sessions().into_iter().find(|info| info.id == turn.session.id());
            let text = own.map(|info| line(&info, client.more.as_deref())).unwrap_or_default();
            client.reply(turn.out).bulk(text.as_bytes());
        }
        [what, filter @ ..] if is(what, "list") => {
            admin(client)?;
            let ids = ids(filter)?;
            let wanted = |info: &SessionInfo| {
                info.door == turn.session.door() && ids.as_ref().is_none_or(|ids| ids.contains(&info.id))
            };
            // What others call themselves only they know.
            let own = |info: &SessionInfo| client.more.as_deref().filter(|_| info.id == turn.session.id());
            let sessions = turn.session.sessions();
            let text: String = sessions.iter().filter(|info| wanted(info)).map(|info| line(info, own(info))).collect();
            client.reply(turn.out).bulk(text.as_bytes());
        }
        [what, how, id] if is(what, "kill") && is(how, "id") => {
            admin(client)?;
            let id = super::call::integer(id).and_then(|id| u64::try_from(id).ok());
            let killed = id.ok_or(Fault::err("client-id should be greater than 0"))?;
            client.reply(turn.out).integer(i64::from(turn.session.kick(killed)));
        }
        _ => {
            return Err(Fault::err(
                "unknown subcommand or wrong number of arguments. Try CLIENT ID, INFO, LIST [ID n ...], KILL ID n, GETNAME, \
                 SETNAME, SETINFO, NO-EVICT or NO-TOUCH.",
            ));
        }
    }
    Ok(())
}

/// Others' connections are an administrator's business, unless everybody is one.
fn admin(client: &Client) -> Result<(), Fault> {
    Ok(client.database.check_unruled(&client.identity)?)
}

fn ids(filter: &[&[u8]]) -> Result<Option<Vec<u64>>, Fault> {
    match filter {
        [] => Ok(None),
        [what, ids @ ..] if is(what, "id") && !ids.is_empty() => {
            let id = |text: &&[u8]| super::call::integer(text).and_then(|id| u64::try_from(id).ok());
            let ids: Option<Vec<u64>> = ids.iter().map(id).collect();
            ids.map(Some).ok_or(Fault::err("Invalid client ID"))
        }
        _ => Err(Fault::SYNTAX),
    }
}

fn line(info: &SessionInfo, more: Option<&More>) -> String {
    let (name, library, version) = more.map_or(("", "", ""), |more| (&more.name, &more.library, &more.library_version));
    format!(
        "id={} addr={}:0 laddr= fd=0 name={name} age={} idle={} flags=N db=0 sub={} psub=0 multi=-1 tot-net-in={} \
         tot-net-out={} lib-name={library} lib-ver={version}\n",
        info.id,
        info.peer,
        info.age.as_secs(),
        info.idle.as_secs(),
        info.watchers,
        info.bytes_in,
        info.bytes_out,
    )
}

pub(super) fn command(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Result<(), Fault> {
    let mut reply = client.reply(turn.out);
    let named = |names: &[&[u8]]| -> Vec<Option<&'static Spec>> {
        names.iter().map(|name| super::table::find(&COMMANDS[0], name)).collect()
    };
    match &args[1..] {
        [] => {
            reply.array(COMMANDS.len());
            COMMANDS.iter().for_each(|spec| describe(spec, &mut reply));
        }
        [what] if is(what, "count") => reply.integer(COMMANDS.len() as i64),
        [what] if is(what, "list") => {
            reply.array(COMMANDS.len());
            COMMANDS.iter().for_each(|spec| reply.bulk(spec.name.as_bytes()));
        }
        [what, names @ ..] if is(what, "info") => {
            reply.array(names.len());
            for spec in named(names) {
                match spec {
                    Some(spec) => describe(spec, &mut reply),
                    None => reply.null_array(),
                }
            }
        }
        [what, names @ ..] if is(what, "docs") => {
            let wanted: Vec<&Spec> = match names {
                [] => COMMANDS.iter().collect(),
                names => named(names).into_iter().flatten().collect(),
            };
            reply.map(wanted.len());
            for spec in wanted {
                reply.bulk(spec.name.as_bytes());
                reply.map(2);
                reply.bulk(b"summary");
                reply.bulk(spec.summary.as_bytes());
                reply.bulk(b"since");
                reply.bulk(b"1.0.0");
            }
        }
        [what, call @ ..] if is(what, "getkeys") && !call.is_empty() => {
            let spec = named(&call[..1])[0].ok_or(Fault::err("Invalid command specified"))?;
            let keys = keys_of(spec, call);
            if keys.is_empty() {
                return Err(Fault::err("The command has no key arguments"));
            }
            reply.array(keys.len());
            keys.iter().for_each(|key| reply.bulk(key));
        }
        _ => return Err(Fault::err("unknown subcommand. Try COMMAND, COUNT, DOCS, INFO, LIST or GETKEYS.")),
    }
    Ok(())
}

fn keys_of<'a>(spec: &Spec, call: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let (first, last, step) = spec.keys;
    let last = if last < 0 { call.len() as i32 + last } else { last };
    match first {
        0 => Vec::new(),
        _ => (first..=last).step_by(step as usize).filter_map(|at| call.get(at as usize).copied()).collect(),
    }
}

fn describe(spec: &Spec, reply: &mut Reply<'_>) {
    reply.array(6);
    reply.bulk(spec.name.as_bytes());
    reply.integer(i64::from(spec.arity));
    let flags: &[&str] = match &spec.does {
        Does::Read(..) => &["readonly"],
        Does::Write(_) => &["write"],
        Does::Client(_) | Does::Talk(_) => &["fast"],
    };
    reply.array(flags.len());
    flags.iter().for_each(|flag| reply.simple(flag));
    let (first, last, step) = spec.keys;
    [first, last, step].iter().for_each(|number| reply.integer(i64::from(*number)));
}

/// What clients ask for before they begin. Nothing can be set here: the configuration is a file.
pub(super) fn config(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Result<(), Fault> {
    let [what, patterns @ ..] = &args[1..] else { return Err(Fault::SYNTAX) };
    if !is(what, "get") || patterns.is_empty() {
        return Err(Fault::err("only CONFIG GET is known here: settings are in the configuration file of the server"));
    }
    let maxclients = turn.limits.connections_max.to_string();
    let timeout = (turn.limits.idle_ms_max / 1_000).to_string();
    let databases = "1".to_owned();
    let known: [(&str, &str); 9] = [
        ("appendfsync", "always"),
        ("appendonly", "yes"),
        ("databases", &databases),
        ("maxclients", &maxclients),
        ("maxmemory", "0"),
        ("maxmemory-policy", "noeviction"),
        ("notify-keyspace-events", "AKE"),
        ("save", ""),
        ("timeout", &timeout),
    ];
    let wanted =
        |name: &str| patterns.iter().any(|pattern| glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes()));
    let found: Vec<_> = known.iter().filter(|(name, _)| wanted(name)).collect();
    let mut reply = client.reply(turn.out);
    reply.map(found.len());
    for (name, value) in found {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    Ok(())
}

pub(super) fn info(client: &mut Client, args: &[&[u8]], turn: &mut Turn<'_>) -> Result<(), Fault> {
    let section = |name: &str| {
        let all = ["all", "default", "everything"];
        args.len() == 1 || args[1..].iter().any(|arg| is(arg, name) || all.iter().any(|all| is(arg, all)))
    };
    let counters = turn.session.metrics().snapshot();
    let stats = client.database.stats();
    let mut text = String::new();
    let mut add = |name: &str, lines: String| {
        if section(name) {
            let mut title = name.to_owned();
            title[..1].make_ascii_uppercase();
            write!(text, "{}# {title}\r\n{lines}", if text.is_empty() { "" } else { "\r\n" })
                .expect("writing to memory does not fail");
        }
    };
    add(
        "server",
        format!(
            "redis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\nstandpipe_version:{}\r\nprocess_id:{}\r\n\
             uptime_in_seconds:{}\r\n",
            env!("CARGO_PKG_VERSION"),
            std::process::id(),
            client.shared.started.elapsed().as_secs(),
        ),
    );
    add("clients", format!("connected_clients:{}\r\nmaxclients:{}\r\n", counters.open, turn.limits.connections_max));
    add("memory", format!("used_memory:{}\r\nmaxmemory:0\r\n", stats.used_bytes));
    add(
        "stats",
        format!(
            "total_connections_received:{}\r\ntotal_commands_processed:{}\r\ntotal_net_input_bytes:{}\r\n\
             total_net_output_bytes:{}\r\nrejected_connections:{}\r\npubsub_channels:{}\r\npubsub_patterns:{}\r\n",
            counters.accepted,
            counters.requests,
            counters.bytes_in,
            counters.bytes_out,
            counters.refusals.values().sum::<u64>(),
            client.shared.bus.channels(None).len(),
            client.shared.bus.patterns(),
        ),
    );
    add("persistence", "loading:0\r\naof_enabled:1\r\n".into());
    add("replication", "role:master\r\nconnected_slaves:0\r\n".into());
    add("cluster", "cluster_enabled:0\r\n".into());
    // How often is written tells of what is written.
    let shown = client.database.check_unruled(&client.identity).is_ok();
    add("keyspace", if shown { format!("db0:rev={}\r\n", stats.rev) } else { String::new() });
    client.reply(turn.out).bulk(text.as_bytes());
    Ok(())
}
