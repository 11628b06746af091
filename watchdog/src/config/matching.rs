//! `match` and `build`: which processes, and which build they run.

use std::path::PathBuf;

use regex::Regex;

use super::error::{Fault, Findings};
use super::section::{Node, list};
use super::{BuildSource, Listen, Match, values};

const CONDITIONS: [&str; 5] = ["unit", "exe", "cmdline", "listen", "cgroup"];
const SOURCES: [&str; 5] = ["from", "env", "file", "symlink", "command"];
/// Longest path of a unix socket (`sockaddr_un`).
const MAX_UNIX_PATH: usize = 107;

pub(super) fn read_match(node: &Node<'_>, findings: &mut Findings) -> Option<Match> {
    let mut section = node.table(findings, "{ unit = \"web.service\" }")?;
    let matcher = Match {
        unit: section.take("unit").and_then(|it| it.text_as(findings, "\"web.service\"", unit)),
        exe: section.take("exe").and_then(|it| {
            it.text_as(findings, "\"/usr/bin/node\"", |text| values::absolute_path(text, "/usr/bin/node"))
        }),
        cmdline: section.take("cmdline").and_then(|it| it.text_as(findings, "\"gunicorn.*shop\"", regex)),
        listen: section.take("listen").and_then(|it| listen(&it, findings)),
        cgroup: section.take("cgroup").and_then(|it| it.text_as(findings, "\"/system.slice/web\"", cgroup)),
        container: None,
    };
    if let Some(container) = section.take("container") {
        container.fault(
            findings,
            Fault::new(
                "matching by container is not available yet in this version",
                "use cgroup, listen or exe",
            ),
        );
    }
    if section.is_empty() {
        section.fault(
            findings,
            Fault::new(
                "the match has no condition, so it would take in every process",
                format!("give at least one of {}", list(&CONDITIONS)),
            ),
        );
    }
    section.finish(findings);
    Some(matcher)
}

fn unit(text: &str) -> Result<String, Fault> {
    let kinds = [".service", ".scope", ".slice"];
    let fits = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    let others = [".timer", ".socket", ".target", ".path", ".mount", "."];
    let stem = others.iter().find_map(|other| text.strip_suffix(other)).unwrap_or(text);
    let Some(kind) = kinds.iter().find(|kind| text.ends_with(**kind)) else {
        return Err(Fault::new(
            format!("{text:?} is not a unit that has processes"),
            format!("write its whole name, such as \"{stem}.service\""),
        ));
    };
    if text.len() > 255 || text.len() == kind.len() || !text.chars().all(fits) {
        return Err(Fault::new(
            format!("{text:?} is not the name of a unit"),
            "write it as systemctl shows it",
        ));
    }
    if text.ends_with(&format!("@{kind}")) {
        return Err(Fault::new(
            format!("{text:?} is a template without an instance"),
            "name the instance, such as \"web@1.service\", or match the slice of all its instances",
        ));
    }
    Ok(text.to_owned())
}

fn regex(text: &str) -> Result<Regex, Fault> {
    let regex = Regex::new(text).map_err(|error| {
        let reason = match &error {
            regex::Error::Syntax(text) => {
                text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
            }
            other => other.to_string(),
        };
        Fault::new(
            format!("{text:?} is not a regular expression ({reason})"),
            "in TOML, write it in single quotes so that backslashes stay as they are",
        )
    })?;
    if regex.is_match("") {
        return Err(Fault::new(
            format!("{text:?} matches every command line"),
            "name the program or an argument that only this service has",
        ));
    }
    Ok(regex)
}

