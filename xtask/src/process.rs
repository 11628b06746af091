//! Runs programs with a spinner that shows their last line, and keeps their whole output in a log file.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::paths;

/// Lines of a failed program's output that are shown.
const SHOWN_LINES: usize = 25;

/// A step under way: a spinner on a terminal, one line at its start and end elsewhere.
pub(crate) struct Progress {
    bar: ProgressBar,
    title: String,
    started: Instant,
    terminal: bool,
}

impl Progress {
    pub(crate) fn start(title: &str) -> Self {
        let terminal = io::stderr().is_terminal();
        let bar = if terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg:.dim}") {
            bar.set_style(style);
        }
        bar.set_prefix(title.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        if !terminal {
            eprintln!("{title} ...");
        }
        Self { bar, title: title.to_owned(), started: Instant::now(), terminal }
    }

    pub(crate) fn show(&self, line: &str) {
        self.bar.set_message(line.trim().to_owned());
    }

    /// Ends the step with a word on how it went.
    pub(crate) fn end(self, word: &str) {
        self.bar.finish_and_clear();
        let seconds = self.started.elapsed().as_secs_f64();
        let mark = if self.terminal { "" } else { "  " };
        eprintln!("{mark}{}: {word} ({seconds:.1} s)", self.title);
    }
}

/// Runs a program to its end. Fails with the end of its output when it cannot be run or exits with another code
/// than 0; the whole output is in `log_name` below the artefacts folder.
pub(crate) fn run(command: &mut Command, progress: &Progress, log_name: &str) -> Result<()> {
    let (success, lines) = stream(command, log_name, |line| progress.show(line))?;
    if !success {
        bail!(
            "{} failed:\n{}\n(whole output: {})",
            describe(command),
            lines.into_iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"),
            paths::artefacts().join(log_name).display()
        );
    }
    Ok(())
}

/// Runs a program, hands each line of its stdout and stderr to `each`, appends it to the log, and returns whether
/// it exited with 0 together with the last lines.
pub(crate) fn stream(
    command: &mut Command,
    log_name: &str,
    mut each: impl FnMut(&str),
) -> Result<(bool, VecDeque<String>)> {
    let folder = paths::artefacts();
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut log = OpenOptions::new().create(true).append(true).open(folder.join(log_name))?;
    writeln!(log, "$ {}", describe(command))?;

    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("cannot run {}", describe(command)))?;
    // The command holds the write ends too; without this the pipe would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let mut last = VecDeque::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches('\r');
        writeln!(log, "{line}")?;
        each(line);
        if last.len() == SHOWN_LINES {
            last.pop_front();
        }
        last.push_back(line.to_owned());
    }
    Ok((child.wait()?.success(), last))
}

/// The stdout of a program that is quick and needs no progress, trimmed; `None` when it failed.
pub(crate) fn capture(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Program and arguments as one would type them, without the environment.
pub(crate) fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}
