//! Checks `packaging/load-watchdog.service` with systemd's own tools.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::counts::Counts;
use crate::paths;
use crate::process::{self, Progress};

const LOG: &str = "test.log";
const TIMEOUT: Duration = Duration::from_mins(1);
/// Tenths of `systemd-analyze security`'s exposure level; below 5.0 is what it calls OK. The unit stands at 3.9, and
/// says in its comments what the rest is for.
const EXPOSURE_AT_MOST: u32 = 42;

pub(super) fn check(_filter: Option<&str>, progress: &Progress) -> Result<Counts> {
    let unit = paths::root().join("packaging/load-watchdog.service");
    let text = fs::read_to_string(&unit).with_context(|| format!("cannot read {}", unit.display()))?;
    let folder = paths::artefacts().join("unit");
    fs::create_dir_all(&folder)?;
    // `verify` looks at the programs too, and the agent is not installed here.
    let copy = folder.join("load-watchdog.service");
    fs::write(&copy, text.replace("/usr/bin/load-watchdog", "/bin/true"))?;

    let mut counts = Counts::default();
    for command in [
        Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy),
        Command::new("systemd-analyze")
            .args(["security", "--offline=true", &format!("--threshold={EXPOSURE_AT_MOST}")])
            .arg(&unit),
    ] {
        counts.add(&match process::run_within(command, progress, LOG, Some(TIMEOUT)) {
            Ok(()) => Counts::one_passed(),
            Err(error) => Counts::one_failed(format!("{error:#}")),
        });
    }
    Ok(counts)
}
