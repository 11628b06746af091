//! What a soak must show, and how it is told.

use std::fmt::Write as _;

use super::Outcome;
use super::maps::Entries;

/// The agent's memory may rise so much over the second half, KiB, whatever the length.
const GROWTH_KIB: f64 = 1_024.0;
/// Attributed, shared and unattributed time together against the scheduler's, and that against the process's own clock.
const GAP: f64 = 0.01;
const OWN_CLOCK: f64 = 0.02;
/// Descriptors that come and go with connections to the agent.
const DESCRIPTORS: usize = 8;

/// What the maps hold beyond what they held before, in words.
pub(super) fn leftovers(before: &Entries, after: &Entries) -> Vec<String> {
    let kib = |entries: &Entries| usize::try_from(entries.memory_kib).unwrap_or(usize::MAX);
    [
        ("watched processes", before.watched, after.watched),
        ("watched processes that do not run", 0, after.watched_dead),
        ("requests under way", before.ongoing, after.ongoing),
        ("series", before.series, after.series),
        ("threads with a state", before.threads, after.threads),
        ("sockets with a state", before.sockets, after.sockets),
        ("KiB of the maps", kib(before), kib(after)),
    ]
    .into_iter()
    .filter(|(_, before, after)| after > before)
    .map(|(what, before, after)| format!("{what}: {before} before, {after} after"))
    .collect()
}

