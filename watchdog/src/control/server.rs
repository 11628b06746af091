//! The agent's side of the control socket.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr, socket};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Group, chown};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::access::{Access, Right};
use super::places::{Place, Places};
use super::{Command, Outcome, PROTOCOL, Refusal, RefusalCode, Request, Response};
use crate::clock;
use crate::config::ControlOperator;
use crate::decision::Who;

/// Longest request line; every command fits in a few hundred bytes.
const MAX_REQUEST_BYTES: u64 = 16 * 1024;
/// For the request line to arrive, and again for the response to be taken.
const IO_LIMIT: Duration = Duration::from_secs(5);
/// For the user database to say who the peer is.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(5);
/// Refusals are logged at most so often: who may not change anything must not fill the disk either.
const TELL_EVERY_NS: u64 = 1_000_000_000;
/// For the agent to answer: many ticks.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A command on its way to the agent, with who sent it and where its outcome goes.
#[derive(Debug)]
pub struct Call {
    pub command: Command,
    /// By the kernel's word.
    pub by: Who,
    pub reply: oneshot::Sender<Outcome>,
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("another agent answers on {}; stop it first, or give this one a path of its own (agent.control)", path.display())]
    InUse { path: PathBuf },
    #[error("control socket {}: {what}: {source}; the agent needs write access to the directory (agent.control)", path.display())]
    Io { path: PathBuf, what: &'static str, source: io::Error },
}

/// The bound socket; its file goes when it is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    access: Arc<Access>,
    /// What is wrong with the socket's group or with the operators, a sentence each.
    pub warnings: Vec<String>,
    /// Held as long as the socket is, and by the kernel released when the process dies.
    _lock: Flock<File>,
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Binds the socket with mode 0660 and the given group. Must run inside the runtime.
pub fn bind(path: &Path, group: &str, operators: &[ControlOperator]) -> Result<ControlSocket, ControlError> {
    let failed = |what| move |source| ControlError::Io { path: path.to_owned(), what, source };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed("cannot create its directory"))?;
    }
    // Two agents that start at once would each find the other's socket dead, and the second take the first one's away.
    let lock = lock(path)?;
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ControlError::InUse { path: path.to_owned() });
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("cannot remove the one a dead agent left")(error));
        }
        _ => {}
    }
    let listener = listen(path).map_err(failed("cannot bind"))?;
    let (group, warning) = give_to_group(path, group);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .map_err(failed("cannot set its mode"))?;
    let access = Access { group, operators: operators.to_vec() };
    let warnings = warning.into_iter().chain(access.problems()).collect();
    Ok(ControlSocket { listener, path: path.to_owned(), access: Arc::new(access), warnings, _lock: lock })
}

/// A socket's file gets the mode that the socket has when it is bound, so it is closed for others from its first moment. The
/// umask would do the same, but it belongs to all threads.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    socket::listen(&socket, Backlog::MAXCONN)?;
    UnixListener::from_std(socket.into())
}

/// A file beside the socket. It stays when the agent ends: whoever removed it could remove another agent's.
fn lock(path: &Path) -> Result<Flock<File>, ControlError> {
    let failed = |source| ControlError::Io { path: path.to_owned(), what: "cannot lock it", source };
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(PathBuf::from(name))
        .map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => ControlError::InUse { path: path.to_owned() },
        errno => failed(errno.into()),
    })
}

fn give_to_group(path: &Path, name: &str) -> (Option<Gid>, Option<String>) {
    let group = match Group::from_name(name) {
        Ok(Some(group)) => group,
        Ok(None) => {
            return (None, Some(format!("group \"{name}\" does not exist; only root can use the socket")));
        }
        Err(error) => {
            return (None, Some(format!("group \"{name}\": {error}; only root can use the socket")));
        }
    };
    match chown(path, None, Some(group.gid)) {
        Ok(()) => (Some(group.gid), None),
        Err(error) => (
            None,
            Some(format!("cannot give the socket to group \"{name}\": {error}; only its owner can use it")),
        ),
    }
}

