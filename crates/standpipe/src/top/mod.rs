//! `standpipe top`: looks at a server every so often, and shows it in the terminal or prints it once. What is
//! shown is `view`'s matter.

mod sample;
mod view;

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::text::Text;
use ratatui::{DefaultTerminal, Frame};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::cli::TopArgs;
use crate::client::Client;
use crate::exit::{Exit, Failure, Result};
use sample::{Rates, Sample};
use view::{View, stacked};

/// An answer takes no longer, or is none.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// It has some kilobytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Columns where nothing says how wide the output is.
const WIDTH: usize = 120;

/// Shows a server until `q` is pressed, or once.
///
/// # Errors
/// The server can't be reached at the first look, or does not want to be looked at.
pub(crate) fn run(arguments: &TopArgs) -> Result<Exit> {
    let client = Client::new(&arguments.url, &arguments.access)?;
    let mut top = Top {
        client: &client,
        interval: Duration::from_secs_f64(arguments.interval),
        sample: Sample::default(),
        rates: Rates::default(),
        trouble: None,
    };
    if arguments.once {
        client.block_on(top.twice())?;
        return print(&top, arguments.json).map(|()| Exit::Ok);
    }
    if !std::io::stdout().is_terminal() {
        return Err(Failure::usage("the output is no terminal").help("standpipe top --once prints a table"));
    }
    client.block_on(top.look())?;
    // Restores the terminal on a panic, too.
    let mut terminal = ratatui::try_init().map_err(|error| Failure::output(&error))?;
    let done = client.block_on(top.show(&mut terminal));
    ratatui::restore();
    done.map(|()| Exit::Ok)
}

fn print(top: &Top<'_>, json: bool) -> Result<()> {
    let text = if json {
        let mut value = serde_json::to_value(&top.sample).expect("figures and names");
        value["rates"] = serde_json::to_value(&top.rates).expect("figures and names");
        value.to_string() + "\n"
    } else {
        let lines = stacked(top.view(WIDTH).sections(), usize::MAX);
        lines.iter().map(|line| format!("{line}\n")).collect()
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| Failure::output(&error))
}

/// What is known of the server.
#[derive(Debug)]
struct Top<'a> {
    client: &'a Client,
    interval: Duration,
    sample: Sample,
    /// Since the look before.
    rates: Rates,
    /// Why the last look gave nothing.
    trouble: Option<String>,
}

impl Top<'_> {
    /// Looks, and again after the interval: only two looks make rates.
    async fn twice(&mut self) -> Result<()> {
        self.look().await?;
        sleep(self.interval).await;
        self.look().await
    }

    async fn look(&mut self) -> Result<()> {
        let sample = ask(self.client).await?;
        self.rates = Rates::between(&self.sample, &sample).filter(|_| self.is_known()).unwrap_or_default();
        self.sample = sample;
        self.trouble = None;
        Ok(())
    }

    fn is_known(&self) -> bool {
        self.sample.node.uptime_ms > 0
    }

    async fn show(&mut self, terminal: &mut DefaultTerminal) -> Result<()> {
        let mut input = keys()?;
        let mut signals = Signals::new()?;
        loop {
            self.draw(terminal)?;
            let pause = sleep(self.interval);
            tokio::pin!(pause);
            // Keys and signals are heard while it waits and while the server is asked.
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    () = signals.next() => return Ok(()),
                    told = input.recv() => match told {
                        Some(Told::Redraw) => self.draw(terminal)?,
                        Some(Told::Quit) | None => return Ok(()),
                    },
                }
            }
            let answer = tokio::select! {
                answer = self.look() => answer,
                () = signals.next() => return Ok(()),
                told = input.recv() => match told {
                    Some(Told::Redraw) => Ok(()),
                    Some(Told::Quit) | None => return Ok(()),
                },
            };
            match answer {
                Err(failure) if failure.exit == Exit::Denied => return Err(failure),
                Err(failure) => self.trouble = Some(format!("{}; these figures are old", failure.cause())),
                Ok(()) => {}
            }
        }
    }

    fn draw(&self, terminal: &mut DefaultTerminal) -> Result<()> {
        terminal.draw(|frame| self.render(frame)).map(|_| ()).map_err(|error| Failure::output(&error))
    }

    fn render(&self, frame: &mut Frame<'_>) {
        let area = frame.area();
        let sections = self.view(area.width.into()).sections();
        let mut text = Text::from(stacked(sections, area.height.into()));
        // https://no-color.org: set and not empty.
        if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
            text.lines.iter_mut().for_each(|line| {
                line.style.fg = None;
                line.spans.iter_mut().for_each(|span| span.style.fg = None);
            });
        }
        frame.render_widget(text, area);
    }

    fn view(&self, width: usize) -> View<'_> {
        View {
            url: self.client.url(),
            interval_s: self.interval.as_secs_f64(),
            sample: &self.sample,
            rates: &self.rates,
            trouble: self.trouble.as_deref(),
            width,
        }
    }
}

