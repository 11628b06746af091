//! Real processes, identified on the running system.

#![expect(clippy::similar_names, reason = "an identifier gives identified processes")]

use std::fmt::Write;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::*;
use crate::config::Config;

/// A process that ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let running = Self(command.stdin(Stdio::null()).spawn().expect("the program starts"));
        // `spawn` returns while the kernel still lays out the new program's arguments.
        wait_until("the program is laid out", || {
            let process = Process::open(running.pid()).unwrap();
            process.is_none_or(|process| process.program.stack != 0 && !process.cmdline().unwrap().is_empty())
        });
        running
    }

    /// A Python program that prints a line when it is ready.
    fn python(script: &str, arguments: &[&str], command: impl FnOnce(&mut Command)) -> (Self, String) {
        let mut python = Command::new("python3");
        python.args(["-c", script]).args(arguments).stdout(Stdio::piped()).env_remove("REVISION");
        command(&mut python);
        let mut running = Self::start(&mut python);
        let mut line = String::new();
        let stdout = running.0.stdout.take().unwrap();
        let mut lines = BufReader::new(stdout);
        lines.read_line(&mut line).unwrap();
        // Kept open: the program may print again.
        std::mem::forget(lines);
        (running, line.trim().to_owned())
    }

    /// `sleep`, with the seconds as a mark on its command line.
    fn sleep(mark: u32) -> Command {
        let mut command = Command::new("/bin/sleep");
        command.arg(mark.to_string()).env_clear();
        command
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn services(texts: &[(&str, &str)]) -> Vec<ServiceConfig> {
    let mut toml = String::new();
    for (index, (matcher, build)) in texts.iter().enumerate() {
        write!(
            toml,
            "[[service]]\nname = \"s{index}\"\nmatch = {matcher}\nbuild = {build}\n\
             [[service.endpoint]]\nname = \"e\"\npath = \"/\"\n"
        )
        .unwrap();
    }
    Config::parse(&toml, "test").unwrap_or_else(|errors| panic!("{errors}")).services
}

fn identifier(matcher: &str, build: &str) -> Identifier {
    Identifier::new(&services(&[(matcher, build)]))
}

fn by_mark(mark: u32, build: &str) -> Identifier {
    identifier(&format!("{{ cmdline = '^/bin/sleep {mark}$' }}"), build)
}

fn build_of(identifier: &mut Identifier, pid: u32) -> String {
    let identified = identifier.identify(pid).unwrap().expect("belongs to a service");
    identified.build.unwrap_or_else(|| panic!("{:?}", identified.problem)).into()
}

fn problem_of(identifier: &mut Identifier, pid: u32) -> String {
    let identified = identifier.identify(pid).unwrap().expect("belongs to a service");
    assert_eq!((identified.build, identified.build_source), (None, None));
    identified.problem.unwrap()
}

fn pids(identifier: &mut Identifier) -> Vec<u32> {
    identifier.scan().into_iter().map(|identified| identified.pid).collect()
}

/// `releases/1` and `releases/2` with their REVISION, and `current` pointing to the first.
fn releases() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    for name in ["1", "2"] {
        let release = directory.path().join("releases").join(name);
        fs::create_dir_all(&release).unwrap();
        fs::write(release.join("REVISION"), format!("rev-{name}\n")).unwrap();
    }
    let current = directory.path().join("current");
    symlink("releases/1", &current).unwrap();
    (directory, current)
}

fn flip(current: &Path, to: &str) {
    let next = current.with_extension("next");
    symlink(to, &next).unwrap();
    fs::rename(&next, current).unwrap();
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

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

/// Listens where it is told, forks two workers, and says who they are.
const SERVER: &str = "
import os, signal, socket, sys
kind, where = sys.argv[1], sys.argv[2]
if kind == 'unix':
    s = socket.socket(socket.AF_UNIX); s.bind(where)
else:
    s = socket.socket(socket.AF_INET6 if kind == 'tcp6' else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('::1' if kind == 'tcp6' else '127.0.0.1', int(where)))
s.listen()
workers = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        import ctypes; ctypes.CDLL(None).prctl(1, 9); signal.alarm(60)
        signal.pause()
    workers.append(pid)
print(*workers, s.getsockname()[1] if kind != 'unix' else 0, flush=True)
def reload(*_):
    os.chdir(os.environ['CURRENT'])
    pid = os.fork()
    if pid == 0:
        import ctypes; ctypes.CDLL(None).prctl(1, 9); signal.alarm(60)
        signal.pause()
signal.signal(signal.SIGHUP, reload)
while True: signal.pause()
";

#[test]
fn prefork_servers_are_found_by_where_they_listen() {
    let (directory, current) = releases();
    let socket = directory.path().join("app.sock");
    for (kind, port_text) in [("tcp", "0"), ("tcp6", "0"), ("unix", socket.to_str().unwrap())] {
        let (server, line) = Running::python(SERVER, &[kind, port_text], |command| {
            command.current_dir(&current);
        });
        let mut numbers: Vec<u32> = line.split(' ').map(|word| word.parse().unwrap()).collect();
        let port = numbers.pop().unwrap();
        let matcher = match kind {
            "unix" => format!("{{ listen = \"{}\" }}", socket.display()),
            _ => format!("{{ listen = {port} }}"),
        };
        let mut expected = [&numbers[..], &[server.pid()]].concat();
        expected.sort_unstable();
        let mut identifier = identifier(&matcher, "{ from = \"auto\" }");
        let found = identifier.scan();
        assert_eq!(found.iter().map(|it| it.pid).collect::<Vec<_>>(), expected, "{kind}");
        assert!(found.iter().all(|it| it.build == Some(BuildId::from("rev-1"))), "{found:?}");
        // A client of the same port is none of it, and neither is another condition that fails.
        let _client = (kind == "tcp")
            .then(|| std::net::TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())));
        assert_eq!(pids(&mut identifier), expected, "{kind}");
        let both = matcher.replace(" }", ", cmdline = 'another program' }");
        assert!(Identifier::new(&services(&[(&both, "{ from = \"auto\" }")])).scan().is_empty());
    }
}

