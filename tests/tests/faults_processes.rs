//! Pids that come round and processes that come and go, under the real agent: nobody is taken for somebody else.
//!
//! The next pid is set in `ns_last_pid`, so that a program gets the pid of one that has ended.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use watchdog_tests::agent::Agent;
use watchdog_tests::agent::scene::{A_WHILE, Scene, UNTIL_GO, WITHIN, incident_of, says};
use watchdog_tests::agent::site::{GOOD_US, Site, site_or_skip};
use watchdog_tests::harness::{Burn, executable};

const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";

/// Starts something that gets this pid, which is free. Others take pids meanwhile, so it may take some attempts.
fn with_pid<T>(pid: u32, mut start: impl FnMut() -> (u32, T)) -> T {
    let end = Instant::now() + WITHIN;
    loop {
        assert!(Instant::now() < end, "nothing got pid {pid}");
        fs::write(LAST_PID, (pid - 1).to_string()).unwrap();
        let (got, started) = start();
        if got == pid {
            return started;
        }
        drop(started);
    }
}

/// Ended when dropped; leads a process group, as hooks do.
struct Sleeper(Child);

impl Sleeper {
    /// With what a hook of this incident is known by, to be taken for it all the easier.
    fn start(incident: &str) -> (u32, Self) {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new("sleep");
        command.arg("60").env("LOAD_WATCHDOG_HOOK", "rollback").env("LOAD_WATCHDOG_SERVICE", incident);
        let child = command.process_group(0).spawn().unwrap();
        (child.id(), Self(child))
    }

    fn runs(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A hook that runs, and whose agent and supervisor were killed.
fn orphaned_hook(scene: &mut Scene, agent: Agent) -> (String, u32) {
    // The hook becomes this process's child, which can wait for it: until then its pid is not free.
    set_child_subreaper(true).unwrap();
    scene.deploy("bad", true).unwrap();
    let incident = incident_of(&agent, "bad", &["hook_running"]).unwrap();
    // The state is on disk before the script has come so far.
    let file = scene.site.file("hook.pid");
    let written = |_: &Agent| Ok(fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok()));
    let pid = agent.wait_for("the hook's pid", WITHIN, written).unwrap();
    agent.kill().unwrap();
    // Its supervisor would record how it ended.
    let supervisor = Pid::from_raw(parent(pid));
    kill(supervisor, Signal::SIGKILL).unwrap();
    waitpid(supervisor, None).unwrap();
    (incident.id, pid)
}

fn parent(pid: u32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    line.trim().parse().unwrap()
}

fn end(hook: u32) {
    let pid = Pid::from_raw(hook.cast_signed());
    killpg(pid, Signal::SIGKILL).unwrap();
    // A number is taken as long as a process or a group has it: with the hook go its children.
    let group = Pid::from_raw(-pid.as_raw());
    while waitpid(group, None).is_ok() {}
    assert_eq!((kill(pid, None), kill(group, None)), (Err(Errno::ESRCH), Err(Errno::ESRCH)));
}

fn scene(site: Site) -> (Scene, Agent) {
    let mut web = site.web().unwrap();
    // The test switches in its place.
    web.hook = Some(site.hook(&format!("echo $$ >hook.pid; {UNTIL_GO}")).unwrap());
    "verify_within = \"2s\"\ntimeout = \"30s\"".clone_into(&mut web.rollback);
    Scene::begin(site, &[web], &[]).unwrap()
}

#[test]
fn a_stranger_with_the_hook_s_pid_is_not_the_hook() {
    let Some(site) = site_or_skip() else { return };
    let (mut scene, agent) = scene(site);
    let (incident, hook) = orphaned_hook(&mut scene, agent);
    end(hook);
    let mut stranger = with_pid(hook, || Sleeper::start(&incident));
    let agent = Agent::start(&scene.site).unwrap();
    let detail = scene.ended(&agent, 1).unwrap();
    assert_eq!(detail.summary.state, "escalated", "{detail:#?}");
    assert!(says(&detail, &format!("pid {hook}")) && says(&detail, "is not run again"), "{detail:#?}");
    assert!(stranger.runs(), "the stranger was ended as if it were the hook");
    scene.leave().unwrap();
}

/// The next agent waits for the hook, which ends, and its pid is somebody else's at once.
#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn a_stranger_that_gets_the_pid_of_a_hook_that_is_waited_for_is_not_the_hook() {
    let Some(site) = site_or_skip() else { return };
    let (mut scene, agent) = scene(site);
    let (incident, hook) = orphaned_hook(&mut scene, agent);
    let agent = Agent::start(&scene.site).unwrap();
    assert_eq!(agent.incidents().unwrap()[0].state, "hook_running");
    end(hook);
    let mut stranger = with_pid(hook, || Sleeper::start(&incident));
    let detail = scene.ended(&agent, 1).unwrap();
    assert_eq!((detail.summary.state.as_str(), scene.serving().as_deref()), ("escalated", Some("bad")));
    assert!(says(&detail, "the rollback did not help: the bad build still serves"), "{detail:#?}");
    assert!(stranger.runs(), "the stranger was ended as if it were the hook");
    scene.leave().unwrap();
}

