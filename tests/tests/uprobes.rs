//! User probes: put into watched processes alone, exact where wake-ups are not, and gone without a trace.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use object::{Object as _, ObjectSegment as _, ObjectSymbol as _, ReadCache};
use serde::Deserialize;
use watchdog::clock::mono_ns;
use watchdog::kernel::{EndpointPattern, Kernel, KernelOptions, Uprobes};
use watchdog_common::abi::program;
use watchdog_common::types::Loss;
use watchdog_tests::load::{Get, LoadOptions, LoadReport, Step, Target, run};
use watchdog_tests::servers::{Role, Running, application, certificate, program};
use watchdog_tests::skip::{kernel_or_skip, skip};
use watchdog_tests::window::{Account, Watched, Window, losses_told};

const LOGIN: u16 = 1;
const BROWSE: u16 = 2;
/// `int3`, which the kernel puts where a probe is.
const BREAKPOINT: u8 = 0xcc;

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

/// What tests/apps/probes/shop.js says of itself.
#[derive(Deserialize)]
struct Burnt {
    loop_ns: f64,
    pool_ns: f64,
    logins: f64,
}

/// The shop of tests/apps/probes, in Node; `None` where there is no Node.
fn shop(tls: bool) -> anyhow::Result<Option<Running>> {
    let Ok(node) = program("node", &[]) else { return Ok(skip("node is not installed")) };
    let mut running = Running::new(Target::from_str("127.0.0.1:1")?)?;
    let mut command = Command::new(node);
    command.arg(application("probes/shop.js"));
    if tls {
        let (certificate, key) = certificate(running.folder())?;
        command.args([certificate, key]);
    }
    running.start("shop", Role::Server, &mut command)?;
    let log = running.folder().join("shop.log");
    let port = || -> anyhow::Result<String> {
        let log = std::fs::read_to_string(&log)?;
        let line = log.lines().find_map(|line| line.strip_prefix("listening "));
        Ok(line.context("it does not listen yet")?.to_owned())
    };
    running.await_that(|| port().map(drop))?;
    running.target = Target::from_str(&format!("{}127.0.0.1:{}", if tls { "tls:" } else { "" }, port()?))?;
    Ok(Some(running.ready()?))
}

fn burnt(target: &Target) -> anyhow::Result<Burnt> {
    Ok(serde_json::from_slice(&Get::fetch(target, "/burnt", Duration::from_secs(10))?.body)?)
}

fn load(target: &Target, steps: Vec<Step>, concurrency: usize, requests: u64) -> anyhow::Result<LoadReport> {
    let report = run(LoadOptions { concurrency, ..LoadOptions::new(target.clone(), steps, requests) })?;
    ensure!(report.failures == 0, "requests failed: {:?}", report.failed);
    Ok(report)
}

fn mean_ms(account: &Account, endpoint: u16) -> f64 {
    let cost = account.of(endpoint);
    cost.sum_ns as f64 / cost.count.max(1) as f64 / 1e6
}

/// 32 requests at once, logins among them, in a pool of four threads: each gets its own time and nobody else's.
fn saturated_pool(tls: bool) -> anyhow::Result<()> {
    let Some(mut kernel) = kernel() else { return Ok(()) };
    let Some(running) = shop(tls)? else { return Ok(()) };
    let watched = Watched::open(&mut kernel, 0, &patterns(), &running.roots)?;
    let probed = kernel.probed();
    ensure!(probed.iter().all(|process| process.pool && process.tls), "not all is probed: {probed:?}");
    let browse = || Step::get("browse", "/browse").weighing(2);

    let window = Window::open(&mut kernel, &[watched.slot])?;
    load(&running.target, vec![browse()], 1, 200)?;
    let alone = mean_ms(&window.close(&mut kernel)?.accounts[&watched.slot], BROWSE);

    let mix = vec![Step::post("login", "/login", "user=ann"), browse()];
    load(&running.target, mix.clone(), 32, 100)?;
    let before = burnt(&running.target)?;
    let window = Window::open(&mut kernel, &[watched.slot])?;
    let report = load(&running.target, mix, 32, 600)?;
    let seen = window.close(&mut kernel)?;
    let after = burnt(&running.target)?;

    let account = &seen.accounts[&watched.slot];
    let logins = after.logins - before.logins;
    let pool = (after.pool_ns - before.pool_ns) / logins / 1e6;
    let loops = (after.loop_ns - before.loop_ns) / report.requests as f64 / 1e6;
    let (login, light) = (mean_ms(account, LOGIN), mean_ms(account, BROWSE));
    let told = format!(
        "login {login:.3} ms (in the pool {pool:.3}), browse {light:.3} ms (alone {alone:.3}), loop per request \
         {loops:.3} ms, coverage {:.3}, losses: {}",
        account.coverage(),
        losses_told(&seen.losses),
    );
    println!("{told}");
    ensure!(account.of(LOGIN).count == report.count("login"), "{told}: logins miscounted");
    ensure!(account.of(BROWSE).count == report.count("browse"), "{told}: browses miscounted");
    ensure!(login > 0.95 * pool && login < 1.10 * (pool + loops), "{told}: login is wrong");
    ensure!(light > 0.7 * alone && light < 1.3 * alone + 0.01 * pool, "{told}: browse is wrong");
    ensure!(account.coverage() >= 0.95, "{told}: coverage is low");
    ensure!(seen.losses[Loss::Tls as usize] == 0, "{told}: TLS that the probes serve counts as lost");
    watched.release(&mut kernel)
}

