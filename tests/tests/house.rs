//! The rules of ARCHITECTURE.md that a compiler does not check. Reads the sources; needs no privileges.

#![allow(clippy::unwrap_used, reason = "these are tests: what cannot be read fails them")]

use std::fs;
use std::path::{Path, PathBuf};

const MAX_LINES: usize = 500;
const TEST_ONLY: &str = "#[cfg(test)]";

/// A crate (or other word) that one module alone may use, so that what it does can be understood, and replaced, in one
/// place.
struct Reserved {
    words: &'static [&'static str],
    module: &'static str,
    why: &'static str,
    /// Files that may use it too; the reason stands in the file.
    except: &'static [&'static str],
}

const RESERVED: &[Reserved] = &[
    Reserved {
        words: &["aya", "aya_obj", "aya_log"],
        module: "kernel",
        why: "what runs in the kernel, and how it is loaded, is one room",
        except: &[],
    },
    Reserved {
        words: &["prometheus"],
        module: "metrics",
        why: "names and labels are a promise to users, made in one place",
        except: &[],
    },
    Reserved {
        words: &["procfs"],
        module: "identity",
        why: "processes come and go while they are read; one place knows how to cope",
        except: &[],
    },
    Reserved {
        words: &["rusqlite"],
        module: "store",
        why: "what is durable, and when, is decided in one place",
        except: &[],
    },
    Reserved {
        words: &["process::Command", "tokio::process", "CommandExt", "posix_spawn", "execve", "execvp"],
        module: "action",
        why: "an agent with rights starts programs in one place only",
        // A build that is named by a command of the configuration.
        except: &["identity/command.rs"],
    },
    Reserved {
        words: &["hyper::client", "rustls", "tokio_rustls", "hmac"],
        module: "action",
        why: "what leaves the host, to whom and under which key, is decided in one place",
        except: &[],
    },
];

/// Modules that are functions of their arguments: a recorded run must give the same verdicts bit for bit.
const PURE: [&str; 4] = ["aggregate", "estimate", "sequential", "verdict"];
const IMPURE: [&str; 11] = [
    "Instant",
    "SystemTime",
    "std::fs",
    "std::io",
    "std::net",
    "std::env",
    "std::thread",
    "tokio",
    "async",
    "unsafe",
    "clock::now",
];

