//! Attributed, shared and unattributed time together is the processes' time, and the processes' time is the scheduler's.

use std::fs;
use std::time::Duration;

use watchdog::clock::mono_ns;
use watchdog::kernel::KernelOptions;
use watchdog_common::types::Loss;
use watchdog_tests::harness::Burn;
use watchdog_tests::load::{LoadOptions, run};
use watchdog_tests::measure::{Case, measure, patterns};
use watchdog_tests::skip::kernel_or_skip;
use watchdog_tests::window::Watched;

#[test]
fn every_nanosecond_is_given_to_a_request_or_to_nobody() {
    let Some(mut kernel) = kernel_or_skip(&KernelOptions::default()) else { return };
    for case in [
        Case::new("keep-alive", &[], 8, 300),
        Case::new("closing", &[], 8, 300).closing(),
        Case::new("lock in a pool", &["--gil", "--model", "pool"], 16, 300),
        Case::new("forking", &["--model", "prefork", "--refork-after", "20"], 4, 200).closing(),
    ] {
        let measured = measure(&mut kernel, &case).unwrap_or_else(|error| panic!("{error:#}"));
        let figures = measured.conservation;
        let given = (figures.attributed_ns + figures.shared_ns + figures.unattributed_ns)
            .wrapping_add(figures.kept_ns);
        let gap = given.abs_diff(figures.process_ns) as f64 / figures.process_ns as f64;
        assert!(
            gap < 0.01,
            "{}: {gap:.4} of the time is given to nobody or twice\n{}",
            case.name,
            measured.told()
        );
        let apart =
            figures.process_ns.abs_diff(measured.process_cpu_ns) as f64 / measured.process_cpu_ns as f64;
        assert!(apart < 0.02, "{}: {apart:.4} from the scheduler's figure\n{}", case.name, measured.told());
        assert_eq!(figures.started, figures.finished, "{}\n{}", case.name, measured.told());
    }
}

/// A process that answers nobody: all of its time is unattributed, that of the slice in which watching begins too.
#[test]
fn work_outside_requests_is_nobodys() {
    let Some(mut kernel) = kernel_or_skip(&KernelOptions::default()) else { return };
    for waits_first in [true, false] {
        let slot = kernel.open_slot(0, 1).expect("a free slot");
        let begin = if waits_first { "read go; " } else { "" };
        let mut child = std::process::Command::new("sh")
            .args(["-c", &format!("{begin}i=0; while [ $i -lt 90000 ]; do i=$((i+1)); done; sleep 0.05")])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("sh runs");
        let waits =
            || fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("it runs").contains(" S ");
        let mut looks = 0;
        while waits_first && !waits() {
            looks += 1;
            assert!(looks < 10_000, "sh does not wait");
            std::thread::sleep(Duration::from_millis(1));
        }
        if !waits_first {
            std::thread::sleep(Duration::from_millis(15));
        }
        kernel.watch(child.id(), slot);
        drop(child.stdin.take());
        child.wait().expect("it ends");
        std::thread::sleep(Duration::from_millis(20));
        let tick = kernel.tick(mono_ns()).expect("a tick");
        let (_, figures) =
            tick.conservation.into_iter().find(|(s, _)| *s == slot).expect("the slot's figures");
        let told = format!("waits first: {waits_first}, {figures:?}");
        println!("{told}");
        assert!(figures.process_ns > 5_000_000, "{told}");
        assert_eq!(figures.attributed_ns, 0, "{told}");
        let apart = figures.unattributed_ns.abs_diff(figures.process_ns);
        assert!(apart < figures.process_ns / 50, "{told}");
        assert_eq!(kernel.slot_of(child.id()), 0, "an ended process is still watched");
    }
}

/// A ring of one page drops most samples; the counts and sums keep all of them, and the tick rebuilds the rest.
#[test]
fn dropped_samples_come_back_from_the_histogram() {
    let options = KernelOptions { sample_ring_bytes: Some(4096), ..KernelOptions::default() };
    let Some(mut kernel) = kernel_or_skip(&options) else { return };
    let burn =
        Burn::start(&["--login-us", "300", "--browse-us", "50", "--report-sleep-ms", "1"]).expect("a server");
    let watched = Watched::open(&mut kernel, 0, &patterns(), &[burn.pid()]).expect("a free slot");
    let requests = 2_000;
    let load = LoadOptions {
        concurrency: 4,
        ..LoadOptions::new(burn.target().clone(), watchdog_tests::harness::usual_mix(), requests)
    };
    let report = run(load).expect("the load runs");
    assert_eq!(report.failures, 0);
    std::thread::sleep(Duration::from_millis(50));

    let first = kernel.tick(mono_ns()).expect("a tick");
    let second = kernel.tick(mono_ns()).expect("a tick");
    assert!(first.losses[Loss::SampleRingFull as usize] > requests / 2, "the ring did not overflow");
    let samples: Vec<_> = first.samples.iter().chain(&second.samples).collect();
    let rebuilt: Vec<_> =
        first.rebuilt.iter().chain(&second.rebuilt).flat_map(|series| &series.oncpu_ns).collect();
    let count = samples.len() as u64 + rebuilt.iter().map(|(_, n)| n).sum::<u64>();
    assert_eq!(count, requests);
    let seen_ns =
        samples.iter().map(|s| s.oncpu_ns).sum::<u64>() + rebuilt.iter().map(|(ns, n)| ns * n).sum::<u64>();
    let series = kernel.series().expect("series").into_iter();
    let own = series.filter(|(key, _)| key.build_slot == watched.slot);
    let exact_ns: u64 = own.map(|(_, series)| series.oncpu_sum_ns).sum();
    assert!(seen_ns.abs_diff(exact_ns) < exact_ns / 1_000, "{seen_ns} instead of {exact_ns}");
}