#[test]
fn a_saturated_pool_is_followed_job_by_job() {
    saturated_pool(false).unwrap_or_else(|error| panic!("{error:?}"));
}

#[test]
fn requests_inside_tls_are_measured_as_plain_ones() {
    saturated_pool(true).unwrap_or_else(|error| panic!("{error:?}"));
}

#[test]
fn every_program_is_loaded_and_walked_quickly_by_the_verifier() {
    /// Half of what the kernel allows.
    const MOST_INSTRUCTIONS: u32 = 500_000;
    let Some(kernel) = kernel() else { return };
    assert!(kernel.report().degraded.is_empty(), "{:?}", kernel.report().degraded);
    let verified = kernel.verified_instructions();
    for name in program::POOL.iter().chain(&program::TLS) {
        let Some((_, instructions)) = verified.iter().find(|(verified, _)| verified == name) else {
            panic!("{name} is not loaded");
        };
        println!("{name}: {instructions}");
        assert!(*instructions < MOST_INSTRUCTIONS, "{name}: {instructions}");
    }
}

/// Where a function of a mapped file lies in a process; behind an `endbr64`, as the probe is put there.
fn address_of(pid: u32, file: &str, symbol: &str) -> anyhow::Result<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let lines: Vec<&str> = maps.lines().filter(|line| line.contains(file)).collect();
    let path = lines.first().and_then(|line| line.split_whitespace().nth(5)).context("not mapped")?;
    let opened = File::open(Path::new(path))?;
    let cache = ReadCache::new(&opened);
    let elf = object::File::parse(&cache)?;
    let address = elf
        .symbols()
        .chain(elf.dynamic_symbols())
        .find(|found| found.is_definition() && found.name() == Ok(symbol))
        .with_context(|| format!("{path} has no {symbol}"))?
        .address();
    let segment = elf
        .segments()
        .find(|segment| (segment.address()..segment.address() + segment.size()).contains(&address))
        .context("outside every segment")?;
    let at = address - segment.address() + segment.file_range().0;
    let at = at + if segment.data_range(address, 4)? == Some(&[0xf3, 0x0f, 0x1e, 0xfa]) { 4 } else { 0 };
    for line in lines {
        let mut fields = line.split_whitespace();
        let (begin, end) = fields.next().and_then(|range| range.split_once('-')).context("no range")?;
        let (begin, end) = (u64::from_str_radix(begin, 16)?, u64::from_str_radix(end, 16)?);
        let from = u64::from_str_radix(fields.nth(1).context("no offset")?, 16)?;
        if (from..from + (end - begin)).contains(&at) {
            return Ok(begin + (at - from));
        }
    }
    anyhow::bail!("{symbol} of {path} is not mapped")
}

fn bytes_at<const N: usize>(pid: u32, address: u64) -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut bytes, address)?;
    Ok(bytes)
}