#[test]
fn each_reserved_crate_is_used_in_its_module_only() {
    let mut broken = Vec::new();
    for file in sources("watchdog/src") {
        let place = below(&file, "watchdog/src");
        for rule in RESERVED {
            if module(&place) == rule.module || rule.except.contains(&place.as_str()) {
                continue;
            }
            for (number, line) in code(&file) {
                if let Some(word) = rule.words.iter().find(|word| uses(&line, word)) {
                    broken
                        .push(format!("{place}:{number}: {word} belongs to `{}`: {}", rule.module, rule.why));
                }
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn the_judging_modules_are_pure() {
    let mut broken = Vec::new();
    for file in sources("watchdog/src") {
        let place = below(&file, "watchdog/src");
        if !PURE.contains(&module(&place).as_str()) {
            continue;
        }
        for (number, line) in code(&file) {
            if let Some(word) = IMPURE.iter().find(|word| uses(&line, word)) {
                broken.push(format!("{place}:{number}: {word}"));
            }
        }
    }
    assert!(broken.is_empty(), "time and input come as arguments:\n{}", broken.join("\n"));
}

#[test]
fn every_member_inherits_the_lints_and_the_edition() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members =
        manifest.lines().find_map(|line| line.strip_prefix("members = ")).expect("a list of members");
    for member in members.split('"').skip(1).step_by(2) {
        let manifest = fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{member} does not inherit the workspace's lints"
        );
        assert!(manifest.contains("edition.workspace = true"), "{member} does not inherit the edition");
    }
}

#[test]
fn no_source_file_is_longer_than_can_be_read_at_once() {
    let mut broken = Vec::new();
    for file in everything().into_iter().filter(|file| has_extension(file, &["rs"])) {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        if lines > MAX_LINES {
            broken.push(format!("{}: {lines} lines", below(&file, "")));
        }
    }
    assert!(broken.is_empty(), "longer than {MAX_LINES} lines:\n{}", broken.join("\n"));
}

#[test]
fn nothing_names_a_path_of_somebodys_machine() {
    // In pieces, so that this file does not find itself.
    let folders = ["root", "work", "Users"].map(|name| format!("/{name}/"));
    let own = root().to_string_lossy().into_owned();
    let mut broken = Vec::new();
    for file in everything() {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for (index, line) in text.lines().enumerate() {
            let starts_a_path = |folder: &str| {
                line.match_indices(folder).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}/*".contains(c))
                })
            };
            if line.contains(&own) || folders.iter().any(|folder| starts_a_path(folder)) {
                broken.push(format!("{}:{}: {}", below(&file, ""), index + 1, line.trim()));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn every_line_of_the_threat_model_names_tests_that_exist() {
    names_tests_that_exist("docs/threat-model.md", 21);
}

#[test]
fn every_fault_names_tests_that_exist() {
    names_tests_that_exist("docs/faults.md", 19);
}

/// Each line of the page's tables ends with tests, one of which at least is run every day.
fn names_tests_that_exist(page: &str, least: usize) {
    let text = fs::read_to_string(root().join(page)).unwrap();
    let mut broken = Vec::new();
    let mut lines = 0;
    for (index, line) in text.lines().enumerate().filter(|(_, line)| line.starts_with("| ")) {
        let tests = line.trim_end_matches(['|', ' ']).rsplit('|').next().unwrap_or_default().trim();
        if tests == "Tests" {
            continue;
        }
        lines += 1;
        let named: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            broken.push(format!("{page}:{}: no test", index + 1));
        }
        for test in &named {
            if !is_test(test) {
                broken.push(format!("{page}:{}: there is no test {test}", index + 1));
            }
        }
        if named.iter().all(|test| is_slow(test)) {
            broken.push(format!("{page}:{}: slow tests only", index + 1));
        }
    }
    assert!(lines >= least, "{lines} lines were found in {page}");
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// The attribute of a test that `cargo xtask test --slow` runs.
const SLOW: &str = "#[ignore = \"slow: `cargo xtask test --slow` runs it\"]";

/// Whether `path/to/file.rs::name` is a test that is run.
fn is_test(name: &str) -> bool {
    follows(name, &["#[test]"]) || is_slow(name)
}

fn is_slow(name: &str) -> bool {
    follows(name, &["#[test]", SLOW])
}

/// Whether the function `path/to/file.rs::name` comes right after these lines.
fn follows(name: &str, above: &[&str]) -> bool {
    let Some((file, name)) = name.split_once("::") else { return false };
    let Ok(text) = fs::read_to_string(root().join(file)) else { return false };
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    lines
        .windows(above.len() + 1)
        .any(|lines| lines[..above.len()] == *above && lines[above.len()].starts_with(&format!("fn {name}(")))
}

/// The lines of a file with their numbers, without comments and without the tests at its end.
fn code(file: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(file).unwrap();
    let lines: Vec<_> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let tests =
        lines.windows(2).position(|pair| pair[0].trim() == TEST_ONLY && pair[1].trim_end().ends_with('{'));
    let lines = &lines[..tests.unwrap_or(lines.len())];
    lines.iter().enumerate().map(|(index, line)| (index + 1, (*line).to_owned())).collect()
}

/// Files that are compiled for tests only: `#[cfg(test)] mod name;` in the module above. Those below them are so too.
fn test_modules(files: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        for pair in lines.windows(2).filter(|pair| pair[0] == TEST_ONLY) {
            if let Some(name) = pair[1].strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
                let own_folder =
                    ["mod", "lib", "main"].iter().any(|stem| file.ends_with(format!("{stem}.rs")));
                let folder =
                    if own_folder { file.parent().unwrap().to_owned() } else { file.with_extension("") };
                found.push(folder.join(format!("{name}.rs")));
            }
        }
    }
    found
}

/// Whether a line uses a word, or (for `a::b`) a path that ends a `use` in braces too.
fn uses(line: &str, word: &str) -> bool {
    let is_word = |text: &str, word: &str| {
        text.match_indices(word).any(|(at, _)| {
            let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
            !text[..at].ends_with(part_of_name) && !text[at + word.len()..].starts_with(part_of_name)
        })
    };
    match word.rsplit_once("::") {
        Some((path, last)) => {
            is_word(line, word)
                || line.split_once(&format!("{path}::{{")).is_some_and(|(_, list)| is_word(list, last))
        }
        None => is_word(line, word),
    }
}

/// The module of the agent that a file belongs to.
fn module(place: &str) -> String {
    place.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_path_buf()
}

fn below(file: &Path, folder: &str) -> String {
    file.strip_prefix(root().join(folder)).unwrap_or(file).to_string_lossy().into_owned()
}

/// What becomes the program: tests are left out.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    collect(&root().join(folder), &mut files);
    files.retain(|file| has_extension(file, &["rs"]));
    assert!(!files.is_empty(), "no sources in {folder}");
    let tests = test_modules(&files);
    files.retain(|file| !tests.iter().any(|test| file == test || file.starts_with(test.with_extension(""))));
    files
}

/// All files of the project that people write.
fn everything() -> Vec<PathBuf> {
    let mut files = Vec::new();
    collect(&root(), &mut files);
    files.retain(|file| {
        has_extension(file, &["rs", "toml", "md", "py", "sh", "service", "yml", "yaml", "json", "c", "js"])
            || file.parent().is_some_and(|folder| folder.file_name().is_some_and(|name| name == ".ci"))
    });
    files
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let name = entry.file_name();
        if name == "target" || name == ".git" || name == "node_modules" || name == "corpus" {
            continue;
        }
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}

fn has_extension(file: &Path, extensions: &[&str]) -> bool {
    file.extension().is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted))
}

#[test]
fn tests_are_told_from_other_functions() {
    assert!(is_test("tests/tests/house.rs::tests_are_told_from_other_functions"));
    assert!(is_slow("tests/tests/incident_days.rs::the_three_days_of_the_incident"));
    assert!(!is_slow("tests/tests/house.rs::tests_are_told_from_other_functions"));
    assert!(!is_test("tests/tests/house.rs::is_test") && !is_test("tests/tests/none.rs::is_test"));
}

#[test]
fn words_are_told_from_parts_of_words() {
    assert!(uses("use aya::Ebpf;", "aya"));
    assert!(!uses("let playa = ayatollah;", "aya"));
    assert!(uses("let child = std::process::Command::new(x)", "process::Command"));
    assert!(uses("use std::process::{Child, Command, Stdio};", "process::Command"));
    assert!(!uses("use std::process::{Child, ExitCode};", "process::Command"));
    assert!(!uses("#[command(subcommand)]", "process::Command"));
}
