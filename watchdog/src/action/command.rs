//! What the hook is given: arguments, environment, and the payload on its standard input.

use std::borrow::Cow;
use std::ffi::{CStr, OsString};
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Serialize;

use super::target::Target;
use crate::config::ExecConfig;
use crate::incident::{Incident, IncidentId, State};
use crate::model::{BuildId, EndpointName, ServiceName};

/// Version of the payload's schema: counted up when a field changes its meaning or goes; new fields may appear.
pub const PAYLOAD_VERSION: u32 = 1;

/// Longest text for people in a variable, in bytes; the payload has it whole. The kernel limits one string to 128 KiB.
const MAX_TEXT: usize = 4096;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Builds of a test: a hook that ignores the mark finds nothing to roll back to.
pub(super) const TEST_BAD_BUILD: &str = "test-bad-build";
pub(super) const TEST_GOOD_BUILD: &str = "test-good-build";

/// Which of a service's hooks is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HookKind {
    /// Before the rollback; unless it succeeds, nothing is rolled back.
    Pre,
    Rollback,
    /// After the end of the incident.
    Post,
    /// A person is needed.
    Escalate,
}

impl HookKind {
    pub const ALL: [Self; 4] = [Self::Pre, Self::Rollback, Self::Post, Self::Escalate];

    pub fn name(self) -> &'static str {
        match self {
            Self::Pre => "pre",
            Self::Rollback => "rollback",
            Self::Post => "post",
            Self::Escalate => "escalate",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// How an incident ended or stands, for the hooks that tell others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Told {
    /// The incident's state, such as `recovered` or `escalated`.
    pub outcome: String,
    /// One sentence for people.
    pub note: String,
    /// How often the same was told before.
    pub repeat: u32,
}

/// Everything that one run of a hook is told. Its JSON with `version` is the payload.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HookRequest {
    pub hook: HookKind,
    pub incident: IncidentId,
    pub service: ServiceName,
    pub endpoint: EndpointName,
    pub bad_build: BuildId,
    /// `None` only for a hook that tells others of an incident without one.
    pub good_build: Option<BuildId>,
    pub reason: String,
    /// From 1.
    pub attempt: u32,
    pub test: bool,
    pub detected_unix_ms: i64,
    /// Of [`HookKind::Post`] and [`HookKind::Escalate`].
    #[serde(flatten)]
    pub told: Option<Told>,
    /// The verdict's figures.
    pub evidence: serde_json::Value,
}

impl HookRequest {
    /// The rollback to the incident's good build.
    pub(super) fn of(incident: &Incident, attempt: u32) -> Self {
        Self { attempt, ..Self::about(incident, HookKind::Rollback, None) }
    }

    /// The first attempt of one of the hooks beside it.
    ///
    /// A dry run has the mark of a test; the hooks that change something get the names of builds that they do not find.
    pub fn about(incident: &Incident, hook: HookKind, told: Option<Told>) -> Self {
        let test = incident.dry_run;
        let is_kept_from = test && matches!(hook, HookKind::Pre | HookKind::Rollback);
        let (bad_build, good_build) = if is_kept_from {
            (TEST_BAD_BUILD.into(), Some(TEST_GOOD_BUILD.into()))
        } else {
            (incident.bad_build.clone(), incident.good_build.clone())
        };
        Self {
            hook,
            incident: incident.id.clone(),
            service: incident.service.clone(),
            endpoint: incident.endpoint.clone(),
            bad_build,
            good_build,
            reason: incident.reason.clone(),
            attempt: 1,
            test,
            detected_unix_ms: incident.detected.unix_ms,
            told,
            evidence: incident.evidence.clone(),
        }
    }

    /// The same in every attempt, and no other run's: letters, digits, `-` and `_`.
    pub fn idempotency_key(&self) -> String {
        let mut key = format!("{}-{}", self.incident, self.hook.name());
        if let Some(told) = &self.told {
            // An incident may ask first and be escalated later, which is news.
            if self.hook == HookKind::Escalate && told.outcome != State::Escalated.name() {
                key.extend(["-", &told.outcome]);
            }
            if told.repeat > 0 {
                key.extend(["-", &told.repeat.to_string()]);
            }
        }
        key
    }

    fn good(&self) -> &str {
        self.good_build.as_ref().map_or("", BuildId::as_str)
    }

