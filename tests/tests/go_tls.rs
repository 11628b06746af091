//! Go's own TLS: found in programs with symbols and without, told apart from HTTP/2 inside it, and left as it was.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use object::{Object as _, ObjectSymbol as _, ReadCache};
use watchdog::clock::mono_ns;
use watchdog::kernel::{EndpointPattern, Kernel, KernelOptions, Uprobes};
use watchdog_common::types::Loss;
use watchdog_tests::load::{LoadOptions, LoadReport, Step, Target, run};
use watchdog_tests::servers::{Role, Running, free_port, installed, program};
use watchdog_tests::skip::kernel_or_skip;
use watchdog_tests::window::{Watched, Window, losses_told};

const LOGIN: u16 = 1;
const BROWSE: u16 = 2;
/// Taking one probe out takes the kernel up to 150 ms here.
const OUT_WITHIN: Duration = Duration::from_secs(10);

fn kernel() -> Option<Kernel> {
    kernel_or_skip(&KernelOptions { uprobes: Uprobes::ALL, ..KernelOptions::default() })
}

fn patterns() -> Vec<EndpointPattern> {
    [(LOGIN, "POST", "/login"), (BROWSE, "GET", "/browse")]
        .into_iter()
        .map(|(index, method, path)| EndpointPattern {
            index,
            method: Some(method.to_owned()),
            path: path.to_owned(),
        })
        .collect()
}

fn mix() -> Vec<Step> {
    vec![
        Step::post("login", "/login", "user=ann&password=secret"),
        Step::get("browse", "/browse").weighing(3),
    ]
}

fn shop() -> anyhow::Result<PathBuf> {
    installed("go/shop")
}

/// Starts the shop of tests/apps/go. `binary` makes the program to run from a folder of its own.
fn start(mode: &str, binary: impl FnOnce(&Running) -> anyhow::Result<PathBuf>) -> anyhow::Result<Running> {
    let address = ([127, 0, 0, 1], free_port()?).into();
    let target = if mode == "h2" { Target::Http2 { address, tls: true } } else { Target::Tls(address) };
    let mut running = Running::new(target)?;
    let mut command = Command::new(binary(&running)?);
    command.env("LISTEN", address.to_string()).env("MODE", mode);
    running.start("go", Role::Server, &mut command)?;
    running.ready()
}

fn load(target: &Target, keep_alive: bool, requests: u64) -> anyhow::Result<LoadReport> {
    let options =
        LoadOptions { concurrency: 8, keep_alive, ..LoadOptions::new(target.clone(), mix(), requests) };
    let report = run(options)?;
    ensure!(report.failures == 0, "requests failed: {:?}", report.failed);
    Ok(report)
}

/// The runtime's own table of functions stands in for the symbols.
#[test]
fn a_program_without_symbols_is_measured_too() {
    let check = || -> anyhow::Result<()> {
        let Some(mut kernel) = kernel() else { return Ok(()) };
        let strip = program("strip", &[])?;
        let running = start("tls", |running| {
            let stripped = running.folder().join("shop");
            let done = Command::new(strip).arg("-o").arg(&stripped).arg(shop()?).status()?;
            ensure!(done.success(), "strip: {done}");
            let file = File::open(&stripped)?;
            let cache = ReadCache::new(&file);
            ensure!(object::File::parse(&cache)?.symbols().next().is_none(), "there are symbols");
            Ok(stripped)
        })?;
        let watched = Watched::open(&mut kernel, 0, &patterns(), &running.roots)?;
        for keep_alive in [true, false] {
            let window = Window::open(&mut kernel, &[watched.slot])?;
            let report = load(&running.target, keep_alive, 360)?;
            let seen = window.close(&mut kernel)?;
            let account = &seen.accounts[&watched.slot];
            let counted = |endpoint| account.of(endpoint).count;
            let told = format!("{:?}, {}", kernel.probed(), losses_told(&seen.losses));
            println!("{told}, coverage {:.3}", account.coverage());
            ensure!(counted(LOGIN) == report.count("login"), "{} logins: {told}", counted(LOGIN));
            ensure!(counted(BROWSE) == report.count("browse"), "{} browses: {told}", counted(BROWSE));
            ensure!(seen.losses[Loss::Tls as usize] == 0, "TLS that is read counts as lost: {told}");
            ensure!(account.coverage() >= 0.95, "coverage is {:.3}: {told}", account.coverage());
        }
        watched.release(&mut kernel)
    };
    check().unwrap_or_else(|error| panic!("{error:?}"));
}

