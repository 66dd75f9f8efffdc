//! Commands about the connection and the server.

use serde_json::{Map, Value, json};
use standpipe_engine::Error;
use standpipe_serve::CloseReason;

use super::client::Client;
use super::table::{self, COMMANDS, Next};
use super::words::Words;
use crate::auth::Caller;
use crate::commands::Turn;

type Answered = Result<Next, Error>;

fn say(text: &[u8], turn: &mut Turn<'_>) -> Answered {
    turn.out.extend_from_slice(text);
    turn.out.push(b'\n');
    Ok(Next::Answered)
}

pub(super) fn ping(_: &mut Client, words: Words<'_>, turn: &mut Turn<'_>) -> Answered {
    match words.rest() {
        [] => say(b"PONG", turn),
        text => say(text, turn),
    }
}

pub(super) fn echo(_: &mut Client, words: Words<'_>, turn: &mut Turn<'_>) -> Answered {
    say(words.rest(), turn)
}

pub(super) fn time(_: &mut Client, words: Words<'_>, turn: &mut Turn<'_>) -> Answered {
    words.end()?;
    let now = jiff::Timestamp::now();
    say(format!("{now:.3}").as_bytes(), turn)
}

pub(super) fn stats(client: &mut Client, words: Words<'_>, turn: &mut Turn<'_>) -> Answered {
    words.end()?;
    client.database.check_unruled(&client.identity)?;
    let counted = turn.session.metrics().snapshot();
    let stats = json!({
        "uptime_s": client.shared.started.elapsed().as_secs(),
        "connections": counted.open,
        "watchers": counted.watchers,
        "workers": counted.workers,
        "queue": counted.queue_jobs,
        "requests": counted.requests,
        "refusals": counted.refused,
        "database": client.database.name(),
        "rev": client.database.rev(),
    });
    say(stats.to_string().as_bytes(), turn)
}

pub(super) fn auth(client: &mut Client, mut words: Words<'_>, turn: &mut Turn<'_>) -> Answered {
    let token = words.word("the token")?;
    words.end()?;
    let caller = Caller { credential: Some(token), act_as: None, secure: turn.session.secure() };
    let bearer = client.shared.credentials.identify_now(caller)?;
    client.identify(bearer, turn)?;
    say(b"OK", turn)
}

pub(super) fn choose(client: &mut Client, mut words: Words<'_>, turn: &mut Turn<'_>) -> Answered {
    let name = if words.rest().trim_ascii().is_empty() { None } else { Some(words.word("the name")?) };
    words.end()?;
    client.choose(client.shared.dispatch.database(name)?);
    say(b"OK", turn)
}

pub(super) fn help(_: &mut Client, mut words: Words<'_>, turn: &mut Turn<'_>) -> Answered {
    if words.rest().trim_ascii().is_empty() {
        let all = COMMANDS.iter().map(|spec| (spec.usage(), Value::String(spec.meaning())));
        return say(Value::Object(all.collect::<Map<_, _>>()).to_string().as_bytes(), turn);
    }
    let name = words.word("the command")?;
    words.end()?;
    match table::find(name.as_bytes()) {
        Some(spec) => say(format!("{}: {}", spec.usage(), spec.meaning()).as_bytes(), turn),
        None => Err(super::client::unknown(name.as_bytes())),
    }
}

pub(super) fn quit(_: &mut Client, _: Words<'_>, turn: &mut Turn<'_>) -> Answered {
    say(b"BYE", turn)?;
    Ok(Next::Close(CloseReason::PeerClosed))
}