#[test]
fn a_server_that_reloads_into_a_new_release_is_the_new_build() {
    let (_directory, current) = releases();
    let mark = format!("mark-71009-{}", std::process::id());
    let (server, line) = Running::python(SERVER, &["tcp", "0", &mark], |command| {
        command.current_dir(&current).env("CURRENT", &current);
    });
    let workers: Vec<u32> = line.split(' ').take(2).map(|word| word.parse().unwrap()).collect();
    let mut identifier = identifier(&format!("{{ cmdline = '{mark}' }}"), "{ from = \"auto\" }");
    assert_eq!(pids(&mut identifier).len(), 3);
    flip(&current, "releases/2");
    server.signal(Signal::SIGHUP);
    let mut found = Vec::new();
    wait_until("the new worker runs", || {
        found = identifier.scan();
        found.len() == 4
    });
    for it in found {
        let expected = if workers.contains(&it.pid) { "rev-1" } else { "rev-2" };
        assert_eq!(it.build, Some(BuildId::from(expected)), "{}", it.pid);
    }
}

#[test]
fn children_belong_where_their_ancestors_do_unless_they_match_themselves() {
    let script = "import ctypes, subprocess, time\n\
                  def die_with_me(): ctypes.CDLL(None).prctl(1, 9)\nps = [subprocess.Popen(['/bin/sleep', n], preexec_fn=die_with_me) for n in ('71010', '71011')]\n\
                  print(*[p.pid for p in ps], flush=True)\ntime.sleep(600)";
    let (parent, line) = Running::python(script, &["mark-71010"], |command| {
        command.env("GIT_SHA", "abc");
    });
    let children: Vec<u32> = line.split(' ').map(|word| word.parse().unwrap()).collect();
    let env = "{ env = \"GIT_SHA\" }";
    let mut identifier = Identifier::new(&services(&[
        ("{ cmdline = 'mark-71010$' }", env),
        ("{ cmdline = '^/bin/sleep 71011$' }", env),
        ("{ exe = \"/bin/sleep\", cmdline = '71011' }", env),
    ]));
    let found: Vec<_> = identifier.scan().into_iter().map(|it| (it.pid, it.service)).collect();
    let mut expected = vec![(parent.pid(), 0), (children[0], 0), (children[1], 1)];
    expected.sort_unstable();
    assert_eq!(found, expected);
    let mut ambiguities = || -> Vec<String> {
        identifier.take_notices().into_iter().filter(|notice| notice.contains(" matches service ")).collect()
    };
    let notices = ambiguities();
    assert!(
        notices.len() == 1 && notices[0].contains("matches service \"s1\" and service \"s2\""),
        "{notices:?}"
    );
    identifier.identify(children[1]).unwrap();
    assert!(identifier.take_notices().is_empty(), "said once");
}

#[test]
fn a_reload_of_the_configuration_keeps_what_is_still_true() {
    let (directory, current) = releases();
    let running = Running::start(Running::sleep(71_012).current_dir(&current));
    let file = "{ file = \"REVISION\" }";
    let matcher = "{ cmdline = '^/bin/sleep 71012$' }";
    let mut identifier = Identifier::new(&services(&[(matcher, file)]));
    assert_eq!(build_of(&mut identifier, running.pid()), "rev-1");
    fs::remove_dir_all(directory.path().join("releases/1")).unwrap();
    identifier.reload(&services(&[(matcher, file), ("{ cmdline = 'nothing-71012' }", file)]));
    assert_eq!(identifier.scan()[0].build, Some(BuildId::from("rev-1")));
    identifier.reload(&services(&[("{ cmdline = 'nothing-71012' }", file)]));
    assert!(identifier.scan().is_empty(), "a service that no longer matches loses its processes");
}

