//! One session, whatever carries it: requests are executed and answered in their order, and news of what
//! is listened to goes out before the answers to the writes that made it (firebase-rtdb §5.4).
//!
//! Writes are handed to the writer as they come, so a burst of them shares a commit. Everything else waits
//! until the writes before it are answered. An answer to a write of revision R stands behind all news up to R,
//! a refusal behind all that was published when it was given.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use standpipe_engine::{Committed, Database, Error, ErrorKind, Identity, Op};
use standpipe_serve::{BytesPermit, Class, CloseReason, Cost, Deadline, Outcome, Refusal, RequestGuard, Session};
use standpipe_tree::Path;
use standpipe_wire::firebase::{self as wire, Malformed, Message, Request};
use tokio::time::{Instant, sleep_until};

use super::Context;
use super::listens::{Listens, News};
use super::request::{Change, Refused, Unread, ask};
use crate::auth::{Caller, EXPIRED, Identified, instant};
use crate::dispatch::{Leases, Write, refused, run};
use crate::fault;

/// Writes whose answers may be under way at once; more wait unread.
const WRITES_MAX: usize = 1_024;

/// Messages handled between two looks at what else there is to do.
const BURST: usize = 64;

/// A value of more bytes is read by a worker.
const SMALL_BYTES: usize = 4 << 10;

/// Bytes of messages that wait to be sent before they are, whatever else there is to do.
const OUT_BYTES: usize = 256 << 10;

/// What carries the messages of a session: a WebSocket, or a client that polls.
pub(crate) trait Link: Send {
    /// The next thing the client says. May be dropped at any await without losing a message.
    fn recv(&mut self) -> impl Future<Output = Incoming> + Send;

    /// Sends whole messages, in their order; returns when there is room for more. An error is the end.
    fn send(&mut self, messages: Vec<Bytes>) -> impl Future<Output = Result<(), CloseReason>> + Send;

    /// Says goodbye, as far as that is possible now: the session ends for `reason`, and `words` say why.
    fn close(&mut self, reason: CloseReason, words: &str) -> impl Future<Output = ()> + Send;
}

/// What a client says.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A whole message, and what admitted its bytes if it is a large one.
    Message(String, Option<BytesPermit>),
    /// That it is there.
    KeepAlive,
    /// Nothing any more.
    End(CloseReason),
}

/// Serves a session to its end, and says goodbye.
pub(crate) async fn serve<L: Link>(link: L, session: Session, context: Context) -> CloseReason {
    if let Some(last) = &context.last_session
        && context.sessions.end(last, &context.database).await
    {
        // What that one left for its end is in the writer's queue: this comes back behind it.
        let deadline = Deadline::after(session.limits().request_ms_max);
        let nothing = Write::new(Op::Batch(Vec::new()));
        let _stopped = context.dispatch.write(&context.database, &Identity::Admin, nothing, deadline).await;
    }
    let entry = context.sessions.enter(&context.id, &session, &context.database);
    let mut talk = Talk::new(link, session, context);
    let Err(End { reason, words }) = talk.talk().await;
    let Talk { mut link, listens, flight, leases, .. } = talk;
    // What is to be done at the end is handed to the writer before the client hears of the end.
    drop((listens, flight, leases));
    link.close(reason, &words).await;
    drop(entry);
    reason
}

/// The session is over.
struct End {
    reason: CloseReason,
    words: String,
}

impl From<CloseReason> for End {
    fn from(reason: CloseReason) -> Self {
        Self { reason, words: String::new() }
    }
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        fault::log(&error);
        let reason = match error.kind() {
            ErrorKind::Overloaded | ErrorKind::Unavailable | ErrorKind::Deadline => {
                let retry_ms = error.retry_after().map_or(0, |after| after.as_millis() as u32);
                CloseReason::Refused(Refusal::QueueFull { retry_ms })
            }
            _ => CloseReason::Internal,
        };
        Self { reason, words: error.message().to_owned() }
    }
}

/// A request whose answer is not out yet.
struct Flight {
    number: u64,
    answer: Answer,
    request: RequestGuard,
}

enum Answer {
    /// With the writer.
    Awaited(Pin<Box<dyn Future<Output = Result<Committed, Error>> + Send>>),
    /// Back from there.
    Written(Result<Committed, Error>),
    /// Known before, but not its turn.
    Message(Vec<u8>),
}

