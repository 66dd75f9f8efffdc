//! A sample and its rates as lines of text, in sections that follow each other. The same lines are shown in
//! the terminal and printed by `--once`; colours are added where the terminal has them.

use std::borrow::Cow;

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use standpipe_serve::{SessionState, Tally};

use super::sample::{DatabaseRates, DoorRates, Rates, Sample};

/// Rows shown of each kind; the rest is counted.
const DOORS: usize = 6;
const DATABASES: usize = 3;
const SLOWEST: usize = 4;

/// What is shown.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) url: &'a str,
    pub(super) interval_s: f64,
    pub(super) sample: &'a Sample,
    pub(super) rates: &'a Rates,
    /// Why the sample is not from now.
    pub(super) trouble: Option<&'a str>,
    pub(super) width: usize,
}

impl View<'_> {
    /// The sections, the most important first.
    pub(super) fn sections(&self) -> Vec<Vec<Line<'static>>> {
        vec![self.summary(), self.doors(), self.queue(), self.databases(), self.slowest(), self.reasons()]
    }

    fn summary(&self) -> Vec<Line<'static>> {
        let (node, rates) = (&self.sample.node, self.rates);
        let (connections, watchers) = (node.doors.values().map(|door| door.open).sum::<u64>(), node.watchers);
        let workers = &node.workers;
        let title = format!(
            "standpipe top  {}  up {}, every {} s  (q quits)",
            self.url,
            duration(node.uptime_ms),
            self.interval_s
        );
        let mut lines = vec![Line::styled(cut(title, self.width), Style::new().add_modifier(Modifier::BOLD))];
        if let Some(trouble) = self.trouble {
            lines.push(Line::styled(cut(trouble.to_owned(), self.width), alarm(true)));
        }
        lines.push(Line::raw(cut(
            format!(
                "connections {connections}  watchers {watchers}  req {}/s  refused {}/s  in {}/s  out {}/s",
                count(rates.requests_per_s),
                count(rates.refusals_per_s),
                bytes(rates.in_bytes_per_s),
                bytes(rates.out_bytes_per_s)
            ),
            self.width,
        )));
        let busy = workers.utilisation.clamp(0.0, 1.0);
        let bar = "#".repeat((busy * 20.0).round() as usize);
        lines.push(Line::from(vec![
            Span::raw(format!("workers {} of {}, {} idle  busy ", workers.count, workers.max, workers.idle)),
            Span::styled(format!("{:3.0} % [{bar:<20}]", busy * 100.0), alarm(busy > 0.9)),
            Span::raw(format!("  lagged {}  errors {}", node.lagged, node.errors)),
        ]));
        lines
    }

    fn doors(&self) -> Vec<Line<'static>> {
        let head = ["DOOR", "OPEN", "ACTIVE", "WATCH", "BLOCKED", "NEW/s", "REQ/s", "IN/s", "OUT/s", "P50", "P99"];
        let rows = self.sample.node.doors.iter().map(|(name, door)| {
            let none = DoorRates::default();
            let rates = self.rates.doors.get(&**name).unwrap_or(&none);
            let state = |state: SessionState| door.states.get(&state).copied().unwrap_or(0).to_string();
            vec![
                name.to_string(),
                door.open.to_string(),
                state(SessionState::Active),
                state(SessionState::Watching),
                state(SessionState::Blocked),
                count(rates.accepted_per_s),
                count(rates.requests_per_s),
                bytes(rates.in_bytes_per_s),
                bytes(rates.out_bytes_per_s),
                micros(door.request_time.p50_us),
                micros(door.request_time.p99_us),
            ]
        });
        self.table(&head, rows.collect(), DOORS)
    }

    fn queue(&self) -> Vec<Line<'static>> {
        let head = ["QUEUE", "JOBS", "BYTES", "WAIT P50", "WAIT P99", "RUN P50", "RUN P99"];
        let rows = self.sample.node.queue.iter().map(|class| {
            vec![
                class.class.to_string(),
                class.jobs.to_string(),
                bytes(class.bytes as f64),
                micros(class.wait.p50_us),
                micros(class.wait.p99_us),
                micros(class.service.p50_us),
                micros(class.service.p99_us),
            ]
        });
        self.table(&head, rows.collect(), usize::MAX)
    }

    fn databases(&self) -> Vec<Line<'static>> {
        let head = ["DATABASE", "REV", "COMMITS/s", "WRITES/s", "MS/COMMIT", "WAITING", "PATHS", "USED"];
        let rows = self.sample.databases.iter().map(|(name, database)| {
            let none = DatabaseRates::default();
            let rates = self.rates.databases.get(name).unwrap_or(&none);
            vec![
                name.clone(),
                database.rev.to_string(),
                count(rates.commits_per_s),
                count(rates.writes_per_s),
                format!("{:.2}", rates.commit_ms),
                database.queue_intents.to_string(),
                database.watched_paths.to_string(),
                bytes(database.used_bytes as f64),
            ]
        });
        self.table(&head, rows.collect(), DATABASES)
    }

    fn slowest(&self) -> Vec<Line<'static>> {
        let slowest = &self.sample.node.slowest;
        if slowest.is_empty() {
            return vec![Line::raw("no slow peers")];
        }
        let head = ["SLOW PEER", "DOOR", "ID", "BLOCKED NOW", "IN ALL", "LAGGED", "WATCHERS"];
        let rows = slowest.iter().map(|slow| {
            vec![
                slow.peer.clone(),
                slow.door.to_string(),
                slow.id.to_string(),
                micros(slow.blocked_for_ms * 1_000),
                micros(slow.blocked_ms * 1_000),
                slow.lagged.to_string(),
                slow.watchers.to_string(),
            ]
        });
        self.table(&head, rows.collect(), SLOWEST)
    }

    fn reasons(&self) -> Vec<Line<'static>> {
        let node = &self.sample.node;
        let line = |name: &str, counts: &Tally| {
            let mut counts: Vec<_> = counts.iter().collect();
            counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            let counts: Vec<_> = counts.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            let counts = if counts.is_empty() { "none".to_owned() } else { counts.join(", ") };
            Line::raw(cut(format!("{name} {counts}"), self.width))
        };
        vec![line("refusals:", &node.refusals), line("closed:  ", &node.close_reasons)]
    }

    /// A heading and rows: the first column to the left, numbers to the right.
    fn table(&self, head: &[&str], mut rows: Vec<Vec<String>>, rows_max: usize) -> Vec<Line<'static>> {
        let more = rows.len().saturating_sub(rows_max);
        rows.truncate(rows_max);
        let longest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let mut widths: Vec<usize> = head.iter().enumerate().map(|(n, name)| name.len().max(longest(n))).collect();
        // The first column gives way where there is not room for all.
        let others: usize = widths[1..].iter().map(|width| width + 1).sum();
        widths[0] = widths[0].min(self.width.saturating_sub(others)).max(head[0].len());
        let line = |cells: Vec<Cow<'_, str>>| {
            let cells = cells.iter().zip(&widths).enumerate().map(|(n, (cell, &width))| match n {
                0 => format!("{:<width$}", cut(cell.to_string(), width)),
                _ => format!(" {cell:>width$}"),
            });
            cut(cells.collect::<String>().trim_end().to_owned(), self.width)
        };
        let style = Style::new().add_modifier(Modifier::BOLD).fg(Color::Cyan);
        let mut lines = vec![Line::styled(line(head.iter().map(|name| (*name).into()).collect()), style)];
        lines.extend(rows.into_iter().map(|row| Line::raw(line(row.into_iter().map(Cow::Owned).collect()))));
        if more > 0 {
            lines.push(Line::raw(format!("  and {more} more")));
        }
        lines
    }
}

