//! The real agent and a ledger that cannot be trusted: damaged, cut short, of a newer version. It is refused and left as it
//! is, nothing is rolled back without one, and with the right one again the incident goes on where it was.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use watchdog::store::DATABASE;
use watchdog_tests::agent::Agent;
use watchdog_tests::agent::scene::{A_WHILE, Scene, UNTIL_GO, WITHIN};
use watchdog_tests::agent::site::{Site, site_or_skip};

/// Where `SQLite`'s file format has `user_version`, four bytes, big-endian.
const USER_VERSION_AT: u64 = 60;

fn ledger(site: &Site) -> PathBuf {
    site.state_dir().join(DATABASE)
}

/// Everything in one file, as a backup is.
fn checkpoint(ledger: &Path) {
    let program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); \
                   assert c.execute('PRAGMA wal_checkpoint(TRUNCATE)').fetchone()[0] == 0; c.close()";
    let status = Command::new("python3").args(["-c", program]).arg(ledger).status().unwrap();
    assert!(status.success(), "{status}");
}

/// The agent says why it does not start, and every byte of its ledger stays as it is.
fn refuses(site: &Site, why: &str) {
    let before = fs::read(ledger(site)).unwrap();
    let output = Agent::command(site).unwrap().output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains(why) && said.contains(DATABASE), "{output:?}");
    println!("{}", said.lines().last().unwrap_or_default());
    assert!(fs::read(ledger(site)).unwrap() == before, "the refused ledger was changed");
}

#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn a_ledger_that_is_damaged_cut_short_or_newer_is_refused_in_the_middle_of_an_incident() {
    let Some(site) = site_or_skip() else { return };
    let mut web = site.web().unwrap();
    web.hook = Some(site.switching_hook(UNTIL_GO).unwrap());
    let (mut scene, agent) = Scene::begin(site, &[web], &[]).unwrap();
    scene.deploy("bad", true).unwrap();
    agent.wait_for_incident(&["hook_running"], WITHIN).unwrap();
    agent.kill().unwrap();
    let path = ledger(&scene.site);
    checkpoint(&path);
    let good = fs::read(&path).unwrap();

    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&vec![0xa5; good.len() / 2], 4096).unwrap();
    refuses(&scene.site, "is damaged");
    file.write_all_at(&good, 0).unwrap();
    file.set_len(u64::try_from(good.len()).unwrap() - 8192).unwrap();
    refuses(&scene.site, "is damaged");
    file.set_len(0).unwrap();
    refuses(&scene.site, "is damaged");
    file.write_all_at(&good, 0).unwrap();
    file.write_all_at(&99_u32.to_be_bytes(), USER_VERSION_AT).unwrap();
    refuses(&scene.site, "was written by a newer load-watchdog");
    assert_eq!(scene.site.hook_runs(), 1);

    // Restored from the backup while the hook of the first agent still runs.
    fs::write(&path, good).unwrap();
    let agent = Agent::start(&scene.site).unwrap();
    assert_eq!(agent.incidents().unwrap()[0].state, "hook_running");
    scene.go().unwrap();
    let detail = scene.ended(&agent, 1).unwrap();
    assert_eq!(detail.summary.state, "recovered", "{detail:#?}");
    scene.leave().unwrap();
}

/// An empty ledger knows no good build: what a person moves away, the agent does not make up.
#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn without_the_ledger_nothing_is_rolled_back() {
    let Some(site) = site_or_skip() else { return };
    let web = site.web().unwrap();
    let (mut scene, agent) = Scene::begin(site, &[web], &[]).unwrap();
    agent.kill().unwrap();
    fs::rename(scene.site.state_dir(), scene.site.file("aside")).unwrap();
    scene.builds.clear();
    scene.deploy("bad", true).unwrap();
    let agent = Agent::start(&scene.site).unwrap();
    let counted = |agent: &Agent| Ok((agent.requests("web", "bad", "login")? >= 60).then_some(()));
    agent.wait_for("logins of the only build", WITHIN, counted).unwrap();
    std::thread::sleep(A_WHILE);
    assert_eq!(agent.build("web", "bad").unwrap().unwrap().state, "adopted");
    assert_eq!((scene.site.hook_runs(), agent.incidents().unwrap().len()), (0, 0), "{}", scene.log());
    scene.leave().unwrap();
}

/// Under the agent's hands. `SQLite` keeps what it needs of so small a file in memory, and what it writes goes to the journal: either
/// the incident takes its course, or it is told that the ledger cannot be used.
#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn a_ledger_that_is_overwritten_under_a_running_agent_runs_no_hook_twice() {
    for to_nothing in [false, true] {
        let Some(site) = site_or_skip() else { return };
        let web = site.web().unwrap();
        let (mut scene, mut agent) = Scene::begin(site, &[web], &[]).unwrap();
        let path = ledger(&scene.site);
        for name in [path.clone(), path.with_extension("db-wal")] {
            let length = fs::metadata(&name).unwrap().len();
            let file = File::options().write(true).open(&name).unwrap();
            if to_nothing {
                file.set_len(0).unwrap();
            } else {
                file.write_all_at(&vec![0xa5; usize::try_from(length).unwrap()], 0).unwrap();
            }
        }
        scene.deploy("bad", true).unwrap();
        std::thread::sleep(Duration::from_secs(5));
        let (runs, log) = (scene.site.hook_runs(), scene.log());
        let acted = runs == 1 && log.contains("outcome=\"recovered\"");
        let told = runs <= 1 && log.contains("the ledger cannot be used");
        println!("overwritten: {runs} runs of the hook, acted {acted}, told {told}");
        assert!(acted || told, "{runs} runs\n{log}");
        agent.signal(Signal::SIGTERM).unwrap();
        agent.wait_for_end(WITHIN).unwrap();
        drop(agent);
        refuses(&scene.site, "is damaged");
        assert_eq!(scene.site.hook_runs(), runs);
        scene.leave().unwrap();
    }
}