/// Programs that end at once, as fast as one thread starts them, and servers of the good build that come and go.
struct Churn {
    stop: Arc<AtomicBool>,
    begun: Arc<AtomicU32>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Churn {
    const MOST: u32 = 20_000;

    fn start(site: &Site) -> Self {
        let (stop, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let site = site.clone();
        let go_on = || {
            let (stop, begun) = (Arc::clone(&stop), Arc::clone(&begun));
            move || !stop.load(Ordering::Relaxed) && begun.fetch_add(1, Ordering::Relaxed) < Self::MOST
        };
        let (one, other) = (go_on(), go_on());
        let programs = thread::spawn(move || {
            while one() {
                Command::new("/bin/true").status().unwrap();
            }
        });
        let servers = thread::spawn(move || {
            while other() {
                drop(server(&site, "passing", "good", GOOD_US));
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self { stop, begun, threads: vec![programs, servers] }
    }

    fn end(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.begun.load(Ordering::Relaxed)
    }
}

/// A server of the service that listens elsewhere than [`Site::start`]'s.
fn server(site: &Site, socket: &str, build: &str, login_us: u64) -> Burn {
    let socket = site.file(&format!("{socket}.sock"));
    let _ = fs::remove_file(&socket);
    let mut command = Command::new(executable("burn").unwrap());
    command
        .arg("--listen")
        .arg(format!("unix:{}", socket.display()))
        .args(["--build", build, "--login-us", &login_us.to_string(), "--browse-us", "300"])
        .env("REVISION", build);
    Burn::start_command(&mut command).unwrap()
}

/// The bad build's pid becomes one of the good build's in the middle of the verification.
#[test]
#[ignore = "slow: `cargo xtask test --slow` runs it"]
fn processes_that_come_and_go_and_the_bad_build_s_pid_in_other_hands_change_nothing() {
    let Some(site) = site_or_skip() else { return };
    let (mut scene, agent) = scene(site);
    let churn = Churn::start(&scene.site);
    scene.deploy("bad", true).unwrap();
    incident_of(&agent, "bad", &["hook_running"]).unwrap();
    let bad = scene.builds.pop().unwrap();
    let pid = bad.pid();
    scene.site.switch("good").unwrap();
    thread::sleep(Duration::from_millis(300));
    drop(bad);
    let heir = with_pid(pid, || {
        let burn = server(&scene.site, "heir", "good", GOOD_US);
        (burn.pid(), burn)
    });
    scene.site.switch("heir").unwrap();
    scene.go().unwrap();
    let detail = scene.ended(&agent, 1).unwrap();
    let begun = churn.end();
    println!("{begun} processes came and went");
    assert!(begun > 300, "only {begun} processes came and went");
    assert_eq!(detail.summary.state, "recovered", "{detail:#?}");
    let logins = agent.requests("web", "good", "login").unwrap();
    thread::sleep(A_WHILE);
    assert!(
        agent.requests("web", "good", "login").unwrap() > logins,
        "the heir's requests are the good build's"
    );
    scene.leave().unwrap();
    drop(heir);
}
