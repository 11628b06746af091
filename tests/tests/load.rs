//! Loading, attaching, and leaving no trace.

use std::collections::BTreeSet;
use std::time::Duration;

use watchdog::clock::mono_ns;
use watchdog::kernel::{Kernel, KernelOptions};
use watchdog_common::abi::program;
use watchdog_common::types::ProcessEventKind;
use watchdog_tests::harness::Burn;
use watchdog_tests::measure::{endpoint_count, patterns};
use watchdog_tests::skip::kernel_or_skip;

#[test]
fn every_program_that_the_tier_needs_is_attached() {
    let Some(kernel) = kernel_or_skip(&KernelOptions::default()) else { return };
    let attached: BTreeSet<&str> = kernel.report().attached.iter().map(String::as_str).collect();
    for name in program::ALWAYS {
        assert!(attached.contains(name), "{name} is not attached: {:?}", kernel.report());
    }
    assert!(
        program::CORE.iter().all(|name| attached.contains(name)) || attached.contains(program::INET_RECVMSG)
    );
    for (name, instructions) in kernel.verified_instructions() {
        assert!(
            instructions < 500_000,
            "{name}: {instructions} instructions are too near the limit of 1,000,000"
        );
    }
}

/// Programs of ours that the kernel has now, by descriptor links of this process.
fn bpf_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("own descriptors")
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target.to_string_lossy().contains("bpf"))
        .count()
}

#[test]
fn dropping_it_detaches_everything() {
    let before = bpf_descriptors();
    let Some(kernel) = kernel_or_skip(&KernelOptions::default()) else { return };
    assert!(bpf_descriptors() > before);
    drop(kernel);
    assert_eq!(bpf_descriptors(), before);
    // And it can be done again, many times.
    for _ in 0..3 {
        drop(Kernel::load(&KernelOptions::default()).expect("loads again"));
    }
    assert_eq!(bpf_descriptors(), before);
}

#[test]
fn slots_come_back_and_limits_are_told() {
    let Some(mut kernel) = kernel_or_skip(&KernelOptions::default()) else { return };
    let first = kernel.open_slot(0, 1).expect("a slot");
    kernel.close_slot(first).expect("closes");
    let mut all = Vec::new();
    let error = loop {
        match kernel.open_slot(0, 1) {
            Ok(slot) => all.push(slot),
            Err(error) => break error,
        }
    };
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 254);
    assert_ne!(all[0], first, "a slot just closed is the last to be taken again");
    assert!(error.to_string().contains("at most 254 builds"), "{error}");
    let error = kernel.register_service(64, &patterns()).expect_err("one service too many");
    assert!(error.to_string().contains("at most 64 services"), "{error}");
}

#[test]
fn processes_are_told_when_they_fork_exec_and_end() {
    let Some(mut kernel) = kernel_or_skip(&KernelOptions::default()) else { return };
    let slot = kernel.open_slot(0, 1).expect("a slot");
    let mut shell = std::process::Command::new("sh")
        .args(["-c", "read go; /bin/sleep 0.01; true"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("sh runs");
    kernel.watch(shell.id(), slot);
    drop(shell.stdin.take());
    shell.wait().expect("it ends");
    std::thread::sleep(Duration::from_millis(20));
    let events = kernel.tick(mono_ns()).expect("a tick").processes;
    let of = |kind: ProcessEventKind| events.iter().filter(move |event| event.kind == kind as u32);
    let fork =
        of(ProcessEventKind::Fork).find(|event| event.parent_tgid == shell.id()).expect("the fork is told");
    assert_eq!(fork.build_slot, u32::from(slot));
    assert!(of(ProcessEventKind::Exec).any(|event| event.tgid == fork.tgid), "the child's exec is not told");
    assert!(of(ProcessEventKind::Exit).any(|event| event.tgid == fork.tgid), "the child's end is not told");
    assert!(of(ProcessEventKind::Exit).any(|event| event.tgid == shell.id()), "the end is not told");
    assert_eq!(kernel.slot_of(shell.id()) + kernel.slot_of(fork.tgid), 0);
}

/// 300 connections that carried a request and stay open hold nothing in the map of requests under way.
#[test]
fn idle_connections_hold_no_request() {
    use std::io::{Read as _, Write as _};
    let Some(mut kernel) = kernel_or_skip(&KernelOptions::default()) else { return };
    let burn = Burn::start(&["--browse-us", "20"]).expect("a server");
    kernel.register_service(0, &patterns()).expect("patterns");
    let slot = kernel.open_slot(0, endpoint_count()).expect("a slot");
    kernel.watch(burn.pid(), slot);
    let mut connections = Vec::new();
    for _ in 0..300 {
        let mut connection = std::net::TcpStream::connect(burn.address()).expect("connects");
        connection.write_all(b"GET /browse HTTP/1.1\r\nHost: test\r\n\r\n").expect("sends");
        let mut answer = [0u8; 512];
        assert!(connection.read(&mut answer).expect("an answer") > 12);
        connections.push(connection);
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(kernel.ongoing().len(), 0);
    let tick = kernel.tick(mono_ns()).expect("a tick");
    assert_eq!(tick.samples.len(), 300);
}
