//! Hooks as real scripts, and configurations that run them.
#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod crash;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use watchdog::action::Live;
use watchdog::config::{
    BuildSource, ExecConfig, HookCall, HookConfig, Match, Mode, Protocol, RollbackConfig, ServiceConfig,
    defaults,
};
use watchdog::incident::{BuildState, IncidentId, Moment, NewIncident};
use watchdog::store::Store;

/// Writes an executable script that any user may run.
pub(crate) fn script(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

pub(crate) fn rollback<S: AsRef<str>>(exec: impl IntoIterator<Item = S>) -> RollbackConfig {
    rollback_by(ExecConfig::new(exec.into_iter().map(|argument| argument.as_ref().to_owned())))
}

pub(crate) fn rollback_by(exec: ExecConfig) -> RollbackConfig {
    RollbackConfig {
        hook: HookConfig { call: HookCall::Exec(exec), timeout: Duration::from_secs(30), retries: 2 },
        pre: None,
        post: None,
        escalate: None,
        cooldown: Duration::from_mins(30),
        max_per_day: 3,
        verify_within: Duration::from_mins(5),
        dry_run: false,
    }
}

pub(crate) fn with_timeout(mut rollback: RollbackConfig, timeout: Duration) -> RollbackConfig {
    rollback.hook.timeout = timeout;
    rollback
}

pub(crate) fn service(rollback: Option<RollbackConfig>) -> ServiceConfig {
    ServiceConfig {
        name: "web".into(),
        matcher: Match::default(),
        build: BuildSource::Auto,
        protocol: Protocol::Auto,
        uprobes: defaults::UPROBES,
        warmup_factor: None,
        mode: Mode::Enforce,
        guard_for: Duration::from_hours(24),
        false_rollback_rate: 0.001,
        endpoints: Vec::new(),
        release_window: None,
        rollback,
    }
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().expect("temporary paths are UTF-8").to_owned()
}

/// The agent's kind of runtime.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// What a running agent knows: nothing that speaks against a rollback.
pub(crate) fn live(mode: Mode) -> Live {
    Live { mode, dry_run: false, newer_build: None }
}

/// A build whose name is as bad as can be.
pub(crate) const BAD: &str = "v2 {service} $(reboot) `id` \"'\\\n-- end";
pub(crate) const GOOD: &str = "v1; rm -rf /";

pub(crate) fn detect(store: &Store) -> IncidentId {
    detect_in(store, Mode::Enforce)
}

pub(crate) fn detect_in(store: &Store, mode: Mode) -> IncidentId {
    let web = "web".into();
    store.build_appeared(&web, &GOOD.into(), BuildState::Adopted, "was there", &Moment::now()).unwrap();
    store.build_appeared(&web, &BAD.into(), BuildState::Probation, "new", &Moment::now()).unwrap();
    store.open_incident(&NewIncident { mode, ..new_incident(BAD) }, &Moment::now()).unwrap().id
}

pub(crate) fn new_incident(bad_build: &str) -> NewIncident {
    NewIncident {
        service: "web".into(),
        endpoint: "login".into(),
        bad_build: bad_build.into(),
        good_build: Some(GOOD.into()),
        reason: "mean CPU 320 ms per request, budget 80 ms".to_owned(),
        evidence: json!({"requests": 14}),
        mode: Mode::Enforce,
    }
}

pub(crate) fn last_note(store: &Store, id: &IncidentId) -> String {
    store.events(id).unwrap().pop().unwrap().note
}

pub(crate) fn runs(path: &Path) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().filter(|line| *line == "run").count())
}
