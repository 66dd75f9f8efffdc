//! The `requestState` of a suspended call: a handle that only its client can use, for this call, and once. The call's state itself stays with
//! us; what is given away says which call it is, and a code over it and over whom it was given to (spec mcp §4.3; the protocol's
//! basic/patterns/mrtr, server requirements 5 and 6). The key is of this process, so a handle does not outlive the process, as its call does not.

use std::sync::OnceLock;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use standpipe_wire::jsonrpc::Message;
use tokio::time::Instant;

/// What a handle says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle {
    /// The suspended call; `None`: the call has ended, and the retry is a call of its own.
    pub(super) call: Option<u64>,
    /// How often it was suspended.
    pub(super) round: u32,
}

/// To whom and for what a handle is given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound<'a> {
    pub(super) principal: &'a str,
    pub(super) server: &'a str,
    pub(super) call: &'a Digest,
}

/// A digest of what makes a call the same call.
pub(super) type Digest = [u8; 32];

/// Why a handle is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejected {
    /// Not made by this process, for this principal, server and call.
    #[error("requestState is not one that this server gave you for this request: send the request again without it")]
    Foreign,
    /// Too late.
    #[error("requestState has expired: send the request again without it")]
    Expired,
}

/// Makes and checks handles.
#[derive(Debug)]
pub(super) struct Seal {
    /// Made when it is first used: gathering randomness takes 25 ms, once in a process.
    key: OnceLock<hmac::Key>,
    since: Instant,
}

const PAYLOAD: usize = 1 + 8 + 4 + 8;
const CODE: usize = 32;

impl Seal {
    pub(super) fn new() -> Self {
        Self { key: OnceLock::new(), since: Instant::now() }
    }

    fn key(&self) -> &hmac::Key {
        let make = || hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        self.key.get_or_init(|| make().expect("the system gives random bytes"))
    }

