//! What is drawn at random: who does what, what the hook does, and where the agent dies.

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy};
use proptest::prop_oneof;
use watchdog::action::Point;
use watchdog::config::Mode;

/// One sequence of faults.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    pub(crate) dry_run: bool,
    pub(crate) retries: u32,
    pub(crate) cooldown_s: u64,
    pub(crate) max_per_day: u32,
    /// Between one thing and the next.
    pub(crate) pace_s: u64,
    pub(crate) ops: Vec<Op>,
    /// One for each run of the hook, over and over.
    pub(crate) hooks: Vec<Hook>,
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// A new build is deployed, and its verdict falls.
    DeployBad,
    /// Two within a minute; the first one's verdict falls when the second one runs already.
    DeployTwoBad,
    DeployGood,
    /// The build that was condemned last is deployed again.
    Redeploy,
    /// Both clocks go on.
    Wait {
        seconds: u64,
    },
    /// The wall clock is stepped.
    StepClock {
        seconds: i64,
    },
    /// The agent dies at this point the `nth` time that it comes there, and is started again after `down_s`.
    DieAt {
        point: Point,
        nth: u32,
        down_s: u64,
    },
    /// The agent is killed while it has nothing to do.
    Restart {
        down_s: u64,
    },
    Approve,
    Reject,
    Acknowledge,
    Pause {
        seconds: u64,
    },
    Resume,
    Mode(Mode),
    /// The ledger cannot be written from now on.
    DiskFull,
    DiskFree,
    /// A reload with and without the service.
    RemoveService,
    AddService,
    /// A person condemns the build that rollbacks go to.
    CondemnGood,
    /// From now on a request costs as much on every build.
    CostHigh(bool),
}

#[derive(Clone, Debug)]
pub(crate) struct Hook {
    pub(crate) end: End,
    pub(crate) seconds: u64,
    /// Whether the good build serves after it.
    pub(crate) switches: bool,
    /// What happens while it runs.
    pub(crate) meanwhile: Option<Op>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    Done,
    Again,
    Exit(i32),
    Signal,
    Hangs,
    NotStarted,
    Lost,
}

pub(crate) fn plan() -> impl Strategy<Value = Plan> {
    let rest = (
        prop_oneof![9 => Just(false), 1 => Just(true)],
        0..3_u32,
        prop_oneof![Just(0), Just(60), Just(1800)],
        1..4_u32,
        prop_oneof![Just(0_u64), 1..60_u64],
        vec(op(), 6..24),
        vec(hook(), 1..5),
    );
    (mode(), rest).prop_map(|(mode, (dry_run, retries, cooldown_s, max_per_day, pace_s, ops, hooks))| Plan {
        mode,
        dry_run,
        retries,
        cooldown_s,
        max_per_day,
        pace_s,
        ops,
        hooks,
    })
}

fn mode() -> impl Strategy<Value = Mode> + Clone {
    prop_oneof![6 => Just(Mode::Enforce), 2 => Just(Mode::Approve), 1 => Just(Mode::Observe)]
}

fn op() -> impl Strategy<Value = Op> {
    let point = (0..Point::ALL.len()).prop_map(|index| Point::ALL[index]);
    let down = prop_oneof![Just(0_u64), Just(3), 1..400_u64];
    prop_oneof![
        30 => Just(Op::DeployBad),
        6 => Just(Op::DeployTwoBad),
        2 => Just(Op::DeployGood),
        6 => Just(Op::Redeploy),
        30 => (1..5000_u64).prop_map(|seconds| Op::Wait { seconds }),
        6 => prop_oneof![Just(-86_400_i64), Just(86_400), -4000..4000_i64]
            .prop_map(|seconds| Op::StepClock { seconds }),
        30 => (point, prop_oneof![4 => Just(1_u32), 1 => Just(2)], down.clone())
            .prop_map(|(point, nth, down_s)| Op::DieAt { point, nth, down_s }),
        6 => down.prop_map(|down_s| Op::Restart { down_s }),
        16 => Just(Op::Approve),
        3 => Just(Op::Reject),
        16 => Just(Op::Acknowledge),
        3 => (1..7200_u64).prop_map(|seconds| Op::Pause { seconds }),
        4 => Just(Op::Resume),
        3 => mode().prop_map(Op::Mode),
        3 => Just(Op::DiskFull),
        8 => Just(Op::DiskFree),
        2 => Just(Op::RemoveService),
        8 => Just(Op::AddService),
        1 => Just(Op::CondemnGood),
        8 => prop_oneof![1 => Just(true), 2 => Just(false)].prop_map(Op::CostHigh),
    ]
}

/// What can happen while a hook runs: all but what needs the hook's agent to have returned.
fn meanwhile() -> impl Strategy<Value = Option<Op>> {
    prop_oneof![
        12 => Just(None),
        2 => Just(Some(Op::DeployBad)),
        1 => Just(Some(Op::DeployGood)),
        1 => Just(Some(Op::Approve)),
        1 => Just(Some(Op::Pause { seconds: 600 })),
        1 => Just(Some(Op::StepClock { seconds: 86_400 })),
        1 => Just(Some(Op::StepClock { seconds: -86_400 })),
        1 => Just(Some(Op::RemoveService)),
        1 => Just(Some(Op::DiskFull)),
        3 => Just(Some(Op::CostHigh(true))),
    ]
}

fn hook() -> impl Strategy<Value = Hook> {
    let end = prop_oneof![
        12 => Just(End::Done),
        5 => Just(End::Again),
        2 => (1..75_i32).prop_map(End::Exit),
        1 => Just(End::Signal),
        1 => Just(End::Hangs),
        1 => Just(End::NotStarted),
        1 => Just(End::Lost),
    ];
    (end, 0..60_u64, prop_oneof![6 => Just(true), 1 => Just(false)], meanwhile())
        .prop_map(|(end, seconds, switches, meanwhile)| Hook { end, seconds, switches, meanwhile })
}
