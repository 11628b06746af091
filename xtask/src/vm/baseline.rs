//! What each kernel of the matrix accepted: tier, programs, and how many instructions its verifier walked for each.
//!
//! Kept in the repository and compared with every run, so that a change that brings a program nearer to the
//! verifier's limit on some kernel is seen when it is made.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::paths;

/// A program may grow by so much, as a share, before it has to be accepted.
const GROWTH: f64 = 0.10;
const HEAD: &str = "# What each kernel accepted, and how many instructions its verifier walked for each program.\n\
                    # Written by `cargo xtask vm --accept`; docs/kernels.md is made from it.\n\n";

/// Every kernel, by series.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Baseline {
    pub(crate) kernel: BTreeMap<String, Kernel>,
}

/// One kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kernel {
    pub(crate) release: String,
    pub(crate) tier: String,
    pub(crate) attached: Vec<String>,
    /// What could not be had, and why.
    pub(crate) not_used: BTreeMap<String, String>,
    pub(crate) verified: BTreeMap<String, u32>,
}

impl Kernel {
    /// From what `kernel-check` printed.
    pub(crate) fn read<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut kernel = Self::default();
        for line in lines {
            if let Some(release) = line.strip_prefix("kernel ") {
                release.clone_into(&mut kernel.release);
            } else if let Some((tier, _)) = line.strip_prefix("tier ").and_then(|rest| rest.split_once(',')) {
                kernel.tier = tier.to_lowercase();
            } else if let Some(name) = line.strip_prefix("attached ") {
                kernel.attached.push(name.to_owned());
            } else if let Some(rest) = line.strip_prefix("not used: ") {
                // "tier core: sock_recv_length: why"
                let at =
                    rest.match_indices(": ").nth(usize::from(rest.starts_with("tier "))).map(|(at, _)| at);
                let (what, why) = at.map_or((rest, ""), |at| (&rest[..at], &rest[at + 2..]));
                kernel.not_used.insert(what.to_owned(), why.to_owned());
            } else if let Some((name, count)) =
                line.strip_prefix("verified ").and_then(|rest| rest.split_once(": "))
            {
                let count = count.split_whitespace().next().unwrap_or_default();
                let count = count.parse().with_context(|| format!("kernel-check says {line:?}"))?;
                kernel.verified.insert(name.to_owned(), count);
            }
        }
        ensure!(!kernel.tier.is_empty(), "kernel-check did not tell which tier serves");
        ensure!(!kernel.verified.is_empty(), "kernel-check told no program's verified instructions");
        Ok(kernel)
    }

    /// How this one differs from what was accepted, where that has to be looked at.
    fn differences(&self, accepted: &Self) -> Vec<String> {
        let mut all = Vec::new();
        if self.tier != accepted.tier {
            all.push(format!("tier {} instead of {}", self.tier, accepted.tier));
        }
        for name in accepted.attached.iter().filter(|name| !self.attached.contains(name)) {
            all.push(format!("{name} is not attached any more"));
        }
        for (name, &count) in &self.verified {
            match accepted.verified.get(name) {
                None => all.push(format!("{name} is new ({count} instructions)")),
                Some(&before) if f64::from(count) > f64::from(before) * (1.0 + GROWTH) => {
                    let percent = 100.0 * (f64::from(count) / f64::from(before) - 1.0);
                    all.push(format!("{name} grew from {before} to {count} instructions (+{percent:.0} %)"));
                }
                Some(_) => {}
            }
        }
        all
    }
}

impl Baseline {
    pub(crate) fn path() -> PathBuf {
        paths::root().join("tests/baseline/kernels.toml")
    }

    /// What was accepted; empty before the first time.
    pub(crate) fn load() -> Result<Self> {
        let path = Self::path();
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    pub(crate) fn save(&self) -> Result<()> {
        let path = Self::path();
        fs::create_dir_all(path.parent().context("it lies in a folder")?)?;
        let text = format!("{HEAD}{}", toml::to_string(self)?);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Fails when a kernel is new, or differs in a way that has to be looked at.
    pub(crate) fn check(&self, series: &str, seen: &Kernel) -> Result<()> {
        let accepted = self.kernel.get(series).with_context(|| {
            format!(
                "kernel {series} is not in tests/baseline/kernels.toml; `cargo xtask vm --accept` adds it"
            )
        })?;
        let differences = seen.differences(accepted);
        ensure!(
            differences.is_empty(),
            "kernel {series}: {}; if that is meant to be, `cargo xtask vm --accept` takes it into \
             tests/baseline/kernels.toml and docs/kernels.md",
            differences.join("; ")
        );
        Ok(())
    }
}

/// `6.12` of `6.12.94+deb12-cloud-amd64`.
pub(crate) fn series_of(release: &str) -> Option<String> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let (major, minor) = (numbers.next()?, numbers.next()?);
    (!major.is_empty() && !minor.is_empty()).then(|| format!("{major}.{minor}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "kernel 6.1.0-50-cloud-amd64\ntier A, 2 programs attached\nattached sched_switch\n\
                        attached inet_recvmsg\nnot used: tier core: sock_recv_length: no such tracepoint: 2\n\
                        verified sched_switch: 1000 instructions\nkeep-alive: ok\n";

    #[test]
    fn what_kernel_check_says_is_read() {
        let kernel = Kernel::read(SAID.lines()).expect("it can be read");
        assert_eq!((kernel.release.as_str(), kernel.tier.as_str()), ("6.1.0-50-cloud-amd64", "a"));
        assert_eq!(kernel.attached, ["sched_switch", "inet_recvmsg"]);
        assert_eq!(kernel.not_used["tier core: sock_recv_length"], "no such tracepoint: 2");
        assert_eq!(kernel.verified["sched_switch"], 1000);
        assert!(Kernel::read(["tier A, none"]).is_err());
    }

    #[test]
    fn growth_has_to_be_accepted() {
        let accepted = Kernel::read(SAID.lines()).expect("it can be read");
        let baseline = Baseline { kernel: [("6.1".to_owned(), accepted.clone())].into() };
        let with =
            |count| Kernel { verified: [("sched_switch".to_owned(), count)].into(), ..accepted.clone() };
        assert!(baseline.check("6.1", &with(1100)).is_ok());
        assert!(baseline.check("6.1", &with(10)).is_ok());
        let error = baseline.check("6.1", &with(1101)).expect_err("it grew").to_string();
        assert!(error.contains("from 1000 to 1101") && error.contains("--accept"), "{error}");
        assert!(baseline.check("6.12", &accepted).is_err());
        let less = Kernel { attached: vec!["sched_switch".to_owned()], ..accepted };
        assert!(baseline.check("6.1", &less).is_err());
    }

    #[test]
    fn a_release_names_its_series() {
        assert_eq!(series_of("6.12.94+deb12-cloud-amd64").as_deref(), Some("6.12"));
        assert_eq!(series_of("6.1.0-50-cloud-amd64").as_deref(), Some("6.1"));
        assert_eq!(series_of("linux"), None);
    }
}
