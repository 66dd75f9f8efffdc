//! Rules that block, delay, mock or fail calls to a server: a hook in front of it. What a rule says is read and matched in `rules.rs`; what is done about it is done here.
//!
//! The first rule that matches a call decides; a call that none matches passes as it came.

mod rules;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use standpipe_serve::LimitsHandle;
use standpipe_wire::jsonrpc::{Kind, Message};

use self::rules::{Action, Asked, Rule};
pub use self::rules::{Rules, RulesError};
use crate::layer::{Call, Hook, Next};
use crate::metrics::one;
use crate::{Caller, Fault, Metrics};

/// Rules in front of one server.
#[derive(Debug)]
pub struct Intercept {
    server: Box<str>,
    rules: RwLock<Arc<[Rule]>>,
    delayed: Arc<AtomicUsize>,
    limits: LimitsHandle,
    metrics: Metrics,
}

impl Intercept {
    /// Puts rules in front of the server with this name.
    pub fn new(rules: &Rules, server: &str, limits: LimitsHandle, metrics: &Metrics) -> Arc<Self> {
        let rules = RwLock::new(rules.counted(metrics));
        Arc::new(Self { server: server.into(), rules, delayed: Arc::default(), limits, metrics: metrics.clone() })
    }

    /// Other rules from now on. What counts calls (`after`, `every`) begins anew; calls that are being delayed stay so.
    pub fn set(&self, rules: &Rules) {
        *self.rules.write() = rules.counted(&self.metrics);
    }

