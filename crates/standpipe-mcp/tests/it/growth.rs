//! What must not grow, and what a call costs.

use std::collections::BTreeMap;

use serde_json::json;
use standpipe_mcp::upstream::child::{ChildSpec, environment};
use standpipe_mcp::upstream::{Era, EraChoice};
use standpipe_serve::Limits;

use crate::support::{Client, Stand, fixture, until};

/// A server that answers everything with an empty result, and starts within a millisecond.
fn tiny() -> ChildSpec {
    let script = r#"s/.*"id":\([0-9]*\).*/{"jsonrpc":"2.0","id":\1,"result":{}}/;t;d"#;
    let argv = ["sed", "-u", script].map(str::to_owned).to_vec();
    let env = environment(std::env::vars(), &BTreeMap::new());
    ChildSpec { era: EraChoice::Known(Era::Legacy), limits: fixture(&[]).limits, ..ChildSpec::new("tiny", argv, env) }
}

fn count(folder: &str) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[tokio::test]
async fn nothing_is_left_of_many_sessions() {
    let stand = Stand::with(Limits { mcp_children_max: 64, mcp_children_per_principal_max: 64, ..Limits::default() });
    let server = stand.children.server(tiny());
    let round = async |sessions: usize| {
        for batch in 0..sessions / 20 {
            let mut clients = Vec::new();
            for _ in 0..20 {
                clients.push(Client::open(&server, "p").await);
            }
            for client in &mut clients {
                assert!(client.request("tools/list", json!({})).await.get("result").is_some());
            }
            // Some leave with a call under way.
            let running: Vec<_> =
                clients.iter_mut().take(batch % 3).map(|client| client.start("x", json!({}))).collect();
            drop(clients);
            drop(running);
            until("their ends", || server.status().pids.is_empty()).await;
        }
    };
    round(20).await;
    let (files, threads) = (count("/proc/self/fd"), count("/proc/self/task"));
    round(200).await;
    assert_eq!((count("/proc/self/fd"), count("/proc/self/task")), (files, threads));
    assert_eq!((server.status().starts, server.status().losses, server.status().calls), (220, 0, 0));
    stand.close(&[&server]).await;
}

/// Microseconds of processor time of this process per call: for people, with `--run-ignored all --no-capture` and a release build.
#[tokio::test]
#[ignore = "a measurement"]
async fn cost_of_a_call() {
    let stand = Stand::new();
    let server = stand.children.server(ChildSpec { mode: standpipe_mcp::upstream::child::Mode::Shared, ..tiny() });
    let mut client = Client::open(&server, "p").await;
    let cpu = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<u64> =
            stat.rsplit(") ").next().unwrap().split(' ').filter_map(|field| field.parse().ok()).collect();
        // utime and stime, in ticks of 10 ms; the state before them is no number.
        (fields[10] + fields[11]) * 10_000
    };
    for width in [1, 16] {
        let (begun, used, calls) = (std::time::Instant::now(), cpu(), 40_000);
        for _ in 0..calls / width {
            let mut inlets: Vec<_> = (0..width).map(|_| client.start("x", json!({}))).collect();
            for inlet in &mut inlets {
                inlet.next().await.unwrap();
            }
        }
        let (took, used) = (begun.elapsed(), cpu() - used);
        println!("{width} at once: {} us of cpu per call, {:?} per call", used / calls as u64, took / calls);
    }
    stand.close(&[&server]).await;
}
