//! HTTP/2: its requests are answered and cost what the application says, and the kernel programs do not pretend to know
//! whose they are.

use watchdog::kernel::{KernelOptions, Uprobes};
use watchdog_common::types::Loss;
use watchdog_tests::servers::{self, Session, Trial};
use watchdog_tests::skip::kernel_or_skip;

/// Of the process's CPU, what may be given to requests that were not seen.
const MISGIVEN: f64 = 0.01;

fn is_not_guessed(name: &str, hidden_by: Loss) {
    let options = KernelOptions { uprobes: Uprobes::ALL, ..KernelOptions::default() };
    let Some(mut kernel) = kernel_or_skip(&options) else { return };
    let server = servers::named(name).unwrap_or_else(|error| panic!("{error:#}"));
    let session = Session::open(&mut kernel, server).unwrap_or_else(|error| panic!("{error:#}"));
    for keep_alive in [true, false] {
        let trial = Trial { concurrency: 16, keep_alive, requests: 160, contended: false };
        let outcome =
            session.run(&mut kernel, trial).unwrap_or_else(|error| panic!("{name}, {trial}: {error:#}"));
        let told = outcome.told(server);
        let report = &outcome.report;
        assert_eq!((report.requests, report.failures), (160, 0), "{name}, {trial}: {:?}", report.failed);
        assert!(outcome.told_by_application, "{name}, {trial}: no X-Cpu-Ns\n{told}");
        assert!(report.own("login").mean_ns() > 5e6, "{name}, {trial}: the logins cost nothing\n{told}");
        if keep_alive {
            assert!(
                report.connects <= 2,
                "{name}: {} connections for 16 requests at a time",
                report.connects
            );
        } else {
            // What hides the traffic is named once for each connection.
            let hidden = outcome.losses[hidden_by as usize];
            assert!(
                hidden >= 160,
                "{name}: {hidden} of 160 connections told as {}\n{told}",
                hidden_by.label()
            );
        }
        let conservation = &outcome.account.conservation;
        let given = conservation.attributed_ns as f64 / conservation.process_ns as f64;
        assert!(given <= MISGIVEN, "{name}, {trial}: {:.1} % of the CPU given away\n{told}", 100.0 * given);
    }
}

#[test]
fn in_clear_is_not_guessed() {
    is_not_guessed("node-h2c", Loss::Http2);
}

#[test]
fn over_tls_is_not_guessed() {
    is_not_guessed("node-h2", Loss::Http2);
}
