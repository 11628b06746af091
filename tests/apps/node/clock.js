'use strict';
// What a request costs, by clocks of this process alone.
//
// JavaScript has no clock of a thread's CPU time, but WASI has (clock 3), and Node answers it with
// clock_gettime(CLOCK_THREAD_CPUTIME_ID). The module below is all that is needed to ask from the main thread:
//
//   (module
//     (import "wasi_snapshot_preview1" "clock_time_get" (func (param i32 i64 i32) (result i32)))
//     (memory (export "memory") 1)
//     (func (export "thread_cpu_ns") (result i64)
//       i32.const 3  i64.const 1  i32.const 0  call 0  drop  i32.const 0  i64.load))

const fs = require('node:fs');

const MODULE =
  'AGFzbQEAAAABDAJgA39+fwF/YAABfgIpARZ3YXNpX3NuYXBzaG90X3ByZXZpZXcxDmNsb2NrX3RpbWVfZ2V0AAADAgEB' +
  'BQMBAAEHGgIGbWVtb3J5AgANdGhyZWFkX2NwdV9ucwABChIBEABBA0IBQQAQABpBACkDAAs=';

function threadClock() {
  const emitWarning = process.emitWarning;
  // WASI says at every start that it is experimental.
  process.emitWarning = () => {};
  const { WASI } = require('node:wasi');
  const wasi = new WASI({ version: 'preview1' });
  process.emitWarning = emitWarning;
  const module = new WebAssembly.Module(Buffer.from(MODULE, 'base64'));
  const instance = new WebAssembly.Instance(module, { wasi_snapshot_preview1: wasi.wasiImport });
  wasi.initialize(instance);
  return instance.exports.thread_cpu_ns;
}

const threadCpuNs = threadClock();

// CPU of one request on the loop: its synchronous parts, from `new` or `resume` to `pause` or `total`.
//
// The meter must stand still at every `await`, and be resumed by what follows it: between a promise's settling and the
// code that awaited it, other requests' code may run.
class Meter {
  #sum = 0n;
  #since = threadCpuNs();

  pause() {
    if (this.#since !== null) this.#sum += threadCpuNs() - this.#since;
    this.#since = null;
  }

  resume() {
    if (this.#since === null) this.#since = threadCpuNs();
  }

  // For `await meter.pausing(work()); meter.resume();`: starting the work is counted, waiting for it is not.
  pausing(promise) {
    this.pause();
    return promise;
  }

  // CPU that was used elsewhere for this request.
  add(ns) {
    this.#sum += ns;
  }

  total() {
    this.pause();
    this.resume();
    return this.#sum;
  }
}

function taskIds() {
  return new Set(fs.readdirSync('/proc/self/task'));
}

// CPU of libuv's pool. Which of its threads ran a job cannot be known here, and no code of ours runs in them. What can
// be known is what all of them together have used: the scheduler's own sum, in nanoseconds, in /proc/self/task/*/schedstat.
// Each job that ends takes what has come since the one before. So the sum over the jobs is what the pool used, exactly,
// once it is idle; a single job's share is not its own when several run side by side. Right for means, for nothing else:
// every user of the pool must take its share, and only the password hash uses it.
class PoolLedger {
  #files;
  #buffer = Buffer.alloc(64);
  #taken = 0n;

  // `job()` must start one job of the pool and resolve at its end. Call it before anything else uses the pool.
  static async open(job) {
    const size = Number(process.env.UV_THREADPOOL_SIZE ?? 4);
    const before = taskIds();
    await Promise.all(Array.from({ length: size }, job));
    const threads = [...taskIds()].filter((id) => !before.has(id));
    if (threads.length !== size) {
      throw new Error(`${threads.length} threads came with the first jobs of the pool, not ${size}`);
    }
    const ledger = new PoolLedger();
    ledger.#files = threads.map((id) => fs.openSync(`/proc/self/task/${id}/schedstat`, 'r'));
    ledger.take();
    return ledger;
  }

  #used() {
    let sum = 0n;
    for (const file of this.#files) {
      const length = fs.readSync(file, this.#buffer, 0, this.#buffer.length, 0);
      sum += BigInt(this.#buffer.toString('latin1', 0, length).split(' ', 1)[0]);
    }
    return sum;
  }

  // Nanoseconds that the pool used since the last call.
  take() {
    const used = this.#used();
    const share = used - this.#taken;
    this.#taken = used;
    return share;
  }
}

module.exports = { Meter, PoolLedger, threadCpuNs };