    /// The number of the first rule that matches.
    fn find(&self, rules: &[Rule], caller: &Caller, message: &Message) -> Result<Option<usize>, Fault> {
        let asked = Asked::new(&self.server, &caller.principal, message);
        for (at, rule) in rules.iter().enumerate() {
            if rule.matches(&asked)? {
                one(&rule.matched);
                tracing::debug!(
                    rule = &*rule.name,
                    server = &*self.server,
                    method = message.method(),
                    "a rule matches"
                );
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    fn delay(&self, ms: u64, call: Call, next: Next) {
        let limits = self.limits.load();
        let slot = Slot::take(&self.delayed, limits.mcp_delayed_calls_max);
        let Some(slot) = slot else {
            self.metrics.hit("mcp_delayed_calls_max");
            let fault = Fault::overloaded(
                "too many calls are being delayed by a rule; try again later",
                Duration::from_secs(1),
            );
            return answer(&call, &fault.answer(call.message.id()));
        };
        let time = Duration::from_millis(ms.min(limits.mcp_call_total_ms_max));
        tokio::spawn(async move {
            let is_modern = call.session.is_none();
            let to = call.to.clone();
            tokio::select! {
                () = tokio::time::sleep(time) => {
                    drop(slot);
                    next.pass(call);
                }
                // A modern caller that leaves cancels; a legacy one does not.
                () = to.gone(), if is_modern => {}
            }
        });
    }
}

impl Hook for Intercept {
    fn call(&self, call: Call, next: Next) {
        let rules = self.rules.read().clone();
        let rule = match self.find(&rules, &call.caller, &call.message) {
            Ok(None) => return next.pass(call),
            Ok(Some(at)) => &rules[at],
            Err(fault) => return answer(&call, &fault.answer(call.message.id())),
        };
        let id = call.message.id().unwrap_or(b"null");
        match &rule.action {
            Action::Pass => next.pass(call),
            Action::Block { code, message } => {
                answer(&call, &Fault::new(*code, rule.says(message.as_deref(), "blocked")).answer(Some(id)));
            }
            Action::Mock { result, modern } => {
                let result = if call.session.is_none() { modern } else { result };
                answer(&call, &Message::result(id, result.as_bytes()));
            }
            Action::Fail { when, code, message } if when.is_now() => {
                answer(&call, &Fault::new(*code, rule.says(message.as_deref(), "failed")).answer(Some(id)));
            }
            Action::Fail { .. } => next.pass(call),
            Action::Delay { ms } => self.delay(*ms, call, next),
        }
    }

    fn tell(&self, caller: &Caller, _: u64, message: Message) -> Option<Message> {
        if message.kind() != Kind::Notification {
            return Some(message);
        }
        let rules = self.rules.read().clone();
        let found = self.find(&rules, caller, &message);
        let is_blocked = match found {
            Ok(found) => found.is_some_and(|at| matches!(rules[at].action, Action::Block { .. })),
            Err(_) => true,
        };
        (!is_blocked).then_some(message)
    }
}

fn answer(call: &Call, reply: &Message) {
    // Whoever has left needs no answer.
    let _gone = call.to.send(reply.clone());
}

/// One of the calls that may be delayed at once.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let more = |count: usize| (count < max).then_some(count + 1);
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(taken.clone()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use parking_lot::Mutex;
    use standpipe_serve::Limits;

    use super::*;
    use crate::exchange::{Inlet, Room, exchange};
    use crate::{Conversation, Layered, LegacyServer, ModernServer, Outlet};

    fn parse(json: &str) -> Message {
        Message::parse(Bytes::copy_from_slice(json.as_bytes())).unwrap()
    }

    /// Answers everything with `{"from":"server"}`; keeps what it was told.
    #[derive(Debug, Default)]
    struct Answers(Mutex<Vec<Message>>);

    impl ModernServer for Answers {
        fn call(&self, _: Caller, request: Message, to: Outlet) {
            let _gone = to.send(Message::result(request.id().unwrap(), br#"{"from":"server"}"#));
        }
    }

    #[derive(Debug)]
    struct Talk(Arc<Answers>);

    impl LegacyServer for Arc<Answers> {
        fn open(&self, _: &Caller, initialize: Message, to: Outlet, _: Outlet) -> Arc<dyn Conversation> {
            let talk = Arc::new(Talk(self.clone()));
            talk.call(&Caller::detached("x"), initialize, to);
            talk
        }
    }

    impl ModernServer for Arc<Answers> {
        fn call(&self, caller: Caller, request: Message, to: Outlet) {
            (**self).call(caller, request, to);
        }
    }

    impl Conversation for Talk {
        fn call(&self, caller: &Caller, request: Message, to: Outlet) {
            ModernServer::call(&*self.0, caller.clone(), request, to);
        }
        fn tell(&self, _: &Caller, message: Message) {
            self.0.0.lock().push(message);
        }
        fn ended(&self) -> futures_util::future::BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
    }

    struct Bench {
        hook: Arc<Intercept>,
        server: Arc<Answers>,
        layered: Layered,
        metrics: Metrics,
    }

    fn bench(rules: &str, limits: Limits) -> Bench {
        let metrics = Metrics::default();
        let rules = Rules::parse(rules).unwrap();
        let limits = Arc::new(arc_swap::ArcSwap::from_pointee(limits));
        let hook = Intercept::new(&rules, "files", limits, &metrics);
        let server = Arc::new(Answers::default());
        let layered = Layered::new(Arc::new(server.clone()), vec![hook.clone()]);
        Bench { hook, server, layered, metrics }
    }

    impl Bench {
        fn call(&self, principal: &str, method: &str, params: &str) -> Inlet {
            let (to, inlet) = exchange(Room { messages: 9, bytes: 1 << 20 });
            let request = Message::request(b"7", method, params.as_bytes());
            ModernServer::call(&self.layered, Caller::detached(principal), request, to);
            inlet
        }

        /// The body of the reply, which is there at once.
        fn answer(&self, principal: &str, method: &str, params: &str) -> String {
            let reply = self.call(principal, method, params).try_next().expect("an answer");
            assert_eq!(reply.id(), Some(&b"7"[..]));
            String::from_utf8(reply.body_bytes().unwrap().to_vec()).unwrap()
        }
    }

    const SERVER: &str = r#"{"from":"server"}"#;

    #[test]
    fn the_first_rule_that_matches_decides() {
        let bench = bench(
            r#"[
            {"match":{"principal":"user:root"},"action":{"pass":{}}},
            {"name":"no deletes","match":{"method":"tools/call","name":"delete_*"},"action":{"block":{"code":-32602,"message":"not here"}}},
            {"match":{"name":"read","arguments":[{"at":"/path","matches":"^/etc/"},{"at":"/n","equals":1e0}]},"action":{"block":{}}},
            {"match":{"server":"other"},"action":{"block":{}}},
            {"match":{"name":"file:*"},"action":{"mock":{"result":{"contents":[],"x":9007199254740993}}}},
            {"match":{"name":"say"},"action":{"mock":{"text":"a \"b\""}}},
            {"match":{"arguments":[{"at":"/list/1","exists":true}]},"action":{"block":{"message":"list"}}}
            ]"#,
            Limits::default(),
        );
        let check = |principal: &str, method: &str, params: &str, expected: &str| {
            assert_eq!(bench.answer(principal, method, params), expected, "{principal} {method} {params}");
        };
        check("user:ann", "tools/call", r#"{"name":"delete_all"}"#, r#"{"code":-32602,"message":"not here"}"#);
        check("user:root", "tools/call", r#"{"name":"delete_all"}"#, SERVER);
        check("user:ann", "prompts/get", r#"{"name":"delete_all"}"#, SERVER);
        check("user:ann", "tools/call", r#"{"name":"d\u0065lete_"}"#, r#"{"code":-32602,"message":"not here"}"#);
        let blocked = r#"{"code":4030,"message":"blocked by rule 3 of the gateway's rules"}"#;
        check("user:ann", "tools/call", r#"{"name":"read","arguments":{"path":"/etc/passwd","n":1}}"#, blocked);
        check("user:ann", "tools/call", r#"{"name":"read","arguments":{"path":"/tmp","n":1}}"#, SERVER);
        check("user:ann", "tools/call", r#"{"name":"read","arguments":{"path":"/etc/passwd"}}"#, SERVER);
        check("user:ann", "tools/call", r#"{"name":"read","arguments":7}"#, SERVER);
        check("user:ann", "tools/list", "{}", SERVER);
        let mocked = r#"{"resultType":"complete","contents":[],"x":9007199254740993}"#;
        check("user:ann", "resources/read", r#"{"uri":"file:///a"}"#, mocked);
        let said = r#"{"resultType":"complete","content":[{"type":"text","text":"a \"b\""}]}"#;
        check("user:ann", "tools/call", r#"{"name":"say"}"#, said);
        let list = r#"{"code":4030,"message":"list"}"#;
        check("user:ann", "tools/call", r#"{"name":"x","arguments":{"list":[0,null]}}"#, list);
        check("user:ann", "tools/call", r#"{"name":"x","arguments":{"list":[0]}}"#, SERVER);
        // Two readers could take a doubled member for two values: a rule is not passed by in that way.
        let doubled = bench.answer(
            "user:ann",
            "tools/call",
            r#"{"name":"read","arguments":{"path":"/tmp","path":"/etc/x","n":1}}"#,
        );
        assert!(doubled.contains("-32602") && doubled.contains("twice"), "{doubled}");
        let doubled = bench.answer("user:ann", "tools/call", r#"{"name":"ok","n\u0061me":"delete_all"}"#);
        assert!(doubled.contains("-32602") && doubled.contains("twice"), "{doubled}");
        assert_eq!(crate::metrics::read(&bench.metrics.rule("no deletes")), 2);
    }

    #[test]
    fn some_calls_fail() {
        let check = |fail: &str, expected: [bool; 6]| {
            let rules = format!(r#"[{{"match":{{"method":"tools/*"}},"action":{{"fail":{fail}}}}}]"#);
            let bench = bench(&rules, Limits::default());
            let failed = [(); 6].map(|()| bench.answer("a", "tools/call", "{}") != SERVER);
            assert_eq!(failed, expected, "{fail}");
            assert_eq!(bench.answer("a", "ping", "{}"), SERVER);
        };
        check("{}", [true; 6]);
        check(r#"{"after":4}"#, [false, false, false, false, true, true]);
        check(r#"{"every":3}"#, [false, false, true, false, false, true]);
        check(r#"{"after":2,"every":2}"#, [false, false, false, true, false, true]);
    }

    #[test]
    fn rules_change_while_calls_come() {
        let bench = bench("[]", Limits::default());
        assert_eq!(bench.answer("a", "tools/list", "{}"), SERVER);
        bench.hook.set(&Rules::parse(r#"[{"action":{"block":{"code":1,"message":"m"}}}]"#).unwrap());
        assert_eq!(bench.answer("a", "tools/list", "{}"), r#"{"code":1,"message":"m"}"#);
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_call_holds_no_other_and_the_number_is_bounded() {
        let limits = Limits { mcp_delayed_calls_max: 2, ..Limits::default() };
        let bench = bench(r#"[{"match":{"name":"slow"},"action":{"delay":{"ms":500}}}]"#, limits);
        let began = tokio::time::Instant::now();
        let slow = r#"{"name":"slow"}"#;
        let (mut first, left) = (bench.call("a", "tools/call", slow), bench.call("a", "tools/call", slow));
        assert_eq!(bench.answer("a", "tools/call", r#"{"name":"fast"}"#), SERVER);
        assert!(bench.answer("a", "tools/call", slow).contains("5030"));
        assert_eq!(bench.metrics.hits()["mcp_delayed_calls_max"], 1);
        drop(left);
        assert!(first.next().await.is_some());
        assert_eq!(began.elapsed(), Duration::from_millis(500));
        assert!(bench.call("a", "tools/call", slow).next().await.is_some());
    }

    #[tokio::test]
    async fn notifications_may_be_blocked_too() {
        let rules = r#"[{"match":{"method":"notifications/roots/*"},"action":{"block":{}}}]"#;
        let bench = bench(rules, Limits::default());
        let room = Room { messages: 9, bytes: 1 << 20 };
        let ((to, _a), (news, _b)) = (exchange(room), exchange(room));
        let caller = Caller::detached("a");
        let talk = bench.layered.open(&caller, parse(r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#), to, news);
        for told in [
            r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        ] {
            talk.tell(&caller, parse(told));
        }
        let told = bench.server.0.lock();
        assert_eq!(told.iter().map(Message::method).collect::<Vec<_>>(), [Some("notifications/initialized"), None]);
    }
}
