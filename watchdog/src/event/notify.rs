//! Tells systemd how the agent is (`Type=notify`, `WatchdogSec=`). Without systemd every call does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// Ready, with what it does.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload began; [`ready`] ends it. `Type=notify-reload` wants the time as well.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// The agent is alive; to be called from the tick loop, so that a stuck loop is restarted.
pub fn alive() {
    send(&[NotifyState::Watchdog]);
}

/// How often to call [`alive`]: a third of what the unit allows, `None` when the unit asks for nothing.
pub fn alive_every() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 3)
}

fn send(states: &[NotifyState<'_>]) {
    // The only cause is a socket that systemd took away: it will notice the silence itself.
    let _ = sd_notify::notify(states);
}
