//! Limits that change while connections are open: each takes effect at once, and none closes a
//! connection.

use serde_json::{Value, json};

use super::server::{Stand, ask, rest};
use super::within;
use crate::Limits;

/// The limits with one of them changed.
fn with(limits: &Limits, name: &str, value: Value) -> Limits {
    let mut table = serde_json::to_value(limits).unwrap();
    table[name] = value;
    serde_json::from_value(table).unwrap()
}

#[tokio::test]
async fn every_limit_changes_without_closing_a_connection() {
    let limits = Limits::default();
    let mut stand = Stand::new(limits.clone());
    let mut stream = stand.connect("10.0.0.1").await;
    let mut applied = 0;
    for (name, value) in limits.entries() {
        for value in [value + 1, value.saturating_sub(1)] {
            // Some have no room on one side: what they would contradict is their own tests' business.
            let Ok(()) = stand.server.reload(with(&limits, name, json!(value))) else { continue };
            applied += 1;
            assert_eq!(ask(&mut stream, b'e').await, b'e', "{name} = {value}");
            stand.gate.release(1);
            assert_eq!(ask(&mut stream, b'j').await, b'j', "{name} = {value}");
        }
    }
    assert!(applied > limits.entries().len(), "{applied}");
    assert_eq!(stand.snapshot().closed, 0);
    drop(stream);
    stand.at_rest().await;
    assert!(within(stand.server.stop()).await.clean);
}

#[tokio::test]
async fn a_changed_limit_is_in_force_at_once() {
    let mut stand = Stand::new(Limits::default());
    let mut stream = stand.connect("10.0.0.1").await;
    assert_eq!(ask(&mut stream, b'e').await, b'e');
    for (name, value, refused) in [
        ("connections_max", 1, "connections"),
        ("connections_per_door_max", 1, "door_connections"),
        ("connections_per_peer_max", 1, "peer_connections"),
    ] {
        stand.server.reload(with(&Limits::default(), name, json!(value))).unwrap();
        assert_eq!(rest(&mut stand.connect("10.0.0.1").await).await, refused);
    }
    let mut probe = async |change: &[(&str, u64)], question: u8, answers: &[u8]| {
        let changed = change.iter().fold(Limits::default(), |limits, (name, value)| with(&limits, name, json!(value)));
        stand.server.reload(changed).unwrap();
        for answer in answers {
            assert_eq!(ask(&mut stream, question).await, *answer, "{change:?}");
        }
        stand.server.reload(Limits::default()).unwrap();
        assert_eq!(ask(&mut stream, b'e').await, b'e');
    };
    probe(&[("watchers_per_connection_max", 2)], b'w', b"ww!").await;
    probe(&[("watchers_max", 3)], b'w', b"w!").await;
    probe(&[("bodies_bytes_in_flight_max", 25), ("request_body_bytes_max", 25)], b'b', b"bb!").await;
    probe(&[("requests_per_s_per_peer_max", 1), ("requests_burst_per_peer_max", 2)], b'e', b"ee!!").await;
    drop(stream);
    stand.at_rest().await;
    assert!(within(stand.server.stop()).await.clean);
}
