//! A program that stands in for another one: it takes the subcommands and options that the other one's documentation has,
//! refuses all others as that would, answers what a test tells it to, and records how it was called.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

/// A subcommand.
#[derive(Clone, Debug, Serialize)]
pub struct Subcommand {
    /// Such as `["job", "revert"]`.
    pub words: &'static [&'static str],
    /// How many arguments it takes beside the options, least and most.
    pub arguments: (usize, usize),
    /// Options with a value behind them (or after `=`).
    pub valued: &'static [&'static str],
    /// Options without.
    pub flags: &'static [&'static str],
    /// What it prints.
    pub answer: String,
    pub status: i32,
}

/// How a tool reads its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Options {
    /// Anywhere, as with cobra (kubectl, helm) and systemctl.
    Anywhere,
    /// Before the first argument only, as with Go's own package (nomad).
    First,
}

#[derive(Debug)]
pub struct StandIn {
    folder: PathBuf,
    name: &'static str,
}

const PROGRAM: &str = r#"#!/usr/bin/env python3
import json, sys

tool = json.load(open(sys.argv[0] + ".json"))
argv = sys.argv[1:]
with open(sys.argv[0] + ".calls", "a") as calls:
    calls.write(json.dumps(argv) + "\n")


def fail(why):
    sys.exit(f"{tool['name']}: {why}: {argv}")


for command in tool["subcommands"]:
    words = command["words"]
    if argv[: len(words)] == words:
        break
else:
    fail("no such subcommand")
arguments, options, rest = [], True, argv[len(words) :]
while rest:
    word = rest.pop(0)
    if word == "--" and options:
        options = False
    elif word.startswith("-") and options:
        name, has_value, _ = word.partition("=")
        if name in command["valued"]:
            if not has_value:
                if not rest:
                    fail(f"{name} needs a value")
                rest.pop(0)
        elif name not in command["flags"] or has_value:
            fail(f"unknown option {word}")
    else:
        arguments.append(word)
        options = options and tool["options"] == "anywhere"
least, most = command["arguments"]
if not least <= len(arguments) <= most or "" in arguments:
    fail(f"takes {least} to {most} arguments")
print(command["answer"])
sys.exit(command["status"])
"#;

impl StandIn {
    /// Writes the program into a folder that is to be first in `PATH`.
    pub fn new(
        folder: &Path,
        name: &'static str,
        options: Options,
        subcommands: &[Subcommand],
    ) -> anyhow::Result<Self> {
        let made = Self { folder: folder.to_owned(), name };
        let tool = serde_json::json!({ "name": name, "options": options, "subcommands": subcommands });
        fs::write(made.file(".json"), tool.to_string()).context("writing what a stand-in takes")?;
        fs::write(made.file(""), PROGRAM).context("writing a stand-in")?;
        fs::set_permissions(made.file(""), fs::Permissions::from_mode(0o755))?;
        Ok(made)
    }

    fn file(&self, suffix: &str) -> PathBuf {
        self.folder.join(format!("{}{suffix}", self.name))
    }

    /// The arguments of each call so far, joined by spaces.
    pub fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.file(".calls")).unwrap_or_default();
        let words = |line| serde_json::from_str::<Vec<String>>(line).unwrap_or_default();
        text.lines().map(|line| words(line).join(" ")).collect()
    }
}