impl Flight {
    /// Whether the answer is there; asked with somebody to wake, who is told when it is.
    fn poll(&mut self, context: &mut std::task::Context<'_>) -> Poll<()> {
        if let Answer::Awaited(answer) = &mut self.answer {
            match answer.poll_unpin(context) {
                Poll::Ready(written) => self.answer = Answer::Written(written),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }
}

/// What there is to do.
enum Wake {
    Look,
    Closing,
    Incoming(Incoming),
    Expired,
}

struct Talk<L> {
    link: L,
    session: Session,
    context: Context,
    database: Arc<Database>,
    /// When the identity ends.
    expires_at: Option<Instant>,
    listens: Listens,
    leases: Leases,
    flight: VecDeque<Flight>,
    out: Vec<Bytes>,
    out_bytes: usize,
    /// News alone are not told before: those that come close together share a write.
    news_at: Instant,
}

impl<L: Link> Talk<L> {
    fn new(link: L, session: Session, context: Context) -> Self {
        let database = context.database.clone();
        let mut talk = Self {
            link,
            session,
            expires_at: None,
            listens: Listens::new(&database),
            leases: Leases::default(),
            flight: VecDeque::new(),
            out: Vec::new(),
            out_bytes: 0,
            news_at: Instant::now(),
            context,
            database,
        };
        let now_ms = talk.database.config().clock.now_ms();
        talk.say(wire::hello(now_ms, &talk.context.host, &talk.context.id));
        talk
    }

    async fn talk(&mut self) -> Result<Infallible, End> {
        loop {
            self.round().await?;
            self.flush().await?;
            match self.wake().await {
                Wake::Look => {}
                Wake::Closing => return Err(self.leave().await?),
                Wake::Incoming(incoming) => self.burst(incoming).await?,
                Wake::Expired => self.expire().await?,
            }
        }
    }

    /// Waits for something to do.
    async fn wake(&mut self) -> Wake {
        let Self { link, session, listens, flight, news_at, expires_at, .. } = self;
        let room = flight.len() < WRITES_MAX;
        let answered = poll_fn(|context| flight.front_mut().map_or(Poll::Pending, |flight| flight.poll(context)));
        let news = async {
            listens.changed().await;
            sleep_until(*news_at).await;
        };
        let expired = async {
            match expires_at {
                Some(at) => sleep_until(*at).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            () = session.closing() => Wake::Closing,
            () = answered => Wake::Look,
            incoming = link.recv(), if room => Wake::Incoming(incoming),
            () = news => Wake::Look,
            () = expired => Wake::Expired,
        }
    }

    /// Handles a message, and those that are here already behind it.
    async fn burst(&mut self, first: Incoming) -> Result<(), End> {
        let mut incoming = Some(first);
        for _ in 0..BURST {
            match incoming {
                None => break,
                Some(Incoming::Message(text, _permit)) => self.message(&text).await?,
                Some(Incoming::KeepAlive) => {}
                Some(Incoming::End(reason)) => return Err(reason.into()),
            }
            incoming = if self.flight.len() < WRITES_MAX { self.link.recv().now_or_never() } else { None };
        }
        match incoming {
            Some(Incoming::Message(text, _permit)) => self.message(&text).await,
            Some(Incoming::End(reason)) => Err(reason.into()),
            Some(Incoming::KeepAlive) | None => Ok(()),
        }
    }

    /// The node or an administrator wants the end: what was written is answered first, if that makes sense.
    async fn leave(&mut self) -> Result<End, End> {
        let reason = self.session.close_reason().unwrap_or(CloseReason::Shutdown);
        if reason == CloseReason::Shutdown {
            self.settle().await?;
            self.flush().await?;
        }
        Ok(reason.into())
    }

    /// The credential has had its time.
    async fn expire(&mut self) -> Result<(), End> {
        self.settle().await?;
        self.say(wire::auth_revoked("expired_token", EXPIRED));
        self.be(Identified::lasting(Identity::Anonymous)).await
    }

    /// Tells news, and answers what has come back, each in its place.
    async fn round(&mut self) -> Result<(), End> {
        let answered = self.answered();
        if answered == 0 && Instant::now() < self.news_at {
            return Ok(());
        }
        // Published before the answers came: they have been looked at already.
        let rev = self.database.rev();
        let news = self.listens.take(&self.session, rev).await?;
        if !news.is_empty() {
            self.news_at = Instant::now() + Duration::from_millis(self.session.limits().watch_gather_ms);
        }
        let mut news = news.into_iter().peekable();
        for _ in 0..answered {
            let Some(Flight { number, answer, mut request }) = self.flight.pop_front() else { break };
            let (behind, message) = match answer {
                Answer::Message(message) => (0, message),
                Answer::Written(Ok(committed)) => written(number, &committed, rev, &mut request),
                Answer::Written(Err(error)) => {
                    request.end(fault::outcome(error.kind()));
                    (rev, refusal(number, &error.into()))
                }
                Answer::Awaited(_) => continue,
            };
            request.finished();
            while let Some(News { message, .. }) = news.next_if(|news| news.rev <= behind) {
                self.tell(message).await?;
            }
            self.say(message);
        }
        for News { message, .. } in news {
            self.tell(message).await?;
        }
        if self.flight.is_empty() && self.flight.capacity() > 0 {
            self.flight = VecDeque::new();
        }
        Ok(())
    }

    /// How many of the requests under way are answered, from the first on.
    fn answered(&mut self) -> usize {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        self.flight.iter_mut().position(|flight| flight.poll(&mut context).is_pending()).unwrap_or(self.flight.len())
    }

    /// Waits until everything before is answered.
    async fn settle(&mut self) -> Result<(), End> {
        while !self.flight.is_empty() {
            poll_fn(|context| self.flight.front_mut().map_or(Poll::Ready(()), |flight| flight.poll(context))).await;
            self.round().await?;
        }
        Ok(())
    }

    /// Puts a message behind all others.
    fn say(&mut self, message: impl Into<Bytes>) {
        let message = message.into();
        self.out_bytes += message.len();
        self.out.push(message);
    }

    /// As [`Talk::say`], where there may be many.
    async fn tell(&mut self, message: Bytes) -> Result<(), End> {
        self.say(message);
        if self.out_bytes > OUT_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Sends what there is; gives up when the connection is to end at once.
    async fn flush(&mut self) -> Result<(), End> {
        if self.out.is_empty() {
            return Ok(());
        }
        let Self { link, session, out, out_bytes, .. } = self;
        // A long message may lie here for as long as its reader is slow, so it counts.
        let _permit = if *out_bytes > OUT_BYTES {
            Some(session.body_bytes(*out_bytes).map_err(CloseReason::Refused)?)
        } else {
            None
        };
        *out_bytes = 0;
        let cut = async {
            session.closing().await;
            match session.close_reason() {
                None | Some(CloseReason::Shutdown) => pending().await,
                Some(reason) => reason,
            }
        };
        tokio::select! {
            biased;
            sent = link.send(std::mem::take(out)) => sent.map_err(End::from),
            reason = cut => Err(reason.into()),
        }
    }

    async fn message(&mut self, text: &str) -> Result<(), End> {
        match wire::parse(text) {
            Ok(Message::Request(request)) => self.request(request).await?,
            Ok(Message::Control { kind }) if kind == "p" => self.say(Bytes::from_static(wire::PONG)),
            Ok(Message::Control { .. }) => {}
            Err(Malformed::NotJson) => {
                return Err(End { reason: CloseReason::ProtocolError, words: Malformed::NotJson.to_string() });
            }
            Err(Malformed::Envelope(words)) => self.say(wire::control_text("e", words)),
            Err(Malformed::Request { number, wrong }) => {
                let request = self.session.request();
                self.answer(number, Err(wrong.into()), request);
            }
        }
        if self.out_bytes > OUT_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn request(&mut self, request: Request<'_>) -> Result<(), End> {
        let guard = self.session.request();
        let Request { number, action, body } = request;
        if let Err(refusal) = self.session.admit_requests(1) {
            self.answer(number, Err(refused(refusal).into()), guard);
            return Ok(());
        }
        if let Some(change) = Change::of(&action) {
            match self.write(change, &body).await {
                Ok(answer) => self.flight.push_back(Flight { number, answer: Answer::Awaited(answer), request: guard }),
                Err(refused) => self.answer(number, Err(refused), guard),
            }
            return Ok(());
        }
        let data = match &*action {
            "s" | "appcheck" | "unappeck" => Ok(NOTHING.to_vec()),
            "q" | "l" | "n" | "g" | "auth" | "gauth" | "unauth" => {
                self.settle().await?;
                match &*action {
                    "q" | "l" => self.listen(&body).await?,
                    "n" => self.unlisten(&body),
                    "g" => self.get(&body).await?,
                    "unauth" => {
                        self.be(Identified::lasting(Identity::Anonymous)).await?;
                        Ok(NOTHING.to_vec())
                    }
                    _ => self.authenticate(&body).await?,
                }
            }
            action => {
                Err(Refused::invalid(format!("unknown action '{}'", action.chars().take(32).collect::<String>())))
            }
        };
        self.answer(number, data, guard);
        Ok(())
    }

    /// An answer that is known at once; it takes its turn behind those under way.
    fn answer(&mut self, number: u64, data: Result<Vec<u8>, Refused>, mut request: RequestGuard) {
        let message = match data {
            Ok(data) => wire::answer(number, "ok", &data),
            Err(refused) => refusal(number, &refused),
        };
        if self.flight.is_empty() {
            request.finished();
            self.say(message);
        } else {
            self.flight.push_back(Flight { number, answer: Answer::Message(message), request });
        }
    }

    /// Hands a write to the writer.
    async fn write(
        &mut self,
        change: Change,
        body: &wire::Body<'_>,
    ) -> Result<Pin<Box<dyn Future<Output = Result<Committed, Error>> + Send>>, Refused> {
        let unread = Unread::new(change, body)?;
        let data = if change == Change::CancelOnEnd { "null" } else { body.data()? };
        let deadline = Deadline::after(self.session.limits().request_ms_max);
        let parsed = if data.len() <= SMALL_BYTES {
            unread.parse(data.as_bytes())?
        } else {
            let data = data.to_owned();
            let cost = Cost::Bytes(data.len());
            run(&self.session, Class::Write, cost, deadline, move || unread.parse(data.as_bytes())).await?
        };
        let write = parsed.write(&self.database, &self.leases);
        let answer = self.context.dispatch.submit(&self.database, self.listens.identity(), write, deadline)?;
        Ok(Box::pin(answer))
    }

    async fn listen(&mut self, body: &wire::Body<'_>) -> Result<Result<Vec<u8>, Refused>, End> {
        let ask = match ask(body) {
            Ok(ask) => ask,
            Err(refused) => return Ok(Err(refused)),
        };
        let mut news = Vec::new();
        let opened = self.listens.open(&self.session, ask, &mut news).await;
        self.tell_all(news).await?;
        match opened {
            Ok(opened) => {
                if let Some(message) = opened.message {
                    self.tell(message).await?;
                }
                // Android's client takes it for an object.
                Ok(Ok(if opened.unindexed { br#"{"w":["no_index"]}"#.to_vec() } else { b"{}".to_vec() }))
            }
            Err(error) => Ok(Err(error.into())),
        }
    }

    fn unlisten(&mut self, body: &wire::Body<'_>) -> Result<Vec<u8>, Refused> {
        let path = Path::parse(&body.path()?)?;
        self.listens.close(&path, body.tag()?);
        Ok(NOTHING.to_vec())
    }

    async fn get(&mut self, body: &wire::Body<'_>) -> Result<Result<Vec<u8>, Refused>, End> {
        let ask = match ask(body) {
            Ok(ask) => ask,
            Err(refused) => return Ok(Err(refused)),
        };
        let mut news = Vec::new();
        let got = self.listens.get(&self.session, ask, &mut news).await;
        self.tell_all(news).await?;
        Ok(got.map_err(|error| match error.kind() {
            // The client rejects with the text; this is the status it comes with.
            ErrorKind::BadRequest => Refused { status: "failed", ..error.into() },
            _ => error.into(),
        }))
    }

    async fn tell_all(&mut self, news: Vec<News>) -> Result<(), End> {
        for News { message, .. } in news {
            self.tell(message).await?;
        }
        Ok(())
    }

    async fn authenticate(&mut self, body: &wire::Body<'_>) -> Result<Result<Vec<u8>, Refused>, End> {
        let asked = match body.credential().and_then(|credential| Ok((credential, body.act_as()?))) {
            Ok(asked) => asked,
            Err(wrong) => return Ok(Err(wrong.into())),
        };
        let caller = Caller { credential: Some(&asked.0), act_as: asked.1, secure: self.session.secure() };
        let (who, answer) = match self.context.credentials.identify(caller).await {
            Ok(who) => {
                let auth = match &who.identity {
                    Identity::User(user) => user.auth_json(),
                    Identity::Anonymous | Identity::Admin => "null",
                };
                let answer = format!(r#"{{"auth":{auth}}}"#).into_bytes();
                (who, Ok(answer))
            }
            // Who it was before does not count any more: this is who it says it is now.
            Err(error) => (Identified::lasting(Identity::Anonymous), Err(error.into())),
        };
        self.be(who).await?;
        Ok(answer)
    }

    /// From here on the client is somebody else, or the same for longer.
    async fn be(&mut self, who: Identified) -> Result<(), End> {
        self.expires_at = who.expires_at.and_then(instant);
        if who.identity != *self.listens.identity() {
            for message in self.listens.judge(who.identity).await? {
                self.tell(message).await?;
            }
            // What is left for the end is done as whoever the client is then (firebase-rtdb §7).
            if let Some(op) = self.leases.done_as(&self.database) {
                let deadline = Deadline::after(self.session.limits().request_ms_max);
                let identity = self.listens.identity();
                self.context.dispatch.write(&self.database, identity, Write::new(op), deadline).await?;
            }
        }
        Ok(())
    }
}

/// What an answer without data holds.
const NOTHING: &[u8] = b"\"\"";

/// The answer to a write, and the revision behind which it stands.
fn written(number: u64, committed: &Committed, published: u64, request: &mut RequestGuard) -> (u64, Vec<u8>) {
    match committed.steps.iter().find_map(|step| step.as_ref().err()) {
        None => (committed.rev, wire::answer(number, "ok", NOTHING)),
        Some(error) => {
            request.end(Outcome::Finished);
            (published, refusal(number, &error.clone().into()))
        }
    }
}

fn refusal(number: u64, refused: &Refused) -> Vec<u8> {
    wire::refusal(number, refused.status, &refused.text)
}
