//! `docs/limits.md` says what is so: every limit has its row, with its default and metrics that exist,
//! and the presets are meant and fit their machines.

use std::collections::BTreeMap;

use super::Bench;
use crate::Limits;

const PAGE: &str = include_str!("../../../../docs/limits.md");

/// The cells of the row of each limit.
fn rows() -> BTreeMap<&'static str, Vec<&'static str>> {
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>();
    let rows = PAGE.lines().filter(|line| line.starts_with("| `")).map(cells);
    rows.map(|cells| (cells[0].trim_matches('`'), cells)).collect()
}

/// `64 KiB`, `20,000`; `None` for what depends on the machine.
fn number(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_once(' ').unwrap_or((text, ""));
    let shift = ["", "KiB", "MiB", "GiB", "TiB"].iter().position(|known| *known == unit)?;
    digits.replace(',', "").parse::<u64>().ok().map(|number| number << (10 * shift))
}

#[test]
fn every_limit_has_a_row_with_its_default() {
    let rows = rows();
    let limits = Limits::default().entries();
    for (name, value) in &limits {
        let cells = rows.get(name).unwrap_or_else(|| panic!("docs/limits.md lacks a row for {name}"));
        assert_eq!(cells.len(), 5, "{name}: limit | what it bounds | default | metric | what the peer sees at it");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{name}: an empty cell");
        match number(cells[2]) {
            Some(told) => assert_eq!(told, *value, "the default of {name}"),
            None => assert!(cells[2].contains("cores"), "the default of {name} is {value}, not {:?}", cells[2]),
        }
    }
    assert_eq!(rows.len(), limits.len(), "a row for a limit that does not exist");
}

#[tokio::test]
async fn metrics_on_the_page_exist() {
    let bench = Bench::new(Limits::default());
    let (session, _task) = bench.entered();
    session.output_blocked(true);
    super::until("it is among the slowest", || !session.status().slowest.is_empty()).await;
    let mut registry = prometheus_client::registry::Registry::with_prefix("standpipe");
    bench.core.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let elsewhere =
        |code: &str| ["_database_", "_auth_", "_streams_", "_runs_", "_mcp_"].iter().any(|part| code.contains(part));
    for metric in PAGE.split('`').filter(|code| code.starts_with("standpipe_") && !elsewhere(code)) {
        let (name, labels) = metric.split_once('{').unwrap_or((metric, ""));
        assert!(text.contains(&format!("{name}{{")) || text.contains(&format!("{name} ")), "no metric {metric}");
        let label = labels.trim_end_matches('}');
        assert!(text.contains(label), "no metric {metric}");
    }
    bench.end().await;
}

#[test]
fn presets_are_meant_and_fit() {
    let presets: Vec<_> = PAGE.split("# preset: ").skip(1).collect();
    for preset in &presets {
        let (head, rest) = preset.split_once('\n').unwrap();
        let (name, mib) = head.split_once(", ").unwrap();
        let table: toml::Table = rest.split("```").next().unwrap().parse().unwrap();
        let limits: Limits = table["limits"].clone().try_into().unwrap();
        limits.check().unwrap();
        let (worst, most) = (limits.worst_case_bytes() >> 20, mib.trim_end_matches(" MiB").parse().unwrap());
        assert!(worst <= most, "{name} allows {worst} MiB");
    }
    assert_eq!(presets.len(), 3);
}