/// Broken promises; none is what is wanted.
pub fn judge(outcome: &Outcome) -> Vec<String> {
    let mut broken = leftovers(&outcome.before, &outcome.after);
    if !broken.is_empty() {
        broken.extend(outcome.owners.iter().map(|owner| format!("left with a state: {owner}")));
    }
    let mut promise = |holds: bool, what: String| {
        if !holds {
            broken.push(what);
        }
    };
    // A look that never saw anything would find nothing left, too.
    let most = &outcome.most;
    for (what, seen) in [
        ("watched processes", most.watched),
        ("threads with a state", most.threads),
        ("sockets with a state", most.sockets),
        ("series", most.series.saturating_sub(outcome.before.series)),
    ] {
        promise(seen > 0, format!("no {what} were ever seen: this soak looked at nothing"));
    }
    promise(most.watched_dead == 0, format!("{} ended processes were still watched", most.watched_dead));
    let churned = &outcome.churned;
    for (what, times) in [
        ("deploys", churned.deploys),
        ("reloads", churned.reloads),
        ("attachments", churned.attachments),
        ("connections thrown away", churned.thrown_away),
        ("programs", churned.programs),
    ] {
        promise(times > 0, format!("no {what}"));
    }
    for load in &outcome.driven {
        promise(load.requests > 0, format!("{}: no requests", load.name));
        promise(
            load.failures == 0,
            format!("{}: {} requests failed: {:?}", load.name, load.failures, load.failed),
        );
    }
    match outcome.memory.second_half() {
        None => promise(false, "the agent's memory was not seen".to_owned()),
        Some(trend) => promise(
            trend.growth_kib <= GROWTH_KIB,
            format!("the agent's memory rose by {:.0} KiB in the second half", trend.growth_kib),
        ),
    }
    let (before, after) = outcome.descriptors;
    promise(
        after <= before + DESCRIPTORS,
        format!("the agent's descriptors: {before} before, {after} after"),
    );
    for service in &outcome.services {
        let given = service.attributed + service.shared + service.unattributed;
        let gap = (given - service.process).abs() / service.process;
        promise(gap < GAP, format!("{}: {given:.3} s given of {:.3} s", service.name, service.process));
        // Of a server that is deployed anew, the agent may come a moment after the first request.
        let driven = outcome.driven.iter().find(|load| load.name == service.name);
        let driven = driven.map_or(0, |load| load.requests);
        let beside = super::LAST_REQUESTS + churned.half_requests;
        let all = if service.name == "kept" { driven + beside } else { driven };
        promise(
            service.name == "web" || (service.requests - all as f64).abs() < 0.5,
            format!("{}: {all} requests sent, {} counted", service.name, service.requests),
        );
    }
    let last = &outcome.last;
    let figures = &last.figures;
    let given =
        (figures.attributed_ns + figures.shared_ns + figures.unattributed_ns).wrapping_add(figures.kept_ns);
    let apart = |a: u64, b: u64| a.abs_diff(b) as f64 / b.max(1) as f64;
    promise(apart(given, figures.process_ns) < GAP, format!("at the end, time is lost or doubled: {last:?}"));
    promise(
        apart(figures.process_ns, last.own_clock_ns) < OWN_CLOCK,
        format!("at the end, the scheduler's figure is not the process's clock's: {last:?}"),
    );
    promise(
        figures.finished == super::LAST_REQUESTS,
        format!("at the end, requests are miscounted: {last:?}"),
    );
    promise(last.failures == 0, format!("at the end, requests failed: {last:?}"));
    promise(outcome.programs_left == 0, format!("{} kernel programs are left", outcome.programs_left));
    promise(outcome.maps_left == 0, format!("{} maps are left", outcome.maps_left));
    promise(outcome.agent_exit.ends_with(" 0"), format!("the agent ended with {}", outcome.agent_exit));
    promise(outcome.tick_errors < 0.5, format!("{} ticks of the agent failed", outcome.tick_errors));
    broken
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let churned = &self.churned;
        writeln!(
            f,
            "{:.0} s: {} deploys, {} reloads, {} attachments of a second set of programs, {} connections thrown away, \
             {} programs started",
            self.elapsed.as_secs_f64(),
            churned.deploys,
            churned.reloads,
            churned.attachments,
            churned.thrown_away,
            churned.programs
        )?;
        writeln!(
            f,
            "{:<10}{:>9}{:>9}{:>8}{:>11}{:>12}{:>13}{:>15}",
            "server", "sent", "connects", "failed", "counted", "process s", "attributed s", "unattributed s"
        )?;
        for (load, service) in self.driven.iter().zip(&self.services) {
            writeln!(
                f,
                "{:<10}{:>9}{:>9}{:>8}{:>11}{:>12.3}{:>13.3}{:>15.3}",
                load.name,
                load.requests,
                load.connects,
                load.failures,
                service.requests,
                service.process,
                service.attributed,
                service.unattributed
            )?;
        }
        let entries = |what: &str, of: &Entries| {
            let mut text = format!("maps {what}: ");
            let _ = write!(
                text,
                "{} processes ({} of them gone), {} requests, {} series, {} threads, {} sockets, {} KiB",
                of.watched, of.watched_dead, of.ongoing, of.series, of.threads, of.sockets, of.memory_kib
            );
            text
        };
        writeln!(f, "{}", entries("before", &self.before))?;
        writeln!(f, "{}", entries("at most", &self.most))?;
        writeln!(f, "{}", entries("after ", &self.after))?;
        if let Some(trend) = self.memory.second_half() {
            writeln!(
                f,
                "agent's memory over the second half: {:.0} KiB to {:.0} KiB, line {:+.2} KiB/s, {:+.0} KiB in all \
                 (at most {GROWTH_KIB} KiB); descriptors {} to {}",
                trend.first_kib,
                trend.last_kib,
                trend.slope,
                trend.growth_kib,
                self.descriptors.0,
                self.descriptors.1
            )?;
        }
        let last = &self.last.figures;
        writeln!(
            f,
            "at the end: process {:.2} ms (own clock {:.2} ms), attributed {:.2} ms, unattributed {:.2} ms, {} begun, \
             {} finished; losses: {:?}; programs left {}, maps left {}",
            last.process_ns as f64 / 1e6,
            self.last.own_clock_ns as f64 / 1e6,
            last.attributed_ns as f64 / 1e6,
            last.unattributed_ns as f64 / 1e6,
            last.started,
            last.finished,
            self.losses,
            self.programs_left,
            self.maps_left
        )
    }
}
