//! Runs and jobs as text for people: a table of many, some lines for one. Pure but for the clock.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// Has the run ended?
pub(super) fn has_ended(run: &Value) -> bool {
    !matches!(run["state"].as_str(), Some("queued" | "starting" | "running" | "stopping"))
}

/// A table, a run a line, as wide as what is in it.
pub(super) fn list(runs: &[Value]) -> String {
    let now = now_ms();
    let mut rows = vec![["RUN", "STATE", "AGE", "TOOK", "CODE", "COMMAND"].map(str::to_owned)];
    rows.extend(
        runs.iter()
            .map(|run| [word(&run["id"]), word(&run["state"]), age(run, now), took(run, now), code(run), what(run)]),
    );
    table(&rows)
}

/// A table of jobs.
pub(super) fn jobs(answer: &Value) -> String {
    let mut rows = vec![["JOB", "STATE", "LAST", "NEXT", "PARAMETERS", "DESCRIPTION"].map(str::to_owned)];
    rows.extend(answer["jobs"].as_array().into_iter().flatten().map(|job| {
        let params = job["params"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        let params = params.collect::<Vec<_>>().join(",");
        [
            word(&job["name"]),
            word(&job["state"]),
            word(&job["last"]),
            job["next_at"].as_u64().map_or_else(String::new, time),
            params,
            word(&job["description"]),
        ]
    }));
    table(&rows)
}

/// One run, a line for each thing there is to say.
pub(super) fn run(run: &Value) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            let _infallible = writeln!(text, "{name:<10} {}", plain(&value));
        }
    };
    line("run", word(&run["id"]));
    line("state", word(&run["state"]));
    line("command", what(run));
    line("folder", word(&run["command"]["cwd"]));
    line("job", word(&run["job"]));
    line("started by", word(&run["by"]));
    for (name, key) in [("accepted", "created_at"), ("started", "started_at"), ("ended", "ended_at")] {
        line(name, run[key].as_u64().map_or_else(String::new, time));
    }
    line("took", took(run, now_ms()));
    line("exit code", word(&run["exit_code"]));
    line("signal", word(&run["signal"]));
    line("reason", word(&run["reason"]));
    line("position", word(&run["queue"]["position"]));
    if let Some(fraction) = run["progress"]["fraction"].as_f64() {
        line("progress", format!("{:.0} % {}", fraction * 100.0, word(&run["progress"]["text"])));
    }
    line("goes on", word(&run["of"]));
    line("resumed by", word(&run["resumed_by"]));
    if let (Some(lines), Some(bytes)) = (run["output"]["lines"].as_u64(), run["output"]["bytes"].as_u64()) {
        line("output", format!("{lines} lines, {bytes} bytes"));
    }
    if let Some(cpu) = run["usage"]["cpu_ms"].as_u64() {
        let memory = run["usage"]["memory_bytes_max"].as_u64().unwrap_or(0) >> 10;
        line("used", format!("{} of processor time, {memory} KiB of memory", span(cpu)));
    }
    if run["single"] != true
        && let Some(tasks) = run["tasks"].as_object()
    {
        for (name, task) in tasks {
            let code = task["exit_code"].as_i64().map_or_else(String::new, |code| format!(", exit code {code}"));
            let reason = task["reason"].as_str().map_or_else(String::new, |reason| format!(": {reason}"));
            line("task", format!("{name} {}{code}{reason}", word(&task["state"])));
        }
    }
    text
}

/// What a process is called, or says of itself, must not steer the terminal it is shown on.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{:<width$}", plain(cell)));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The command, or how many tasks there are.
fn what(run: &Value) -> String {
    let words = run["command"]["argv"].as_array().map(|argv| argv.iter().map(word).collect::<Vec<_>>().join(" "));
    words.unwrap_or_else(|| match run["tasks"].as_object().map_or(0, serde_json::Map::len) {
        1 => "1 task".into(),
        count => format!("{count} tasks"),
    })
}

fn code(run: &Value) -> String {
    match (run["exit_code"].as_i64(), run["signal"].as_i64()) {
        (Some(code), _) => code.to_string(),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => String::new(),
    }
}

fn age(run: &Value, now: u64) -> String {
    run["created_at"].as_u64().map_or_else(String::new, |at| span(now.saturating_sub(at)))
}

fn took(run: &Value, now: u64) -> String {
    let end = run["ended_at"].as_u64().unwrap_or(now);
    run["started_at"].as_u64().map_or_else(String::new, |at| span(end.saturating_sub(at)))
}

/// A length of time in its two largest units.
fn span(ms: u64) -> String {
    let s = ms / 1_000;
    match s {
        0 => format!("{ms}ms"),
        1..60 => format!("{s}.{}s", ms % 1_000 / 100),
        60..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h{:02}m", s / 3_600, s % 3_600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3_600),
    }
}

fn time(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or_else(String::new, |at| format!("{at:.3}"))
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lengths_of_time_are_short() {
        for (ms, text) in [(7, "7ms"), (1_250, "1.2s"), (61_000, "1m01s"), (7_260_000, "2h01m"), (90_000_000, "1d01h")]
        {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn runs_are_shown_without_steering_the_terminal() {
        let one = json!({
            "id": "a@1", "state": "failed", "created_at": 0, "started_at": 1_000, "ended_at": 2_500, "exit_code": 2,
            "single": true, "command": { "argv": ["echo", "\u{1b}[2Jx\ny"], "cwd": "/" }, "reason": "no\u{7}",
            "output": { "lines": 1, "bytes": 2 }, "usage": { "cpu_ms": 5, "memory_bytes_max": 2048 }
        });
        let text = run(&one);
        assert!(text.contains("took       1.5s\n") && text.contains("started    1970-01-01T00:00:01.000Z\n"), "{text}");
        assert!(text.contains("command    echo ?[2Jx?y\n") && !text.contains(['\u{1b}', '\u{7}']), "{text}");
        let text = list(std::slice::from_ref(&one));
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("a@1  failed") && !text.contains('\u{1b}'), "{text}");
        assert!(has_ended(&one) && !has_ended(&json!({ "state": "stopping" })));
        assert!(
            run(&json!({ "id": "a@1", "state": "running", "tasks": { "t": { "state": "waiting" } } }))
                .contains("task       t waiting")
        );
    }
}
