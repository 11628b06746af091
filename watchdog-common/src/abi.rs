//! Names and limits of the kernel boundary. A test opens the built object and checks it against this file.

/// Changes whenever a shared type, a map or the meaning of a field changes.
pub const ABI_VERSION: u32 = 5;

/// Watched services at most.
pub const MAX_SERVICES: u32 = 64;
/// Endpoints of one service at most, [`ENDPOINT_OTHER`] included.
pub const MAX_ENDPOINTS: u32 = 32;
/// (service, build) pairs that are alive at the same time at most; slot 0 means "not watched".
pub const MAX_BUILD_SLOTS: u32 = 256;
/// Requests under way at the same time on the host at most; a power of two.
pub const MAX_ONGOING: u32 = 65_536;
/// (build slot, endpoint, status class) series at most.
pub const MAX_SERIES: u32 = 8_192;
/// Endpoint patterns of all services at most.
pub const MAX_ENDPOINT_RULES: u32 = 4_096;
/// Largest thread-group id the kernel gives out, plus one (`PID_MAX_LIMIT`).
pub const MAX_TGID: u32 = 4_194_304;
/// Jobs that pools have not finished on the host at most.
pub const MAX_JOBS: u32 = 65_536;
/// Sessions of probed TLS libraries on the host at most.
pub const MAX_TLS_SESSIONS: u32 = 65_536;
/// Goroutines that read from TLS at the same time on the host at most: one for each session.
pub const MAX_GO_READS: u32 = MAX_TLS_SESSIONS;
/// Bytes of a job's entry, a read's, and a session's: private to the programs, but told to who opens the map.
pub const JOB_BYTES: usize = 16;
pub const GO_READ_BYTES: usize = 16;
pub const CONNECTION_BYTES: usize = 584;
/// Processes with a probed TLS library at most.
pub const MAX_TLS_SERVED: u32 = 16_384;
/// Bytes of the ring that carries [`crate::types::Sample`]s.
pub const SAMPLE_RING_BYTES: u32 = 1 << 20;
/// Bytes of the ring that carries [`crate::types::ProcessEvent`]s.
pub const PROCESS_RING_BYTES: u32 = 1 << 18;
/// Bytes of the ring that carries [`crate::types::StreamPiece`]s.
pub const STREAM_RING_BYTES: u32 = 1 << 21;

/// Bytes of the ring that carries the programs' log lines; the number is aya-log's.
pub const LOG_RING_BYTES: u32 = 1 << 17;

/// Bytes of a request's head that the kernel keeps and parses: method and path must end within them.
pub const HEAD_WINDOW: usize = 256;
/// Longest path pattern that a configuration may name, in bytes: always inside [`HEAD_WINDOW`].
pub const MAX_PATTERN_BYTES: usize = 200;
/// Path segments a pattern may have; deeper request paths match no pattern with a wildcard in those segments.
pub const MAX_SEGMENTS: u32 = 16;
/// Distinct sets of wildcard positions that one service's patterns may use.
pub const MAX_WILDCARD_MASKS: usize = 4;

/// Endpoint index of requests that match no configured endpoint.
pub const ENDPOINT_OTHER: u16 = 0;
/// Bits of a [`map::TGID_SLOTS`] element: the build slot, and above it what the process's runtime is.
pub const SLOT_MASK: u16 = 0x00ff;
const _: () = assert!(MAX_BUILD_SLOTS == SLOT_MASK as u32 + 1);
/// A Go program: requests belong to goroutines, not to threads.
pub const RUNTIME_GO: u16 = 0x0100;
/// A Ruby program: its threads take turns under one lock.
pub const RUNTIME_RUBY: u16 = 0x0200;

/// Status classes: 0 is "no status seen", 1 to 5 are 1xx to 5xx.
pub const STATUS_CLASSES: u16 = 6;

/// Futexes that are remembered as locks.
pub const LOCK_PLACES: u32 = 16_384;
/// Processes whose requests wait for pool threads, told apart by the low bits of their thread-group ids.
pub const PARKED_PROCESSES: u32 = 1_024;
/// Requests of one process that can wait for its pool at the same time.
pub const PARKED_REQUESTS: u32 = 128;

/// TCP connections that were made in a request and are remembered.
pub const LED_PLACES: u32 = 16_384;

