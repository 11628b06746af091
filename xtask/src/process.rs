//! Runs programs with a spinner that shows their last line, and keeps their whole output in a log file.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{descendants, paths};

/// Lines of a failed program's output that are shown.
const SHOWN_LINES: usize = 25;
/// How long a program may be silent before it is looked whether it still runs.
const QUIET: Duration = Duration::from_secs(2);
/// Between asking a program to end and killing it.
const PATIENCE: Duration = Duration::from_secs(3);

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

/// How a program ended.
pub(crate) struct Ended {
    /// It exited with 0.
    pub(crate) success: bool,
    /// It was killed because its time was over.
    pub(crate) timed_out: bool,
    /// The time it was given, if it was.
    timeout: Option<Duration>,
    pub(crate) last_lines: VecDeque<String>,
}

impl Ended {
    /// For a message about a program that did not succeed.
    pub(crate) fn how(&self) -> String {
        match self.timeout {
            Some(timeout) if self.timed_out => format!("was ended after {} s", timeout.as_secs()),
            _ => "failed".to_owned(),
        }
    }
}

/// Runs a program to its end. Fails with the end of its output when it cannot be run or exits with another code
/// than 0; the whole output is in `log_name` below the artefacts folder.
pub(crate) fn run(command: &mut Command, progress: &Progress, log_name: &str) -> Result<()> {
    run_within(command, progress, log_name, None)
}

/// The same, and it fails too when the program takes longer than `timeout`.
pub(crate) fn run_within(
    command: &mut Command,
    progress: &Progress,
    log_name: &str,
    timeout: Option<Duration>,
) -> Result<()> {
    let ended = stream(command, log_name, timeout, |line| progress.show(line))?;
    if !ended.success {
        bail!(
            "{} {}:\n{}\n(whole output: {})",
            describe(command),
            ended.how(),
            ended.last_lines.into_iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"),
            paths::artefacts().join(log_name).display()
        );
    }
    Ok(())
}

/// Runs a program, hands each line of its stdout and stderr to `each` and appends it to the log. Kills it when it
/// lives longer than `timeout`.
pub(crate) fn stream(
    command: &mut Command,
    log_name: &str,
    timeout: Option<Duration>,
    mut each: impl FnMut(&str),
) -> Result<Ended> {
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

    let lines = forward_lines(reader);
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut timed_out = false;
    let mut last_lines = VecDeque::new();
    let mut exited = None;
    loop {
        let left =
            deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
        let line = match lines.recv_timeout(left.min(QUIET)) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if left > QUIET => {
                exited = child.try_wait()?;
                if exited.is_none() {
                    continue;
                }
                // Something that it left running holds the pipe, and would for ever.
                writeln!(log, "(ended what this program left running)")?;
                descendants::end(PATIENCE);
                break;
            }
            Err(RecvTimeoutError::Timeout) => {
                // With what it has started: compilers, servers. A process group of its own would escape Ctrl-C.
                descendants::end(PATIENCE);
                timed_out = true;
                break;
            }
        };
        writeln!(log, "{line}")?;
        each(&line);
        if last_lines.len() == SHOWN_LINES {
            last_lines.pop_front();
        }
        last_lines.push_back(line);
    }
    // What was ended for its time has been waited for already.
    let success = !timed_out
        && match exited {
            Some(status) => status.success(),
            None => child.wait()?.success(),
        };
    Ok(Ended { success, timed_out, timeout, last_lines })
}

/// Reads in a thread of its own, so that the receiver can wait with a deadline.
fn forward_lines(reader: io::PipeReader) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
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

/// An address of loopback that nothing listens on now.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").context("looking for a free port on 127.0.0.1")?.local_addr()?)
}
