//! What a process says, and whom it is for (spec mcp §4.5): replies and progress go to their calls, questions to the client whose
//! call is running, news to the sessions. What belongs to nobody known is dropped, not guessed.

use std::sync::atomic::Ordering;

use standpipe_wire::jsonrpc::{Edit, Kind, Message, Span};

use super::call::{Pending, Purpose, Way};
use super::process::{Post, Process, Role};
use super::table::{Question, Table};
use crate::Outlet;
use crate::era::META_SUBSCRIPTION;
use crate::fault::{INTERNAL, METHOD_NOT_FOUND, UPSTREAM_DIED};

/// Where a modern message names the subscription it belongs to.
const SUBSCRIPTION: [&str; 2] = ["_meta", META_SUBSCRIPTION];
/// A message that is passed on as it came keeps alive the whole block it was read in; shorter ones are copied.
const COPIED_BYTES_MAX: usize = 64 << 10;

/// Whom a question is for.
struct Asked {
    session: u64,
    call: Option<u64>,
    to: Outlet,
}

impl Process {
    /// Takes a message of the process.
    pub(super) fn take(&self, message: Message) {
        match message.kind() {
            Kind::Response => self.take_reply(&message),
            Kind::Notification => self.take_notice(message),
            Kind::Request => self.take_question(&message),
        }
    }

    fn take_reply(&self, message: &Message) {
        let ended = message.id_number().and_then(|number| self.table().end(number));
        let Some((pending, _moot)) = ended else { return self.drop_one() };
        self.answers();
        if let (Purpose::Subscribe(uri), true, Some(post)) = (&pending.purpose, message.is_error(), self.post()) {
            post.seats.unsubscribe(pending.session, uri);
        }
        let reply = match pending.purpose {
            Purpose::Listen => with_subscription(message, &pending.id).with_id(&pending.id),
            _ => message.with_id(&pending.id),
        };
        pending.answer(reply);
    }

    fn take_notice(&self, message: Message) {
        let sent = match message.method() {
            Some("notifications/progress") => self.take_progress(&message),
            Some("notifications/cancelled") => self.take_cancelled(&message),
            _ => self.take_news(message),
        };
        if !sent {
            self.drop_one();
        }
    }

    fn take_progress(&self, message: &Message) -> bool {
        let Ok(Some(span)) = message.at(&["progressToken"]) else { return false };
        let Some(number) = number_at(message, span) else { return false };
        let (to, token) = {
            let mut table = self.table();
            let Some(pending) = table.calls.get_mut(&number) else { return false };
            pending.touch(&self.limits);
            let (Way::Client(to), Some(token)) = (&pending.to, &pending.token) else { return false };
            (to.clone(), token.clone())
        };
        to.send(message.edit(&mut [Edit::replace(span, &token)])).is_ok()
    }

    /// The process does not want to know any more what it has asked.
    fn take_cancelled(&self, message: &Message) -> bool {
        let Ok(Some(span)) = message.at(&["requestId"]) else { return false };
        let found = {
            let mut table = self.table();
            let is_meant = |question: &Question| *question.id == *message.slice(span);
            let number = table.questions.iter().find(|(_, question)| is_meant(question)).map(|(number, _)| *number);
            number.and_then(|number| {
                let session = table.questions.get(&number)?.session;
                Some((number, table.answered(number, session, &self.limits)?))
            })
        };
        let Some((number, question)) = found else { return false };
        let own = itoa::Buffer::new().format(number).to_owned();
        question.to.send(message.edit(&mut [Edit::replace(span, own.as_bytes())])).is_ok()
    }

    fn take_news(&self, message: Message) -> bool {
        let Some(post) = self.post() else { return false };
        let outlets = match post.role {
            Role::Modern => return self.take_modern(&message),
            Role::Session => self.for_session(post, &message),
            Role::Shared => self.for_sessions(post, &message),
        };
        let message = compact(message);
        outlets.iter().filter(|to| to.send(message.clone()).is_ok()).count() > 0
    }