fn cgroup(text: &str) -> Result<String, Fault> {
    let path = values::absolute_path(text, "/system.slice/web")?;
    if text.starts_with("/sys/fs/cgroup") {
        return Err(Fault::new(
            format!("{text:?} is a path of the file system"),
            "write it as in /proc/PID/cgroup, such as \"/system.slice/web\"",
        ));
    }
    if path.components().count() < 2 {
        return Err(Fault::new("the root cgroup holds every process", "name a cgroup below it"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn listen(node: &Node<'_>, findings: &mut Findings) -> Option<Listen> {
    if node.value().is_integer() {
        let port = node.integer(findings, 1..=65_535)?;
        return u16::try_from(port).ok().map(Listen::Port);
    }
    let Some(text) = node.value().as_str() else {
        node.wrong_type(findings, "a port or the path of a unix socket", "8000 or \"/run/app.sock\"");
        return None;
    };
    node.check(findings, unix_path(text)).map(Listen::Unix)
}

fn unix_path(text: &str) -> Result<PathBuf, Fault> {
    if let Ok(port) = text.rsplit(':').next().unwrap_or_default().parse::<u16>() {
        return Err(Fault::new(
            format!("\"{text}\" is neither a port nor the path of a unix socket"),
            format!("write the port as a number: listen = {port} (any address)"),
        ));
    }
    if !text.starts_with(['/', '@']) {
        return Err(Fault::new(
            format!("{text:?} is neither a port nor the path of a unix socket"),
            "write a port such as 8000, a path such as \"/run/app.sock\", or \"@name\" for an abstract socket",
        ));
    }
    if text.len() > MAX_UNIX_PATH || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Fault::new(
            format!("{text:?} cannot be looked up in /proc/net/unix"),
            format!("use a path without white space and of at most {MAX_UNIX_PATH} bytes"),
        ));
    }
    Ok(PathBuf::from(text))
}

pub(super) fn read_build(node: &Node<'_>, findings: &mut Findings) -> Option<BuildSource> {
    let mut section = node.table(findings, "{ from = \"auto\" }")?;
    let mut found = Vec::new();
    for key in SOURCES {
        if let Some(node) = section.take(key) {
            found.extend(match key {
                "from" => from(&node, findings),
                "env" => node.text_as(findings, "\"GIT_SHA\"", env).map(BuildSource::Env),
                "file" => node
                    .text_as(findings, "\"REVISION\"", file)
                    .map(|path| BuildSource::File { path, in_place: None }),
                "symlink" => node
                    .text_as(findings, "\"/srv/web/current\"", |text| {
                        values::absolute_path(text, "/srv/web/current")
                    })
                    .map(|path| BuildSource::Symlink { path, in_place: None }),
                _ => argv(&node, findings, "[\"/usr/local/bin/which-build\"]").map(BuildSource::Command),
            });
        }
    }
    let given = section.given();
    if given != 1 {
        section.fault(
            findings,
            Fault::new(
                if given == 0 { "no source of the build" } else { "more than one source of the build" },
                format!("give exactly one of {}", list(&SOURCES)),
            ),
        );
    }
    let mut source = found.pop().filter(|_| given == 1);
    if let Some(node) = section.take("in_place") {
        let wanted = values::flag(&node, findings);
        match &mut source {
            Some(BuildSource::Symlink { in_place, .. } | BuildSource::File { in_place, .. }) => {
                *in_place = wanted;
            }
            Some(_) => node.fault(
                findings,
                Fault::new(
                    "this source of the build cannot change under a process that runs",
                    "use in_place with `symlink` or `file`, and name the one that deploys change",
                ),
            ),
            None => {}
        }
    }
    section.finish(findings);
    source
}

fn from(node: &Node<'_>, findings: &mut Findings) -> Option<BuildSource> {
    if let Some(text @ ("image" | "marker")) = node.value().as_str() {
        node.fault(
            findings,
            Fault::new(
                format!("\"{text}\" is not available yet in this version"),
                "use \"auto\" or \"build-id\", or { env = \"GIT_SHA\" } or { file = \"REVISION\" }",
            ),
        );
        return None;
    }
    node.choice(findings, &[("auto", BuildFrom::Auto), ("build-id", BuildFrom::BuildId)]).map(|from| {
        match from {
            BuildFrom::Auto => BuildSource::Auto,
            BuildFrom::BuildId => BuildSource::BuildId,
        }
    })
}

#[derive(Clone, Copy)]
enum BuildFrom {
    Auto,
    BuildId,
}

fn env(text: &str) -> Result<String, Fault> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if text.is_empty() || text.starts_with(|c: char| c.is_ascii_digit()) || !text.chars().all(fits) {
        return Err(Fault::new(
            format!("{text:?} is not the name of an environment variable"),
            "write for example \"GIT_SHA\", without '$'",
        ));
    }
    Ok(text.to_owned())
}

fn file(text: &str) -> Result<PathBuf, Fault> {
    if text.is_empty() || text.ends_with('/') || text.contains('\0') {
        return Err(Fault::new(
            format!("{text:?} is not the path of a file"),
            "write it relative to the process's working directory, such as \"REVISION\"",
        ));
    }
    Ok(PathBuf::from(text))
}

/// A command as its arguments: the first an absolute path, never one string for a shell.
pub(super) fn argv(node: &Node<'_>, findings: &mut Findings, example: &str) -> Option<Vec<String>> {
    if let Some(text) = node.value().as_str() {
        let words: Vec<String> = text.split_whitespace().map(|word| format!("{word:?}")).collect();
        node.fault(
            findings,
            Fault::new(
                "a command is given as one string, but no shell reads it",
                format!("write its arguments one by one: [{}]", words.join(", ")),
            ),
        );
        return None;
    }
    let texts = node.texts(findings, example)?;
    let (program, first) = &texts[0];
    if let Some((head, _)) = program.split_once(char::is_whitespace) {
        let words: Vec<String> = program.split_whitespace().map(|word| format!("{word:?}")).collect();
        first.fault(
            findings,
            Fault::new(
                format!("{program:?} holds a whole command line, but no shell reads it (program {head:?})"),
                format!("write its arguments one by one: [{}]", words.join(", ")),
            ),
        );
        return None;
    }
    let name = program.rsplit('/').next().unwrap_or_default();
    first.check(findings, values::absolute_path(program, &format!("/usr/local/bin/{name}")))?;
    Some(texts.iter().map(|(text, _)| (*text).to_owned()).collect())
}
