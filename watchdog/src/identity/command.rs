//! Asks a command for a process's build: argv without a shell, in the process's working directory.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::process::Process;

pub(super) const TIMEOUT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(2);
const MAX_OUTPUT_BYTES: u64 = 4096;

/// What the command printed. `LOAD_WATCHDOG_PID` names the process; anything but exit status 0 within the time
/// is an error, and the command's whole process group is killed then.
pub(super) fn ask(argv: &[String], process: &Process, timeout: Duration) -> Result<String, String> {
    let (program, arguments) = argv.split_first().ok_or("the command is empty")?;
    let deadline = Instant::now() + timeout;
    let mut child = Command::new(program)
        .args(arguments)
        .env("LOAD_WATCHDOG_PID", process.pid.to_string())
        .current_dir(process.path("cwd"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("{program} cannot be started: {error}"))?;
    let output = output(&mut child, deadline);
    // Before it is reaped, while the group's number still is its own; what it left running must not pile up.
    if let Ok(group) = i32::try_from(child.id()) {
        killpg(Pid::from_raw(group), Signal::SIGKILL).ok();
    }
    let status = child.wait().map_err(|error| format!("{program} cannot be waited for: {error}"))?;
    match output {
        Some(output) if status.success() => Ok(output),
        Some(_) => Err(format!("{program} failed ({status})")),
        None => Err(format!("{program} did not finish within {} s", timeout.as_secs_f32())),
    }
}

/// Everything that it printed, once it has ended; `None` at the deadline. Leaves it to be reaped.
fn output(child: &mut Child, deadline: Instant) -> Option<String> {
    let stdout = child.stdout.take()?;
    let pid = Pid::from_raw(i32::try_from(child.id()).ok()?);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes).ok();
        sender.send(String::from_utf8_lossy(&bytes).into_owned()).ok();
    });
    let output = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()?;
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while Instant::now() < deadline {
        match waitid(Id::Pid(pid), peek) {
            Ok(WaitStatus::StillAlive) => thread::sleep(POLL),
            _ => return Some(output),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, timeout: Duration) -> Result<String, String> {
        let me = Process::open(std::process::id()).unwrap().unwrap();
        ask(&["/bin/sh".into(), "-c".into(), script.into()], &me, timeout)
    }

    #[test]
    fn the_output_of_a_command_that_succeeds() {
        assert_eq!(run("echo \"$LOAD_WATCHDOG_PID\"; pwd", TIMEOUT).unwrap(), {
            format!("{}\n{}\n", std::process::id(), std::env::current_dir().unwrap().display())
        });
    }

    #[test]
    fn failures_are_told_apart() {
        assert_eq!(run("echo x; exit 3", TIMEOUT).unwrap_err(), "/bin/sh failed (exit status: 3)");
        let begin = Instant::now();
        let slow = run("sleep 60 & echo x; sleep 60", Duration::from_millis(200)).unwrap_err();
        assert_eq!(slow, "/bin/sh did not finish within 0.2 s");
        assert!(begin.elapsed() < Duration::from_secs(5));
        let me = Process::open(std::process::id()).unwrap().unwrap();
        let missing = ask(&["/nonexistent/which".into()], &me, TIMEOUT).unwrap_err();
        assert!(missing.starts_with("/nonexistent/which cannot be started: No such file"), "{missing}");
    }
}
