//! Load: wrk to saturation, the project's own driver at a given rate.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::server::{Server, pinned};

/// Keep-alive connections of a run at saturation.
pub(super) const CONNECTIONS: u32 = 16;

/// What one run of load brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) requests_per_second: f64,
    /// CPU of the serving process per request.
    pub(super) cpu_ns: f64,
}

/// Asks for `path` over and over on keep-alive connections, as fast as it goes.
pub(super) fn saturate(server: &Server, path: &str, seconds: u32) -> Result<Run> {
    let before = server.cpu()?;
    let output = pinned(Path::new("wrk"), 1)
        .args(["--threads", "1", "--connections", &CONNECTIONS.to_string()])
        .args(["--duration", &seconds.to_string()])
        .arg(format!("http://{}{path}", server.address))
        .stdin(Stdio::null())
        .output()
        .context("cannot run wrk")?;
    let cpu = server.cpu()?.saturating_sub(before);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (requests, requests_per_second) =
        figures_of(&text).with_context(|| format!("wrk printed no figures: {text}"))?;
    ensure!(requests > 0.0, "no request to {} was answered", server.address);
    ensure!(!text.contains("Non-2xx"), "requests failed:\n{text}");
    Ok(Run { requests_per_second, cpu_ns: cpu.as_secs_f64() * 1e9 / requests })
}

/// Requests, and requests per second, of wrk's report.
fn figures_of(text: &str) -> Option<(f64, f64)> {
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in "))?.0;
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"))?;
    Some((requests.trim().parse().ok()?, rate.trim().parse().ok()?))
}

/// Asks for `path` at a rate; returns the rate that was reached.
pub(super) fn at_rate(
    drive: &Path,
    address: SocketAddr,
    path: &str,
    rate: f64,
    time: Duration,
) -> Result<f64> {
    let output = Command::new(drive)
        .args([&address.to_string(), "--step", &format!("request=GET {path}")])
        .args(["--concurrency", "8", "--json", "--exit-with-parent"])
        .args(["--rate", &rate.to_string(), "--seconds", &time.as_secs_f64().to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", drive.display()))?;
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("the driver's report cannot be read")?;
    ensure!(report["failures"] == 0, "requests failed: {report}");
    let number = |name: &str| report[name].as_f64().with_context(|| format!("the report has no {name}"));
    Ok(number("requests")? / (number("elapsed_ms")? / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_what_wrk_prints() {
        let text = "Running 2s test @ http://127.0.0.1:18080/login\n  1 threads and 16 connections\n\
                    64265 requests in 2.11s, 9.19MB read\nRequests/sec:  30479.64\nTransfer/sec:      4.36MB\n";
        assert_eq!(figures_of(text), Some((64265.0, 30479.64)));
        assert_eq!(figures_of("unable to connect"), None);
    }
}