async fn ask(client: &Client) -> Result<Sample> {
    let answer = client.open(Method::GET, "/.status", HeaderMap::new(), Bytes::new(), ANSWER_MAX).await?;
    let (mut body, mut json) = (answer.into_body(), Vec::new());
    while let Some(data) = client.data(&mut body).await? {
        json.extend_from_slice(&data);
        if json.len() > ANSWER_BYTES_MAX {
            return Err(Failure::failed(format!("the status of {} has no end", client.url())));
        }
    }
    serde_json::from_slice(&json).map_err(|error| {
        Failure::failed(format!("{} has no status: {error}", client.url()))
            .help("is it a standpipe server, and as new as this program?")
    })
}

/// What a key, or the terminal, asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Quit,
    Redraw,
}

/// Reads keys on a thread of its own, which ends with the process.
fn keys() -> Result<mpsc::Receiver<Told>> {
    let (sender, receiver) = mpsc::channel(16);
    let read = move || {
        while let Ok(event) = event::read() {
            if let Some(told) = told(&event)
                && sender.blocking_send(told).is_err()
            {
                break;
            }
        }
    };
    std::thread::Builder::new()
        .name("keys".into())
        .spawn(read)
        .map_err(|error| Failure::failed(format!("can't start a thread: {error}")))?;
    Ok(receiver)
}

fn told(event: &Event) -> Option<Told> {
    match event {
        Event::Resize(..) => Some(Told::Redraw),
        Event::Key(key) if key.is_press() => match key.code {
            KeyCode::Char('q') | KeyCode::Esc => Some(Told::Quit),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Told::Quit),
            _ => None,
        },
        _ => None,
    }
}

/// What ends it from outside, in time to restore the terminal.
#[derive(Debug)]
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn new() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let heed = |kind| signal(kind).map_err(|error| Failure::failed(format!("can't wait for signals: {error}")));
        Ok(Self { terminate: heed(SignalKind::terminate())?, hangup: heed(SignalKind::hangup())? })
    }

    #[cfg(not(unix))]
    fn new() -> Result<Self> {
        Ok(Self {})
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
        #[cfg(not(unix))]
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::KeyEvent;

    use super::*;
    use crate::cli::AccessArgs;

    #[test]
    fn it_is_drawn() {
        let access = AccessArgs { db: None, token: None, token_file: None };
        let client = Client::new("http://127.0.0.1:9", &access).unwrap();
        let sample = view::tests::busy();
        let rates = Rates::between(&Sample::default(), &sample).unwrap();
        let top = Top { client: &client, interval: Duration::from_secs(2), sample, rates, trouble: None };
        let screen = |width, height| {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| top.render(frame)).unwrap();
            terminal.backend().to_string()
        };
        let small = screen(80, 24);
        for part in ["standpipe top  http://127.0.0.1:9  up 1 d 1 h, every 2 s", "DOOR", "resp", "closed:   idle 90"] {
            assert!(small.contains(part), "{part:?} is not in\n{small}");
        }
        let tiny = screen(20, 3);
        assert!(tiny.contains("standpipe top  http…"), "{tiny}");
        assert!(screen(200, 60).contains("refusals: connections 40, rate 3"));
    }

    #[test]
    fn keys_are_told_apart() {
        let check = |code, modifiers, expected| {
            assert_eq!(told(&Event::Key(KeyEvent::new(code, modifiers))), expected, "{code:?}");
        };
        check(KeyCode::Char('q'), KeyModifiers::NONE, Some(Told::Quit));
        check(KeyCode::Esc, KeyModifiers::NONE, Some(Told::Quit));
        check(KeyCode::Char('c'), KeyModifiers::CONTROL, Some(Told::Quit));
        check(KeyCode::Char('c'), KeyModifiers::NONE, None);
        assert_eq!(told(&Event::Resize(80, 24)), Some(Told::Redraw));
    }
}
