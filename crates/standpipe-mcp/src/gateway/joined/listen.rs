//! Subscriptions where servers are joined: one stream towards the client, one to each server that may have news for it. A server whose
//! stream ends is asked again; when the set of servers changes, all are, and the client is told that its lists have changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use standpipe_wire::jsonrpc::{Edit, Message};
use tokio::time::{sleep, timeout};

use super::{Joined, Member, answer};
use crate::era::META_SUBSCRIPTION;
use crate::exchange::Room;
use crate::fault::INVALID_PARAMS;
use crate::{Caller, Fault, Inlet, Outlet, exchange};

/// How long the servers' acknowledgements are waited for.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(5);
/// Pauses before a server whose stream has ended is asked again: the first, and the longest.
const AGAIN_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

/// What a client wants to be told.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    tools_list_changed: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    prompts_list_changed: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    resources_list_changed: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    resource_subscriptions: Vec<String>,
}

impl Wanted {
    fn any_list(&self) -> bool {
        self.tools_list_changed || self.prompts_list_changed || self.resources_list_changed
    }

    /// Notices that its lists have changed.
    fn lists(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.tools_list_changed, "notifications/tools/list_changed"),
            (self.prompts_list_changed, "notifications/prompts/list_changed"),
            (self.resources_list_changed, "notifications/resources/list_changed"),
        ];
        all.into_iter().filter_map(|(wanted, method)| wanted.then_some(method))
    }
}

impl Joined {
    pub(super) fn listen(&self, caller: Caller, request: Message, to: Outlet) {
        let wanted = request.at(&["notifications"]).map(|span| span.map(|span| request.slice(span)));
        let is_object = |json: &&[u8]| json.starts_with(b"{");
        let wanted: Wanted = match wanted.map(|json| json.filter(is_object).map(serde_json::from_slice)) {
            Ok(Some(Ok(wanted))) => wanted,
            _ => {
                let text = "params.notifications must be an object: toolsListChanged, promptsListChanged, resourcesListChanged, resourceSubscriptions";
                return answer(&request, &to, &Fault::new(INVALID_PARAMS, text));
            }
        };
        if wanted.resource_subscriptions.len() > self.0.limits.load().mcp_subscriptions_per_stream_max {
            let text =
                "more resources than one stream may be told about (mcp_subscriptions_per_stream_max): open another";
            return answer(&request, &to, &Fault::new(INVALID_PARAMS, text));
        }
        let (joined, out) = (self.clone(), to.clone());
        self.spawn(to, async move {
            let listening = Listening { joined, caller, request, wanted, to: out };
            listening.run().await;
            None
        });
    }
}

struct Listening {
    joined: Joined,
    caller: Caller,
    request: Message,
    wanted: Wanted,
    to: Outlet,
}

impl Listening {
    /// Until the client leaves: whoever polls this stops then.
    async fn run(self) {
        let mut changes = self.joined.0.set.changes();
        let mut is_first = true;
        loop {
            let shares = self.shares().await;
            let opened = join_all(shares.into_iter().map(|(member, share)| self.open(member, share))).await;
            if is_first {
                self.send(ACKNOWLEDGED, Some(&self.accepted(&opened)));
                is_first = false;
            } else {
                self.wanted.lists().for_each(|method| self.send(method, None));
            }
            let follow = async {
                join_all(opened.into_iter().map(|stream| self.follow(stream))).await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = follow => {}
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    /// What is asked of each server.
    async fn shares(&self) -> Vec<(Member, Wanted)> {
        let mut uris: BTreeMap<Arc<str>, Vec<String>> = BTreeMap::new();
        for uri in &self.wanted.resource_subscriptions {
            if let Some(member) = self.joined.find_owner(&self.caller, &self.request, uri).await {
                uris.entry(member.name).or_default().push(uri.clone());
            }
        }
        let members = self.joined.0.set.members();
        let share = |member: &Member| {
            let resource_subscriptions = uris.remove(&member.name).unwrap_or_default();
            let is_asked = self.wanted.any_list() || !resource_subscriptions.is_empty();
            is_asked.then(|| (member.clone(), Wanted { resource_subscriptions, ..self.wanted.clone() }))
        };
        members.iter().filter_map(share).collect()
    }

    /// Opens the stream of one server and waits for what it accepts.
    async fn open(&self, member: Member, share: Wanted) -> Stream {
        let mut inlet = self.call(&member, &share);
        let first = timeout(ACKNOWLEDGED_WITHIN, inlet.next()).await;
        let accepted = match first {
            Ok(Some(message)) if message.method() == Some(ACKNOWLEDGED) => {
                let span = message.at(&["notifications"]).ok().flatten();
                span.and_then(|span| serde_json::from_slice(message.slice(span)).ok())
            }
            _ => None,
        };
        if accepted.is_none() {
            tracing::info!(server = &*member.name, "a server does not tell what it will tell of");
        }
        Stream { member, share, inlet, accepted }
    }

    fn call(&self, member: &Member, share: &Wanted) -> Inlet {
        let limits = self.joined.0.limits.load();
        let room = Room { messages: limits.mcp_outlet_messages_max, bytes: limits.mcp_outlet_bytes_max };
        let (outlet, inlet) = exchange(room);
        let json = serde_json::to_vec(share).expect("plain values can be written as JSON");
        if let Ok(Some(span)) = self.request.at(&["notifications"]) {
            let request = self.request.edit(&mut [Edit::replace(span, &json)]);
            member.server.call(self.caller.clone(), request, outlet);
        }
        inlet
    }

    /// What has been accepted: changes of lists are told by ourselves, too.
    fn accepted(&self, opened: &[Stream]) -> Wanted {
        let uris = opened.iter().flat_map(|stream| &stream.accepted).flat_map(|wanted| &wanted.resource_subscriptions);
        let accepted: Vec<&String> = uris.collect();
        let kept = self.wanted.resource_subscriptions.iter().filter(|uri| accepted.contains(uri)).cloned();
        Wanted { resource_subscriptions: kept.collect(), ..self.wanted.clone() }
    }

    /// Passes on what one server tells, and asks it again when its stream ends.
    async fn follow(&self, stream: Stream) {
        let Stream { member, share, mut inlet, .. } = stream;
        let mut pause = AGAIN_AFTER.0;
        loop {
            while let Some(message) = inlet.next().await {
                if message.method().is_some_and(|method| method != ACKNOWLEDGED) {
                    pause = AGAIN_AFTER.0;
                    let _gone = self.to.send(message);
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(AGAIN_AFTER.1);
            inlet = self.call(&member, &share);
        }
    }

    /// Tells the client something of our own; `accepted` is what an acknowledgement says.
    fn send(&self, method: &str, accepted: Option<&Wanted>) {
        let id = String::from_utf8_lossy(self.request.id().unwrap_or(b"null"));
        let rest = accepted.map(|accepted| {
            format!(
                ",\"notifications\":{}",
                serde_json::to_string(accepted).expect("plain values can be written as JSON")
            )
        });
        let params = format!("{{\"_meta\":{{\"{META_SUBSCRIPTION}\":{id}}}{}}}", rest.unwrap_or_default());
        let _gone = self.to.send(Message::notification(method, params.as_bytes()));
    }
}

/// The stream of one server.
struct Stream {
    member: Member,
    share: Wanted,
    inlet: Inlet,
    /// What the server has said it will tell.
    accepted: Option<Wanted>,
}
