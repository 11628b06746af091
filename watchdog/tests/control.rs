//! The control socket: round trips, permissions, bounds.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use watchdog::control::client::{ClientError, ask};
use watchdog::control::server::{Call, ControlError, bind, serve};
use watchdog::control::{Command, Outcome, StatusSnapshot};

/// A served socket with an agent that answers every status, in a thread of its own.
struct Served {
    path: PathBuf,
    warning: Option<String>,
    _directory: tempfile::TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    fn new(group: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run").join("control.sock");
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (at, group) = (path.clone(), group.to_owned());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let socket = bind(&at, &group).unwrap();
                ready.send(socket.warning.clone()).unwrap();
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
        let warning = is_ready.recv().unwrap();
        Self { path, warning, _directory: directory, stop: Some(stop), thread: Some(thread) }
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
    assert_eq!(served.warning, None);
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
    let warning = without.warning.clone().unwrap();
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
    assert!(matches!(bind(&served.path, "root"), Err(ControlError::InUse { .. })));
    let dead = served.path.with_file_name("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    assert!(dead.exists());
    assert!(matches!(ask(&dead, Command::Status), Err(ClientError::NotRunning { .. })));
    drop(bind(&dead, "root").unwrap());
    assert!(!dead.exists());
}

#[test]
fn an_absent_agent_is_named() {
    let error = ask(Path::new("/nonexistent/control.sock"), Command::Status).unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }));
    assert!(error.to_string().contains("systemctl start load-watchdog"), "{error}");
}
