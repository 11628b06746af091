//! Which processes listen on a port or a unix socket.
//!
//! The kernel's tables give the inodes of listening sockets, `/proc/PID/fd` who holds them. Tables belong to a
//! network namespace, so they are read through the process, once per namespace and round.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::rc::Rc;

use procfs::net::{TcpNetEntries, TcpState, UnixState};
use procfs::{FromBufReadSI, current_system_info};

use super::IdentityError;
use super::process::{FileId, Process, file_id};
use crate::config::Listen;

/// `SOCK_STREAM` and `SOCK_SEQPACKET`: the kinds that can listen.
const LISTENING_KINDS: [u16; 2] = [1, 5];
/// `TCP_LISTEN` in the fourth column of `/proc/net/tcp`.
const LISTEN_STATE: &str = "0A";

/// Length of each line of `/proc/net/tcp` (those of `tcp6` are a little longer).
const TABLE_LINE_BYTES: usize = 150;

/// The tables that were read in one round.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    tables: HashMap<FileId, Rc<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    ports: HashMap<u16, HashSet<u64>>,
    unix: Vec<(std::path::PathBuf, u64)>,
}

impl Listeners {
    pub(super) fn holds(&mut self, process: &Process, wanted: &Listen) -> Result<bool, IdentityError> {
        // First, because it is cheap: the kernel walks its whole hash of connections to print a table.
        let held = process.sockets()?;
        if held.is_empty() {
            return Ok(false);
        }
        let table = self.table(process);
        let listening: HashSet<u64> = match wanted {
            Listen::Port(port) => table.ports.get(port).cloned().unwrap_or_default(),
            Listen::Unix(path) => table
                .unix
                .iter()
                .filter(|(bound, _)| same_path(bound, path))
                .map(|(_, inode)| *inode)
                .collect(),
        };
        Ok(held.iter().any(|inode| listening.contains(inode)))
    }

    fn table(&mut self, process: &Process) -> Rc<Table> {
        let namespace = file_id(&process.path("ns/net")).unwrap_or((0, u64::from(process.pid)));
        Rc::clone(self.tables.entry(namespace).or_insert_with(|| Rc::new(Table::read(process))))
    }
}

impl Table {
    fn read(process: &Process) -> Self {
        let mut table = Self::default();
        for name in ["net/tcp", "net/tcp6"] {
            for entry in listening_tcp(process, name) {
                table.ports.entry(entry.0).or_default().insert(entry.1);
            }
        }
        // Connected sockets carry the path of the one that accepted them, in another state.
        let sockets = process.read_net(procfs::process::Process::unix).unwrap_or_default();
        table.unix = sockets
            .into_iter()
            .filter(|entry| {
                entry.state == UnixState::UNCONNECTED && LISTENING_KINDS.contains(&entry.socket_type)
            })
            .filter_map(|entry| entry.path.map(|path| (path, entry.inode)))
            .collect();
        table
    }
}

/// (port, inode) of every listening socket.
///
/// The kernel lists the listening ones first (`tcp_seq_start`), so that a host with many connections need not be
/// read to the end. It prepares as many lines as one read asks for, and to fill a usual buffer it walks its whole
/// hash of connections: so a read asks for one line.
fn listening_tcp(process: &Process, name: &str) -> Vec<(u16, u64)> {
    let Ok(file) = std::fs::File::open(process.path(name)) else { return Vec::new() };
    let mut head = String::new();
    for line in BufReader::with_capacity(TABLE_LINE_BYTES, file).lines().map_while(Result::ok) {
        let is_header = head.is_empty();
        if !is_header && line.split_whitespace().nth(3) != Some(LISTEN_STATE) {
            break;
        }
        head.push_str(&line);
        head.push('\n');
    }
    let entries = TcpNetEntries::from_buf_read(head.as_bytes(), current_system_info());
    let entries = entries.map(|entries| entries.0).unwrap_or_default();
    entries
        .into_iter()
        .filter(|entry| entry.state == TcpState::Listen)
        .map(|entry| (entry.local_address.port(), entry.inode))
        .collect()
}

/// `/var/run/app.sock` and `/run/app.sock` are the same place on most hosts.
fn same_path(bound: &Path, wanted: &Path) -> bool {
    bound == wanted
        || (bound.file_name() == wanted.file_name()
            && bound.is_absolute()
            && matches!((file_id(bound), file_id(wanted)), (Some(a), Some(b)) if a == b))
}
