//! The control socket: round trips, permissions, bounds.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use watchdog::config::ControlOperator;
use watchdog::control::client::{ClientError, ask};
use watchdog::control::server::{Call, ControlError, bind, serve};
use watchdog::control::{Command, Outcome, RefusalCode, StatusSnapshot};

/// A served socket with an agent that answers every status, in a thread of its own.
struct Served {
    path: PathBuf,
    warnings: Vec<String>,
    _directory: tempfile::TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    fn new(group: &str) -> Self {
        Self::with_operators(group, &[])
    }

    fn with_operators(group: &str, operators: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Others must reach the socket: its own mode keeps them out.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let operators: Vec<_> = operators.iter().map(|name| ControlOperator::from(*name)).collect();
        let path = directory.path().join("run").join("control.sock");
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (at, group) = (path.clone(), group.to_owned());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let socket = bind(&at, &group, &operators).unwrap();
                ready.send(socket.warnings.clone()).unwrap();
                let (calls_in, mut calls) = tokio::sync::mpsc::channel::<Call>(4);
                tokio::spawn(serve(socket, calls_in));
                tokio::spawn(async move {
                    while let Some(call) = calls.recv().await {
                        let outcome = match call.command {
                            Command::Approve { incident } => {
                                Outcome::Done(format!("{incident} by {}", call.by))
                            }
                            _ => Outcome::Status(StatusSnapshot::default()),
                        };
                        let _ = call.reply.send(outcome);
                    }
                });
                let _ = stopped.await;
            });
        });
        let warnings = is_ready.recv().unwrap();
        Self { path, warnings, _directory: directory, stop: Some(stop), thread: Some(thread) }
    }

    fn raw(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // The server may close before it read everything.
        let _ = stream.write_all(request);
        let mut line = String::new();
        let _ = BufReader::new(stream).read_line(&mut line);
        line
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        assert!(!self.path.exists(), "the socket's file must go with the agent");
    }
}

#[test]
fn commands_are_answered() {
    let served = Served::new("root");
    assert_eq!(served.warnings, Vec::<String>::new());
    match ask(&served.path, Command::Status).unwrap() {
        Outcome::Status(snapshot) => assert_eq!(snapshot, StatusSnapshot::default()),
        other => panic!("{other:?}"),
    }
    match ask(&served.path, Command::Approve { incident: "i1".to_owned() }).unwrap() {
        Outcome::Done(message) => assert!(message.starts_with("i1 by "), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_socket_is_for_its_owner_and_the_group_only() {
    let served = Served::new("root");
    let metadata = std::fs::metadata(&served.path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    assert_eq!(metadata.gid(), 0);
    let without = Served::new("no-such-group-here");
    let warning = without.warnings[0].clone();
    assert!(warning.contains("no-such-group-here") && warning.contains("only root"), "{warning}");
}

#[test]
fn faulty_requests_get_a_reason_and_block_nobody() {
    let served = Served::new("root");
    assert!(served.raw(b"hello\n").contains("not JSON"));
    assert!(served.raw(b"{\"version\":9,\"command\":\"status\"}\n").contains("version 1"));
    assert!(served.raw(b"{\"version\":1,\"command\":\"dance\"}\n").contains("no such command"));
    assert!(served.raw(&vec![b'x'; 100_000]).contains("at most"), "an endless line is cut");
    // A client that says nothing is cut after five seconds; others are served meanwhile.
    let mut silent = UnixStream::connect(&served.path).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let before = Instant::now();
    ask(&served.path, Command::Status).unwrap();
    assert!(before.elapsed() < Duration::from_secs(2));
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest);
    assert!(before.elapsed() < Duration::from_secs(10) && rest.is_empty());
}

#[test]
fn a_second_agent_is_refused_and_a_dead_one_s_socket_taken_over() {
    let served = Served::new("root");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let refused = bind(&served.path, "root", &[]).unwrap_err();
    assert!(matches!(refused, ControlError::InUse { .. }));
    assert!(refused.to_string().contains("another agent answers"), "{refused}");
    let dead = served.path.with_file_name("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    assert!(dead.exists());
    assert!(matches!(ask(&dead, Command::Status), Err(ClientError::NotRunning { .. })));
    drop(bind(&dead, "root", &[]).unwrap());
    assert!(!dead.exists());
}

#[test]
fn two_agents_that_start_at_once_are_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for _ in 0..20 {
        let start = std::sync::Barrier::new(4);
        let attempt = || {
            let _inside = runtime.enter();
            start.wait();
            bind(&path, "root", &[])
        };
        let bound = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(attempt)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let (first, refused): (Vec<_>, Vec<_>) = bound.into_iter().partition(Result::is_ok);
        assert_eq!(first.len(), 1);
        assert!(refused.iter().all(|bound| matches!(bound, Err(ControlError::InUse { .. }))));
        // The one that is there is the one that answers: nobody took its socket away.
        assert!(UnixStream::connect(&path).is_ok());
    }
}

/// Daemon's group and nobody's user are on every system.
const GROUP: &str = "daemon";
const DAEMON: u32 = 1;
const NOBODY: u32 = 65_534;

/// What another user gets; `None` when this user may not become another one.
fn ask_as(path: &Path, uid: u32, gid: u32, command: Command) -> Option<Result<Outcome, ClientError>> {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("SKIPPED: only root can connect as somebody else");
        return None;
    }
    let path = path.to_owned();
    let as_other = move || {
        // The raw system calls change this thread alone, and the socket's peer is who its thread is.
        let become_other = [
            // SAFETY: a list of no groups is not read.
            unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) },
            // SAFETY: takes numbers only.
            unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) },
            // SAFETY: takes numbers only.
            unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) },
        ];
        assert_eq!(become_other, [0; 3], "{}", std::io::Error::last_os_error());
        ask(&path, command)
    };
    Some(std::thread::spawn(as_other).join().unwrap())
}

