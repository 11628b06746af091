//! `cargo xtask test --soak 10m`: the soak alone, for as long as one likes, with its figures.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::counts::Reader;
use super::stages::{LOG, with_servers};
use crate::cargo;
use crate::process::{self, Progress};
use crate::setup::{self, Component};

/// The test program, and the variable that tells it how long.
const TEST: &str = "soak";
const SECONDS: &str = "LOAD_WATCHDOG_SOAK";
/// Servers start, and what is left is waited for.
const BESIDE: Duration = Duration::from_mins(3);
const LONGEST: Duration = Duration::from_hours(24);

/// `90s`, `10m` or `1h`.
pub(super) fn time(text: &str) -> Result<Duration> {
    let (number, unit) = text.split_at(text.len() - text.chars().next_back().map_or(0, char::len_utf8));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => bail!("want a number with s, m or h behind it, as in 10m"),
    };
    let number: u64 = number.parse().context("want a number with s, m or h behind it, as in 10m")?;
    let time = Duration::from_secs(number.saturating_mul(seconds));
    if time < Duration::from_secs(30) || time > LONGEST {
        bail!("want something between 30s and 24h");
    }
    Ok(time)
}

pub(super) fn run(time: Duration) -> Result<ExitCode> {
    setup::ensure(&[Component::Build, Component::Python, Component::Servers])?;
    let tests = cargo::tests()?;
    let test = tests.iter().find(|test| test.name == TEST).context("there is no test called soak")?;
    let mut command = test.command(None);
    command.env(SECONDS, time.as_secs().to_string());
    with_servers(&mut command);
    let progress = Progress::start(&format!("soak of {} s", time.as_secs()));
    let mut reader = Reader::default();
    let mut figures = Vec::new();
    let ended = process::stream(&mut command, LOG, Some(time + BESIDE), |line| {
        reader.line(TEST, line);
        figures.push(line.to_owned());
    })?;
    let counts = reader.end(ended.success, ended.last_lines);
    progress.end(&counts.to_string());
    // What the harness says about itself is left out.
    let own = figures.iter().skip_while(|line| !line.starts_with("---- ")).skip(1);
    for line in own.take_while(|line| !line.is_empty() && !line.starts_with("stack backtrace")) {
        println!("{line}");
    }
    for failure in &counts.failures {
        eprintln!("{failure}");
    }
    Ok(if counts.failed == 0 && counts.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::time;

    #[test]
    fn times_are_read_with_their_unit() {
        assert_eq!(time("90s").expect("seconds"), Duration::from_secs(90));
        assert_eq!(time("10m").expect("minutes"), Duration::from_mins(10));
        assert_eq!(time("1h").expect("hours"), Duration::from_hours(1));
        for wrong in ["", "10", "m", "1d", "5s", "48h", "10\u{b5}"] {
            assert!(time(wrong).is_err(), "{wrong:?} is taken");
        }
    }
}