#[test]
fn http2_inside_it_is_counted_and_not_charged() {
    let check = || -> anyhow::Result<()> {
        const REQUESTS: u64 = 60;
        let Some(mut kernel) = kernel() else { return Ok(()) };
        let running = start("h2", |_| shop())?;
        let watched = Watched::open(&mut kernel, 0, &patterns(), &running.roots)?;
        let window = Window::open(&mut kernel, &[watched.slot])?;
        let report = load(&running.target, false, REQUESTS)?;
        let seen = window.close(&mut kernel)?;
        let blind = kernel.tick(mono_ns())?.blind;
        let blind = blind.iter().find(|(slot, _)| *slot == watched.slot).context("nothing of the slot")?.1;
        let told = format!("{}, {blind:?}", losses_told(&seen.losses));
        println!("losses: {told}");
        ensure!(blind.readable_bytes >= 24 * REQUESTS && blind.http2_bytes == 0, "what was hidden: {told}");
        let counted =
            |endpoint| seen.streams.iter().filter(|one| one.endpoint == Some(endpoint)).count() as u64;
        ensure!(counted(LOGIN) == report.count("login"), "{} logins: {told}", counted(LOGIN));
        ensure!(counted(BROWSE) == report.count("browse"), "{} browses: {told}", counted(BROWSE));
        ensure!(seen.losses[Loss::Http2 as usize] == 0, "something could not be followed: {told}");
        ensure!(seen.losses[Loss::Tls as usize] == 0, "TLS that is read counts as lost: {told}");
        let account = &seen.accounts[&watched.slot];
        ensure!(account.conservation.started == 0, "{} requests seen", account.conservation.started);
        watched.release(&mut kernel)
    };
    check().unwrap_or_else(|error| panic!("{error:?}"));
}

/// The instructions of `(*Conn).Read` as they are in the process: the program lies where it was linked to.
fn text_of_read(pid: u32) -> anyhow::Result<Vec<u8>> {
    let file = File::open(shop()?)?;
    let cache = ReadCache::new(&file);
    let elf = object::File::parse(&cache)?;
    let read = elf
        .symbols()
        .find(|symbol| symbol.name() == Ok("crypto/tls.(*Conn).Read"))
        .context("no (*Conn).Read")?;
    let mut bytes = vec![0; usize::try_from(read.size())?];
    File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut bytes, read.address())?;
    Ok(bytes)
}

#[test]
fn probes_go_in_and_out_under_load_without_harm() {
    let check = || -> anyhow::Result<()> {
        let Some(mut kernel) = kernel() else { return Ok(()) };
        let running = start("tls", |_| shop())?;
        let pid = running.roots[0];
        let works = || load(&running.target, true, 400).map(drop);
        let before = text_of_read(pid)?;
        for _ in 0..3 {
            std::thread::scope(|scope| {
                let working = scope.spawn(works);
                std::thread::sleep(Duration::from_millis(50));
                let watched = Watched::open(&mut kernel, 0, &patterns(), &[pid])?;
                let probes = text_of_read(pid)?.iter().zip(&before).filter(|(now, then)| now != then).count();
                println!("{probes} probes in Read; {:?}", kernel.probed());
                ensure!(probes > 1, "no probe on entry and returns: {:?}", kernel.probed());
                // And one each on `Write` and `Close`.
                ensure!(kernel.probed()[0].probes == probes + 2, "{:?}", kernel.probed());
                std::thread::sleep(Duration::from_millis(200));
                watched.release(&mut kernel)?;
                let begun = Instant::now();
                while text_of_read(pid)? != before {
                    ensure!(begun.elapsed() < OUT_WITHIN, "something is left after unwatching");
                    std::thread::sleep(Duration::from_millis(10));
                }
                working.join().expect("the load does not panic")
            })?;
            // The last probes of another function may still be on their way out.
            std::thread::sleep(Duration::from_millis(500));
        }
        works()
    };
    check().unwrap_or_else(|error| panic!("{error:?}"));
}