/// Names of the maps, at most 15 bytes each (the kernel cuts longer ones).
pub mod map {
    /// Array of one `[u16; MAX_TGID]`: thread-group id to build slot. Mapped into the agent.
    pub const TGID_SLOTS: &str = "TGID_SLOTS";
    /// Array: build slot to [`crate::types::BuildSlot`].
    pub const BUILD_SLOTS: &str = "BUILD_SLOTS";
    /// Array: service to [`crate::types::ServicePatterns`].
    pub const SERVICES: &str = "SERVICES";
    /// Hash: [`crate::types::EndpointKey`] to endpoint index (`u32`).
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// Array of [`crate::types::OngoingRequest`]: a table of places, mapped into the agent.
    pub const ONGOING: &str = "ONGOING_REQ";
    /// Hash: [`crate::types::SeriesKey`] to [`crate::types::Series`].
    pub const SERIES: &str = "SERIES";
    /// Per-CPU array: build slot to [`crate::types::Conservation`].
    pub const CONSERVATION: &str = "CONSERVATION";
    /// Per-CPU array: build slot to [`crate::types::Losses`].
    pub const LOSSES: &str = "LOSSES";
    /// Per-CPU array: build slot to [`crate::types::Blind`].
    pub const BLIND: &str = "BLIND";
    /// Array: addresses of futexes that are locks, by hash.
    pub const LOCKS: &str = "LOCKS";
    /// Array: (build slot, endpoint) to how often its requests give work away.
    pub const HABITS: &str = "HABITS";
    /// Array: requests that wait for a pool thread, by process.
    pub const PARKED: &str = "PARKED_REQ";
    /// Array: goroutine to its request, by hash.
    pub const GOROUTINES: &str = "ONGOING_GO";
    /// Array: TCP connections made in a request, by hash of their addresses and ports.
    pub const LED: &str = "LED_CONN";
    /// Per-CPU array of one: the slice that runs on this CPU.
    pub const SLICE: &str = "SLICE_SCRATCH";
    /// Task storage: what the thread works on.
    pub const TASKS: &str = "ONGOING_TASK";
    /// Socket storage: what the connection carries.
    pub const CONNECTIONS: &str = "ONGOING_CONN";
    /// Hash: (address of a pool's job, process) to its request.
    pub const JOBS: &str = "ONGOING_JOB";
    /// Hash: (address of a TLS session, process) to what the connection carries.
    pub const TLS: &str = "ONGOING_TLS";
    /// Hash: (address of a goroutine, process) to what it reads from TLS.
    pub const GO_READS: &str = "ONGOING_GOREAD";
    /// Array of one: what a new TLS session's state begins as.
    pub const BLANK: &str = "BLANK_CONN";
    /// Array of one `u64`: TLS sessions seen.
    pub const TLS_SESSIONS: &str = "TLS_SESSIONS";
    /// Hash: process (`u32`) to 1, for those whose TLS library is probed.
    pub const TLS_SERVED: &str = "TLS_SERVED";
    /// Program array of one that stays empty.
    pub const NO_TAIL: &str = "NO_TAIL";
    /// Socket storage: what a connection carries as records or packets, if it does.
    pub const PACKETS: &str = "ONGOING_PACKET";
    /// Ring of [`crate::types::Sample`]s, drained on a timer.
    pub const SAMPLES: &str = "SAMPLES";
    /// Ring of [`crate::types::StreamPiece`]s, drained on a timer.
    pub const STREAMS: &str = "STREAMS";
    /// Ring of [`crate::types::ProcessEvent`]s, wakes the agent.
    pub const PROCESSES: &str = "PROCESSES";
    /// Ring of the programs' log lines, made and read by aya-log: debugging only, nothing is logged per request.
    pub const LOG: &str = "AYA_LOGS";
}

/// Names of the programs: each is the hook it hangs on.
pub mod program {
    pub const SCHED_SWITCH: &str = "sched_switch";
    pub const SCHED_WAKING: &str = "sched_waking";
    pub const SCHED_PROCESS_FORK: &str = "sched_process_fork";
    pub const SCHED_PROCESS_EXEC: &str = "sched_process_exec";
    pub const SCHED_PROCESS_EXIT: &str = "sched_process_exit";
    pub const INET_SOCK_SET_STATE: &str = "inet_sock_set_state";
    pub const SIGNAL_DELIVER: &str = "signal_deliver";
    pub const CPU_CLOCK: &str = "cpu_clock";
    /// Core tier, kernel 6.3 and later.
    pub const SOCK_RECV_LENGTH: &str = "sock_recv_length";
    pub const SOCK_SEND_LENGTH: &str = "sock_send_length";
    /// Tier A: function exits, where the two tracepoints above do not exist.
    pub const INET_RECVMSG: &str = "inet_recvmsg";
    pub const INET6_RECVMSG: &str = "inet6_recvmsg";
    pub const UNIX_STREAM_RECVMSG: &str = "unix_stream_recvmsg";
    pub const INET_SENDMSG: &str = "inet_sendmsg";
    pub const INET6_SENDMSG: &str = "inet6_sendmsg";
    pub const UNIX_STREAM_SENDMSG: &str = "unix_stream_sendmsg";