#[test]
fn files_are_read_inside_the_root_of_the_process() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not run: chroot needs root");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("app")).unwrap();
    fs::create_dir_all(root.path().join("shared")).unwrap();
    fs::write(root.path().join("shared/REVISION"), "inside\n").unwrap();
    symlink("/shared/REVISION", root.path().join("app/REVISION")).unwrap();
    symlink("/app", root.path().join("current")).unwrap();
    let script = "import os, sys, time; os.chroot(sys.argv[1]); os.chdir('/app'); print('up', flush=True); time.sleep(600)";
    let (running, _) = Running::python(script, &[root.path().to_str().unwrap(), "mark-71013"], |_| {});
    let build = |source| build_of(&mut identifier("{ cmdline = 'mark-71013' }", source), running.pid());
    assert_eq!(build("{ file = \"REVISION\" }"), "inside");
    assert_eq!(build("{ file = \"/shared/REVISION\" }"), "inside");
    assert_eq!(build("{ file = \"../../../shared/REVISION\" }"), "inside");
    assert_eq!(build("{ symlink = \"/current\" }"), "app");
}

#[test]
fn listeners_are_looked_up_in_the_network_namespace_of_the_process() {
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    // Where the script cannot make a namespace of its own, the same port is taken and it says so.
    let script = "
import ctypes, socket, sys, time
if ctypes.CDLL(None).unshare(0x40000000) != 0:
    print('no namespace', flush=True); sys.exit()
s = socket.socket(); s.bind(('0.0.0.0', int(sys.argv[1]))); s.listen(); print('up', flush=True); time.sleep(600)";
    let (running, line) = Running::python(script, &[&port.to_string()], |command| {
        command.env("GIT_SHA", "abc");
    });
    if line != "up" {
        eprintln!("not run: a network namespace needs root");
        return;
    }
    // This process holds the port in its own namespace, but an agent never counts itself.
    assert_eq!(
        pids(&mut identifier(&format!("{{ listen = {port} }}"), "{ from = \"auto\" }")),
        [running.pid()]
    );
}

/// The mount point of the version 2 hierarchy, also of a hybrid host.
fn cgroup2() -> Option<PathBuf> {
    let mounts = procfs::process::Process::myself().unwrap().mountinfo().unwrap();
    mounts.0.into_iter().find(|mount| mount.fs_type == "cgroup2").map(|mount| mount.mount_point)
}

#[test]
fn processes_of_a_real_cgroup_that_is_named_as_a_unit() {
    let Some(top) = cgroup2() else {
        eprintln!("not run: no cgroup2 is mounted");
        return;
    };
    let slice = top.join("lwtest71014.slice");
    let unit = slice.join("shop@1.service");
    if let Err(error) = fs::create_dir_all(&unit) {
        eprintln!("not run: {} cannot be made: {error}", unit.display());
        return;
    }
    let running = Running::start(Running::sleep(71_014).env("GIT_SHA", "abc"));
    let source = "{ from = \"auto\" }";
    let mut by_unit = identifier("{ unit = \"shop@1.service\" }", source);
    let before = by_unit.identify(running.pid()).unwrap();
    fs::write(unit.join("cgroup.procs"), running.pid().to_string()).unwrap();
    let after = by_unit.identify(running.pid()).unwrap();
    let mut found = Vec::new();
    for matcher in [
        "{ unit = \"lwtest71014.slice\" }",
        "{ cgroup = \"/lwtest71014.slice\" }",
        "{ cgroup = \"/lwtest71014.slice/shop@1.service\", exe = \"/bin/sleep\" }",
        "{ cgroup = \"/lwtest71014\" }",
    ] {
        found.push(pids(&mut identifier(matcher, source)));
    }
    let pid = running.pid();
    drop(running);
    wait_until("the cgroup empties", || fs::remove_dir(&unit).is_ok());
    fs::remove_dir(&slice).unwrap();
    assert_eq!(before, None);
    assert_eq!(after.unwrap().build, Some(BuildId::from("abc")));
    assert_eq!(found, [vec![pid], vec![pid], vec![pid], vec![]]);
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

/// Run alone, with `--ignored --nocapture`: prints what identification costs on this host.
#[test]
#[ignore = "a measurement, not a check"]
fn cost() {
    let (_directory, current) = releases();
    let (server, line) = Running::python(SERVER, &["tcp", "0"], |command| {
        command.current_dir(&current);
    });
    let port = line.rsplit(' ').next().unwrap();
    let time = |what: &str, times: u32, run: &mut dyn FnMut()| {
        let begin = Instant::now();
        (0..times).for_each(|_| run());
        println!("{what}: {:.1} us", begin.elapsed().as_secs_f64() * 1e6 / f64::from(times));
    };
    println!("{} processes", all_pids().len());
    for matcher in
        [format!("{{ listen = {port} }}"), "{ unit = \"x.service\" }".into(), "{ exe = \"/x\" }".into()]
    {
        let mut identifier = identifier(&matcher, "{ from = \"auto\" }");
        println!("{matcher}");
        time("  first scan", 1, &mut || drop(identifier.scan()));
        std::thread::sleep(Duration::from_millis(500));
        for _ in 0..8 {
            identifier.scan();
            std::thread::sleep(Duration::from_millis(100));
        }
        time("  scan, known", 20, &mut || drop(identifier.scan()));
        time("  identify", 200, &mut || drop(identifier.identify(server.pid()).unwrap()));
        time("  is_same", 200, &mut || assert!(!identifier.is_same(server.pid(), 1)));
    }
}