/// The sections below each other, with a blank line between where there is room for all.
pub(super) fn stacked(sections: Vec<Vec<Line<'static>>>, height: usize) -> Vec<Line<'static>> {
    let lines: usize = sections.iter().map(Vec::len).sum();
    let blank = lines + sections.len() <= height;
    let mut stacked = Vec::new();
    for section in sections {
        if blank && !stacked.is_empty() {
            stacked.push(Line::default());
        }
        stacked.extend(section);
    }
    stacked.truncate(height);
    stacked
}

fn alarm(on: bool) -> Style {
    if on { Style::new().fg(Color::Red) } else { Style::new() }
}

fn cut(text: String, width: usize) -> String {
    if text.chars().count() <= width {
        return text;
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    kept + "…"
}

fn count(number: f64) -> String {
    match number {
        n if n >= 99_950.0 => format!("{:.0}k", n / 1e3),
        n if n >= 9_995.0 => format!("{:.1}k", n / 1e3),
        n if n >= 99.95 || n.fract() == 0.0 => format!("{n:.0}"),
        n => format!("{n:.1}"),
    }
}

fn bytes(number: f64) -> String {
    const UNITS: [&str; 5] = ["B", "K", "M", "G", "T"];
    let (mut number, mut unit) = (number, 0);
    while number >= 999.5 && unit + 1 < UNITS.len() {
        number /= 1_024.0;
        unit += 1;
    }
    match unit == 0 || number >= 99.5 {
        true => format!("{number:.0}{}", UNITS[unit]),
        false => format!("{number:.1}{}", UNITS[unit]),
    }
}

fn micros(us: u64) -> String {
    match us {
        0 => "-".to_owned(),
        1..1_000 => format!("{us}us"),
        1_000..100_000 => format!("{:.1}ms", us as f64 / 1e3),
        100_000..1_000_000 => format!("{}ms", us / 1_000),
        _ => format!("{:.1}s", us as f64 / 1e6),
    }
}

fn duration(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A busy server.
    pub(in super::super) fn busy() -> Sample {
        let json = r#"{"uptime_ms":90061000,"watchers":7,"lagged":2,
            "doors":{"http":{"open":20000,"states":{"active":12,"watching":7,"blocked":1},"accepted":20100,"requests":123456,
                "bytes_in":1000000,"bytes_out":99000000,"request_time":{"count":9,"p50_us":90,"p99_us":1800}},"resp":{"open":3}},
            "queue":[{"class":"control"},{"class":"write","jobs":4,"bytes":4096,"wait":{"count":5,"p50_us":3,"p99_us":2500}},
                {"class":"read"},{"class":"bulk"}],
            "workers":{"count":8,"idle":0,"max":8,"created":9,"utilisation":0.97},
            "refusals":{"rate":3,"connections":40},"close_reasons":{"peer":11,"idle":90},
            "slowest":[{"id":17,"door":"http","peer":"[2001:db8:1234:5678:9abc:def0:1234:5678]:51234","blocked_for_ms":2500,"blocked_ms":9000,"lagged":2,"watchers":1}],
            "databases":{"default":{"rev":123456789,"commits":70,"writes":900,"commit_ns":140000000,"used_bytes":3000000000}}}"#;
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn everything_fits_a_small_terminal() {
        let (sample, earlier) = (busy(), Sample::default());
        let rates = Rates::between(&earlier, &sample).unwrap();
        let url = "http://127.0.0.1:9000";
        let view = View { url, interval_s: 1.0, sample: &sample, rates: &rates, trouble: Some("away"), width: 80 };
        let lines = stacked(view.sections(), 24);
        let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
        assert!(text.len() <= 24 && text.iter().all(|line| line.chars().count() <= 80), "{text:#?}");
        let text = text.join("\n");
        for part in [
            "up 1 d 1 h",
            "away",
            "connections 20003  watchers 7",
            "workers 8 of 8, 0 idle  busy  97 % [###################",
            "DOOR",
            "http 20000",
            "1.8ms",
            "write      4  4.0K      3us    2.5ms",
            "123456789",
            "2.00",
            "2.8G",
            "2.5s",
            "[2001:db8",
            "refusals: connections 40, rate 3",
            "closed:   idle 90, peer 11",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, 0.5, 99.96, 1234.0, 12_345.0, 123_456.0].map(count),
            ["0", "0.5", "100", "1234", "12.3k", "123k"]
        );
        assert_eq!([0.0, 999.0, 1_024.0, 150_000.0, 5e9].map(bytes), ["0B", "999B", "1.0K", "146K", "4.7G"]);
        assert_eq!([0, 999, 1_500, 250_000, 61_000_000].map(micros), ["-", "999us", "1.5ms", "250ms", "61.0s"]);
        assert_eq!([0, 61_000, 3_660_000, 90_000_000].map(duration), ["0 s", "1 min 1 s", "1 h 1 min", "1 d 1 h"]);
        assert_eq!((cut("abc".into(), 3), cut("abcd".into(), 3)), ("abc".into(), "ab…".into()));
    }
}