    /// Extra tier: user probes on the pool of libuv.
    pub const POOL_SUBMIT: &str = "pool_submit";
    pub const POOL_QUEUE: &str = "pool_queue";
    pub const POOL_START: &str = "pool_start";
    pub const POOL_END: &str = "pool_end";
    pub const POOL_DONE: &str = "pool_done";
    /// Extra tier: user probes on TLS libraries.
    pub const TLS_READ: &str = "tls_read";
    pub const TLS_READ_EX: &str = "tls_read_ex";
    pub const TLS_READ_END: &str = "tls_read_end";
    pub const TLS_WRITE: &str = "tls_write";
    pub const TLS_FREE: &str = "tls_free";
    /// The same on Go's `crypto/tls`; the second goes on the instructions by which a function returns.
    pub const GO_TLS_READ: &str = "go_tls_read";
    pub const GO_TLS_RETURN: &str = "go_tls_return";
    pub const GO_TLS_WRITE: &str = "go_tls_write";
    pub const GO_TLS_CLOSE: &str = "go_tls_close";

    /// Raw-BTF tracepoints that every tier needs.
    pub const ALWAYS: [&str; 7] = [
        SCHED_SWITCH,
        SCHED_WAKING,
        SCHED_PROCESS_FORK,
        SCHED_PROCESS_EXEC,
        SCHED_PROCESS_EXIT,
        INET_SOCK_SET_STATE,
        SIGNAL_DELIVER,
    ];
    pub const CORE: [&str; 2] = [SOCK_RECV_LENGTH, SOCK_SEND_LENGTH];
    pub const TIER_A: [&str; 6] =
        [INET_RECVMSG, INET6_RECVMSG, UNIX_STREAM_RECVMSG, INET_SENDMSG, INET6_SENDMSG, UNIX_STREAM_SENDMSG];
    pub const POOL: [&str; 5] = [POOL_SUBMIT, POOL_QUEUE, POOL_START, POOL_END, POOL_DONE];
    pub const TLS: [&str; 9] = [
        TLS_READ,
        TLS_READ_EX,
        TLS_READ_END,
        TLS_WRITE,
        TLS_FREE,
        GO_TLS_READ,
        GO_TLS_RETURN,
        GO_TLS_WRITE,
        GO_TLS_CLOSE,
    ];
}

/// Names of the read-only globals that the agent sets before loading.
pub mod global {
    pub const TASK_PID: &str = "OFF_TASK_PID";
    pub const TASK_TGID: &str = "OFF_TASK_TGID";
    pub const TASK_SUM_EXEC: &str = "OFF_TASK_SUM_EXEC";
    pub const TASK_PREV_SUM_EXEC: &str = "OFF_TASK_PREV_SUM_EXEC";
    pub const TASK_SIGNAL: &str = "OFF_TASK_SIGNAL";
    pub const TASK_COMM: &str = "OFF_TASK_COMM";
    /// User space's thread pointer (`fs` on `x86_64`).
    pub const TASK_TLS: &str = "OFF_TASK_TLS";
    pub const SIGNAL_LIVE: &str = "OFF_SIGNAL_LIVE";
    pub const SOCK_ADDRESS: &str = "OFF_SOCK_ADDRESS";
    pub const SOCK_PEER_ADDRESS: &str = "OFF_SOCK_PEER";
    pub const SOCK_PORT: &str = "OFF_SOCK_PORT";
    pub const SOCK_PEER_PORT: &str = "OFF_SOCK_PEER_P";
    pub const UNIX_PEER: &str = "OFF_UNIX_PEER";
    pub const SOCKET_SK: &str = "OFF_SOCKET_SK";
    pub const HASH_KEY: &str = "HASH_KEY";
    pub const ABI_VERSION: &str = "ABI_VERSION";
    /// The level below which the programs log nothing, made and set by aya-log.
    pub const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
}
