//! Printing: text or JSON, to a pipe that may close.

use std::io::{self, Write as _};

use serde::Serialize;

use crate::text;

/// Columns to lay tables out for, when standard output is no terminal.
const DEFAULT_WIDTH: usize = 100;
/// The tables need this much; a narrower terminal wraps.
const MIN_WIDTH: usize = 80;

/// Columns of the terminal.
pub(super) fn width() -> usize {
    terminal_size::terminal_size().map_or(DEFAULT_WIDTH, |(width, _)| usize::from(width.0).max(MIN_WIDTH))
}

/// Writes to standard output, with nothing in it that a terminal obeys; that the reader went away (`| head`) is no error.
pub(super) fn print(text: &str) -> io::Result<()> {
    write(&text::lines(text))
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(write(&text::json(&text))?)
}