    /// Replaces the placeholders of one argument in a single pass: a value that looks like a placeholder stays as it
    /// is, and so do unknown names in braces.
    pub(super) fn expand(&self, template: &str) -> String {
        let values: [(&str, &str); 5] = [
            ("{good_build}", self.good()),
            ("{bad_build}", self.bad_build.as_str()),
            ("{service}", self.service.as_str()),
            ("{endpoint}", self.endpoint.as_str()),
            ("{incident}", self.incident.as_str()),
        ];
        let mut expanded = String::with_capacity(template.len());
        let mut rest = template;
        while let Some(brace) = rest.find('{') {
            expanded.push_str(&rest[..brace]);
            rest = &rest[brace..];
            let (name, value) =
                values.into_iter().find(|(name, _)| rest.starts_with(name)).unwrap_or(("{", "{"));
            expanded.push_str(value);
            rest = &rest[name.len()..];
        }
        expanded.push_str(rest);
        without_nul(&expanded).into_owned()
    }

    /// The whole environment of the hook: of the agent's own, what the configuration names and nothing else.
    pub(super) fn environment(&self, target: &Target, exec: &ExecConfig) -> Vec<(OsString, OsString)> {
        let inherited = |name, default: &str| std::env::var_os(name).unwrap_or_else(|| default.into());
        let text = |value: &str| OsString::from(without_nul(value).into_owned());
        let cut = |value: &str| text(&value[..value.floor_char_boundary(MAX_TEXT)]);
        let (outcome, note) =
            self.told.as_ref().map_or(("", ""), |told| (told.outcome.as_str(), told.note.as_str()));
        let given = exec.environment.iter().filter_map(|(name, value)| {
            let value = value.as_ref().map(OsString::from).or_else(|| std::env::var_os(name));
            Some((OsString::from(name), value?))
        });
        let documented = [
            ("LOAD_WATCHDOG_HOOK", text(self.hook.name())),
            ("LOAD_WATCHDOG_INCIDENT", text(self.incident.as_str())),
            ("LOAD_WATCHDOG_SERVICE", text(self.service.as_str())),
            ("LOAD_WATCHDOG_ENDPOINT", text(self.endpoint.as_str())),
            ("LOAD_WATCHDOG_BAD_BUILD", text(self.bad_build.as_str())),
            ("LOAD_WATCHDOG_GOOD_BUILD", text(self.good())),
            ("LOAD_WATCHDOG_REASON", cut(&self.reason)),
            ("LOAD_WATCHDOG_ATTEMPT", self.attempt.to_string().into()),
            ("LOAD_WATCHDOG_TEST", if self.test { "1" } else { "0" }.into()),
            ("LOAD_WATCHDOG_OUTCOME", text(outcome)),
            ("LOAD_WATCHDOG_NOTE", cut(note)),
        ];
        let ours = [
            ("PATH", inherited("PATH", DEFAULT_PATH)),
            ("LANG", inherited("LANG", "C.UTF-8")),
            ("HOME", target.home.clone().into_os_string()),
            ("USER", text(&target.name)),
            ("LOGNAME", text(&target.name)),
        ];
        let named = |(name, value): (&str, OsString)| (OsString::from(name), value);
        // A later one of the same name wins.
        ours.into_iter().map(named).chain(given).chain(documented.into_iter().map(named)).collect()
    }

    /// The payload: one JSON object and a newline.
    pub(super) fn json(&self) -> serde_json::Result<Vec<u8>> {
        #[derive(Serialize)]
        struct Versioned<'a> {
            version: u32,
            #[serde(flatten)]
            request: &'a HookRequest,
        }
        let mut json = serde_json::to_vec(&Versioned { version: PAYLOAD_VERSION, request: self })?;
        json.push(b'\n');
        Ok(json)
    }
}

/// Bytes as a sealed file in memory, to be another program's standard input.
///
/// Unlike a pipe it needs nobody to write it: a hook that never reads it, or closes it early, cannot block or break
/// anything, and a hook that outlives the agent still reads all of it.
pub(super) fn sealed(name: &CStr, bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = std::fs::File::from(memfd_create(name, flags)?);
    file.write_all(bytes)?;
    file.rewind()?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all()))?;
    Ok(file.into())
}

