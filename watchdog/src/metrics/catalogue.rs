//! Every metric, once: name, type, labels, unit and meaning. The exposition and `docs/metrics.md` come from this table.

use std::fmt::Write as _;

/// Prefix of every name in the table.
pub const PREFIX: &str = "load_watchdog_";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Without [`PREFIX`].
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub unit: &'static str,
    pub help: &'static str,
}

impl Metric {
    pub fn full_name(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }
}

macro_rules! metrics {
    ($($id:ident = $kind:ident $name:literal [$($label:literal),*] $unit:literal $help:literal;)*) => {
        $(pub const $id: Metric = Metric {
            name: $name, kind: Kind::$kind, labels: &[$($label),*], unit: $unit, help: $help,
        };)*
        /// The whole table, in the order of the exposition.
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

metrics! {
    REQUEST_CPU = Histogram "request_cpu_seconds" ["service", "endpoint", "build", "status_class"] "seconds"
        "On-CPU time of finished requests. Sum and count are exact; a request is counted under the smallest bound that its fine kernel bucket (3.2 % wide) does not reach beyond.";
    REQUESTS = Counter "requests_total" ["service", "endpoint", "build", "status_class"] "requests"
        "Finished requests, counted in the kernel.";
    REQUESTS_STARTED = Counter "requests_started_total" ["service"] "requests"
        "Requests begun; minus the finished ones: under way or abandoned.";
    BASELINE = Gauge "request_cpu_baseline_seconds" ["service", "endpoint", "build"] "seconds"
        "Mean on-CPU time per request of the baseline (the last good build, named by the label) that new builds are compared with.";
    BASELINE_REQUESTS = Gauge "baseline_requests" ["service", "endpoint", "build"] "requests"
        "Requests that the baseline (named by the label) knows of the endpoint.";
    BUDGET_RATIO = Gauge "budget_ratio" ["service", "endpoint", "build", "budget"] "ratio"
        "Measured figure over its limit; above 1 the budget is exceeded on average, which is not yet a verdict.";
    VERDICT = Gauge "verdict" ["service", "build", "verdict"] "one-hot"
        "1 for the verdict that holds for a build on probation, 0 for the others.";
    LOG_EVIDENCE = Gauge "log_evidence" ["service", "build"] "nats"
        "Natural logarithm of the largest evidence against the build so far; it exceeds at log_evidence_bar.";
    LOG_BAR = Gauge "log_evidence_bar" ["service", "build"] "nats"
        "What log_evidence has to reach for the verdict `exceeds`: ln(1/false_rollback_rate).";
    JUDGED_REQUESTS = Gauge "judged_requests" ["service", "build"] "requests"
        "Requests that a build's judge has seen in its probation.";
    TO_VERDICT = Gauge "requests_to_verdict" ["service", "endpoint", "build", "verdict"] "requests"
        "About how many more requests show the build over its budgets (`exceeds`) or within them (`within`), if they are like those so far. Absent where that cannot be told.";
    JUDGED_CPU = Gauge "judged_cpu_seconds" ["service", "endpoint", "build", "bound"] "seconds"
        "On-CPU time per request of the outcome with the strongest evidence: its mean, the ends of a 95 % interval that holds whenever one looks, and its limit.";
    WARMING = Gauge "warming_processes" ["service", "build"] "processes"
        "Processes of a judged build that warm up: their requests may cost more for now.";
    ENVIRONMENT = Gauge "environment_factor" ["service", "build", "source"] "ratio"
        "How much slower the host is than when the good build was measured, by something that the new build cannot change; limits are multiplied with it. Kept within 0.8 and 1.25.";
    CONTROL_VIOLATED = Gauge "environment_violated" ["service", "build"] "boolean"
        "1 while a control costs more than a build may: budgets relative to the good build are held.";
    LOOP = Gauge "calibration_loop_seconds" [] "seconds"
        "On-CPU time of 1,000 steps of the calibration loop at its last run.";
    LOOP_CPI = Gauge "calibration_loop_cycles_per_instruction" [] "ratio"
        "Of the loop's last run. Absent where the machine's counters cannot be read.";
    LOOP_CPU = Counter "calibration_cpu_seconds_total" [] "seconds"
        "What the calibration loop costs: CPU time of its thread.";
    HOST_SHARE = Gauge "projected_host_share" ["service", "endpoint", "build"] "ratio"
        "Share of the service's cores that the endpoint takes at its peak_rate, declared or learned: mean on-CPU time x peak_rate / cores.";
    COVERAGE = Gauge "attribution_coverage_ratio" ["service"] "ratio"
        "Attributed and shared over total CPU time of the service's processes in the last minute, without start-up (5 s per process) and housekeeping (1 ms per process and second). Below min_coverage nothing is judged.";
    HIDDEN = Gauge "hidden_traffic_ratio" ["service", "kind"] "ratio"
        "Share of the bytes that came on connections to the service lately (half-life 30 s) and cannot be read. Above 1 - min_coverage in all, nothing is judged.";
    CONFIDENCE = Gauge "attribution_confidence_ratio" ["service", "endpoint", "build"] "ratio"
        "Share of the endpoint's CPU time that was charged to its requests on exact signs; the rest was inferred. Below 0.9 the estimate is the measure of record, or nothing is.";
    ESTIMATE = Gauge "request_cpu_estimate_seconds" ["service", "endpoint", "build", "bound"] "seconds"
        "On-CPU time per request from the service's CPU time and counts of the recent windows alone, without attribution: the mean and the ends of its 95 % interval. Absent where it cannot be told.";
    MEASURE = Gauge "measure_of_record" ["service", "endpoint", "build", "measure"] "one-hot"
        "1 for the measurement of an endpoint that verdicts rest on, 0 for the others.";
    SERVICE_CPU = Counter "service_cpu_seconds_total" ["service"] "seconds"
        "CPU time of the service's threads as the scheduler counts it: attributed, shared and unattributed together, up to what threads hold at the moment.";
    ATTRIBUTED_CPU = Counter "attributed_cpu_seconds_total" ["service"] "seconds"
        "CPU time charged to requests.";
    SHARED_CPU = Counter "shared_cpu_seconds_total" ["service"] "seconds"
        "CPU time of threads that serve the runtime and no single request, known by their names: the Java virtual machine's compilers and collectors.";
    UNATTRIBUTED_CPU = Counter "unattributed_cpu_seconds_total" ["service"] "seconds"
        "CPU time that belongs to no request: start-up, polling, housekeeping.";
    PROCESSES = Gauge "watched_processes" ["service", "build"] "processes"
        "Processes that are watched at the moment.";
    INCIDENTS = Counter "incidents_total" ["service", "reason"] "incidents"
        "Incidents opened since the agent started.";
    ROLLBACKS = Counter "rollbacks_total" ["service", "outcome"] "rollbacks"
        "Rollbacks that ended since the agent started.";
    OBSERVED = Counter "observed_incidents_total" ["service", "would"] "incidents"
        "Incidents that mode observe only recorded, since the ledger began, by what mode enforce would have done.";
    DETECTION = Histogram "detection_seconds" ["service"] "seconds"
        "From the end of the request that decided to the verdict.";
    LOST = Counter "lost_total" ["reason"] "events"
        "What could not be measured, by reason, since the agent started.";
    TIER = Gauge "tier_info" ["tier"] "info"
        "1 for the set of kernel hooks in use.";
    PROBE_SECONDS = Counter "probe_run_seconds_total" ["program"] "seconds"
        "Run time of a kernel program. Present with --probe-stats only, as the kernel's bookkeeping costs two clock reads per run.";
    PROBE_RUNS = Counter "probe_runs_total" ["program"] "runs"
        "Runs of a kernel program. Present with --probe-stats only.";
    RELOAD_SUCCESS = Gauge "config_reload_success" [] "boolean"
        "1 when the last load of the configuration succeeded; 0: the agent still uses the one before.";
    TICK_ERRORS = Counter "tick_errors_total" [] "errors"
        "Ticks of the agent in which a stage failed; each is logged.";
    AGENT_CPU = Counter "agent_cpu_seconds_total" [] "seconds"
        "CPU time of the agent itself, user and system.";
    AGENT_RSS = Gauge "agent_resident_memory_bytes" [] "bytes"
        "Resident memory of the agent itself.";
    BUILD_INFO = Gauge "build_info" ["version"] "info"
        "1, with the version of the agent.";
}

/// The table as `docs/metrics.md`.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         The agent serves these on `/metrics` (loopback, `agent.listen`), in the Prometheus text format. Base units throughout.\n\
         Generated from `watchdog/src/metrics/catalogue.rs`; `cargo xtask codegen` writes it again.\n\n\
         | name | type | labels | unit | meaning |\n|---|---|---|---|---|\n",
    );
    for metric in ALL {
        let labels = if metric.labels.is_empty() {
            "none".to_owned()
        } else {
            metric.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ")
        };
        let _ = writeln!(
            text,
            "| `{}` | {} | {labels} | {} | {} |",
            metric.full_name(),
            metric.kind.label(),
            metric.unit,
            metric.help
        );
    }
    text.push_str(&notes());
    text
}