    /// News of a modern process belong to a subscription, or to the one call that runs.
    fn take_modern(&self, message: &Message) -> bool {
        let span = message.at(&SUBSCRIPTION).ok().flatten();
        let Some(number) = span.and_then(|span| number_at(message, span)) else {
            let only = only_call(&self.table());
            return only.is_some_and(|asked| asked.to.send(compact(message.clone())).is_ok());
        };
        let Some((to, id)) = self.table().calls.get(&number).and_then(listening) else { return false };
        to.send(with_subscription(message, &id)).is_ok()
    }

    fn for_session(&self, post: &Post, message: &Message) -> Vec<Outlet> {
        let asked = if is_of_all_calls(message) { None } else { only_call(&self.table()) };
        match asked {
            Some(asked) => vec![asked.to],
            None => post.seats.everybody(),
        }
    }

    fn for_sessions(&self, post: &Post, message: &Message) -> Vec<Outlet> {
        let text = |name| message.text_at(&[name]).ok().flatten();
        match message.method() {
            Some("notifications/resources/updated") => {
                text("uri").map(|uri| post.seats.of_resource(&uri)).unwrap_or_default()
            }
            _ if is_of_all_calls(message) => post.seats.everybody(),
            _ => {
                let level = text("level");
                let only = only_call(&self.table());
                match only {
                    Some(asked) if post.seats.hears(asked.session, level.as_deref()) => vec![asked.to],
                    Some(_) => Vec::new(),
                    None => post.seats.of_log(level.as_deref()),
                }
            }
        }
    }

    fn take_question(&self, message: &Message) {
        let (Some(id), Some(method)) = (message.id(), message.method()) else { return };
        if method == "ping" {
            return self.push(&Message::result(id, b"{}"));
        }
        let refuse = |code, why: &str| self.push(&Message::error(Some(id), code, why, None));
        let asked = match self.whom_to_ask(method) {
            Ok(asked) => asked,
            Err((code, why)) => return refuse(code, why),
        };
        let number = self.number();
        let question = Question { id: id.into(), session: asked.session, call: asked.call, to: asked.to.clone() };
        if !self.table().ask(number, question) {
            return refuse(INTERNAL, "too many questions are open");
        }
        let own = itoa::Buffer::new().format(number).to_owned();
        if asked.to.send(message.with_id(own.as_bytes())).is_err() {
            let withdrawn = self.table().answered(number, asked.session, &self.limits);
            if withdrawn.is_some() {
                refuse(INTERNAL, "the client has left");
            }
        }
    }

    fn whom_to_ask(&self, method: &str) -> Result<Asked, (i64, &'static str)> {
        let Some(post) = self.post() else { return Err((INTERNAL, "nobody is here yet")) };
        let only = only_call(&self.table());
        match post.role {
            Role::Modern => Err((METHOD_NOT_FOUND, "servers ask by `input_required` in this version of the protocol")),
            Role::Session => {
                let news = || {
                    let (session, to) = post.seats.first()?;
                    Some(Asked { session, call: None, to })
                };
                only.or_else(news).ok_or((INTERNAL, "the client has left"))
            }
            Role::Shared => {
                let asked = match only {
                    Some(asked) => asked,
                    None => self.only_session(post).ok_or((
                        INTERNAL,
                        "which client this is for can't be told: no call is running, or calls of several clients are",
                    ))?,
                };
                match post.seats.can_be_asked(asked.session, method) {
                    true => Ok(asked),
                    false => Err((METHOD_NOT_FOUND, "the client whose call is running can't be asked this")),
                }
            }
        }
    }

    /// The session that all running calls are of.
    fn only_session(&self, post: &Post) -> Option<Asked> {
        let session = {
            let table = self.table();
            let mut sessions = candidates(&table).map(|(_, pending)| pending.session);
            let session = sessions.next()?;
            sessions.all(|other| other == session).then_some(session)?
        };
        Some(Asked { session, call: None, to: post.seats.news(session)? })
    }

