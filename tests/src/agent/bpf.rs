//! Which kernel programs a process holds, and which are loaded, as the kernel itself says.

use std::fs;

use anyhow::Context as _;

/// Of the command `bpf(2)`: a descriptor of a program by its id.
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;

/// The part of `union bpf_attr` that this command reads.
#[repr(C)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// Ids of the programs that a process holds open.
pub fn programs_of(pid: u32) -> anyhow::Result<Vec<u32>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut ids = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {folder}"))?.flatten() {
        // A descriptor may be closed meanwhile.
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        let id = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
        ids.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// Whether the kernel still has a program; needs root.
pub fn is_loaded(id: u32) -> bool {
    let attributes = ById { id, next_id: 0, open_flags: 0 };
    // SAFETY: the kernel reads so many bytes of the structure and writes nothing.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_GET_FD_BY_ID, &raw const attributes, size_of::<ById>())
    };
    let Ok(fd) = i32::try_from(fd) else { return false };
    if fd < 0 {
        return false;
    }
    // SAFETY: the descriptor was just made for this function and nobody else knows it.
    unsafe { libc::close(fd) };
    true
}