fn notes() -> String {
    use super::fold::BOUNDS_SECONDS;
    let bounds: Vec<String> = BOUNDS_SECONDS.iter().map(ToString::to_string).collect();
    let verdicts: Vec<String> = super::VERDICTS.iter().map(|verdict| format!("`{verdict}`")).collect();
    let measures: Vec<String> =
        crate::verdict::Measure::LABELS.iter().map(|measure| format!("`{measure}`")).collect();
    let mut reasons = String::new();
    for loss in watchdog_common::types::Loss::ALL {
        let _ = write!(reasons, "{}`{}`", if reasons.is_empty() { "" } else { ", " }, loss.label());
    }
    format!(
        "\n## Label values\n\n\
         - `service`, `endpoint`: as configured; `other` holds requests that match no endpoint.\n\
         - `build`: as the build source names it. The figures of builds that are gone are kept for the last {kept} per service, then dropped, so the number of series stays bounded.\n\
         - `status_class`: `none`, `1xx` to `5xx`.\n\
         - `would` of `observed_incidents_total`: `roll_back`, `refuse` (or ask).\n\
         - `verdict`: {verdicts}.\n\
         - `measure`: {measures}. `waiting`: direct attribution is unsure, and the estimate needs more; `neither`: both are unsure, or they contradict each other, and nothing is judged.\n\
         - `bound`: `mean`, `lower`, `upper`; of `judged_cpu_seconds` also `limit`.\n\
         - `kind` of `hidden_traffic_ratio`: `tls`, `http2`, `unknown_protocol`, `io_uring`.\n\
         - `source` of `environment_factor`: `old_build` (the good build, serving beside the new one), `declared_endpoints` (`control = true`), `other_service`, `loop` (the calibration loop), `none` (nothing can tell, and the factor is 1).\n\
         - `budget`: the budget's key in the configuration: `mean_cpu`, `vs_baseline`.\n\
         - `reason` of `lost_total`: {reasons}.\n\
         - `reason` of `incidents_total`: the budget that was broken (`mean_cpu`, `quantile_cpu`, `vs_baseline`, `max_host_share`), `condemned_build`, or `release_window` (a new build appeared outside it: not about its cost). `outcome`: `recovered`, `failed` (the hook), `not_recovered` (the hook ran, it did not help), `refused` (not run, as it was not safe), `unknown` (the agent was killed meanwhile).\n\n\
         ## Buckets\n\n\
         Bounds of `request_cpu_seconds`, in seconds: {bounds}.\n",
        kept = super::totals::GONE_BUILDS_KEPT,
        verdicts = verdicts.join(", "),
        measures = measures.join(", "),
        bounds = bounds.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let mut seen = HashSet::new();
        for metric in ALL {
            assert!(seen.insert(metric.name), "{} twice", metric.name);
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
            assert!(metric.help.ends_with('.') && !metric.help.contains('|'), "{}", metric.name);
            if metric.unit == "seconds" {
                assert!(metric.name.contains("seconds"), "{} must name its unit", metric.name);
            }
        }
    }
}
