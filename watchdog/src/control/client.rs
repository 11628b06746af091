//! The commands' side of the control socket.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Command, Outcome, PROTOCOL, RefusalCode, Request, Response};

/// A little longer than the agent allows itself.
const LIMIT: Duration = Duration::from_secs(15);
/// Far above any response: bounds what a wrong peer can make us read.
const MAX_RESPONSE_BYTES: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "no agent answers on {}: {why}; start it with `systemctl start load-watchdog` or `load-watchdog run --config FILE`, \
         or name its socket with --control", path.display()
    )]
    NotRunning { path: PathBuf, why: &'static str },
    #[error("no permission to use {}; run as root or as a member of the group that owns it", path.display())]
    Permission { path: PathBuf },
    #[error("the agent on {} did not answer: {source}; see its log (journalctl -u load-watchdog)", path.display())]
    Broken { path: PathBuf, source: io::Error },
    #[error("what came from {} is no response of this version: {source}", path.display())]
    Foreign { path: PathBuf, source: serde_json::Error },
    #[error("{message}")]
    Refused { code: RefusalCode, message: String },
}

/// Sends one command and waits for its outcome; a refusal is an error.
pub fn ask(path: &Path, command: Command) -> Result<Outcome, ClientError> {
    let mut stream = UnixStream::connect(path).map_err(|error| unreachable(path, error))?;
    let broken = |source| ClientError::Broken { path: path.to_owned(), source };
    stream.set_read_timeout(Some(LIMIT)).map_err(broken)?;
    stream.set_write_timeout(Some(LIMIT)).map_err(broken)?;
    let mut text = serde_json::to_vec(&Request { version: PROTOCOL, command })
        .map_err(|source| ClientError::Foreign { path: path.to_owned(), source })?;
    text.push(b'\n');
    stream.write_all(&text).map_err(broken)?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_RESPONSE_BYTES)).read_line(&mut line).map_err(broken)?;
    if line.is_empty() {
        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
    }
    let response: Response = serde_json::from_str(&line)
        .map_err(|source| ClientError::Foreign { path: path.to_owned(), source })?;
    match response.outcome {
        Outcome::Error(refusal) => Err(ClientError::Refused { code: refusal.code, message: refusal.message }),
        outcome => Ok(outcome),
    }
}

fn unreachable(path: &Path, error: io::Error) -> ClientError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => ClientError::NotRunning { path, why: "there is no such socket" },
        io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning { path, why: "the socket is there, but nobody listens" }
        }
        io::ErrorKind::PermissionDenied => ClientError::Permission { path },
        _ => ClientError::Broken { path, source: error },
    }
}
