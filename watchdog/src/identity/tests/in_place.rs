//! Builds that change under processes that run.

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;

/// Waits until something may have changed; which processes' build is to be asked for again.
fn changed(identifier: &mut Identifier) -> Vec<u32> {
    let fd = identifier.changes_fd().expect("inotify is there").try_clone_to_owned().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let pids = identifier.changed();
        if !pids.is_empty() {
            return pids;
        }
        assert!(Instant::now() < deadline, "no change was seen");
        poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], PollTimeout::from(1000_u16)).unwrap();
    }
}

fn problem_of_following(identifier: &Identifier) -> Option<String> {
    identifier.following(0).iter().find_map(Following::problem)
}

/// A copy of `sleep` under this name.
fn sleep_named(folder: &Path, name: &str) -> Command {
    let program = folder.join(name);
    if !program.exists() {
        fs::copy("/bin/sleep", &program).unwrap();
    }
    let mut command = Command::new(program);
    command.arg("600").env_clear().current_dir("/");
    command
}

fn in_place(current: &Path) -> String {
    format!("{{ symlink = \"{}\", in_place = true }}", current.display())
}

#[test]
fn a_symlink_moves_the_processes_that_run() {
    let (directory, current) = releases();
    let running = [0, 1].map(|_| Running::start(&mut Running::sleep(71_101)));
    let mut pids: Vec<u32> = running.iter().map(Running::pid).collect();
    pids.sort_unstable();
    let mut identifier = by_mark(71_101, &in_place(&current));
    assert_eq!(build_of(&mut identifier, pids[0]), "1");
    assert_eq!(build_of(&mut identifier, pids[1]), "1");
    assert_eq!(identifier.changed(), Vec::<u32>::new());

    // In one step, as `ln -s` and `mv -T` do; and back.
    for (target, build) in [("releases/2", "2"), ("releases/1", "1")] {
        std::thread::sleep(Duration::from_millis(50));
        flip(&current, target);
        assert_eq!(changed(&mut identifier), pids);
        for pid in &pids {
            let identified = identifier.identify(*pid).unwrap().unwrap();
            assert_eq!(identified.build, Some(BuildId::from(build)));
            assert!(identified.is_in_place());
            assert!(identified.age() < Duration::from_millis(50), "since the flip: {:?}", identified.age());
        }
        assert_eq!(identifier.changed(), Vec::<u32>::new());
    }

    // Removed and made anew, with a gap in between: the build stays until there is another one.
    fs::remove_file(&current).unwrap();
    assert_eq!(changed(&mut identifier), pids);
    assert_eq!(build_of(&mut identifier, pids[0]), "1");
    let problem = problem_of_following(&identifier).unwrap();
    assert!(
        problem.contains("current cannot be read: ENOENT") || problem.contains("No such file"),
        "{problem}"
    );
    let late = Running::start(&mut Running::sleep(71_101));
    let problem = identifier.identify(late.pid()).unwrap().unwrap().problem.unwrap();
    assert!(problem.contains("it must be a symlink to the release in use"), "{problem}");
    symlink(directory.path().join("releases/2"), &current).unwrap();
    changed(&mut identifier);
    let found = identifier.scan();
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|it| it.build == Some(BuildId::from("2"))), "{found:?}");
    assert_eq!(problem_of_following(&identifier), None);
}

#[test]
fn chained_links_and_directories_that_are_replaced() {
    let (directory, current) = releases();
    let web = directory.path();
    let stable = web.join("releases/stable");
    symlink("1", &stable).unwrap();
    flip(&current, "releases/stable");
    let running = Running::start(&mut Running::sleep(71_102));
    let mut identifier = by_mark(71_102, &in_place(&current));
    assert_eq!(build_of(&mut identifier, running.pid()), "1");
    // The second link of the chain.
    flip(&stable, "2");
    changed(&mut identifier);
    assert_eq!(build_of(&mut identifier, running.pid()), "2");
    // Its release is renamed away: the link in between is no build.
    fs::rename(web.join("releases/2"), web.join("releases/3")).unwrap();
    changed(&mut identifier);
    assert_eq!(build_of(&mut identifier, running.pid()), "2");
    let problem = problem_of_following(&identifier).unwrap();
    assert!(problem.contains("current leads to releases/2, which cannot be opened"), "{problem}");
    flip(&stable, "3");
    changed(&mut identifier);
    assert_eq!(build_of(&mut identifier, running.pid()), "3");
    // The whole directory of releases gives way to another one.
    fs::create_dir_all(web.join("others/9")).unwrap();
    symlink("9", web.join("others/stable")).unwrap();
    fs::rename(web.join("releases"), web.join("before")).unwrap();
    fs::rename(web.join("others"), web.join("releases")).unwrap();
    wait_until("the other directory is followed", || {
        identifier.changed();
        build_of(&mut identifier, running.pid()) == "9"
    });
    flip(&stable, "../before/1");
    changed(&mut identifier);
    assert_eq!(build_of(&mut identifier, running.pid()), "1");
}

