//! Files that are made from the sources and kept beside them: the metrics' page, man pages, completions.
//!
//! `cargo xtask codegen` sets `LOAD_WATCHDOG_WRITE_GENERATED` to have them written; otherwise they are compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap_complete::{Shell, generate};

const NAME: &str = "load-watchdog";
/// Folders that hold generated files and nothing else.
const MAN: &str = "packaging/man";
const COMPLETIONS: &str = "packaging/completions";

type Files = BTreeMap<PathBuf, String>;

#[test]
fn files_are_as_the_sources_say() {
    let wanted = generated();
    let found = existing(&wanted);
    if std::env::var_os("LOAD_WATCHDOG_WRITE_GENERATED").is_some() {
        write(&found, &wanted);
        return;
    }
    let differing: Vec<_> = wanted
        .keys()
        .chain(found.keys().filter(|path| !wanted.contains_key(*path)))
        .filter(|path| wanted.get(*path) != found.get(*path))
        .map(|path| path.display().to_string())
        .collect();
    assert!(differing.is_empty(), "`cargo xtask codegen` makes these anew: {}", differing.join(", "));
}

/// Paths below the workspace, and texts.
fn generated() -> Files {
    let mut files = Files::from([("docs/metrics.md".into(), watchdog::metrics::markdown())]);
    man_pages(&watchdog::cli::command().disable_help_subcommand(true), &mut files);
    for (shell, file) in [
        (Shell::Bash, format!("{NAME}.bash")),
        (Shell::Zsh, format!("_{NAME}")),
        (Shell::Fish, format!("{NAME}.fish")),
    ] {
        let mut text = Vec::new();
        generate(shell, &mut watchdog::cli::command(), NAME, &mut text);
        files.insert(
            Path::new(COMPLETIONS).join(file),
            String::from_utf8(text).expect("completions are text"),
        );
    }
    files
}

/// One page for the program and one for each of its commands, as git has them.
fn man_pages(command: &clap::Command, files: &mut Files) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    clap_mangen::generate_to(command.clone(), folder.path()).expect("man pages");
    for (path, text) in read_folder(folder.path()) {
        files.insert(Path::new(MAN).join(path.file_name().expect("a file's name")), text);
    }
}

/// The files that are there, those included that should not be.
fn existing(wanted: &Files) -> Files {
    let mut files: Files = wanted
        .keys()
        .filter_map(|path| Some((path.clone(), fs::read_to_string(root().join(path)).ok()?)))
        .collect();
    for folder in [MAN, COMPLETIONS] {
        for (path, text) in read_folder(&root().join(folder)) {
            files.insert(Path::new(folder).join(path.file_name().expect("a file's name")), text);
        }
    }
    files
}

fn write(found: &Files, wanted: &Files) {
    for path in found.keys().filter(|path| !wanted.contains_key(*path)) {
        fs::remove_file(root().join(path)).expect("a stale file can be removed");
    }
    for (path, text) in wanted {
        let path = root().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be made");
        fs::write(path, text).expect("the file can be written");
    }
}

fn read_folder(folder: &Path) -> Files {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), fs::read_to_string(entry.path()).ok()?))).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}
