//! Offsets of kernel fields. rustc emits no CO-RE relocations, so the agent resolves them from the running kernel's
//! BTF and sets these read-only globals before loading; the verifier then sees constants.

use core::ptr::{from_ref, read_volatile};

macro_rules! globals {
    ($($(#[$doc:meta])* $name:ident, $read:ident: $type:ty;)*) => {
        $(
            $(#[$doc])*
            #[unsafe(no_mangle)]
            static $name: $type = 0;

            #[inline(always)]
            pub(crate) fn $read() -> $type {
                // SAFETY: a static; volatile because the loader replaces the value the compiler sees.
                unsafe { read_volatile(from_ref(&$name)) }
            }
        )*
    };
}

globals! {
    /// `task_struct.pid`
    OFF_TASK_PID, task_pid: u32;
    /// `task_struct.tgid`
    OFF_TASK_TGID, task_tgid: u32;
    /// `task_struct.se.sum_exec_runtime`
    OFF_TASK_SUM_EXEC, task_sum_exec: u32;
    /// `task_struct.se.prev_sum_exec_runtime`
    OFF_TASK_PREV_SUM_EXEC, task_prev_sum_exec: u32;
    /// `task_struct.comm`
    OFF_TASK_COMM, task_comm: u32;
    /// `task_struct.thread.fsbase`
    OFF_TASK_TLS, task_tls: u32;
    /// `task_struct.signal`
    OFF_TASK_SIGNAL, task_signal: u32;
    /// `signal_struct.live`
    OFF_SIGNAL_LIVE, signal_live: u32;
    /// `sock.__sk_common.skc_rcv_saddr`
    OFF_SOCK_ADDRESS, sock_address: u32;
    /// `sock.__sk_common.skc_daddr`
    OFF_SOCK_PEER, sock_peer_address: u32;
    /// `sock.__sk_common.skc_num`
    OFF_SOCK_PORT, sock_port: u32;
    /// `sock.__sk_common.skc_dport`
    OFF_SOCK_PEER_P, sock_peer_port: u32;
    /// `unix_sock.peer`
    OFF_UNIX_PEER, unix_peer: u32;
    /// `socket.sk`
    OFF_SOCKET_SK, socket_sk: u32;
    /// Key of the path hashes, drawn by the agent.
    HASH_KEY, hash_key: u64;
}

/// Not set but read by the agent, which refuses an object of another version.
#[used]
#[unsafe(no_mangle)]
static ABI_VERSION: u32 = watchdog_common::abi::ABI_VERSION;

/// A `struct task_struct *` that the verifier trusts.
#[derive(Clone, Copy)]
pub(crate) struct Task(pub(crate) *const u8);

impl Task {
    #[inline(always)]
    pub(crate) fn current() -> Self {
        // SAFETY: a helper without arguments; allowed in tracing programs.
        Self(unsafe { aya_ebpf::helpers::generated::bpf_get_current_task_btf() }.cast())
    }

    #[inline(always)]
    pub(crate) fn pid(self) -> u32 {
        // SAFETY: BTF pointer plus the offset of a u32 member; faults read as zero.
        unsafe { read_volatile(self.0.add(task_pid() as usize).cast()) }
    }

    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        // SAFETY: as in `pid`.
        unsafe { read_volatile(self.0.add(task_tgid() as usize).cast()) }
    }

    /// The scheduler's own on-CPU time in nanoseconds; exact only while the task is switched out.
    #[inline(always)]
    pub(crate) fn sum_exec_ns(self) -> u64 {
        // SAFETY: as in `pid`, a u64 member.
        unsafe { read_volatile(self.0.add(task_sum_exec() as usize).cast()) }
    }

    /// What [`Self::sum_exec_ns`] was when the task was last put on a CPU. Only fair scheduling keeps it.
    #[inline(always)]
    pub(crate) fn previous_sum_exec_ns(self) -> u64 {
        // SAFETY: as in `pid`, a u64 member.
        unsafe { read_volatile(self.0.add(task_prev_sum_exec() as usize).cast()) }
    }

    /// The first eight bytes of the thread's name, little-endian.
    #[inline(always)]
    pub(crate) fn name(self) -> u64 {
        // SAFETY: as in `pid`; an array of bytes at least as long.
        unsafe { read_volatile(self.0.add(task_comm() as usize).cast()) }
    }

    /// User space's thread pointer.
    #[inline(always)]
    pub(crate) fn thread_pointer(self) -> u64 {
        // SAFETY: as in `pid`, a u64 member.
        unsafe { read_volatile(self.0.add(task_tls() as usize).cast()) }
    }

    /// Threads of the process that have not exited.
    #[inline(always)]
    pub(crate) fn live_threads(self) -> u32 {
        // SAFETY: a pointer member of the task, then an atomic_t member of what it points to; faults read as zero.
        unsafe {
            let signal: *const u8 = read_volatile(self.0.add(task_signal() as usize).cast());
            read_volatile(signal.add(signal_live() as usize).cast())
        }
    }
}
