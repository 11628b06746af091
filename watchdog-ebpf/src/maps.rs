//! Every map, with the reason for its capacity.

mod values;

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::bindings::bpf_map_type::{BPF_MAP_TYPE_SK_STORAGE, BPF_MAP_TYPE_TASK_STORAGE};
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, ProgramArray, RingBuf};
use aya_ebpf::helpers::generated::{bpf_sk_storage_get, bpf_task_storage_get};
use aya_ebpf::macros::btf_map;
use watchdog_common::abi;
use watchdog_common::types::{
    Blind, BuildSlot, Conservation, EndpointKey, Habit, Losses, OngoingRequest, ProcessEvent, Sample, Series,
    SeriesKey, ServicePatterns, StreamPiece,
};

pub(crate) use self::values::{
    Binding, Connection, Direction, Led, OWNERS, Packets, Parked, PointerKey, Request, Role, Slice, Step,
    Thread, TlsRead,
};
use crate::go_tls::GoRead;
use crate::goroutine::Goroutine;
use crate::offsets::Task;

/// One u16 for each thread-group id there can be (8 MiB): the early-out of every program is one load, and neither
/// side can find it full. Mapped into the agent, which writes single elements while programs read.
#[btf_map]
static TGID_SLOTS: Array<[u16; abi::MAX_TGID as usize], 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// One element for each (service, build) alive.
#[btf_map]
pub(crate) static BUILD_SLOTS: Array<BuildSlot, { abi::MAX_BUILD_SLOTS as usize }> = Array::new();

#[btf_map]
pub(crate) static SERVICES: Array<ServicePatterns, { abi::MAX_SERVICES as usize }> = Array::new();

