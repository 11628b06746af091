//! Nothing is allocated per request. A test binary of its own: it counts every allocation of its process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use watchdog::sequential::{
    Bets, Collector, Component, Conditions, Engine, Kind, Parameters, Pool, PoolLimit, Scope, Stratum,
};

struct Counting;

thread_local! {
    /// Of this thread: the test harness has others.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: all calls go to the system's allocator unchanged; counting touches a thread's own cell, which needs no
// allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps to the contract of `alloc`, which is the system's as well.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` is from `alloc` or `realloc` above, which are the system's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as for `dealloc`; the caller keeps to the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

/// Every kind of component, a confirmation, a class and the pool.
fn components() -> (Vec<Component>, Option<Pool>) {
    let of = |endpoint, class, kind, limit| Component {
        weight: 0.125,
        scope: Scope { endpoint, class },
        kind,
        limit,
        confirmation: Vec::new(),
    };
    let mut components = vec![
        of(0, None, Kind::Mean, 1.0),
        of(0, None, Kind::Quantile { p: 0.99 }, 3.0),
        of(0, Some(1), Kind::Mean, 0.9),
        of(1, None, Kind::Mean, 1.0),
    ];
    components[0].confirmation =
        vec![Stratum { weight: 0.5, class: 0, limit: 1.1 }, Stratum { weight: 0.5, class: 1, limit: 0.9 }];
    let limit = |endpoint, class, of_build| {
        let scope = Scope { endpoint, class };
        PoolLimit { scope, overall: 1.0, of_build }
    };
    let limits = vec![limit(0, Some(0), 1.1), limit(0, Some(1), 0.9), limit(1, None, 1.0)];
    (components, Some(Pool { weight: 0.5, limits }))
}

fn parameters(outlier_allowance: usize, own_grid: bool) -> Parameters {
    let own = || Bets::new(&[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], &[0.1; 10]).unwrap();
    let bets = if own_grid { own() } else { Bets::default() };
    Parameters { outlier_allowance, bets, ..Parameters::default() }
}

/// Good at first, then far over budget: new seconds, groups, outliers and the crossing itself are among them.
fn requests() -> impl Iterator<Item = (u64, u16, u8, f64, u64)> {
    (0..20_000_u64).map(|n| {
        let x = 0.2 + (n % 13) as f64 * if n < 15_000 { 0.1 } else { 0.9 };
        let (endpoint, class) = (u16::from(n % 3 == 0), u8::from(n % 5 == 0));
        (n / 7, endpoint, class, x, if n % 97 == 0 { 4 } else { 1 })
    })
}

#[test]
fn the_counter_counts() {
    assert!(allocations(|| drop(std::hint::black_box(vec![1_u8; 100]))) >= 1);
}

#[test]
fn the_engine_allocates_nothing_per_request() {
    for (allowance, own_grid) in [(0, false), (3, false), (2, true)] {
        let (components, pool) = components();
        let mut engine = Engine::with_pool(parameters(allowance, own_grid), components, pool).unwrap();
        let allocated = allocations(|| {
            for (second, endpoint, class, x, count) in requests() {
                engine.observe(second, endpoint, class, x, count, Conditions::NORMAL);
            }
        });
        assert!(engine.violated().is_some(), "the crossing is among what was counted");
        assert_eq!(allocated, 0, "allowance {allowance}, own grid {own_grid}");
    }
}

#[test]
fn a_collector_allocates_nothing_per_request() {
    for allowance in [0, 3] {
        let (components, pool) = components();
        let mut collector = Collector::new(parameters(allowance, false), components, pool).unwrap();
        let allocated = allocations(|| {
            for (_, endpoint, class, x, count) in requests() {
                // All in one second: a summary at its end is made once, and sent.
                collector.observe(0, endpoint, class, x, count, Conditions::NORMAL);
            }
        });
        assert_eq!(allocated, 0, "allowance {allowance}");
    }
}