/// Neither an argument nor a variable can hold a NUL; a build's name that does is not worth failing for.
fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> HookRequest {
        HookRequest {
            hook: HookKind::Rollback,
            incident: "20170127-00000000".into(),
            service: "web".into(),
            endpoint: "login".into(),
            bad_build: "v2 {service} $(reboot) '\"\n".into(),
            good_build: Some("v1".into()),
            reason: "é".repeat(5000),
            attempt: 2,
            test: false,
            detected_unix_ms: 7,
            told: None,
            evidence: serde_json::json!({"requests": 14}),
        }
    }

    #[test]
    fn placeholders_are_replaced_once_and_stay_one_argument() {
        let request = request();
        let cases = [
            ("{good_build}", "v1"),
            ("--to={good_build}/{service}.{endpoint}", "--to=v1/web.login"),
            ("{bad_build}", "v2 {service} $(reboot) '\"\n"),
            ("{{incident}}", "{20170127-00000000}"),
            ("{unknown} {good_build", "{unknown} {good_build"),
            ("{", "{"),
            ("", ""),
            ("é{good_build}é", "év1é"),
        ];
        for (template, expected) in cases {
            assert_eq!(request.expand(template), expected, "{template:?}");
        }
        let nul = HookRequest { good_build: Some("a\0b".into()), ..request };
        assert_eq!(nul.expand("{good_build}"), "a\u{fffd}b");
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let target = Target { name: "deploy".to_owned(), home: "/home/deploy".into(), switch: None };
        let environment = request().environment(&target, &ExecConfig::new(["/bin/true"]));
        let reason = environment.iter().find(|(name, _)| *name == "LOAD_WATCHDOG_REASON").unwrap();
        assert_eq!(reason.1.to_str().unwrap(), "é".repeat(2048));
    }

    #[test]
    fn the_configuration_adds_variables_and_hands_the_agents_on_by_name_only() {
        let target = Target { name: "deploy".to_owned(), home: "/home/deploy".into(), switch: None };
        let mut exec = ExecConfig::new(["/bin/true"]);
        exec.environment = vec![
            ("HOME".to_owned(), Some("/elsewhere".to_owned())),
            ("CARGO_MANIFEST_DIR".to_owned(), None),
            ("NOT_SET_ANYWHERE".to_owned(), None),
        ];
        let last = |name: &str| {
            let environment = request().environment(&target, &exec);
            environment.into_iter().rfind(|(given, _)| given == name).map(|(_, value)| value)
        };
        assert_eq!(last("HOME").unwrap(), "/elsewhere");
        assert_eq!(last("CARGO_MANIFEST_DIR"), std::env::var_os("CARGO_MANIFEST_DIR"));
        assert_eq!(last("NOT_SET_ANYWHERE"), None);
        assert_eq!(last("CARGO_PKG_NAME"), None);
    }

    #[test]
    fn attempts_share_their_key_and_repetitions_do_not() {
        let mut request = request();
        assert_eq!(request.idempotency_key(), "20170127-00000000-rollback");
        request.attempt = 3;
        assert_eq!(request.idempotency_key(), "20170127-00000000-rollback");
        request.hook = HookKind::Escalate;
        let told = |repeat| Some(Told { outcome: "escalated".to_owned(), note: "why".to_owned(), repeat });
        request.told = told(0);
        assert_eq!(request.idempotency_key(), "20170127-00000000-escalate");
        request.told = told(2);
        assert_eq!(request.idempotency_key(), "20170127-00000000-escalate-2");
        request.told.as_mut().unwrap().outcome = "awaiting_approval".to_owned();
        assert_eq!(request.idempotency_key(), "20170127-00000000-escalate-awaiting_approval-2");
        request.told.as_mut().unwrap().outcome = "escalated".to_owned();
        let json: serde_json::Value = serde_json::from_slice(&request.json().unwrap()).unwrap();
        assert_eq!((&json["outcome"], &json["repeat"]), (&"escalated".into(), &2.into()));
    }

    #[test]
    fn the_payload_is_versioned_json_that_nobody_can_change() {
        let mut file = std::fs::File::from(sealed(c"payload", &request().json().unwrap()).unwrap());
        let payload: serde_json::Value = serde_json::from_reader(&file).unwrap();
        assert_eq!(payload["version"], PAYLOAD_VERSION);
        assert_eq!(payload["evidence"]["requests"], 14);
        assert_eq!(payload["reason"].as_str().unwrap().chars().count(), 5000);
        assert!(file.write_all(b"x").is_err(), "not sealed");
    }
}