    /// The handle as it is given away, good for `lifetime`.
    pub(super) fn seal(&self, handle: Handle, bound: Bound<'_>, lifetime: Duration) -> String {
        let expires_ms = (self.since.elapsed() + lifetime).as_millis() as u64;
        let mut bytes = Vec::with_capacity(PAYLOAD + CODE);
        bytes.push(u8::from(handle.call.is_some()));
        bytes.extend_from_slice(&handle.call.unwrap_or_default().to_be_bytes());
        bytes.extend_from_slice(&handle.round.to_be_bytes());
        bytes.extend_from_slice(&expires_ms.to_be_bytes());
        let code = hmac::sign(self.key(), &covered(&bytes, bound));
        bytes.extend_from_slice(code.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a handle says.
    ///
    /// # Errors
    /// It is not one of ours for `bound`, or too old.
    pub(super) fn open(&self, text: &str, bound: Bound<'_>) -> Result<Handle, Rejected> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Rejected::Foreign)?;
        let (payload, code) = bytes.split_at_checked(PAYLOAD).ok_or(Rejected::Foreign)?;
        hmac::verify(self.key(), &covered(payload, bound), code).map_err(|_| Rejected::Foreign)?;
        let number = |at: usize| u64::from_be_bytes(payload[at..at + 8].try_into().expect("a slice of eight bytes"));
        if self.since.elapsed().as_millis() as u64 >= number(13) {
            return Err(Rejected::Expired);
        }
        let round = u32::from_be_bytes(payload[9..13].try_into().expect("a slice of four bytes"));
        Ok(Handle { call: (payload[0] == 1).then(|| number(1)), round })
    }
}

/// What the code is over: parts of changing length behind their lengths.
fn covered(payload: &[u8], bound: Bound<'_>) -> Vec<u8> {
    let mut out = payload.to_vec();
    for part in [bound.principal.as_bytes(), bound.server.as_bytes(), bound.call] {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part);
    }
    out
}

/// The digest of a call: its method and parameters but for `_meta` and what a retry adds. The order of members and white space do not count:
/// a client may write its retry anew.
pub(super) fn digest_of(request: &Message) -> Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(request.method().unwrap_or_default().as_bytes());
    let params = request.body_bytes().unwrap_or(b"{}");
    match serde_json::from_slice(params) {
        Ok(Value::Object(mut params)) => {
            ["_meta", "inputResponses", "requestState"].iter().for_each(|name| drop(params.remove(*name)));
            context.update(canonical(&Value::Object(params)).as_bytes());
        }
        // Nested deeper than is read: then the bytes have to be the same.
        _ => context.update(params),
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// JSON with the members of objects in the order of their names.
pub(super) fn canonical(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            let write =
                |(name, value): (&String, &Value)| format!("{}:{}", Value::from(name.as_str()), canonical(value));
            format!("{{{}}}", members.into_iter().map(write).collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        leaf => leaf.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDLE: Handle = Handle { call: Some(7), round: 3 };
    const LIFETIME: Duration = Duration::from_secs(300);

    fn bound<'a>(principal: &'a str, server: &'a str, call: &'a Digest) -> Bound<'a> {
        Bound { principal, server, call }
    }

    #[tokio::test(start_paused = true)]
    async fn only_whom_it_was_given_to_can_use_it() {
        let (seal, here, other) = (Seal::new(), [1; 32], [2; 32]);
        let text = seal.seal(HANDLE, bound("user:a", "s", &here), LIFETIME);
        let check = |text: &str, bound: Bound<'_>, expected| assert_eq!(seal.open(text, bound), expected, "{text}");
        check(&text, bound("user:a", "s", &here), Ok(HANDLE));
        check(&text, bound("user:b", "s", &here), Err(Rejected::Foreign));
        check(&text, bound("user:a", "t", &here), Err(Rejected::Foreign));
        check(&text, bound("user:as", "", &here), Err(Rejected::Foreign));
        check(&text, bound("user:a", "s", &other), Err(Rejected::Foreign));
        for forged in ["", "x", "AAAA", &text[1..], &text[..text.len() - 2], &format!("{text}AA"), "é", "=="] {
            check(forged, bound("user:a", "s", &here), Err(Rejected::Foreign));
        }
        assert_eq!(Seal::new().open(&text, bound("user:a", "s", &here)), Err(Rejected::Foreign));
        tokio::time::advance(LIFETIME).await;
        check(&text, bound("user:a", "s", &here), Err(Rejected::Expired));
    }

    #[tokio::test]
    async fn each_bit_counts() {
        let (seal, call) = (Seal::new(), [1; 32]);
        let text = seal.seal(Handle { call: None, round: 1 }, bound("p", "s", &call), LIFETIME);
        let bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let opened = seal.open(&URL_SAFE_NO_PAD.encode(forged), bound("p", "s", &call));
            assert_eq!(opened, Err(Rejected::Foreign), "bit {bit}");
        }
    }

    #[test]
    fn a_retry_is_the_same_call_however_it_is_written() {
        let digest = |params: &str| digest_of(&Message::request(b"1", "tools/call", params.as_bytes()));
        let first = digest(r#"{"name":"a","arguments":{"x":1,"y":[{"b":2,"a":1}]},"_meta":{"progressToken":1}}"#);
        let check = |params: &str, same: bool| assert_eq!(digest(params) == first, same, "{params}");
        check(r#"{"requestState":"s","arguments":{"y":[ {"a":1,"b":2}],"x":1},"name":"a","inputResponses":{}}"#, true);
        check(r#"{"name":"a","arguments":{"x":2,"y":[{"b":2,"a":1}]}}"#, false);
        check(r#"{"name":"b","arguments":{"x":1,"y":[{"b":2,"a":1}]}}"#, false);
        let deep = format!(r#"{{"name":{}1{}}}"#, "[".repeat(300), "]".repeat(300));
        assert_eq!(digest(&deep), digest(&deep));
    }
}