#[test]
fn services_on_one_link_share_its_watches_and_leave_none_behind() {
    let (directory, current) = releases();
    let (one, two) =
        (Running::start(&mut Running::sleep(71_103)), Running::start(&mut Running::sleep(71_104)));
    let source = in_place(&current);
    let [first, second] = [71_103, 71_104].map(|mark| format!("{{ cmdline = '^/bin/sleep {mark}$' }}"));
    let both = services(&[(&first, &source), (&second, &source)]);
    let mut identifier = Identifier::new(&both);
    assert_eq!(build_of(&mut identifier, one.pid()), "1");
    assert_eq!(build_of(&mut identifier, two.pid()), "1");
    assert_eq!(identifier.sources.watch_count(), 2, "of the link and of the release");
    // What else happens in the same directory is nobody's business.
    fs::write(directory.path().join("access.log"), "x").unwrap();
    fs::write(directory.path().join("releases/x"), "x").unwrap();
    assert_eq!(identifier.changed(), Vec::<u32>::new());

    // Later than both started, beyond the doubt of their clock's tick.
    std::thread::sleep(Duration::from_millis(50));
    flip(&current, "releases/2");
    let mut expected = vec![one.pid(), two.pid()];
    expected.sort_unstable();
    assert_eq!(changed(&mut identifier), expected);
    assert_eq!(build_of(&mut identifier, one.pid()), "2");
    assert_eq!(build_of(&mut identifier, two.pid()), "2");

    // A new configuration: the second is not in place any more, and keeps what it was started with.
    let now = services(&[(&first, &source), (&second, &source.replace("true", "false"))]);
    identifier.reload(&now);
    assert_eq!(build_of(&mut identifier, one.pid()), "2");
    let problem = problem_of(&mut identifier, two.pid());
    assert!(
        problem.contains("or say in_place = true if it serves the new release without a restart"),
        "{problem}"
    );
    assert!(matches!(identifier.following(1).as_slice(), [Following::Start { processes: 1 }]));
    identifier.reload(&both);
    assert_eq!(build_of(&mut identifier, two.pid()), "2");

    let pids = [one.pid(), two.pid()];
    drop((one, two));
    pids.map(|pid| identifier.forget(pid));
    assert_eq!(identifier.sources.watch_count(), 0);
    flip(&current, "releases/1");
    assert_eq!(identifier.changed(), Vec::<u32>::new());
}

#[test]
fn a_file_that_is_rewritten_in_place() {
    let directory = tempfile::tempdir().unwrap();
    let revision = directory.path().join("REVISION");
    fs::write(&revision, "a\n").unwrap();
    let running = Running::start(Running::sleep(71_105).current_dir(directory.path()));
    let mut identifier = by_mark(71_105, "{ file = \"REVISION\", in_place = true }");
    assert_eq!(build_of(&mut identifier, running.pid()), "a");
    fs::write(&revision, "b\n").unwrap();
    changed(&mut identifier);
    assert_eq!(build_of(&mut identifier, running.pid()), "b");
    // Empty for a moment.
    fs::write(&revision, "").unwrap();
    changed(&mut identifier);
    assert_eq!(build_of(&mut identifier, running.pid()), "b");
    assert!(problem_of_following(&identifier).unwrap().contains("REVISION is empty"));
    // Another file under the name, and that one rewritten.
    fs::write(directory.path().join("next"), "c\n").unwrap();
    fs::rename(directory.path().join("next"), &revision).unwrap();
    changed(&mut identifier);
    assert_eq!(build_of(&mut identifier, running.pid()), "c");
    fs::write(&revision, "d\n").unwrap();
    changed(&mut identifier);
    assert_eq!(build_of(&mut identifier, running.pid()), "d");
}

#[test]
fn without_inotify_the_path_is_looked_at_and_the_status_says_so() {
    let (_directory, current) = releases();
    let running = Running::start(&mut Running::sleep(71_106));
    let mut identifier = by_mark(71_106, &in_place(&current));
    identifier.sources = Sources::with(Err("making an inotify instance was refused: a limit".to_owned()));
    assert!(identifier.changes_fd().is_none());
    assert_eq!(build_of(&mut identifier, running.pid()), "1");
    assert_eq!(identifier.take_notices(), ["making an inotify instance was refused: a limit"]);
    let [following] = identifier.following(0).try_into().unwrap();
    assert!(
        following
            .to_string()
            .ends_with("looked at every 500 ms only, for making an inotify instance was refused: a limit")
    );
    flip(&current, "releases/2");
    let begin = Instant::now();
    wait_until("the flip is seen", || identifier.changed() == [running.pid()]);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(build_of(&mut identifier, running.pid()), "2");
    assert_eq!(identifier.take_notices(), Vec::<String>::new(), "told once");
}

#[test]
fn programs_that_load_code_at_each_request_need_no_word() {
    let (directory, current) = releases();
    std::thread::sleep(Duration::from_millis(30));
    let mut php = sleep_named(directory.path(), "php-fpm8.2");
    let running = Running::start(&mut php);
    let matcher = format!("{{ exe = \"{}\" }}", directory.path().join("php-fpm8.2").display());
    let link = format!("symlink = \"{}\"", current.display());
    let mut by_itself = identifier(&matcher, &format!("{{ {link} }}"));
    let mut refused = identifier(&matcher, &format!("{{ {link}, in_place = false }}"));
    assert_eq!(build_of(&mut by_itself, running.pid()), "1");
    assert_eq!(build_of(&mut refused, running.pid()), "1");
    assert_eq!(
        by_itself.following(0)[0].to_string(),
        format!(
            "1 process: the build changes in place, with {} (php-fpm loads its code at each request)",
            current.display()
        )
    );
    assert_eq!(
        refused.following(0)[0].to_string(),
        "1 process: the build is the one that the process was started with"
    );
    std::thread::sleep(Duration::from_millis(50));
    flip(&current, "releases/2");
    changed(&mut by_itself);
    assert_eq!(build_of(&mut by_itself, running.pid()), "2");
    assert_eq!(refused.changed(), Vec::<u32>::new());
    assert_eq!(build_of(&mut refused, running.pid()), "1", "what was known stays");
    // Where it stands says nothing: its workers change their directory for each request.
    let standing = Running::start(php.current_dir(current.join("../2")));
    let problem = problem_of(&mut identifier(&matcher, "{ from = \"auto\" }"), standing.pid());
    assert!(problem.starts_with("php-fpm loads the application's code at each request"), "{problem}");
}
