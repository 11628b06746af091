//! What the hook is given: arguments, environment, and the payload on its standard input.

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Serialize;

use super::target::Target;
use crate::incident::{Incident, IncidentId};
use crate::model::{BuildId, EndpointName, ServiceName};

/// Version of the payload's schema: counted up when a field changes its meaning or goes; new fields may appear.
pub const PAYLOAD_VERSION: u32 = 1;

/// Longest `LOAD_WATCHDOG_REASON` in bytes; the payload has the whole text. The kernel limits one string to 128 KiB.
const MAX_REASON: usize = 4096;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Builds of a test: a hook that ignores the mark finds nothing to roll back to.
pub(super) const TEST_BAD_BUILD: &str = "test-bad-build";
pub(super) const TEST_GOOD_BUILD: &str = "test-good-build";

/// Everything that one run of the hook is told. Its JSON with `version` is the payload.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HookRequest {
    pub incident: IncidentId,
    pub service: ServiceName,
    pub endpoint: EndpointName,
    pub bad_build: BuildId,
    pub good_build: BuildId,
    pub reason: String,
    /// From 1.
    pub attempt: u32,
    pub test: bool,
    pub detected_unix_ms: i64,
    /// The verdict's figures.
    pub evidence: serde_json::Value,
}

impl HookRequest {
    /// A dry run has the mark of a test, and the names of builds that no hook finds.
    pub(super) fn of(incident: &Incident, good_build: &BuildId, attempt: u32) -> Self {
        let test = incident.dry_run;
        let build = |own: &BuildId, of_test: &str| if test { of_test.into() } else { own.clone() };
        Self {
            incident: incident.id.clone(),
            service: incident.service.clone(),
            endpoint: incident.endpoint.clone(),
            bad_build: build(&incident.bad_build, TEST_BAD_BUILD),
            good_build: build(good_build, TEST_GOOD_BUILD),
            reason: incident.reason.clone(),
            attempt,
            test,
            detected_unix_ms: incident.detected.unix_ms,
            evidence: incident.evidence.clone(),
        }
    }

    /// Replaces the placeholders of one argument in a single pass: a value that looks like a placeholder stays as it
    /// is, and so do unknown names in braces.
    pub(super) fn expand(&self, template: &str) -> String {
        let values: [(&str, &str); 5] = [
            ("{good_build}", self.good_build.as_str()),
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

    /// The whole environment of the hook; nothing else of the agent's is passed on.
    pub(super) fn environment(&self, target: &Target) -> Vec<(&'static str, OsString)> {
        let inherited = |name, default: &str| std::env::var_os(name).unwrap_or_else(|| default.into());
        let text = |value: &str| OsString::from(without_nul(value).into_owned());
        let reason = &self.reason[..self.reason.floor_char_boundary(MAX_REASON)];
        vec![
            ("PATH", inherited("PATH", DEFAULT_PATH)),
            ("LANG", inherited("LANG", "C.UTF-8")),
            ("HOME", target.home.clone().into_os_string()),
            ("USER", text(&target.name)),
            ("LOGNAME", text(&target.name)),
            ("LOAD_WATCHDOG_INCIDENT", text(self.incident.as_str())),
            ("LOAD_WATCHDOG_SERVICE", text(self.service.as_str())),
            ("LOAD_WATCHDOG_ENDPOINT", text(self.endpoint.as_str())),
            ("LOAD_WATCHDOG_BAD_BUILD", text(self.bad_build.as_str())),
            ("LOAD_WATCHDOG_GOOD_BUILD", text(self.good_build.as_str())),
            ("LOAD_WATCHDOG_REASON", text(reason)),
            ("LOAD_WATCHDOG_ATTEMPT", self.attempt.to_string().into()),
            ("LOAD_WATCHDOG_TEST", if self.test { "1" } else { "0" }.into()),
        ]
    }

    /// The payload as a sealed file in memory.
    ///
    /// Unlike a pipe it needs nobody to write it: a hook that never reads it, or closes it early, cannot block or
    /// break anything, and a hook that outlives the agent still reads all of it.
    pub(super) fn payload(&self) -> std::io::Result<OwnedFd> {
        #[derive(Serialize)]
        struct Versioned<'a> {
            version: u32,
            #[serde(flatten)]
            request: &'a HookRequest,
        }
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let mut file = std::fs::File::from(memfd_create(c"load-watchdog-payload", flags)?);
        serde_json::to_writer(&mut file, &Versioned { version: PAYLOAD_VERSION, request: self })?;
        file.write_all(b"\n")?;
        file.rewind()?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all()))?;
        Ok(file.into())
    }
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
            incident: "20170127-00000000".into(),
            service: "web".into(),
            endpoint: "login".into(),
            bad_build: "v2 {service} $(reboot) '\"\n".into(),
            good_build: "v1".into(),
            reason: "é".repeat(5000),
            attempt: 2,
            test: false,
            detected_unix_ms: 7,
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
        let nul = HookRequest { good_build: "a\0b".into(), ..request };
        assert_eq!(nul.expand("{good_build}"), "a\u{fffd}b");
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let target = Target { name: "deploy".to_owned(), home: "/home/deploy".into(), switch: None };
        let environment = request().environment(&target);
        let reason = environment.iter().find(|(name, _)| *name == "LOAD_WATCHDOG_REASON").unwrap();
        assert_eq!(reason.1.to_str().unwrap(), "é".repeat(2048));
    }

    #[test]
    fn the_payload_is_versioned_json_that_nobody_can_change() {
        let mut file = std::fs::File::from(request().payload().unwrap());
        let payload: serde_json::Value = serde_json::from_reader(&file).unwrap();
        assert_eq!(payload["version"], PAYLOAD_VERSION);
        assert_eq!(payload["evidence"]["requests"], 14);
        assert_eq!(payload["reason"].as_str().unwrap().chars().count(), 5000);
        assert!(file.write_all(b"x").is_err(), "not sealed");
    }
}
