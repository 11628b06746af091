//! docs/kernels.md, made from what the kernels accepted.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use super::baseline::{Baseline, Kernel};
use crate::paths;

/// What a program is for, by its name. A program of no group is listed under its name alone.
const GROUPS: [(&str, &[&str]); 7] = [
    ("CPU time of threads, hand-over of work", &["sched_switch", "sched_waking"]),
    ("processes that start and end", &["sched_process_fork", "sched_process_exec", "sched_process_exit"]),
    ("connections that close", &["inet_sock_set_state"]),
    ("goroutines that are stopped for others", &["signal_deliver"]),
    ("what is received and sent (tier core)", &["sock_recv_length", "sock_send_length"]),
    (
        "what is received and sent over TCP (tier A)",
        &["inet_recvmsg", "inet6_recvmsg", "inet_sendmsg", "inet6_sendmsg"],
    ),
    ("what is received and sent over unix sockets (tier A)", &["unix_stream_recvmsg", "unix_stream_sendmsg"]),
];

const BEFORE: &str = "# Kernels

Which way of seeing socket traffic serves on which kernel. The agent tries them by attaching and reports the choice: in its
log, in `load-watchdog doctor` and `status`, and as `load_watchdog_tier_info`. No version number is trusted.

This page is made by `cargo xtask codegen` from tests/baseline/kernels.toml, which `cargo xtask vm --accept` writes after it
has loaded every program on each of these kernels.
";

const AFTER: &str = "
The kernel's type information (`/sys/kernel/btf/vmlinux`) and the helper `bpf_loop` (kernel 5.17 and later) are needed
everywhere. x86_64 only, as yet. A kernel in lockdown mode \"confidentiality\" refuses the programs; \"integrity\" does not.
Socket traffic through io_uring is not seen on any kernel; it is counted as `io_uring`.

## How this is checked

- `cargo xtask vm` boots Debian's kernels in QEMU and runs `kernel-check` in each, and on this machine if it may: it loads
  every program, attaches, prints the tier and the verifier's counts, and measures a server of known cost. It fails when a
  figure does not hold, and when a program grew by more than 10 % against the table above, is new, or does not attach any
  more; `cargo xtask vm --accept` takes that as the new state. `cargo xtask test` does the same.
- `cargo xtask test` measures servers of known cost on the running kernel: each request counted once, the mean of its
  logins within 5 % of the server's own thread CPU clock, at least 95 % of its CPU time charged to requests.
- With `kernel-check --slow`, meant for emulated machines, the bounds are 10 % and 75 %: there a thread's start and a read's
  way through the kernel take milliseconds, which no request owns.
";

pub(crate) fn path() -> PathBuf {
    paths::root().join("docs/kernels.md")
}

/// Writes the page, or fails when it is not up to date.
pub(crate) fn write(check: bool) -> Result<()> {
    let path = path();
    let wanted = markdown(&Baseline::load()?);
    if check {
        let found = fs::read_to_string(&path).unwrap_or_default();
        ensure!(found == wanted, "`cargo xtask codegen` makes docs/kernels.md anew");
        return Ok(());
    }
    fs::write(&path, wanted).with_context(|| format!("cannot write {}", path.display()))
}

fn markdown(baseline: &Baseline) -> String {
    let mut text = BEFORE.to_owned();
    // Writing to a String cannot fail.
    let _ = tables(baseline, &mut text);
    text + AFTER
}

fn tables(baseline: &Baseline, text: &mut String) -> std::fmt::Result {
    let mut kernels: Vec<(&String, &Kernel)> = baseline.kernel.iter().collect();
    // 6.12 comes after 6.1 and before 6.18: by number, not by letter.
    let numbers =
        |series: &str| -> Vec<u32> { series.split('.').filter_map(|part| part.parse().ok()).collect() };
    kernels.sort_by_key(|(series, _)| numbers(series));

    let row = |text: &mut String, first: &str, cell: &dyn Fn(&Kernel) -> String| {
        write!(text, "| {first} |")?;
        for (_, kernel) in &kernels {
            write!(text, " {} |", cell(kernel))?;
        }
        writeln!(text)
    };
    writeln!(text, "\n## What each kernel accepted\n")?;
    writeln!(
        text,
        "The figures are instructions that the kernel's verifier walked to accept the program (its limit is 1,000,000); \
         \"–\" is a program that is not attached there.\n"
    )?;
    write!(text, "| what is measured | program |")?;
    for (series, _) in &kernels {
        write!(text, " {series} |")?;
    }
    write!(text, "\n|---|---|")?;
    for _ in &kernels {
        write!(text, "---:|")?;
    }
    writeln!(text)?;
    row(text, "release |", &|kernel| kernel.release.clone())?;
    row(text, "tier that serves |", &|kernel| format!("**{}**", kernel.tier))?;
    let mut left: BTreeSet<&str> =
        kernels.iter().flat_map(|(_, kernel)| &kernel.attached).map(String::as_str).collect();
    let count = |kernel: &Kernel, name: &str| {
        let attached = kernel.attached.iter().any(|attached| attached == name);
        let count = kernel.verified.get(name).filter(|_| attached);
        count.map_or_else(|| "–".to_owned(), ToString::to_string)
    };
    for (what, programs) in GROUPS {
        let mut what = what;
        for name in programs.iter().filter(|name| left.remove(**name)) {
            row(text, &format!("{what} | `{name}`"), &|kernel| count(kernel, name))?;
            what = "";
        }
    }
    for name in left {
        row(text, &format!("| `{name}`"), &|kernel| count(kernel, name))?;
    }

    writeln!(text, "\n## What could not be had, and why\n")?;
    for (series, kernel) in &kernels {
        if kernel.not_used.is_empty() {
            writeln!(text, "- {series}: nothing is missing.")?;
        }
        for (what, why) in &kernel.not_used {
            writeln!(text, "- {series}: {what}: {why}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_what_the_baseline_says() {
        // As the test of the other generated files does it.
        let check = std::env::var_os("LOAD_WATCHDOG_WRITE_GENERATED").is_none();
        write(check).expect("docs/kernels.md is up to date");
    }

    #[test]
    fn every_program_of_every_kernel_is_told() {
        let kernel = |attached: &[&str], tier: &str| Kernel {
            release: "r".to_owned(),
            tier: tier.to_owned(),
            attached: attached.iter().map(|name| (*name).to_owned()).collect(),
            not_used: [("a".to_owned(), "because".to_owned())].into(),
            verified: attached.iter().map(|name| ((*name).to_owned(), 7)).collect(),
        };
        let baseline = Baseline {
            kernel: [
                ("6.12".to_owned(), kernel(&["sched_switch", "sock_recv_length"], "core")),
                ("6.1".to_owned(), kernel(&["sched_switch", "new_one"], "a")),
            ]
            .into(),
        };
        let text = markdown(&baseline);
        assert!(text.contains("| program | 6.1 | 6.12 |"), "{text}");
        assert!(text.contains("| `sched_switch` | 7 | 7 |"), "{text}");
        assert!(text.contains("| `sock_recv_length` | – | 7 |"), "{text}");
        assert!(text.contains("| | `new_one` | 7 | – |"), "{text}");
        assert!(text.contains("- 6.1: a: because"), "{text}");
    }
}
