//! Both directions of a connection as the kernel follows them, composed for user space.

use super::{Event, Requests, Responses, Sent};
use crate::cgi::{MEMORY, Memory, NOWHERE, Path, Plan, Variables, WINDOW, status};

/// Copies what a plan asks for, as the kernel does from user memory.
pub(crate) fn copy(memory: &mut Memory, plan: Plan, bytes: &[u8]) {
    if plan.to != NOWHERE {
        let (to, len) = (plan.to as usize, plan.len as usize);
        memory[to..to + len].copy_from_slice(&bytes[..len]);
    }
}

/// The path that variables name, of at most two windows, and its length.
pub(crate) fn path(variables: &Variables, memory: &Memory) -> ([u8; 2 * WINDOW], usize) {
    let mut path = [0; 2 * WINDOW];
    let mut len = 0;
    let mut push = |from: usize, bytes: u32| {
        let bytes = bytes as usize;
        path[len..len + bytes].copy_from_slice(&memory[from..from + bytes]);
        len += bytes;
    };
    match variables.path() {
        Path::Uri { len } => push(crate::cgi::URI, len),
        Path::ScriptAndInfo { script, info } => {
            push(crate::cgi::SCRIPT, script);
            push(crate::cgi::INFO, info);
        }
        Path::None => {}
    }
    (path, len)
}

/// A connection that speaks FastCGI.
#[derive(Clone, Debug)]
pub struct Conversation {
    memory: Memory,
    variables: Variables,
    requests: Requests,
    responses: Responses,
}

impl Default for Conversation {
    fn default() -> Self {
        Self {
            memory: [0; MEMORY],
            variables: Variables::default(),
            requests: Requests::default(),
            responses: Responses::default(),
        }
    }
}

impl Conversation {
    /// What one call received. Returns the [`Event`] bits.
    pub fn receive(&mut self, mut bytes: &[u8]) -> u32 {
        while let Ok(left @ 1..) = u32::try_from(bytes.len()) {
            let plan = self.requests.plan(&self.variables, left);
            copy(&mut self.memory, plan, bytes);
            let used = self.requests.took(&mut self.variables, &self.memory, plan);
            bytes = &bytes[used as usize..];
            if self.requests.is_lost() {
                break;
            }
        }
        let events = self.requests.take_events();
        if events & Event::BEGAN != 0 {
            self.responses.expect(&self.requests);
        }
        events
    }

    /// What one call sent. Returns the [`Sent`] bits.
    pub fn send(&mut self, mut bytes: &[u8]) -> u32 {
        while let Ok(left @ 1..) = u32::try_from(bytes.len()) {
            let plan = self.responses.plan(left);
            copy(&mut self.memory, plan, bytes);
            self.responses.took(&self.memory, plan);
            bytes = &bytes[plan.len as usize..];
        }
        let sent = self.responses.take();
        if sent & Sent::OURS != 0 && sent & (Sent::ENDED | Sent::BROKEN) != 0 {
            self.requests.ended();
        }
        sent
    }

    pub fn method(&self) -> u64 {
        self.variables.method(&self.memory)
    }

    /// Of at most two windows, and its length. What follows `?` is in it.
    pub fn path(&self) -> ([u8; 2 * WINDOW], usize) {
        path(&self.variables, &self.memory)
    }

    /// The response's status as far as it was sent; `None` when nothing was.
    pub fn status(&self) -> Option<u16> {
        let kept = self.responses.head_kept() as usize;
        (kept > 0).then(|| status(&self.memory, kept))
    }

    /// Another request may come on the connection.
    pub fn keeps(&self) -> bool {
        self.requests.keeps()
    }
}
