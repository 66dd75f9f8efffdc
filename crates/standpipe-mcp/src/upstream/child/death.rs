//! How a process ended, and what that is to who waited for it.

use std::time::Duration;

use serde_json::json;
use standpipe_runs::Exit;

use crate::Fault;
use crate::fault::{UPSTREAM_DIED, UPSTREAM_DOWN};

/// Why a process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// By itself.
    Exited(Exit),
    /// It has closed its input or output, so that nothing can come any more.
    Silent,
    /// It has sent a message longer than this.
    TooLong(usize),
    /// It has not read for so long.
    Deaf(Duration),
    /// It could not be started.
    NotStarted(String),
    /// It has said nothing for so long since its start.
    Dumb(Duration),
    /// Somebody has asked for it: its session has ended, nobody needs it, or the gateway stops.
    Asked,
}

impl Death {
    /// Whether nobody had asked for it.
    pub(super) fn is_unexpected(&self) -> bool {
        *self != Self::Asked
    }

    /// Whether another start would end in the same way, after a time that nobody waits for.
    pub(super) fn is_hopeless(&self) -> bool {
        matches!(self, Self::NotStarted(_) | Self::Dumb(_))
    }

    fn text(&self) -> String {
        match self {
            Self::Exited(Exit { code: Some(code), .. }) => format!("ended with exit code {code}"),
            Self::Exited(Exit { signal: Some(signal), .. }) => format!("was killed by signal {signal}"),
            Self::Exited(_) => "ended".to_owned(),
            Self::Silent => "has closed its input or its output".to_owned(),
            Self::TooLong(bytes) => {
                format!("sent a message of more than {bytes} bytes (mcp_message_bytes_max) and was ended")
            }
            Self::Deaf(time) => {
                format!("has read nothing for {} ms (mcp_stdin_progress_ms_max) and was ended", time.as_millis())
            }
            Self::NotStarted(reason) => reason.clone(),
            Self::Dumb(time) => {
                format!("did not answer within {} ms of its start (mcp_start_ms_max) and was ended", time.as_millis())
            }
            Self::Asked => "was ended".to_owned(),
        }
    }

    /// What calls are told that were given to it; `answered` says whether it ever answered, `line` is the last one of its
    /// error output.
    pub(super) fn fault(&self, name: &str, answered: bool, line: Option<&str>) -> Fault {
        let starts = matches!(self, Self::NotStarted(_) | Self::Dumb(_)) || (!answered && self.is_unexpected());
        let (code, advice) = match starts {
            true => (UPSTREAM_DOWN, "look at its command and its environment"),
            false => (UPSTREAM_DIED, "the call may have been done: look before you repeat it"),
        };
        let said = line.map(|line| format!("; its last line of errors: {line}")).unwrap_or_default();
        let what = if starts { "does not start" } else { "gave no answer" };
        let message = format!("server {name} {what}: it {}{said}. Advice: {advice}", self.text());
        let (exit_code, signal) = match self {
            Self::Exited(exit) => (exit.code, exit.signal),
            _ => (None, None),
        };
        Fault::new(code, message).with_data(json!({ "exit_code": exit_code, "signal": signal, "stderr": line }))
    }

    /// What calls are told while it is not started again for `rest`.
    pub(super) fn circuit(&self, name: &str, rest: Duration, line: Option<&str>) -> Fault {
        let fault = self.fault(name, false, line);
        let message = format!(
            "server {name} has ended too often and is not started for {} ms: the last time it {}; \
             look at its command and its error output",
            rest.as_millis(),
            self.text()
        );
        let mut data = fault.data.unwrap_or_default();
        data["retry_after_ms"] = json!(rest.as_millis() as u64);
        Fault::new(UPSTREAM_DOWN, message).with_data(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_told_what_became_of_its_process() {
        let exited = Death::Exited(Exit { code: Some(3), signal: None });
        let fault = exited.fault("a", true, Some("boom"));
        assert_eq!((fault.code, &fault.data.unwrap()["exit_code"]), (UPSTREAM_DIED, &json!(3)));
        assert!(fault.message.contains("boom") && fault.message.contains("exit code 3"));
        let check =
            |death: &Death, answered, code| assert_eq!(death.fault("a", answered, None).code, code, "{death:?}");
        check(&exited, false, UPSTREAM_DOWN);
        check(&Death::Dumb(Duration::from_secs(1)), false, UPSTREAM_DOWN);
        check(&Death::TooLong(1), true, UPSTREAM_DIED);
        check(&Death::Asked, false, UPSTREAM_DIED);
        let circuit = exited.circuit("a", Duration::from_secs(2), None);
        assert_eq!((circuit.code, circuit.retry_after()), (UPSTREAM_DOWN, Some(Duration::from_secs(2))));
    }
}
