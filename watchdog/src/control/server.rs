//! The agent's side of the control socket.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Gid, Group, Uid, User, chown, getgrouplist};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::{Command, Outcome, PROTOCOL, Refusal, RefusalCode, Request, Response};

/// Longest request line; every command fits in a few hundred bytes.
const MAX_REQUEST_BYTES: u64 = 16 * 1024;
/// Clients served at the same time.
const MAX_CLIENTS: usize = 16;
/// For the request line to arrive, and again for the response to be taken.
const IO_LIMIT: Duration = Duration::from_secs(5);
/// For the agent to answer: many ticks.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A command on its way to the agent, with who sent it and where its outcome goes.
#[derive(Debug)]
pub struct Call {
    pub command: Command,
    /// For the journal: a write command says who asked.
    pub by: String,
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
    group: Option<Gid>,
    /// What is wrong with the socket's group, if anything: then only root can connect.
    pub warning: Option<String>,
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Binds the socket with mode 0660 and the given group. Must run inside the runtime.
pub fn bind(path: &Path, group: &str) -> Result<ControlSocket, ControlError> {
    let failed = |what| move |source| ControlError::Io { path: path.to_owned(), what, source };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed("cannot create its directory"))?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ControlError::InUse { path: path.to_owned() });
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("cannot remove the one a dead agent left")(error));
        }
        _ => {}
    }
    // Between bind and chmod the file has the mode that the umask leaves: close it for others from the start.
    let umask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    nix::sys::stat::umask(umask);
    let listener = listener.map_err(failed("cannot bind"))?;
    let (group, warning) = give_to_group(path, group);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .map_err(failed("cannot set its mode"))?;
    Ok(ControlSocket { listener, path: path.to_owned(), group, warning })
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
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        match socket.listener.accept().await {
            Ok((stream, _)) => {
                let calls = calls.clone();
                let group = socket.group;
                tokio::spawn(async move {
                    // A client that goes away mid-way concerns nobody.
                    let _ = client(stream, group, calls).await;
                    drop(place);
                });
            }
            // Out of descriptors, most likely: they come back.
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

async fn client(mut stream: UnixStream, group: Option<Gid>, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(MAX_REQUEST_BYTES));
    timeout(IO_LIMIT, reader.read_line(&mut line)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let outcome = match parse(&line) {
        Err(refusal) => Outcome::Error(refusal),
        Ok(command) if command.writes() && !may_write(peer.uid(), peer.gid(), group) => refuse(
            RefusalCode::Forbidden,
            "this command needs root or a member of the control group (agent.control_group)",
        ),
        Ok(command) => call(command, describe(peer.uid()), &calls).await,
    };
    let mut text = serde_json::to_vec(&Response { version: PROTOCOL, outcome })?;
    text.push(b'\n');
    timeout(IO_LIMIT, writer.write_all(&text)).await.map_err(|_| io::ErrorKind::TimedOut)?
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
    serde_json::from_value::<Request>(value)
        .map(|request| request.command)
        .map_err(|error| refusal(RefusalCode::BadRequest, format!("no such command: {error}")))
}

async fn call(command: Command, by: String, calls: &mpsc::Sender<Call>) -> Outcome {
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

/// Root, the agent's own user, or a member of the control group.
fn may_write(uid: u32, gid: u32, group: Option<Gid>) -> bool {
    if uid == 0 || uid == Uid::effective().as_raw() {
        return true;
    }
    let Some(group) = group else { return false };
    if gid == group.as_raw() {
        return true;
    }
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else { return false };
    let Ok(name) = std::ffi::CString::new(user.name) else { return false };
    getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&group))
}

fn describe(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => format!("uid {uid}"),
    }
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

    #[test]
    fn writing_needs_root_or_the_group() {
        let group = Some(Gid::from_raw(54_321));
        assert!(may_write(0, 0, None));
        assert!(may_write(65_000, 54_321, group));
        assert!(!may_write(65_000, 65_000, group));
        assert!(!may_write(65_000, 54_321, None));
    }
}
