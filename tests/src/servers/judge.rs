//! Whether a trial's figures hold, and all of them as text.

use std::fmt::{self, Write as _};

use watchdog_common::types::Loss;

use super::Server;
use super::check::{Front, Line, Outcome, strays};
use crate::window::{Account, losses_told};

/// Smallest share of the processes' CPU that belongs to requests.
const COVERAGE: f64 = 0.95;
/// Largest share of the processes' time that is given twice or to nobody at all.
const CONSERVED: f64 = 0.01;
/// How far the scheduler's figure may be from the processes' own clocks.
const CLOCKS_AGREE: f64 = 0.02;
/// Of a light request's own figure, what the kernel must at least have seen.
const LIGHT_AT_LEAST: f64 = 0.9;
/// What may be on a light request beyond its own figure: so many times the server's own part of a request, and a share
/// of a login.
const LIGHT_OVERHEADS: f64 = 3.0;
const LIGHT_SMEAR: f64 = 0.01;
/// Losses that would make figures wrong.
const NOT_LOST: [Loss; 4] =
    [Loss::SeriesMissing, Loss::SampleRingFull, Loss::UnreadableBuffer, Loss::OngoingFull];

/// Between which means, in nanoseconds, the kernel's figure of a line must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    pub at_least: f64,
    pub at_most: f64,
}

impl Outcome {
    pub fn bounds(&self, server: &Server, line: &Line) -> Bounds {
        let login_ns = self.lines.iter().find(|line| line.step == "login").map_or(0.0, |line| line.own_ns)
            + self.overhead_ns;
        if line.step == "login" {
            return Bounds {
                at_least: login_ns * (1.0 - server.bound),
                at_most: login_ns * (1.0 + server.bound),
            };
        }
        Bounds {
            at_least: LIGHT_AT_LEAST * line.own_ns,
            at_most: line.own_ns + LIGHT_OVERHEADS * self.overhead_ns + LIGHT_SMEAR * login_ns,
        }
    }
}

/// What does not hold; empty when all does.
pub fn judge(server: &Server, outcome: &Outcome) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut hold = |holds: bool, told: String| {
        if !holds {
            wrong.push(told);
        }
    };
    let report = &outcome.report;
    hold(report.failures == 0, format!("{} requests failed: {:?}", report.failures, report.failed));
    hold(
        report.requests == outcome.trial.requests,
        format!("only {} of {} requests were sent in time", report.requests, outcome.trial.requests),
    );
    for line in &outcome.lines {
        let (step, kernel) = (&line.step, line.kernel);
        hold(kernel.count == line.sent, format!("{step}: {} requests, counted {}", line.sent, kernel.count));
        let bounds = outcome.bounds(server, line);
        let within = (bounds.at_least..=bounds.at_most).contains(&kernel.mean_ns());
        hold(
            within,
            format!(
                "{step}: mean {:.3} ms is not within {:.3} and {:.3} ms",
                kernel.mean_ns() / 1e6,
                bounds.at_least / 1e6,
                bounds.at_most / 1e6
            ),
        );
    }
    wrong.extend(of_account(&outcome.account, outcome.process_cpu_ns));
    for front in &outcome.fronts {
        let counts = front.counts.iter().filter(|(_, sent, counted)| sent != counted);
        let counts =
            counts.map(|(step, sent, counted)| format!("{step}: {sent} requests, counted {counted}"));
        let told = counts.chain(of_account(&front.account, front.process_cpu_ns));
        wrong.extend(told.map(|told| format!("{}: {told}", front.name)));
    }
    for loss in NOT_LOST {
        let lost = outcome.losses[loss as usize];
        if lost > 0 {
            wrong.push(format!("{lost} lost by {}", loss.label()));
        }
    }
    wrong
}

/// What does not hold of a slot's figures, whatever its endpoints cost.
fn of_account(account: &Account, process_cpu_ns: u64) -> Vec<String> {
    let mut wrong = Vec::new();
    let strays = strays(account);
    if strays > 0 {
        wrong.push(format!("{strays} requests counted that were not sent"));
    }
    if account.left_ongoing > 0 {
        wrong.push(format!("{} requests are still held", account.left_ongoing));
    }
    if account.coverage() < COVERAGE {
        wrong.push(format!("coverage is {:.4}", account.coverage()));
    }
    let process_ns = account.conservation.process_ns;
    let gap = apart(account.given_ns(), process_ns);
    if gap > CONSERVED {
        wrong.push(format!("{gap:.4} of the time is given to nobody or twice"));
    }
    let gap = apart(process_ns, process_cpu_ns);
    if gap > CLOCKS_AGREE {
        wrong.push(format!("the scheduler's figure is {gap:.4} from the processes' own clocks"));
    }
    wrong
}

fn apart(one: u64, other: u64) -> f64 {
    one.abs_diff(other) as f64 / other.max(1) as f64
}

impl Outcome {
    /// Everything, with the verdict's bounds, in a few lines.
    pub fn told(&self, server: &Server) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(server, &mut text);
        text
    }

    fn write(&self, server: &Server, text: &mut String) -> fmt::Result {
        writeln!(
            text,
            "  {:<8} {:>5} {:>7} {:>10} {:>10} {:>7} {:>21}",
            "step", "sent", "counted", "kernel ms", "own ms", "ratio", "wanted ms"
        )?;
        for line in &self.lines {
            let bounds = self.bounds(server, line);
            let expected = if line.step == "login" { line.own_ns + self.overhead_ns } else { line.own_ns };
            writeln!(
                text,
                "  {:<8} {:>5} {:>7} {:>10.3} {:>10.3} {:>7.3} {:>10.3}..{:>9.3}",
                line.step,
                line.sent,
                line.kernel.count,
                line.kernel.mean_ns() / 1e6,
                line.own_ns / 1e6,
                line.kernel.mean_ns() / expected.max(1.0),
                bounds.at_least / 1e6,
                bounds.at_most / 1e6,
            )?;
        }
        let own = if self.told_by_application { "the application's own clock" } else { "calibration" };
        writeln!(
            text,
            "  own figures from {own}; server's part {:.3} ms a request; {} failed in {:.1} s; losses: {}",
            self.overhead_ns / 1e6,
            self.report.failures,
            self.report.elapsed_ms as f64 / 1e3,
            losses_told(&self.losses),
        )?;
        write_account(text, "server", &self.account, self.process_cpu_ns)?;
        for Front { name, account, process_cpu_ns, counts } in &self.fronts {
            write_account(text, name, account, *process_cpu_ns)?;
            let counts: Vec<_> = counts.iter().map(|(step, sent, n)| format!("{step} {n}/{sent}")).collect();
            writeln!(text, "    counted: {}", counts.join(", "))?;
        }
        Ok(())
    }
}

fn write_account(text: &mut String, name: &str, account: &Account, process_cpu_ns: u64) -> fmt::Result {
    let figures = &account.conservation;
    writeln!(
        text,
        "  {name}: {:.1} ms by its own clock, {:.1} by the scheduler, attributed {:.1} ({:.1} inferred), \
         shared {:.1}, unattributed {:.1}, coverage {:.1} %; begun {}, finished {}, held {}, strays {}",
        process_cpu_ns as f64 / 1e6,
        figures.process_ns as f64 / 1e6,
        figures.attributed_ns as f64 / 1e6,
        account.inferred_ns as f64 / 1e6,
        figures.shared_ns as f64 / 1e6,
        figures.unattributed_ns as f64 / 1e6,
        100.0 * account.coverage(),
        figures.started,
        figures.finished,
        account.left_ongoing,
        strays(account),
    )
}
