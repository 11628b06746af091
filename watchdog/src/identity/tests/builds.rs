//! Which build a process runs, from every source.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{
    AUTO_ENV, BuildOrigin, Process, Running, build_of, by_mark, flip, identifier, pids, problem_of, releases,
    wait_until,
};
use crate::model::BuildId;

#[test]
fn the_environment_names_the_build() {
    let running = Running::start(Running::sleep(71_001).env("GIT_SHA", "3f2a9c").env("OTHER", "x\n"));
    for source in ["{ from = \"auto\" }", "{ env = \"GIT_SHA\" }"] {
        let mut identifier = by_mark(71_001, source);
        let identified = identifier.identify(running.pid()).unwrap().unwrap();
        assert_eq!(identified.build, Some(BuildId::from("3f2a9c")));
        assert_eq!(identified.build_source, Some(BuildOrigin::Env("GIT_SHA".into())));
        assert_eq!((identified.service, identified.problem), (0, None));
    }
    let problem = problem_of(&mut by_mark(71_001, "{ env = \"COMMIT\" }"), running.pid());
    assert!(
        problem.starts_with("its environment has no COMMIT; set it where the service is started"),
        "{problem}"
    );
}

#[test]
fn a_process_is_the_same_only_with_its_start_time() {
    let mut running = Running::start(&mut Running::sleep(71_002));
    let mut identifier = by_mark(71_002, "{ from = \"build-id\" }");
    let identified = identifier.identify(running.pid()).unwrap().unwrap();
    assert!(identifier.is_same(identified.pid, identified.start_time));
    assert!(!identifier.is_same(identified.pid, identified.start_time + 1));
    running.0.kill().unwrap();
    // Not reaped yet: a zombie serves nothing.
    wait_until("it ends", || !identifier.is_same(identified.pid, identified.start_time));
    assert_eq!(identifier.identify(identified.pid).unwrap(), None);
    running.0.wait().unwrap();
    assert_eq!(identifier.identify(identified.pid).unwrap(), None);
}

#[test]
fn a_file_in_the_working_directory_by_the_directory_itself() {
    let (_directory, current) = releases();
    let running = Running::start(Running::sleep(71_003).current_dir(&current));
    flip(&current, "releases/2");
    let restarted = Running::start(Running::sleep(71_003).current_dir(&current));
    for source in ["{ file = \"REVISION\" }", "{ from = \"auto\" }", "{ file = \"../1/../1/REVISION\" }"] {
        let mut identifier = by_mark(71_003, source);
        assert_eq!(build_of(&mut identifier, running.pid()), "rev-1", "{source}");
        let expected = if source.contains("..") { "rev-1" } else { "rev-2" };
        assert_eq!(build_of(&mut identifier, restarted.pid()), expected, "{source}");
    }
    // Without the file, the release directory's name is next.
    fs::remove_file(current.join("REVISION")).unwrap();
    let mut identifier = by_mark(71_003, "{ from = \"auto\" }");
    let identified = identifier.identify(restarted.pid()).unwrap().unwrap();
    assert_eq!(identified.build, Some(BuildId::from("2")));
    assert_eq!(identified.build_source, Some(BuildOrigin::ReleaseDirectory));
}

#[test]
fn a_deleted_release_keeps_its_build_while_known_and_is_told_otherwise() {
    let (directory, current) = releases();
    let running = Running::start(Running::sleep(71_004).current_dir(&current));
    let mut identifier = by_mark(71_004, "{ file = \"REVISION\" }");
    assert_eq!(build_of(&mut identifier, running.pid()), "rev-1");
    fs::remove_dir_all(directory.path().join("releases/1")).unwrap();
    assert_eq!(build_of(&mut identifier, running.pid()), "rev-1");
    let problem = problem_of(&mut by_mark(71_004, "{ file = \"REVISION\" }"), running.pid());
    assert!(
        problem.contains("releases/1/REVISION (its directory was deleted) cannot be read: "),
        "{problem}"
    );
    assert!(problem.ends_with("keep the releases of running processes"), "{problem}");
}

#[test]
fn a_symlink_counts_for_processes_that_started_after_it() {
    let (_directory, current) = releases();
    std::thread::sleep(Duration::from_millis(30));
    let source = format!("{{ symlink = \"{}\" }}", current.display());
    let old = Running::start(&mut Running::sleep(71_005));
    let mut identifier = by_mark(71_005, &source);
    assert_eq!(build_of(&mut identifier, old.pid()), "1");
    std::thread::sleep(Duration::from_millis(50));
    flip(&current, "releases/2");
    std::thread::sleep(Duration::from_millis(30));
    let new = Running::start(&mut Running::sleep(71_005));
    assert_eq!(build_of(&mut identifier, new.pid()), "2");
    assert_eq!(build_of(&mut identifier, old.pid()), "1", "what was known stays");
    // A restart without a flip is the same build.
    let again = Running::start(&mut Running::sleep(71_005));
    assert_eq!(build_of(&mut identifier, again.pid()), "2");

    let problem = problem_of(&mut by_mark(71_005, &source), old.pid());
    assert!(problem.contains("was changed after the process had started"), "{problem}");
    let no_link = by_mark(71_005, "{ symlink = \"/etc/passwd\" }").identify(new.pid()).unwrap().unwrap();
    assert_eq!(no_link.problem.unwrap(), "/etc/passwd is no symlink; name the symlink that deploys flip");
}