fn approve() -> Command {
    Command::Approve { incident: "i1".to_owned() }
}

#[test]
fn members_of_the_group_read_and_only_operators_change() {
    let served = Served::new(GROUP);
    let Some(read) = ask_as(&served.path, NOBODY, DAEMON, Command::Status) else { return };
    assert!(matches!(read, Ok(Outcome::Status(_))), "{read:?}");
    for command in [
        approve(),
        Command::Pause { for_seconds: 60 },
        Command::Resume,
        Command::Mode { service: "web".into(), mode: None, for_seconds: None },
        Command::Forget { service: "web".into(), build: "v1".into(), endpoint: None },
    ] {
        let refused = ask_as(&served.path, NOBODY, DAEMON, command.clone()).unwrap().unwrap_err();
        let ClientError::Refused { code, message } = refused else { panic!("{refused}") };
        assert_eq!(code, RefusalCode::Forbidden, "{command:?}");
        assert!(message.contains("control_operators"), "{message}");
    }
    let stranger = ask_as(&served.path, NOBODY, NOBODY, Command::Status).unwrap();
    assert!(matches!(stranger, Err(ClientError::Permission { .. })), "{stranger:?}");

    let by_name = Served::with_operators(GROUP, &["nobody"]);
    match ask_as(&by_name.path, NOBODY, DAEMON, approve()).unwrap().unwrap() {
        Outcome::Done(message) => assert_eq!(message, format!("i1 by nobody (uid {NOBODY})")),
        other => panic!("{other:?}"),
    }
    let by_group = Served::with_operators(GROUP, &["%daemon"]);
    let done = ask_as(&by_group.path, NOBODY, DAEMON, approve()).unwrap();
    assert!(matches!(done, Ok(Outcome::Done(_))), "{done:?}");
}

#[test]
fn one_user_s_silent_connections_keep_nobody_else_out() {
    let served = Served::new("root");
    // More than root may have at once; each is cut after five seconds.
    let silent: Vec<_> = (0..40).map(|_| UnixStream::connect(&served.path).unwrap()).collect();
    let begun = Instant::now();
    let busy = ask(&served.path, Command::Status);
    if let Some(other) = ask_as(&served.path, NOBODY, 0, Command::Status) {
        assert!(matches!(other, Ok(Outcome::Status(_))), "{other:?}");
        let Err(ClientError::Refused { code: RefusalCode::Busy, .. }) = busy else { panic!("{busy:?}") };
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(silent);
    let again = Instant::now() + Duration::from_secs(5);
    while ask(&served.path, Command::Status).is_err() {
        assert!(Instant::now() < again, "the places were not given back");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn names_with_control_characters_never_reach_the_agent() {
    let served = Served::new("root");
    for request in [
        r#"{"version":1,"command":"approve","incident":"i1\u001b[2J"}"#,
        r#"{"version":1,"command":"condemn","service":"web","build":"v1\nroot: ok"}"#,
        r#"{"version":1,"command":"gate","service":"web","build":"v1\u202e"}"#,
        r#"{"version":1,"command":"pause","for_seconds":0}"#,
    ] {
        let answer = served.raw(format!("{request}\n").as_bytes());
        assert!(answer.contains("bad_request"), "{request}: {answer}");
    }
    let long = format!(r#"{{"version":1,"command":"gate","service":"web","build":"{}"}}"#, "v".repeat(200));
    assert!(served.raw(format!("{long}\n").as_bytes()).contains("bad_request"));
}

#[test]
fn an_absent_agent_is_named() {
    let error = ask(Path::new("/nonexistent/control.sock"), Command::Status).unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }));
    assert!(error.to_string().contains("systemctl start load-watchdog"), "{error}");
}