/// Written by the agent only, so it allocates as needed.
#[btf_map]
pub(crate) static ENDPOINTS: HashMap<
    EndpointKey,
    u32,
    { abi::MAX_ENDPOINT_RULES as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Preallocated, because requests begin and end in contexts that must not allocate (3 MiB). A table whose places
/// are claimed by compare and exchange: finding a request is a load and a comparison, where a hash map costs a call
/// each time, and several locks per request. Mapped into the agent, which ends what was abandoned.
#[btf_map]
pub(crate) static ONGOING_REQ: Array<
    OngoingRequest,
    { abi::MAX_ONGOING as usize },
    { BPF_F_MMAPABLE as usize },
> = Array::new();

/// 8 KiB each. The agent makes the entries of a slot before it watches a process under it, so programs never
/// insert and the map allocates only what is in use.
#[btf_map]
pub(crate) static SERIES: HashMap<
    SeriesKey,
    Series,
    { abi::MAX_SERIES as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

#[btf_map]
pub(crate) static CONSERVATION: PerCpuArray<Conservation, { abi::MAX_BUILD_SLOTS as usize }> =
    PerCpuArray::new();

#[btf_map]
pub(crate) static LOSSES: PerCpuArray<Losses, { abi::MAX_BUILD_SLOTS as usize }> = PerCpuArray::new();

#[btf_map]
pub(crate) static BLIND: PerCpuArray<Blind, { abi::MAX_BUILD_SLOTS as usize }> = PerCpuArray::new();

/// Futexes that are locks: each element holds the tag of the one that hashed here last (128 KiB). A process has a few;
/// one that is displaced is learned again.
#[btf_map]
pub(crate) static LOCKS: Array<u64, { abi::LOCK_PLACES as usize }> = Array::new();

/// Of each build slot and endpoint, how often its requests give work to other threads.
#[btf_map]
pub(crate) static HABITS: Array<Habit, { (abi::MAX_BUILD_SLOTS * abi::MAX_ENDPOINTS) as usize }> =
    Array::new();

/// 2 KiB for each process that can be told apart by the low bits of its thread-group id; two that share them take
/// turns, and what one loses is attributed to nobody.
#[btf_map]
pub(crate) static PARKED_REQ: Array<Parked, { abi::PARKED_PROCESSES as usize }> = Array::new();

/// Each may lie at four places (384 KiB); one that finds all of them taken displaces another, whose other end is then counted
/// as a request of its own.
#[btf_map]
pub(crate) static LED_CONN: Array<Led, { abi::LED_PLACES as usize }> = Array::new();

/// As many as there can be requests; one that is displaced leaves its request's time to nobody until it receives or
/// sends again.
#[btf_map]
pub(crate) static ONGOING_GO: Array<Goroutine, { abi::MAX_ONGOING as usize }> = Array::new();

/// What runs on this CPU. `sched_switch` writes it, with interrupts off; the exit of a process's last thread, which
/// runs on this CPU, closes it.
#[btf_map]
pub(crate) static SLICE_SCRATCH: PerCpuArray<Slice, 1> = PerCpuArray::new();

/// 26,000 samples: a tick of 100 ms holds them up to 260,000 watched requests per second.
#[btf_map]
pub(crate) static SAMPLES: RingBuf<Sample, { abi::SAMPLE_RING_BYTES as usize }> = RingBuf::new();

/// 8,000 heads of HTTP/2 requests (two of them for one with many cookies), with as many ends of streams 6,700: a tick of
/// 100 ms holds 60,000 such requests per second. Apart from [`SAMPLES`], so that neither fills the other's.
#[btf_map]
pub(crate) static STREAMS: RingBuf<StreamPiece, { abi::STREAM_RING_BYTES as usize }> = RingBuf::new();

/// 8,000 events; a burst beyond is found by the agent's scan.
#[btf_map]
pub(crate) static PROCESSES: RingBuf<ProcessEvent, { abi::PROCESS_RING_BYTES as usize }> = RingBuf::new();

/// Jobs that a pool has not finished, by whose they are. An entry lives from the job's submission until its thread is
/// told that it is done; the agent removes those of processes that ended before.
#[btf_map]
pub(crate) static ONGOING_JOB: HashMap<
    PointerKey,
    Request,
    { abi::MAX_JOBS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Connections inside TLS. A session has no socket at hand when it is read (Node.js hands it memory), so its state
/// lives here until the library frees it; the agent removes those of processes that ended before.
#[btf_map]
pub(crate) static ONGOING_TLS: HashMap<
    PointerKey,
    Connection,
    { abi::MAX_TLS_SESSIONS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Reads from Go's TLS, by goroutine, from their beginning to their end: a goroutine that waits for data may go on with
/// another thread. The agent removes those of processes that ended before.
#[btf_map]
pub(crate) static ONGOING_GOREAD: HashMap<
    PointerKey,
    GoRead,
    { abi::MAX_GO_READS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// A connection of which nothing is known: too large for the stack. Nobody writes it.
#[btf_map]
pub(crate) static BLANK_CONN: Array<Connection, 1> = Array::new();

/// How many TLS sessions were seen: each gets the next number for a cookie.
#[btf_map]
pub(crate) static TLS_SESSIONS: Array<u64, 1> = Array::new();

/// Processes whose TLS library is probed, by the agent: what goes through it is measured, not lost.
#[btf_map]
pub(crate) static TLS_SERVED: HashMap<
    u32,
    u32,
    { abi::MAX_TLS_SERVED as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Stays empty: see [`crate::probe::Hit`].
#[btf_map]
pub(crate) static NO_TAIL: ProgramArray<1> = ProgramArray::new();

macro_rules! storage_map {
    ($name:ident, $map_type:ident, $value:ty) => {
        /// aya-ebpf has no such map for tracing programs; this is the layout of a `.maps` definition in BTF.
        #[repr(C)]
        pub(crate) struct $name {
            r#type: *const [i32; $map_type as usize],
            key: *const i32,
            value: *const $value,
            max_entries: *const [i32; 0],
            map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
        }

        // SAFETY: placeholder pointers that the loader reads from BTF; nothing dereferences them.
        unsafe impl Sync for $name {}

        impl $name {
            const fn new() -> Self {
                Self {
                    r#type: ptr::null(),
                    key: ptr::null(),
                    value: ptr::null(),
                    max_entries: ptr::null(),
                    map_flags: ptr::null(),
                }
            }

            #[inline(always)]
            fn as_ptr(&self) -> *mut c_void {
                ptr::from_ref(self).cast_mut().cast()
            }
        }
    };
}

storage_map!(TaskStorage, BPF_MAP_TYPE_TASK_STORAGE, Thread);
storage_map!(SocketStorage, BPF_MAP_TYPE_SK_STORAGE, Connection);
storage_map!(PacketStorage, BPF_MAP_TYPE_SK_STORAGE, Packets);

#[btf_map]
static ONGOING_TASK: TaskStorage = TaskStorage::new();
#[btf_map]
static ONGOING_CONN: SocketStorage = SocketStorage::new();
#[btf_map]
static ONGOING_PACKET: PacketStorage = PacketStorage::new();

/// `BPF_LOCAL_STORAGE_GET_F_CREATE`
const CREATE: u64 = 1;

/// The thread's state, if it has any.
#[inline(always)]
pub(crate) fn thread_of(task: Task) -> Option<&'static mut Thread> {
    // SAFETY: the helper returns NULL or a value that lives as long as this program runs.
    unsafe {
        bpf_task_storage_get(ONGOING_TASK.as_ptr(), task.0.cast_mut().cast(), ptr::null_mut(), 0)
            .cast::<Thread>()
            .as_mut()
    }
}

/// The thread's state, made if need be. Never called under the run queue's lock: making it allocates.
#[inline(always)]
pub(crate) fn thread_of_or_new(task: Task) -> Option<&'static mut Thread> {
    // SAFETY: as in `thread_of`.
    unsafe {
        bpf_task_storage_get(ONGOING_TASK.as_ptr(), task.0.cast_mut().cast(), ptr::null_mut(), CREATE)
            .cast::<Thread>()
            .as_mut()
    }
}

/// The connection's state, if it has any.
#[inline(always)]
pub(crate) fn connection_of(sk: *const c_void) -> Option<&'static mut Connection> {
    // SAFETY: as in `thread_of`.
    unsafe {
        bpf_sk_storage_get(ONGOING_CONN.as_ptr(), sk.cast_mut(), ptr::null_mut(), 0)
            .cast::<Connection>()
            .as_mut()
    }
}

#[inline(always)]
pub(crate) fn connection_of_or_new(sk: *const c_void) -> Option<&'static mut Connection> {
    // SAFETY: as in `thread_of`.
    unsafe {
        bpf_sk_storage_get(ONGOING_CONN.as_ptr(), sk.cast_mut(), ptr::null_mut(), CREATE)
            .cast::<Connection>()
            .as_mut()
    }
}

/// What a connection carries as records or packets, if it was seen to.
#[inline(always)]
pub(crate) fn packets_of(sk: *const c_void) -> Option<&'static mut Packets> {
    // SAFETY: as in `thread_of`.
    unsafe {
        bpf_sk_storage_get(ONGOING_PACKET.as_ptr(), sk.cast_mut(), ptr::null_mut(), 0)
            .cast::<Packets>()
            .as_mut()
    }
}

#[inline(always)]
pub(crate) fn packets_of_or_new(sk: *const c_void) -> Option<&'static mut Packets> {
    // SAFETY: as in `thread_of`.
    unsafe {
        bpf_sk_storage_get(ONGOING_PACKET.as_ptr(), sk.cast_mut(), ptr::null_mut(), CREATE)
            .cast::<Packets>()
            .as_mut()
    }
}

/// The build slot under which a process is watched, 0 for none, and its runtime's flags.
#[inline(always)]
pub(crate) fn process_of(tgid: u32) -> u16 {
    let Some(slots) = TGID_SLOTS.get_ptr(0) else { return 0 };
    // SAFETY: the mask keeps the index inside the array; the agent writes elements whole.
    unsafe { slots.cast::<u16>().add((tgid & (abi::MAX_TGID - 1)) as usize).read_volatile() }
}

/// The build slot under which a process is watched, 0 for none.
#[inline(always)]
pub(crate) fn slot_of(tgid: u32) -> u16 {
    process_of(tgid) & abi::SLOT_MASK
}

#[inline(always)]
pub(crate) fn set_process(tgid: u32, process: u16) {
    let Some(slots) = TGID_SLOTS.get_ptr_mut(0) else { return };
    // SAFETY: as in `process_of`.
    unsafe { slots.cast::<u16>().add((tgid & (abi::MAX_TGID - 1)) as usize).write_volatile(process) }
}
