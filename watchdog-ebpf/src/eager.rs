//! Event loops that work on a request as soon as they have read it and send the answers of a turn together, as
//! those of Mojolicious and `EventMachine` do. Others read several requests first, and answer each when they have worked on it,
//! as asyncio's do.
//!
//! What a loop does between its last receive and its first answer, the ones have done for the request that they read last,
//! the others for the one that they answer. Two requests of one turn show which of the two a loop is, if they are read one
//! directly after the other, and answered so: by where the time lies, between the receives or between the answers.

use crate::handover::LEAST_WORK_NS;
use crate::maps::{Request, Step, Thread};

/// The one time is more than so many times the other.
const CLEARLY: u64 = 4;
/// Pairs that must have shown it, and how many are remembered at most.
const LEAST_SIGNS: u32 = 3;
const MOST_SIGNS: u32 = 8;

/// The thread receives a request, and not more of the last one. It still holds what it has used since its last step.
#[inline(always)]
pub(crate) fn reads(thread: &mut Thread) {
    thread.reading_ns = if thread.step == Step::READ { thread.held_ns } else { 0 };
    thread.read_before = thread.last_read.identity();
    thread.step = Step::READ;
}

/// The thread has begun to answer a request; `used_ns` is what it held before.
#[inline(always)]
pub(crate) fn answers(thread: &mut Thread, request: Request, used_ns: u64) {
    let reading_ns = thread.reading_ns;
    if thread.step == Step::ANSWERED
        && reading_ns != 0
        && request.identity() == thread.last_read.identity()
        && thread.answered == thread.read_before
    {
        if reading_ns >= LEAST_WORK_NS && reading_ns > CLEARLY * used_ns {
            if thread.eager < MOST_SIGNS {
                thread.eager += 1;
            }
        } else if used_ns >= LEAST_WORK_NS && used_ns > CLEARLY * reading_ns && thread.eager != 0 {
            thread.eager -= 1;
        }
    }
    thread.answered = request.identity();
    thread.step = Step::ANSWERED;
}

/// The thread sleeps, or goes on with a request that waited for something else: what comes now shows nothing.
#[inline(always)]
pub(crate) fn pauses(thread: &mut Thread) {
    thread.step = Step::NONE;
    thread.reading_ns = 0;
}

/// Whether what the thread holds was used for the request that it received last, though it answers another one now.
#[inline(always)]
pub(crate) fn has_worked(thread: &Thread) -> bool {
    thread.eager >= LEAST_SIGNS
        && thread.step == Step::READ
        && thread.request.identity() == thread.last_read.identity()
}