#[test]
fn a_command_is_asked_once_per_start() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(Running::sleep(71_006).current_dir(directory.path()));
    let source = "{ command = [\"/bin/sh\", \"-c\", \"echo x >> calls; echo build-$(cat calls | wc -l); echo more\"] }";
    let mut identifier = by_mark(71_006, source);
    assert_eq!(build_of(&mut identifier, running.pid()), "build-1");
    assert_eq!(build_of(&mut identifier, running.pid()), "build-1");
    let restarted = Running::start(Running::sleep(71_006).current_dir(directory.path()));
    assert_eq!(build_of(&mut identifier, restarted.pid()), "build-2");
    let problem = problem_of(&mut by_mark(71_006, "{ command = [\"/bin/false\"] }"), running.pid());
    assert!(problem.starts_with("/bin/false failed (exit status: 1)"), "{problem}");
}

/// What binutils says.
fn readelf_build_id(program: &Path) -> String {
    let output = Command::new("readelf").arg("-n").arg(program).output().expect("binutils are installed");
    let text = String::from_utf8(output.stdout).unwrap();
    text.split("Build ID: ").nth(1).expect("has a build-id").split_whitespace().next().unwrap().to_owned()
}

#[test]
fn the_build_id_of_a_program_that_was_replaced_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("shop");
    fs::copy("/bin/sleep", &program).unwrap();
    let old = Running::start(Command::new(&program).arg("600").env_clear().current_dir("/"));
    let matcher = format!("{{ exe = \"{}\" }}", program.display());
    fs::remove_file(&program).unwrap();
    fs::copy("/bin/tail", &program).unwrap();
    let new = Running::start(Command::new(&program).args(["-f", "/dev/null"]).env_clear().current_dir("/"));
    for source in ["{ from = \"build-id\" }", "{ from = \"auto\" }"] {
        let mut identifier = identifier(&matcher, source);
        assert_eq!(build_of(&mut identifier, old.pid()), readelf_build_id(Path::new("/bin/sleep")));
        assert_eq!(build_of(&mut identifier, new.pid()), readelf_build_id(Path::new("/bin/tail")));
        let mut expected = vec![old.pid(), new.pid()];
        expected.sort_unstable();
        assert_eq!(pids(&mut identifier), expected);
    }
}

#[test]
fn an_interpreter_without_any_mark_is_not_guessed() {
    let (running, _) = Running::python(
        "import time; print('up', flush=True); time.sleep(600)",
        &["mark-71007"],
        |command| {
            command.current_dir("/");
            for name in AUTO_ENV {
                command.env_remove(name);
            }
        },
    );
    let problem =
        problem_of(&mut identifier("{ cmdline = 'mark-71007' }", "{ from = \"auto\" }"), running.pid());
    assert!(
        problem.contains("only hosts the application; set GIT_SHA where the service is started"),
        "{problem}"
    );
}

#[test]
fn helpers_take_the_build_of_the_program_that_runs_them() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("shop");
    fs::copy("/bin/dash", &program).unwrap();
    let shop = Running::start(
        Command::new(&program).args(["-c", "/bin/sleep 30.71008 & wait"]).env_clear().current_dir("/"),
    );
    let expected = readelf_build_id(Path::new("/bin/dash"));
    for source in ["{ from = \"build-id\" }", "{ from = \"auto\" }"] {
        let mut identifier = identifier(&format!("{{ exe = \"{}\" }}", program.display()), source);
        let mut found = Vec::new();
        wait_until("the helper runs", || {
            found = identifier.scan();
            found.len() == 2
                && found.iter().any(|it| {
                    Process::open(it.pid).unwrap().unwrap().cmdline().unwrap().contains("sleep 30.71008")
                })
        });
        let builds: HashSet<_> = found.iter().map(|it| it.build.clone().unwrap().to_string()).collect();
        assert_eq!(builds, HashSet::from([expected.clone()]));
    }
    let helpers = identifier(&format!("{{ exe = \"{}\" }}", program.display()), "{ from = \"auto\" }").scan();
    for helper in helpers.into_iter().filter(|it| it.pid != shop.pid()) {
        kill(Pid::from_raw(helper.pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
    }
}

#[test]
fn an_overwritten_environment_does_not_lose_a_known_build() {
    // Writes over its own environment, as servers do that show a title in `ps`.
    let script = "
import sys, time
stat = open('/proc/self/stat').read().rsplit(')', 1)[1].split()
begin, end = int(stat[47]), int(stat[48])
print('up', flush=True); sys.stdin.readline()
mem = open('/proc/self/mem', 'r+b', 0); mem.seek(begin); mem.write(b'x' * (end - begin))
print('done', flush=True); time.sleep(600)";
    let mut python = Command::new("python3");
    python
        .args(["-c", script, "mark-71015"])
        .env("GIT_SHA", "abc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut running = Running(python.spawn().unwrap());
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    let (matcher, source) = ("{ cmdline = 'mark-71015' }", "{ env = \"GIT_SHA\" }");
    let mut early = identifier(matcher, source);
    assert_eq!(build_of(&mut early, running.pid()), "abc");
    std::io::Write::write_all(running.0.stdin.as_mut().unwrap(), b"go\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "done");
    assert_eq!(build_of(&mut early, running.pid()), "abc");
    let late = problem_of(&mut identifier(matcher, source), running.pid());
    assert!(late.contains("some servers overwrite their environment"), "{late}");
}
