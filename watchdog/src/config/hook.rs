//! A hook: a program or a request to another host, and how long and how often it is tried.

use std::fmt;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use http::Uri;
use regex::Regex;

use super::error::{Fault, Findings};
use super::section::{Node, Section, suggest};
use super::{defaults, matching, values};

/// What `{name}` in an argument can stand for.
pub const PLACEHOLDERS: [&str; 5] = ["good_build", "bad_build", "service", "endpoint", "incident"];

const SHELLS: [&str; 6] = ["sh", "bash", "dash", "zsh", "ksh", "busybox"];
/// Keys that say how a program is started, and so mean nothing to a webhook.
const OF_PROGRAMS: [&str; 5] = ["user", "groups", "cwd", "environment", "umask"];

static PLACEHOLDER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\{([A-Za-z_][A-Za-z0-9_]*)\}").expect("a constant expression"));

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookConfig {
    pub call: HookCall,
    /// Of each attempt.
    pub timeout: Duration,
    /// Attempts after the first, where the hook asks for one.
    pub retries: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookCall {
    Exec(ExecConfig),
    Webhook(WebhookConfig),
}

/// A program and what it is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecConfig {
    /// The program and its arguments; the placeholders of [`PLACEHOLDERS`] are replaced. Never a shell.
    pub argv: Vec<String>,
    /// `None`: the agent's own.
    pub user: Option<String>,
    /// Supplementary groups instead of all those of the user.
    pub groups: Option<Vec<String>>,
    pub cwd: PathBuf,
    /// Beside the documented variables: a name alone is handed on from the agent's environment where it is set.
    pub environment: Vec<(String, Option<String>)>,
    /// At most 0o777.
    pub umask: u32,
}

impl ExecConfig {
    /// A program with all defaults.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            user: None,
            groups: None,
            cwd: PathBuf::from("/"),
            environment: Vec::new(),
            umask: defaults::HOOK_UMASK,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookConfig {
    pub url: HookUrl,
    /// Holds the key of the signature; read anew for each request.
    pub secret_file: PathBuf,
    /// PEM; the only certificates that are trusted, instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// An absolute `https` address. What is printed of it ends at the port: paths of webhooks are often secret.
#[derive(Clone, PartialEq, Eq)]
pub struct HookUrl(Uri);

impl HookUrl {
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let uri: Uri = text.parse().map_err(|_| "it is not an address")?;
        if uri.scheme_str() != Some("https") {
            return Err("it does not begin with https://");
        }
        if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
            return Err("it holds a user or a password");
        }
        if uri.host().is_none_or(str::is_empty) || uri.port_u16() == Some(0) {
            return Err("it names no host and port");
        }
        if text.contains('#') {
            return Err("it holds a fragment, which is never sent");
        }
        Ok(Self(uri))
    }

    pub fn uri(&self) -> &Uri {
        &self.0
    }

    /// The host without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        self.0.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    pub fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(443)
    }
}

impl fmt::Display for HookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.0.authority().map_or("", |authority| authority.as_str()))
    }
}

impl fmt::Debug for HookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}/..")
    }
}

/// Reads a table that holds nothing but a hook, such as `[service.rollback.post]`.
pub(super) fn read_table(node: &Node<'_>, findings: &mut Findings) -> Option<HookConfig> {
    let mut section = node.table(findings, "{ exec = [\"/usr/local/bin/tell-everybody\"] }")?;
    let hook = read(&mut section, findings, defaults::HOOK_TIMEOUT);
    section.finish(findings);
    hook
}