/// Serves until the task is dropped.
pub async fn serve(socket: ControlSocket, calls: mpsc::Sender<Call>) {
    let places = Arc::new(Places::default());
    // One at a time: a user database that hangs must not take the threads that the ledger is written by.
    let lookups = Arc::new(Semaphore::new(1));
    let told_mono_ns = Arc::new(AtomicU64::new(0));
    loop {
        match socket.listener.accept().await {
            Ok((stream, _)) => {
                let Ok(peer) = stream.peer_cred() else { continue };
                let place = places.take(peer.uid());
                let served = Client {
                    access: Arc::clone(&socket.access),
                    lookups: Arc::clone(&lookups),
                    told_mono_ns: Arc::clone(&told_mono_ns),
                    calls: calls.clone(),
                };
                tokio::spawn(async move {
                    // A client that goes away mid-way concerns nobody.
                    let _ = served.serve(stream, peer, place.as_ref()).await;
                });
            }
            // Out of descriptors, most likely: they come back.
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// What it takes to serve a client.
struct Client {
    access: Arc<Access>,
    lookups: Arc<Semaphore>,
    /// When a refusal was last logged.
    told_mono_ns: Arc<AtomicU64>,
    calls: mpsc::Sender<Call>,
}

impl Client {
    async fn serve(self, mut stream: UnixStream, peer: UCred, place: Option<&Place>) -> io::Result<()> {
        let (reader, mut writer) = stream.split();
        let outcome = if place.is_none() {
            refuse(
                RefusalCode::Busy,
                "this user has too many connections to the agent; try again in a moment",
            )
        } else {
            let mut line = String::new();
            let mut reader = BufReader::new(reader.take(MAX_REQUEST_BYTES));
            timeout(IO_LIMIT, reader.read_line(&mut line)).await.map_err(|_| io::ErrorKind::TimedOut)??;
            match parse(&line) {
                Err(refusal) => Outcome::Error(refusal),
                Ok(command) => self.answer(command, peer).await,
            }
        };
        let mut text = serde_json::to_vec(&Response { version: PROTOCOL, outcome })?;
        text.push(b'\n');
        timeout(IO_LIMIT, writer.write_all(&text)).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    async fn answer(&self, command: Command, peer: UCred) -> Outcome {
        let Some((right, who)) = self.look_up(peer).await else {
            return refuse(
                RefusalCode::Failed,
                "the user database did not say in time who you are; root need not wait for it",
            );
        };
        let needed = if command.writes() { Right::Change } else { Right::Read };
        if right >= needed {
            return call(command, who, &self.calls).await;
        }
        let now_mono_ns = clock::mono_ns();
        let last = self.told_mono_ns.load(Ordering::Relaxed);
        if last == 0 || now_mono_ns.saturating_sub(last) >= TELL_EVERY_NS {
            self.told_mono_ns.store(now_mono_ns, Ordering::Relaxed);
            tracing::warn!(by = %who, uid = peer.uid(), "refused on the control socket: {}", command.typed());
        }
        if right == Right::Nothing {
            refuse(RefusalCode::Forbidden, "this needs a member of the control group (agent.control_group)")
        } else {
            refuse(
                RefusalCode::Forbidden,
                "this command needs root or one of agent.control_operators; the control group may only read",
            )
        }
    }

    /// What the peer may do, and who it is; `None`: nobody said in time.
    async fn look_up(&self, peer: UCred) -> Option<(Right, Who)> {
        if peer.uid() == 0 {
            return Some((Right::Change, Who { uid: Some(0), name: "root".to_owned() }));
        }
        let looked_up = async {
            let turn = Arc::clone(&self.lookups).acquire_owned().await.ok()?;
            let access = Arc::clone(&self.access);
            let look = move || {
                let found = access.look_up(peer.uid(), peer.gid());
                drop(turn);
                found
            };
            tokio::task::spawn_blocking(look).await.ok()
        };
        timeout(LOOK_UP_LIMIT, looked_up).await.ok()?
    }
}

fn parse(line: &str) -> Result<Command, Refusal> {
    let refusal = |code, message| Refusal { code, message };
    if !line.ends_with('\n') {
        let message = format!("a request is one line of at most {MAX_REQUEST_BYTES} bytes");
        return Err(refusal(RefusalCode::BadRequest, message));
    }
    // The version first: a command of another version need not parse.
    let value: serde_json::Value = serde_json::from_str(line)
        .map_err(|error| refusal(RefusalCode::BadRequest, format!("the request is not JSON: {error}")))?;
    let version = value.get("version").and_then(serde_json::Value::as_u64);
    if version != Some(u64::from(PROTOCOL)) {
        let message = format!(
            "the agent speaks version {PROTOCOL} of the control protocol; use the load-watchdog that belongs to it"
        );
        return Err(refusal(RefusalCode::Version, message));
    }
    let command = serde_json::from_value::<Request>(value)
        .map(|request| request.command)
        .map_err(|error| refusal(RefusalCode::BadRequest, format!("no such command: {error}")))?;
    command.check().map_err(|why| refusal(RefusalCode::BadRequest, why))?;
    Ok(command)
}

async fn call(command: Command, by: Who, calls: &mpsc::Sender<Call>) -> Outcome {
    let (reply, answer) = oneshot::channel();
    let exchange = async {
        calls.send(Call { command, by, reply }).await.ok()?;
        answer.await.ok()
    };
    match timeout(ANSWER_LIMIT, exchange).await {
        Ok(Some(outcome)) => outcome,
        Ok(None) => refuse(RefusalCode::Failed, "the agent is stopping"),
        Err(_) => refuse(RefusalCode::Failed, "the agent did not answer within 10 s; see its log"),
    }
}

fn refuse(code: RefusalCode, message: &str) -> Outcome {
    Outcome::Error(Refusal { code, message: message.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_checked_version_first() {
        assert_eq!(parse("{\"version\":1,\"command\":\"status\"}\n"), Ok(Command::Status));
        let code = |line: &str| parse(line).unwrap_err().code;
        assert_eq!(code("{\"version\":2,\"command\":\"teleport\"}\n"), RefusalCode::Version);
        assert_eq!(code("{\"version\":1,\"command\":\"teleport\"}\n"), RefusalCode::BadRequest);
        assert_eq!(code("{\"command\":\"status\"}\n"), RefusalCode::Version);
        assert_eq!(code("status\n"), RefusalCode::BadRequest);
        assert_eq!(code("{\"version\":1,\"command\":\"status\"}"), RefusalCode::BadRequest);
    }
}
