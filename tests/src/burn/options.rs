//! What the server can be told to do.

use std::time::Duration;

use clap::ValueEnum;

/// Command line of the burn server.
#[derive(Clone, Debug, clap::Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
#[command(name = "burn", about = "A web server whose CPU per request is known", max_term_width = 100)]
pub struct Options {
    /// HOST:PORT on loopback (port 0: any free one) or unix:PATH
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: String,
    /// Value of the X-Build response header
    #[arg(long, default_value = "good")]
    pub build: String,
    /// CPU of POST /login and POST /api/ID/login, microseconds
    #[arg(long, default_value_t = 10_000)]
    pub login_us: u64,
    /// CPU of GET /browse, microseconds
    #[arg(long, default_value_t = 1_000)]
    pub browse_us: u64,
    /// CPU of GET /report, microseconds
    #[arg(long, default_value_t = 200)]
    pub report_us: u64,
    /// Sleep of GET /report, milliseconds
    #[arg(long, default_value_t = 50)]
    pub report_sleep_ms: u64,
    /// CPU of /unknown before its 401, microseconds
    #[arg(long, default_value_t = 50)]
    pub unknown_us: u64,

    /// What the connections speak
    #[arg(long, value_enum, default_value_t = Protocol::Http1)]
    pub protocol: Protocol,
    /// How FastCGI and uwsgi requests are read
    #[arg(long, value_enum, default_value_t = ReadPieces::Whole)]
    pub read_pieces: ReadPieces,

    /// Which threads or processes serve
    #[arg(long, value_enum, default_value_t = Model::Threads)]
    pub model: Model,
    /// Workers of the pool, or children of the prefork model
    #[arg(long, default_value_t = 4)]
    pub workers: usize,
    /// Which thread of the pool model reads a request
    #[arg(long, value_enum, default_value_t = PoolRead::Worker)]
    pub pool_read: PoolRead,
    /// Prefork: a child ends after this many connections and another is forked (0: never)
    #[arg(long, default_value_t = 0)]
    pub refork_after: u64,

    /// Call that reads requests
    #[arg(long, value_enum, default_value_t = ReadCall::Recv)]
    pub read_call: ReadCall,
    /// Bytes that one read takes at most
    #[arg(long, default_value_t = 8192)]
    pub read_size: usize,
    /// Bytes that the first read of a connection takes at most (24: as hyper does; 0: as the others)
    #[arg(long, default_value_t = 0)]
    pub first_read: usize,
    /// Look at the bytes with `MSG_PEEK` before each read
    #[arg(long)]
    pub peek: bool,
    /// Non-blocking connections: a read that would block returns EAGAIN, then poll
    #[arg(long)]
    pub nonblocking: bool,
    /// Try a read between the handler and the response, which gives EAGAIN (as Apache does)
    #[arg(long)]
    pub probe_read: bool,

    /// How responses are sent
    #[arg(long, value_enum, default_value_t = Answer::One)]
    pub answer: Answer,
    /// Call that sends responses (for the forms that do not imply one)
    #[arg(long, value_enum, default_value_t = WriteCall::Send)]
    pub write_call: WriteCall,
    /// Sleep between the chunks of a streamed response, milliseconds
    #[arg(long, default_value_t = 5)]
    pub stream_sleep_ms: u64,

    /// Spin under one lock for all threads, handed over every 5 ms when somebody waits (as Python does)
    #[arg(long)]
    pub gil: bool,
    /// Ask the backend at this HOST:PORT inside each login
    #[arg(long)]
    pub backend: Option<String>,
    /// Keep each thread's backend connection open
    #[arg(long)]
    pub backend_keep_alive: bool,
    /// CPU that the backend spends per question, microseconds
    #[arg(long, default_value_t = 500)]
    pub backend_us: u64,
    /// Serve backend questions on this HOST:PORT in a thread of this process
    #[arg(long)]
    pub serve_backend: Option<String>,
    /// Serve nothing but backend questions at --listen
    #[arg(long)]
    pub backend_only: bool,
    /// Each login runs a helper process (fork and exec) that spins so many microseconds (0: none)
    #[arg(long, default_value_t = 0)]
    pub helper_us: u64,

    /// A thread of its own that belongs to no request uses this much of a core, percent (not for the prefork model)
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub background_percent: u32,

    /// End when the parent process ends
    #[arg(long)]
    pub exit_with_parent: bool,
    /// Spin so many microseconds and exit: what the helper process does
    #[arg(long, hide = true)]
    pub spin_us: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    Http1,
    /// Answers are sent as one write, but for the forms `two`, `large` and `stream`
    Fastcgi,
    /// One request per connection, answered by HTTP/1
    Uwsgi,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReadPieces {
    /// What is there, up to the size of a read
    Whole,
    /// A call for each header, content and padding (as php-fpm)
    Php,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Model {
    /// A blocking thread per connection
    Threads,
    /// One thread polls and hands ready connections to workers; the next request may go to another worker
    Pool,
    /// Forked children, each serving one connection after the other
    Prefork,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PoolRead {
    /// The worker that handles it (as gunicorn gthread)
    Worker,
    /// The polling thread, which hands the parsed request on (as Puma's reactor)
    Poller,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReadCall {
    Recv,
    Read,
    Readv,
    Recvmsg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WriteCall {
    Send,
    Write,
    Sendmsg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Answer {
    /// Head and body in one call
    One,
    /// Head, then body
    Two,
    /// Head and body in one writev
    Writev,
    /// Chunked: head, then one call per chunk
    Chunked,
    /// A body of 1 MB
    Large,
    /// Head, then a body of 256 KB by sendfile
    Sendfile,
    /// Chunked with sleeps, and half of the CPU spent between the chunks
    Stream,
}

impl Options {
    pub fn report_sleep(&self) -> Duration {
        Duration::from_millis(self.report_sleep_ms)
    }

    pub fn stream_sleep(&self) -> Duration {
        Duration::from_millis(self.stream_sleep_ms)
    }
}