/// Reads the keys of a hook out of a table that may hold others.
pub(super) fn read(
    section: &mut Section<'_>,
    findings: &mut Findings,
    default_timeout: Duration,
) -> Option<HookConfig> {
    let exec = section.take("exec");
    let webhook = section.take("webhook");
    let call = match (exec, webhook) {
        (Some(node), None) => read_exec(&node, section, findings).map(HookCall::Exec),
        (None, Some(node)) => {
            for key in OF_PROGRAMS {
                if let Some(node) = section.take(key) {
                    node.fault(
                        findings,
                        Fault::new(
                            format!("`{key}` says how a program is started, but this hook is a webhook"),
                            "remove it, or use exec",
                        ),
                    );
                }
            }
            read_webhook(&node, findings).map(HookCall::Webhook)
        }
        (Some(_), Some(node)) => {
            for key in OF_PROGRAMS {
                let _ = section.take(key);
            }
            node.fault(
                findings,
                Fault::new(
                    "there is an `exec` too",
                    "a hook is one or the other: remove one, or let the program send the request",
                ),
            );
            None
        }
        (None, None) => {
            for key in OF_PROGRAMS {
                let _ = section.take(key);
            }
            section.fault(
                findings,
                Fault::new(
                    "neither `exec` nor `webhook` says what to do",
                    "add for example exec = [\"/usr/local/bin/rollback-web\", \"{good_build}\"]",
                ),
            );
            None
        }
    };
    let (second, hour) = (Duration::from_secs(1), Duration::from_hours(1));
    let timeout = section
        .take("timeout")
        .and_then(|node| values::duration_node(&node, findings, second, hour))
        .unwrap_or(default_timeout);
    let retries = section
        .take("retries")
        .and_then(|node| node.integer(findings, 0..=10))
        .unwrap_or(defaults::HOOK_RETRIES);
    Some(HookConfig { call: call?, timeout, retries })
}

fn read_exec(node: &Node<'_>, section: &mut Section<'_>, findings: &mut Findings) -> Option<ExecConfig> {
    let argv = matching::argv(node, findings, "[\"/usr/local/bin/rollback-web\", \"{good_build}\"]");
    if let Some(argv) = &argv {
        check_placeholders(node, argv, findings);
    }
    let user = section.take("user").and_then(|node| node.text_as(findings, "\"deploy\"", values::account));
    let groups = section.take("groups").and_then(|node| {
        if user.is_none() {
            node.fault(
                findings,
                Fault::new("there are groups but no user", "say which `user` the hook runs as"),
            );
        }
        let texts = node.texts(findings, "[\"www-data\"]")?;
        let names = texts.iter().map(|(text, node)| node.check(findings, values::account(text)));
        names.collect::<Vec<_>>().into_iter().collect::<Option<Vec<_>>>()
    });
    let cwd = section.take("cwd").and_then(|node| {
        node.text_as(findings, "\"/srv/web\"", |text| values::absolute_path(text, "/srv/web"))
    });
    let environment = section.take("environment").and_then(|node| {
        let texts =
            node.texts(findings, "[\"KUBECONFIG=/etc/load-watchdog/kubeconfig\", \"HTTPS_PROXY\"]")?;
        let entries = texts.iter().map(|(text, node)| node.check(findings, variable(text)));
        entries.collect::<Vec<_>>().into_iter().collect::<Option<Vec<_>>>()
    });
    let umask = section.take("umask").and_then(|node| node.text_as(findings, "\"027\"", umask));
    Some(ExecConfig {
        argv: argv?,
        user,
        groups,
        cwd: cwd.unwrap_or_else(|| PathBuf::from("/")),
        environment: environment.unwrap_or_default(),
        umask: umask.unwrap_or(defaults::HOOK_UMASK),
    })
}

/// `NAME` or `NAME=value`.
fn variable(text: &str) -> Result<(String, Option<String>), Fault> {
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(fits) {
        return Err(Fault::new(
            format!("{text:?} is not a variable"),
            "write NAME to hand the agent's own on, or NAME=value",
        ));
    }
    if name.starts_with("LOAD_WATCHDOG_") {
        return Err(Fault::new(
            format!("{name} is one of the variables that tell the hook what to do"),
            "choose a name without LOAD_WATCHDOG_",
        ));
    }
    if value.is_some_and(|value| value.contains('\0')) {
        return Err(Fault::new(
            format!("{name} holds a zero byte"),
            "no variable can; put such a value into a file",
        ));
    }
    Ok((name.to_owned(), value.map(str::to_owned)))
}

fn umask(text: &str) -> Result<u32, Fault> {
    let fits = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mask = if fits { u32::from_str_radix(text, 8).ok() } else { None };
    mask.filter(|mask| *mask <= 0o777).ok_or_else(|| {
        Fault::new(
            format!("{text:?} is not a file mode mask"),
            "write three octal digits, such as \"022\" (others may read) or \"077\" (only the user may)",
        )
    })
}

