//! Which processes belong to a service, by every condition.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{
    Identifier, Running, SERVER, all_pids, build_of, flip, identifier, pids, releases, services, wait_until,
};
use crate::model::BuildId;

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
        eprintln!("SKIPPED: chroot needs root");
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
        eprintln!("SKIPPED: a network namespace needs root");
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
        eprintln!("SKIPPED: no cgroup2 is mounted");
        return;
    };
    let slice = top.join("lwtest71014.slice");
    let unit = slice.join("shop@1.service");
    if let Err(error) = fs::create_dir_all(&unit) {
        eprintln!("SKIPPED: {} cannot be made: {error}", unit.display());
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
