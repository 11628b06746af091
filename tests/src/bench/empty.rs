//! A program that does nothing, on a tracepoint: what the kernel's statistics say of it is what they cost themselves.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use anyhow::Context as _;

/// Of the command `bpf(2)`, and of the program's kind.
const PROG_LOAD: libc::c_int = 5;
const RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const RAW_TRACEPOINT: u32 = 17;
/// `r0 = 0; exit`
const NOTHING: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];

/// The beginning of `union bpf_attr` for loading a program.
#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    address: u64,
    license: u64,
    _rest: [u64; 13],
}

#[repr(C)]
struct Open {
    name: u64,
    program: u32,
    _pad: u32,
    cookie: u64,
}

/// Attached until dropped.
#[derive(Debug)]
pub struct Empty {
    program: OwnedFd,
    _link: OwnedFd,
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> anyhow::Result<OwnedFd> {
    // SAFETY: the kernel reads this many bytes of the structure, and what it points at, which callers own.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(std::io::Error::last_os_error)?;
    // SAFETY: just made for this function, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Empty {
    pub fn attach(tracepoint: &str) -> anyhow::Result<Self> {
        let load = Load {
            kind: RAW_TRACEPOINT,
            instructions: u32::try_from(NOTHING.len())?,
            address: NOTHING.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            _rest: [0; 13],
        };
        let program = bpf(PROG_LOAD, &load).context("loading a program that does nothing")?;
        let name = CString::new(tracepoint)?;
        let open = Open {
            name: name.as_ptr() as u64,
            program: program.as_raw_fd().cast_unsigned(),
            _pad: 0,
            cookie: 0,
        };
        let link =
            bpf(RAW_TRACEPOINT_OPEN, &open).with_context(|| format!("attaching it to {tracepoint}"))?;
        Ok(Self { program, _link: link })
    }

    /// Runs, and nanoseconds, while the kernel kept statistics.
    pub fn figures(&self) -> anyhow::Result<(u64, u64)> {
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.program.as_raw_fd()))?;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(|value| value.trim().parse::<u64>().ok()).with_context(|| format!("no {name}"))
        };
        Ok((field("run_cnt:")?, field("run_time_ns:")?))
    }
}
