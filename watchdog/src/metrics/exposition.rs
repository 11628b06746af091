//! Renders a snapshot in the Prometheus text format.

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric as Point, MetricFamily, MetricType,
};
use watchdog_common::types::Loss;

use super::catalogue::{self, Kind, Metric};
use super::fold::{BOUNDS_SECONDS, Folded};
use super::{BuildEvidence, DETECTION_BOUNDS_SECONDS, Detection, Snapshot, VERDICTS};
use crate::kernel::Tier;
use crate::verdict::Measure;

const NS_PER_S: f64 = 1e9;

/// The whole exposition. Families without a point are left out.
pub fn render(snapshot: &Snapshot<'_>) -> Result<String, prometheus::Error> {
    let mut families = Families::default();
    requests(snapshot, &mut families);
    services(snapshot, &mut families);
    judgement(snapshot, &mut families);
    agent(snapshot, &mut families);
    TextEncoder::new().encode_to_string(&families.finish())
}

fn requests(snapshot: &Snapshot<'_>, families: &mut Families) {
    // The kernel makes every series of a slot at once; only those that counted something are worth storing.
    for (key, folded) in snapshot.totals.requests().filter(|(_, folded)| *folded != Folded::default()) {
        let labels =
            [key.service.as_str(), key.endpoint.as_str(), key.build.as_str(), key.status_class.label()];
        families.histogram(&catalogue::REQUEST_CPU, &labels, cpu_histogram(&folded));
        families.value(&catalogue::REQUESTS, &labels, folded.count as f64);
    }
}

fn services(snapshot: &Snapshot<'_>, families: &mut Families) {
    for (service, time) in snapshot.totals.services() {
        let labels = [service.as_str()];
        families.value(&catalogue::REQUESTS_STARTED, &labels, time.started as f64);
        families.value(&catalogue::SERVICE_CPU, &labels, time.process_ns as f64 / NS_PER_S);
        families.value(&catalogue::ATTRIBUTED_CPU, &labels, time.attributed_ns as f64 / NS_PER_S);
        families.value(&catalogue::SHARED_CPU, &labels, time.shared_ns as f64 / NS_PER_S);
        families.value(&catalogue::UNATTRIBUTED_CPU, &labels, time.unattributed_ns as f64 / NS_PER_S);
    }
    for (service, coverage) in &snapshot.coverage {
        if let Some(coverage) = coverage {
            families.value(&catalogue::COVERAGE, &[service.as_str()], *coverage);
        }
    }
    for (service, kind, share) in &snapshot.hidden {
        families.value(&catalogue::HIDDEN, &[service.as_str(), kind], *share);
    }
    for (service, build, count) in &snapshot.processes {
        families.value(&catalogue::PROCESSES, &[service.as_str(), build.as_str()], *count as f64);
    }
}

fn judgement(snapshot: &Snapshot<'_>, families: &mut Families) {
    opinions(snapshot, families);
    environment(snapshot, families);
    for judged in &snapshot.judged {
        let (service, endpoint, build) =
            (judged.service.as_str(), judged.endpoint.as_str(), judged.build.as_str());
        for (budget, ratio) in &judged.ratios {
            families.value(&catalogue::BUDGET_RATIO, &[service, endpoint, build, budget], *ratio);
        }
        if let Some((baseline, seconds)) = &judged.baseline {
            let labels = [service, endpoint, baseline.as_str()];
            families.once(&catalogue::BASELINE, &labels, *seconds);
            if let Some(requests) = judged.baseline_requests {
                families.once(&catalogue::BASELINE_REQUESTS, &labels, requests as f64);
            }
        }
        if let Some(share) = judged.host_share {
            families.value(&catalogue::HOST_SHARE, &[service, endpoint, build], share);
        }
    }
    snapshot.evidence.iter().for_each(|build| evidence(build, families));
}

