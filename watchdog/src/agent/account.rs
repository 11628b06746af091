//! What is told of a build: its verdict in its setting, and how far it is from another one.

use jiff::tz::TimeZone;

use super::Agent;
use super::service::{Build, Judged, Service};
use crate::aggregate::WINDOW_MINUTES;
use crate::clock;
use crate::model::{BuildId, EndpointName};
use crate::verdict::{Evidence, HostFactor, LearnedPeak, Peak, Setting, Verdict, day_of};

/// From the middle of a peak's window to its end.
const HALF_WINDOW_MS: i64 = 150_000;
const _: () = assert!(WINDOW_MINUTES == 5);
/// An interval costs milliseconds, and status may be asked for many times a second.
const INTERVAL_AT_MOST_EVERY_NS: u64 = 2_000_000_000;

/// The interval that is shown while nothing is decided.
#[derive(Debug)]
pub(super) struct Shown {
    requests: u64,
    at_mono_ns: u64,
    evidence: Evidence,
}

impl Service {
    /// The endpoint's peak, for people: as declared, or else as learned, also where no budget asks for it. `place` as the
    /// kernel counts.
    pub(super) fn peak(&self, place: usize) -> Option<Peak> {
        let budget = &self.config.endpoints.get(place.checked_sub(1)?)?.budget;
        let of = |per_second, learned| Peak { per_second, cores: self.cores, learned };
        if let Some(per_second) = budget.peak_rate {
            return Some(of(per_second, None));
        }
        let learned = self.peaks.get(place)?;
        let (per_second, (_, ended_unix_ms)) = learned.known().zip(learned.highest)?;
        let at_unix_ms = ended_unix_ms.saturating_sub(HALF_WINDOW_MS);
        let day = day_of(at_unix_ms, clock::unix_ms(), &TimeZone::system());
        Some(of(per_second, Some(LearnedPeak { at_unix_ms, day })))
    }
}

impl Judged {
    /// Looks whether the interval that is shown is still that of the requests seen.
    fn refresh(&mut self, now_mono_ns: u64) {
        let open = matches!(self.verdict, Verdict::Undecided { .. } | Verdict::Within { .. });
        let requests = self.judge.requests();
        let due = self.shown.as_ref().is_none_or(|shown| {
            shown.requests != requests
                && now_mono_ns.saturating_sub(shown.at_mono_ns) >= INTERVAL_AT_MOST_EVERY_NS
        });
        if open && due {
            let shown = |evidence| Shown { requests, at_mono_ns: now_mono_ns, evidence };
            self.shown = self.judge.evidence().map(shown);
        }
    }
}

impl Agent {
    /// Before anything is told of the builds: what is too dear for every tick.
    pub(super) fn refresh_accounts(&mut self) {
        let now_mono_ns = self.last_tick_mono_ns;
        let builds = self.services.iter_mut().flat_map(|service| service.builds.values_mut());
        builds.filter_map(|build| build.judged.as_mut()).for_each(|judged| judged.refresh(now_mono_ns));
    }

    /// The verdict on a build with what was known beside its requests.
    pub(super) fn told(&self, index: usize, id: &BuildId, build: &Build) -> Option<Verdict> {
        let judged = build.judged.as_ref()?;
        let mut verdict = judged.verdict.clone();
        if let Some(evidence) = verdict.evidence_mut() {
            if evidence.interval_cpu_seconds.is_none()
                && let Some(Shown { evidence: shown, .. }) = &judged.shown
            {
                let same = (&shown.endpoint, shown.outcome, shown.budget)
                    == (&evidence.endpoint, evidence.outcome, evidence.budget);
                evidence.interval_cpu_seconds = shown.interval_cpu_seconds.filter(|_| same);
            }
            let setting = self.setting(index, id, judged, &evidence.endpoint);
            evidence.set(setting);
        }
        Some(verdict)
    }

    fn setting(&self, index: usize, id: &BuildId, judged: &Judged, endpoint: &EndpointName) -> Setting {
        let service = &self.services[index];
        let place = service.endpoints.iter().position(|name| name == endpoint);
        let of_baseline = judged.baseline.as_ref().map(|baseline| service.builds.get(&baseline.build));
        let surroundings = self.environment.status(&(index, id.clone()));
        Setting {
            peak: place.and_then(|place| service.peak(place)),
            baseline_processes: of_baseline
                .map(|build| build.map_or(0, |build| build.processes.len() as u64)),
            host: surroundings.map(|of| HostFactor { factor: of.factor, control: of.control }),
        }
    }
}