#[test]
fn detaching_leaves_no_trace() {
    let check = || -> anyhow::Result<()> {
        let Some(mut kernel) = kernel() else { return Ok(()) };
        let (Some(running), Some(other)) = (shop(false)?, shop(false)?) else { return Ok(()) };
        let (pid, unwatched) = (running.roots[0], other.roots[0]);
        let places: Vec<u64> = ["uv__queue_work", "uv__queue_done", "uv_queue_work", "SSL_read", "SSL_free"]
            .into_iter()
            .map(|symbol| address_of(pid, "node", symbol))
            .collect::<anyhow::Result<_>>()?;
        let read = |pid| places.iter().map(|at| bytes_at::<16>(pid, *at)).collect::<anyhow::Result<Vec<_>>>();
        let works =
            || load(&running.target, vec![Step::post("login", "/login", "user=ann")], 4, 20).map(drop);
        let before = read(pid)?;
        ensure!(before.iter().all(|bytes| bytes[0] != BREAKPOINT), "a probe is there already");

        let watched = Watched::open(&mut kernel, 0, &patterns(), &[pid])?;
        ensure!(
            read(pid)?.iter().all(|bytes| bytes[0] == BREAKPOINT),
            "a probe is missing: {:?}",
            kernel.probed()
        );
        ensure!(read(unwatched)? == before, "a process that is not watched has probes");
        works()?;
        // With jobs under way.
        std::thread::scope(|scope| {
            let working = scope.spawn(works);
            std::thread::sleep(Duration::from_millis(20));
            let begun = Instant::now();
            watched.release(&mut kernel)?;
            println!("told to take the probes out of a working process in {:?}", begun.elapsed());
            while read(pid)? != before {
                ensure!(begun.elapsed() < OUT_WITHIN, "something is left after unwatching");
                std::thread::sleep(Duration::from_millis(10));
            }
            println!("they were out after {:?}", begun.elapsed());
            working.join().expect("the load does not panic")
        })?;
        ensure!(kernel.probed().is_empty(), "{:?}", kernel.probed());
        works()?;

        let begun = Instant::now();
        kernel.watch(pid, watched.slot);
        // The last of the old ones may be out of the memory, but not yet out of the kernel.
        while !kernel.probed().iter().all(|process| process.probes > 0) {
            ensure!(begun.elapsed() < OUT_WITHIN, "not put in again: {:?}", kernel.probed());
            std::thread::sleep(Duration::from_millis(10));
            kernel.tick(mono_ns())?;
        }
        println!("put into a process again in {:?}", begun.elapsed());
        ensure!(read(pid)?.iter().all(|bytes| bytes[0] == BREAKPOINT), "a probe is missing the second time");
        works()?;
        let begun = Instant::now();
        drop(kernel);
        println!("dropped in {:?}", begun.elapsed());
        ensure!(read(pid)? == before, "something is left after the agent");
        works()
    };
    check().unwrap_or_else(|error| panic!("{error:?}"));
}

/// Loads OpenSSL's library late, forks a child, and waits to be ended.
const FORKS: &str = "
import os, sys, time
sys.stdin.readline()
import ssl
print('loaded', flush=True)
sys.stdin.readline()
child = os.fork()
if child == 0:
    time.sleep(60)
print(child, flush=True)
sys.stdin.readline()
os.kill(child, 9)
os.waitpid(child, 0)
print('ended', flush=True)
sys.stdin.readline()
";

#[test]
fn libraries_loaded_later_and_children_are_probed_too() {
    let check = || -> anyhow::Result<()> {
        use std::io::{BufRead as _, BufReader, Write as _};
        use std::process::Stdio;
        let Some(mut kernel) = kernel() else { return Ok(()) };
        let mut process = Command::new("python3")
            .args(["-c", FORKS])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting python3")?;
        let (mut to, from) =
            (process.stdin.take().context("piped")?, process.stdout.take().context("piped")?);
        let mut lines = BufReader::new(from).lines();
        let mut step = || -> anyhow::Result<String> {
            writeln!(to, "go")?;
            Ok(lines.next().context("it ended")??)
        };
        let pid = process.id();
        std::thread::sleep(Duration::from_millis(300));
        let watched = Watched::open(&mut kernel, 0, &patterns(), &[pid])?;
        let tick = |kernel: &mut Kernel, until: &dyn Fn(&Kernel) -> bool| -> anyhow::Result<Duration> {
            let begun = Instant::now();
            while !until(kernel) {
                ensure!(begun.elapsed() < Duration::from_secs(10), "not within 10 s: {:?}", kernel.probed());
                std::thread::sleep(Duration::from_millis(1));
                kernel.tick(mono_ns())?;
            }
            Ok(begun.elapsed())
        };
        let served = |kernel: &Kernel, pid: u32| {
            kernel.probed().iter().any(|process| process.tgid == pid && process.tls)
        };
        ensure!(!served(&kernel, pid), "the library is there before it is loaded");
        ensure!(step()? == "loaded");
        println!("found a library in {:?}", tick(&mut kernel, &|kernel| served(kernel, pid))?);

        let child: u32 = step()?.parse()?;
        println!("found a child in {:?}", tick(&mut kernel, &|kernel| served(kernel, child))?);
        let at = address_of(child, "libssl", "SSL_read")?;
        ensure!(bytes_at::<1>(child, at)? == [BREAKPOINT], "the child has no probe");
        kernel.unwatch(pid);
        let begun = Instant::now();
        while bytes_at::<1>(pid, at)? == [BREAKPOINT] {
            ensure!(begun.elapsed() < OUT_WITHIN, "the parent's probe is left");
            std::thread::sleep(Duration::from_millis(10));
        }
        ensure!(bytes_at::<1>(child, at)? == [BREAKPOINT], "the child's probe went with the parent's");
        ensure!(step()? == "ended");
        tick(&mut kernel, &|kernel| kernel.probed().is_empty())?;
        watched.release(&mut kernel)?;
        drop(to);
        process.wait()?;
        Ok(())
    };
    check().unwrap_or_else(|error| panic!("{error:?}"));
}