    /// A message of the process is too long, and begins so: its call is told so, if that can be seen.
    pub(super) fn too_long(&self, head: &[u8]) {
        let Some(number) = id_in(head) else { return };
        let Some((pending, _moot)) = self.table().end(number) else { return };
        let most = self.limits.message_bytes;
        let message = format!(
            "server {} answered with more than {most} bytes (mcp_message_bytes_max) and was ended: ask for less, or raise the limit",
            self.name
        );
        pending.fail(&crate::Fault::new(UPSTREAM_DIED, message));
    }

    fn drop_one(&self) {
        self.counters.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether a call is one that a process may ask or tell something for.
fn is_running(pending: &Pending) -> bool {
    matches!(pending.purpose, Purpose::Call | Purpose::Subscribe(_)) && matches!(pending.to, Way::Client(_))
}

/// The calls that a question or a message of the process may belong to: those for which it may ask, or all if none of them runs.
fn candidates(table: &Table) -> impl Iterator<Item = (u64, &Pending)> {
    let running = || table.calls.iter().filter(|(_, pending)| is_running(pending));
    let asks = running().any(|(_, pending)| pending.may_ask);
    running().filter(move |(_, pending)| pending.may_ask || !asks).map(|(number, pending)| (*number, pending))
}

/// The one call that runs, if there is one.
fn only_call(table: &Table) -> Option<Asked> {
    let mut running = candidates(table);
    let (number, pending) = running.next()?;
    let Way::Client(to) = &pending.to else { return None };
    let asked = Asked { session: pending.session, call: Some(number), to: to.clone() };
    running.next().is_none().then_some(asked)
}

fn listening(pending: &Pending) -> Option<(Outlet, Box<[u8]>)> {
    match &pending.to {
        Way::Client(to) => Some((to.clone(), pending.id.clone())),
        _ => None,
    }
}

/// Whether it is news that no call has to do with.
fn is_of_all_calls(message: &Message) -> bool {
    let method = message.method().unwrap_or_default();
    method.ends_with("/list_changed")
        || matches!(method, "notifications/resources/updated" | "notifications/tasks/status")
}

fn number_at(message: &Message, span: Span) -> Option<u64> {
    std::str::from_utf8(message.slice(span)).ok()?.parse().ok()
}

/// The message with the client's id of its subscription.
fn with_subscription(message: &Message, id: &[u8]) -> Message {
    match message.at(&SUBSCRIPTION) {
        Ok(Some(span)) => message.edit(&mut [Edit::replace(span, id)]),
        _ => message.clone(),
    }
}

/// The message in bytes of its own, unless that would cost more than it saves.
fn compact(message: Message) -> Message {
    if message.bytes().len() > COPIED_BYTES_MAX { message } else { message.detached() }
}

/// The id in the first bytes of a reply, where it stands before anything that could have members of its own. The rest of it is not
/// waited for.
fn id_in(head: &[u8]) -> Option<u64> {
    let end = memchr::memchr(b'{', head.get(1..)?).map_or(head.len(), |at| at + 1);
    let head = &head[..end];
    let at = memchr::memmem::find(head, b"\"id\"")? + 4;
    let digits = head[at..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&digits[..length]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_long_reply_is_found_where_it_stands_first() {
        let check = |head: &[u8], id| assert_eq!(id_in(head), id, "{}", String::from_utf8_lossy(head));
        check(br#"{"jsonrpc":"2.0","id":12,"result":{"id":3"#, Some(12));
        check(br#"{"jsonrpc":"2.0", "id" : 12 ,"result":"#, Some(12));
        check(br#"{"jsonrpc":"2.0","result":{"id":3"#, None);
        check(br#"{"id":"12""#, None);
        check(b"xxxx", None);
        check(b"", None);
    }
}