fn read_webhook(node: &Node<'_>, findings: &mut Findings) -> Option<WebhookConfig> {
    const EXAMPLE: &str =
        "{ url = \"https://deploy.example/rollback\", secret_file = \"/etc/load-watchdog/webhook.key\" }";
    let mut section = node.table(findings, EXAMPLE)?;
    let url =
        section.require(findings, "url", "add the address, such as \"https://deploy.example/rollback\"");
    let url = url.and_then(|node| {
        node.text_as(findings, "\"https://deploy.example/rollback\"", |text| {
            // The address is not repeated: it may hold a secret, and errors are logged.
            HookUrl::parse(text).map_err(|why| {
                Fault::new(
                    format!("the address cannot be used: {why}"),
                    "write it as \"https://deploy.example/rollback\"",
                )
            })
        })
    });
    let mut file = |key, needed: bool, example: &'static str| {
        let node = if needed {
            section.require(findings, key, "name the file that holds the key of the signature")
        } else {
            section.take(key)
        };
        node.and_then(|node| {
            node.text_as(findings, &format!("{example:?}"), |text| values::absolute_path(text, example))
        })
    };
    let secret_file = file("secret_file", true, "/etc/load-watchdog/webhook.key");
    let ca_file = file("ca_file", false, "/etc/load-watchdog/webhook-ca.pem");
    section.finish(findings);
    Some(WebhookConfig { url: url?, secret_file: secret_file?, ca_file })
}

fn check_placeholders(node: &Node<'_>, argv: &[String], findings: &mut Findings) {
    let shell = argv[0].rsplit('/').next().is_some_and(|name| SHELLS.contains(&name));
    for (index, argument) in argv.iter().enumerate() {
        for capture in PLACEHOLDER.captures_iter(argument) {
            let name = &capture[1];
            let fault = if !PLACEHOLDERS.contains(&name) {
                Fault::new(
                    format!("unknown placeholder {{{name}}} in {argument:?}"),
                    suggest(name, &PLACEHOLDERS),
                )
            } else if index == 0 {
                Fault::new(
                    format!("the program itself contains the placeholder {{{name}}}"),
                    "write the program's path, and pass what varies as an argument",
                )
            } else if shell && argv[index - 1].starts_with('-') && argv[index - 1].ends_with('c') {
                Fault::new(
                    format!(
                        "{{{name}}} would become part of a shell script, which a build's name must never be"
                    ),
                    format!("use \"$LOAD_WATCHDOG_{}\" in the script", name.to_ascii_uppercase()),
                )
            } else {
                continue;
            };
            node.fault(findings, fault);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_printed_without_its_path() {
        let url = HookUrl::parse("https://hooks.example:8443/services/T0/B0/s3cret?key=s3cret").unwrap();
        assert_eq!(url.to_string(), "https://hooks.example:8443");
        assert!(!format!("{url:?}").contains("s3cret"));
        assert_eq!((url.host(), url.port()), ("hooks.example", 8443));
        let url = HookUrl::parse("https://[::1]/x").unwrap();
        assert_eq!((url.host(), url.port()), ("::1", 443));
    }

    #[test]
    fn only_plain_https_addresses_are_taken() {
        for (text, why) in [
            ("http://hooks.example/", "https://"),
            ("hooks.example", "https://"),
            ("/services", "https://"),
            ("https://ann:secret@hooks.example/", "user"),
            ("https://hooks.example:0/", "host and port"),
            ("https://hooks.example/#x", "fragment"),
            ("https://", "not an address"),
            ("", "not an address"),
        ] {
            let error = HookUrl::parse(text).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }

    #[test]
    fn masks_are_octal_with_all_their_digits() {
        for (text, mask) in [("022", Some(0o22)), ("0077", Some(0o77)), ("777", Some(0o777))] {
            assert_eq!(umask(text).ok(), mask);
        }
        for text in ["22", "1777", "08", "022 ", "rwx", "", "+22"] {
            assert!(umask(text).is_err(), "{text:?}");
        }
    }
}
