//! The kernel's figures against the burn server's own thread CPU clock, on the running kernel.
//!
//! Every case asks: was each request counted once, under its endpoint; is the mean of the logins within 5 % of what
//! the server itself says; was at least 95 % of the processes' CPU time given to requests.

use std::fmt::Write as _;

use watchdog::kernel::{Kernel, KernelOptions};
use watchdog_tests::cases;
use watchdog_tests::measure::{Case, Measured, measure};
use watchdog_tests::skip::kernel_or_skip;

const REQUESTS: u64 = 160;

fn hold(kernel: &mut Kernel, cases: Vec<Case>) {
    let mut failed = String::new();
    for case in cases {
        let measured = measure(kernel, &case).unwrap_or_else(|error| panic!("{error:#}"));
        match cases::judge(&measured, cases::PROMISED) {
            Ok(()) => println!("{}: ok, {:.1} % attributed", case.name, 100.0 * measured.coverage()),
            Err(error) => {
                let _ = writeln!(failed, "{}: {error}\n{}", case.name, measured.told());
            }
        }
    }
    assert!(failed.is_empty(), "\n{failed}");
}

#[test]
fn logins_cost_what_the_server_says_at_every_concurrency() {
    let Some(mut kernel) = kernel_or_skip(&KernelOptions::default()) else { return };
    hold(&mut kernel, cases::concurrencies(REQUESTS));
}

#[test]
fn threads_pools_and_forked_children_are_told_apart() {
    let Some(mut kernel) = kernel_or_skip(&KernelOptions::default()) else { return };
    hold(&mut kernel, cases::models(REQUESTS));
}

#[test]
fn a_request_is_one_however_it_is_read() {
    let Some(mut kernel) = kernel_or_skip(&KernelOptions::default()) else { return };
    hold(&mut kernel, cases::reads(REQUESTS));
}

#[test]
fn a_request_is_one_however_it_is_answered() {
    let Some(mut kernel) = kernel_or_skip(&KernelOptions::default()) else { return };
    hold(&mut kernel, cases::answers(REQUESTS));
}

#[test]
fn fastcgi_requests_are_counted_like_any_other() {
    let Some(mut kernel) = kernel_or_skip(&KernelOptions::default()) else { return };
    hold(&mut kernel, cases::fastcgi(REQUESTS));
}

#[test]
fn uwsgi_requests_are_counted_like_any_other() {
    let Some(mut kernel) = kernel_or_skip(&KernelOptions::default()) else { return };
    hold(&mut kernel, cases::uwsgi(REQUESTS));
}

/// The light endpoints have no 5 % rule: between the wake-up and the return of the read lie some tens of
/// microseconds that the server's own clock leaves out. More than that must not be smeared over them.
#[test]
fn heavy_requests_do_not_smear_over_light_ones() {
    let Some(mut kernel) = kernel_or_skip(&KernelOptions::default()) else { return };
    for server in [&[][..], &["--model", "pool"], &["--gil"]] {
        let case = Case::new(&format!("{server:?}"), server, 16, 400);
        let measured = measure(&mut kernel, &case).unwrap_or_else(|error| panic!("{error:#}"));
        for line in &measured.deviations {
            let surplus_us = (line.kernel.mean_ns() - line.own.mean_ns()) / 1e3;
            assert!((-20.0..300.0).contains(&surplus_us), "{}\n{}", case.name, measured.told());
        }
    }
}

#[test]
fn the_samples_are_the_series() {
    let Some(mut kernel) = kernel_or_skip(&KernelOptions::default()) else { return };
    let measured =
        measure(&mut kernel, &Case::new("samples", &[], 8, 300)).unwrap_or_else(|error| panic!("{error:#}"));
    let sums = |of: &Measured| {
        let count: u64 = of.deviations.iter().map(|line| line.kernel.count).sum();
        let ns: u64 = of.deviations.iter().map(|line| line.kernel.sum_ns).sum();
        (count, ns)
    };
    let watched: Vec<_> = measured.samples.iter().filter(|sample| sample.endpoint != 0).collect();
    let own = (watched.len() as u64, watched.iter().map(|sample| sample.oncpu_ns).sum::<u64>());
    assert_eq!(own, sums(&measured), "{}", measured.told());
    for status in [200, 401] {
        assert!(watched.iter().any(|sample| sample.status == status), "no sample has status {status}");
    }
}