fn evidence(build: &BuildEvidence, families: &mut Families) {
    let labels = [build.service.as_str(), build.build.as_str()];
    for verdict in VERDICTS {
        let holds = f64::from(u8::from(verdict == build.verdict));
        families.value(&catalogue::VERDICT, &[labels[0], labels[1], verdict], holds);
    }
    families.value(&catalogue::LOG_EVIDENCE, &labels, build.log_evidence);
    families.value(&catalogue::LOG_BAR, &labels, build.log_bar);
    families.value(&catalogue::JUDGED_REQUESTS, &labels, build.requests as f64);
    families.value(&catalogue::WARMING, &labels, build.warming as f64);
    for (endpoint, verdict, requests) in &build.to_go {
        let labels = [labels[0], endpoint.as_str(), labels[1], verdict];
        families.value(&catalogue::TO_VERDICT, &labels, *requests as f64);
    }
    let Some(cpu) = &build.cpu else { return };
    let (lower, upper) = cpu.interval_seconds.unzip();
    let bounds = [
        ("mean", Some(cpu.mean_seconds)),
        ("lower", lower),
        ("upper", upper),
        ("limit", Some(cpu.limit_seconds)),
    ];
    for (bound, seconds) in bounds {
        let Some(seconds) = seconds else { continue };
        let labels = [labels[0], cpu.endpoint.as_str(), labels[1], bound];
        families.value(&catalogue::JUDGED_CPU, &labels, seconds);
    }
}

fn environment(snapshot: &Snapshot<'_>, families: &mut Families) {
    for build in &snapshot.environment.builds {
        let labels = [build.service.as_str(), build.build.as_str()];
        families.value(&catalogue::ENVIRONMENT, &[labels[0], labels[1], build.source], build.factor);
        families.value(&catalogue::CONTROL_VIOLATED, &labels, f64::from(u8::from(build.violated)));
    }
}

fn opinions(snapshot: &Snapshot<'_>, families: &mut Families) {
    for opinion in &snapshot.opinions {
        let labels = [opinion.service.as_str(), opinion.endpoint.as_str(), opinion.build.as_str()];
        if let Some(confidence) = opinion.confidence {
            families.value(&catalogue::CONFIDENCE, &labels, confidence);
        }
        for (bound, seconds) in
            ["mean", "lower", "upper"].into_iter().zip(opinion.estimate.into_iter().flatten())
        {
            families.value(&catalogue::ESTIMATE, &[labels[0], labels[1], labels[2], bound], seconds);
        }
        let Some(measure) = &opinion.measure else { continue };
        for label in Measure::LABELS {
            let holds = f64::from(u8::from(label == measure));
            families.value(&catalogue::MEASURE, &[labels[0], labels[1], labels[2], label], holds);
        }
    }
}

fn agent(snapshot: &Snapshot<'_>, families: &mut Families) {
    let counters = snapshot.counters;
    for ((service, reason), count) in &counters.incidents {
        families.value(&catalogue::INCIDENTS, &[service.as_str(), reason], *count as f64);
    }
    for ((service, outcome), count) in &counters.rollbacks {
        families.value(&catalogue::ROLLBACKS, &[service.as_str(), outcome], *count as f64);
    }
    for (service, observed) in &snapshot.observed {
        let counts =
            [("roll_back", observed.would_have_rolled_back), ("refuse", observed.would_have_refused)];
        for (would, count) in counts {
            families.value(&catalogue::OBSERVED, &[service.as_str(), would], count as f64);
        }
    }
    for (service, detection) in &counters.detection {
        families.histogram(&catalogue::DETECTION, &[service.as_str()], detection_histogram(detection));
    }
    let environment = &snapshot.environment;
    if let Some(seconds) = environment.loop_seconds {
        families.value(&catalogue::LOOP, &[], seconds);
    }
    if let Some(cycles) = environment.loop_cycles_per_instruction {
        families.value(&catalogue::LOOP_CPI, &[], cycles);
    }
    families.value(&catalogue::LOOP_CPU, &[], environment.loop_cpu_seconds);
    for (loss, count) in Loss::ALL.iter().zip(counters.losses) {
        families.value(&catalogue::LOST, &[loss.label()], count as f64);
    }
    for tier in [Tier::Core, Tier::A] {
        let holds = f64::from(u8::from(snapshot.tier == Some(tier)));
        families.value(&catalogue::TIER, &[tier_label(tier)], holds);
    }
    for (program, runs, nanoseconds) in &snapshot.probes {
        families.value(&catalogue::PROBE_SECONDS, &[program], *nanoseconds as f64 / NS_PER_S);
        families.value(&catalogue::PROBE_RUNS, &[program], *runs as f64);
    }
    families.value(&catalogue::RELOAD_SUCCESS, &[], f64::from(u8::from(counters.reload_ok)));
    families.value(&catalogue::TICK_ERRORS, &[], counters.tick_errors as f64);
    if let Some((cpu_seconds, rss_bytes)) = own_figures() {
        families.value(&catalogue::AGENT_CPU, &[], cpu_seconds);
        families.value(&catalogue::AGENT_RSS, &[], rss_bytes);
    }
    families.value(&catalogue::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
}

fn tier_label(tier: Tier) -> &'static str {
    match tier {
        Tier::Core => "core",
        Tier::A => "a",
    }
}

