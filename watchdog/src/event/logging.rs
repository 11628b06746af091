//! The log on standard error: with levels for the journal there, readable in a terminal, no colours in a file.

use std::fmt;
use std::io::{IsTerminal as _, stderr};

use nix::sys::stat::fstat;
use tracing::field::Field;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::format::{Compact, Format, Writer, debug_fn};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::text;

/// Changes the level while the agent runs.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<EnvFilter, tracing_subscriber::Registry>);

impl LogLevel {
    /// A level or a filter such as `info,watchdog::kernel=debug`.
    pub fn set(&self, filter: &str) -> Result<(), String> {
        let filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }
}

/// Installs the log of the process; a second call keeps the first log.
pub fn init(filter: &str) -> LogLevel {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    // An error means that a log is installed already, as in tests.
    let _ = if stderr_is_the_journal() {
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(stderr)
            .fmt_fields(fields())
            .with_ansi(false)
            .event_format(Journal {
                format: Format::default()
                    .compact()
                    .without_time()
                    .with_level(false)
                    .with_target(false)
                    .with_ansi(false),
            });
        registry.with(layer).try_init()
    } else {
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(stderr)
            .fmt_fields(fields())
            .with_ansi(stderr().is_terminal())
            .with_target(false)
            .compact();
        registry.with(layer).try_init()
    };
    LogLevel(handle)
}

/// Writes fields so that one event is one line, whatever is in them: a build's name or what a hook said must not forge
/// another line, nor move the cursor of whoever reads it.
fn fields() -> impl for<'writer> FormatFields<'writer> + 'static {
    debug_fn(field).delimited(" ")
}

fn field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let value = format!("{value:?}");
    match field.name() {
        "message" => write!(writer, "{}", text::line(&value)),
        // What the crate `log` says of where a record is from.
        name if name.starts_with("log.") => Ok(()),
        name => write!(writer, "{}={}", name.trim_start_matches("r#"), text::line(&value)),
    }
}

/// systemd sets `JOURNAL_STREAM` to device and inode of the stream it connected; a redirection makes them differ.
fn stderr_is_the_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    fstat(stderr()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// A line with the level as `<N>`, which the journal turns into its priority; it has time and process itself.
struct Journal {
    format: Format<Compact, ()>,
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.format.format_event(context, writer, event)
    }
}

/// As in syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_event_is_one_line_whatever_is_in_it() {
        let kept = Kept::default();
        let writer = kept.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .fmt_fields(fields())
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .compact();
        let forged = "v2\n<6>root: all is well\u{1b}[2K\u{202e}";
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(build = %forged, requests = 14, name = forged, "exceeds: {forged}");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text:?}");
        assert!(text.trim_end().chars().all(text::is_plain), "{text:?}");
        assert!(text.contains("exceeds: v2\\n<6>root: all is well\\u{1b}[2K\\u{202e}"), "{text:?}");
        assert!(text.contains("build=v2\\n") && text.contains("requests=14"), "{text:?}");
    }
}
