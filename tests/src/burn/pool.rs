//! One thread accepts and polls; workers take ready connections from a queue. A connection goes back to the poller
//! after each response, so that its next request may be read by another worker.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::connection::Connection;
use super::handler::{Next, answer, serve_next};
use super::options::PoolRead;
use super::request::{Request, read_request};
use super::{Listener, Server};

const LISTENER: u64 = 0;

struct Job {
    id: u64,
    connection: Connection,
    /// Already read by the poller.
    request: Option<Request>,
}

struct Pool {
    epoll: Epoll,
    /// Connections that wait for their next request.
    idle: Mutex<HashMap<u64, Connection>>,
    queue: Mutex<VecDeque<Job>>,
    filled: Condvar,
}

pub fn serve(server: &Arc<Server>, listener: &Listener) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let pool = Arc::new(Pool {
        epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("creating the epoll")?,
        idle: Mutex::default(),
        queue: Mutex::default(),
        filled: Condvar::new(),
    });
    pool.epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    for number in 0..server.options.workers.max(1) {
        let (server, pool) = (Arc::clone(server), Arc::clone(&pool));
        std::thread::Builder::new()
            .name(format!("burn-worker-{number}"))
            .spawn(move || pool.work(&server))
            .context("starting a worker")?;
    }
    pool.poll(server, listener)
}

impl Pool {
    fn poll(&self, server: &Server, listener: &Listener) -> anyhow::Result<()> {
        let mut next_id = LISTENER + 1;
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => other.context("waiting for connections")?,
            };
            for event in &events[..ready] {
                if event.data() == LISTENER {
                    while let Ok(connection) = listener.accept() {
                        connection.prepare(&server.options)?;
                        self.watch_new(next_id, connection)?;
                        next_id += 1;
                    }
                } else if let Some(connection) = self.take_idle(event.data()) {
                    self.dispatch(server, event.data(), connection);
                }
            }
        }
    }

    fn watch_new(&self, id: u64, connection: Connection) -> anyhow::Result<()> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        self.epoll.add(&connection, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, id))?;
        idle.insert(id, connection);
        Ok(())
    }

    fn watch_again(&self, id: u64, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT, id);
        if self.epoll.modify(&connection, &mut event).is_ok() {
            idle.insert(id, connection);
        }
    }

    fn take_idle(&self, id: u64) -> Option<Connection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }

    fn dispatch(&self, server: &Server, id: u64, mut connection: Connection) {
        let mut request = None;
        if server.options.pool_read == PoolRead::Poller {
            match read_request(&mut connection, server) {
                Ok(Some(mut read)) => {
                    read.meter.pause();
                    request = Some(read);
                }
                Ok(None) | Err(_) => return,
            }
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back(Job { id, connection, request });
        drop(queue);
        self.filled.notify_one();
    }

    fn next_job(&self) -> Job {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = queue.pop_front() {
                return job;
            }
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self, server: &Server) {
        loop {
            let Job { id, mut connection, request } = self.next_job();
            let mut next = match request {
                Some(mut request) => {
                    request.meter.resume();
                    answer(server, &mut connection, &request)
                }
                None => serve_next(server, &mut connection),
            };
            // A pipelined request is already here; the poller would not hear of it.
            while matches!(next, Ok(Next::KeepAlive)) && !connection.unread.is_empty() {
                next = serve_next(server, &mut connection);
            }
            if matches!(next, Ok(Next::KeepAlive)) {
                self.watch_again(id, connection);
            }
        }
    }
}