/// CPU seconds and resident bytes of the agent.
fn own_figures() -> Option<(f64, f64)> {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike as _;
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let cpu_us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    // statm: size, resident, ... in pages.
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u32 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let page_bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some((cpu_us as f64 * 1e-6, f64::from(pages) * page_bytes as f64))
}

fn cpu_histogram(folded: &Folded) -> Histogram {
    histogram(&BOUNDS_SECONDS, &folded.per_bound, folded.oncpu_sum_ns as f64 / NS_PER_S)
}

fn detection_histogram(detection: &Detection) -> Histogram {
    histogram(&DETECTION_BOUNDS_SECONDS, &detection.per_bound, detection.sum_seconds)
}

/// The encoder adds `+Inf` from the sample count, so the last count (above all bounds) only enters there: the count is
/// the sum of the buckets, which keeps `+Inf` and `_count` equal even when a reading fell between two additions.
fn histogram(bounds: &[f64], per_bound: &[u64], sum: f64) -> Histogram {
    let mut cumulative = 0;
    let buckets = bounds
        .iter()
        .zip(per_bound)
        .map(|(bound, count)| {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulative);
            bucket
        })
        .collect();
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(per_bound.iter().sum());
    histogram.set_sample_sum(sum);
    histogram
}

/// Points by their row of the catalogue.
#[derive(Default)]
struct Families {
    points: std::collections::HashMap<&'static str, Vec<Point>>,
}

impl Families {
    fn value(&mut self, metric: &Metric, labels: &[&str], value: f64) {
        let mut point = Point::from_label(pairs(metric, labels));
        if metric.kind == Kind::Counter {
            let mut counter = Counter::default();
            counter.set_value(value);
            point.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            point.set_gauge(gauge);
        }
        self.points.entry(metric.name).or_default().push(point);
    }

    /// Like `value`, unless a point with these labels is there: several builds share one baseline.
    fn once(&mut self, metric: &Metric, labels: &[&str], value: f64) {
        let pairs = pairs(metric, labels);
        let known =
            self.points.get(metric.name).is_some_and(|points| points.iter().any(|p| p.get_label() == pairs));
        if !known {
            self.value(metric, labels, value);
        }
    }

    fn histogram(&mut self, metric: &Metric, labels: &[&str], histogram: Histogram) {
        let mut point = Point::from_label(pairs(metric, labels));
        point.set_histogram(histogram);
        self.points.entry(metric.name).or_default().push(point);
    }

    fn finish(mut self) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        for metric in catalogue::ALL {
            let Some(points) = self.points.remove(metric.name) else { continue };
            let mut family = MetricFamily::default();
            family.set_name(metric.full_name());
            family.set_help(metric.help.to_owned());
            family.set_field_type(match metric.kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge => MetricType::GAUGE,
                Kind::Histogram => MetricType::HISTOGRAM,
            });
            family.set_metric(points);
            families.push(family);
        }
        families
    }
}

fn pairs(metric: &Metric, values: &[&str]) -> Vec<LabelPair> {
    debug_assert_eq!(metric.labels.len(), values.len(), "labels of {}", metric.name);
    metric
        .labels
        .iter()
        .zip(values)
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        })
        .collect()
}
