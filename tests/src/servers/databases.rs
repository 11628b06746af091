//! PostgreSQL and Redis beside an application, with a new and empty set of data each time.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};
use nix::unistd::geteuid;

use super::{Role, Running, free_port, installed, program};

/// Starts PostgreSQL; the URL of its database.
pub(super) fn postgres(running: &mut Running) -> anyhow::Result<String> {
    let programs = postgres_programs()?;
    let data = running.folder().join("postgres");
    let port = free_port()?;
    let made = unprivileged(programs.join("initdb"))
        .args(["--username=shop", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--pgdata"])
        .arg(&data)
        .output()
        .context("starting initdb")?;
    ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
    let mut server = unprivileged(programs.join("postgres"));
    server.arg("-D").arg(&data).args(["-h", "127.0.0.1", "-p", &port.to_string(), "-k", ""]).args([
        // Nobody misses the data, and a disk's mood is nothing to measure.
        "-c",
        "fsync=off",
        "-c",
        "jit=off",
    ]);
    running.start("postgres", Role::Helper, &mut server)?;
    running.await_that(|| {
        let ready = Command::new(programs.join("pg_isready"))
            .args(["--quiet", "-h", "127.0.0.1", "-p", &port.to_string()])
            .status()
            .context("starting pg_isready")?;
        ensure!(ready.success(), "PostgreSQL takes no connections: {ready}");
        Ok(())
    })?;
    Ok(format!("postgres://shop@127.0.0.1:{port}/postgres"))
}

/// Starts Redis; its URL.
pub(super) fn redis(running: &mut Running) -> anyhow::Result<String> {
    let port = free_port()?;
    let mut server = redis_program()?;
    server
        .args([
            "--bind",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
        ])
        .arg(running.folder());
    running.start("redis", Role::Helper, &mut server)?;
    running.await_that(|| {
        std::net::TcpStream::connect(("127.0.0.1", port))?;
        Ok(())
    })?;
    Ok(format!("redis://127.0.0.1:{port}"))
}

/// The folder of the newest PostgreSQL's programs: the system's, or what setup unpacked.
fn postgres_programs() -> anyhow::Result<PathBuf> {
    let roots = [Some(PathBuf::from("/usr/lib/postgresql")), installed("postgresql/usr/lib/postgresql").ok()];
    roots
        .into_iter()
        .flatten()
        .flat_map(|root| std::fs::read_dir(root).into_iter().flatten().flatten())
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin")))
        })
        .filter(|(_, programs)| programs.join("initdb").is_file() && programs.join("pg_isready").is_file())
        .max()
        .map(|(_, programs)| programs)
        .context("no PostgreSQL in /usr/lib/postgresql: run `cargo xtask setup servers`")
}

/// redis-server, or what setup unpacked: the program that is redis-server when it is called so.
fn redis_program() -> anyhow::Result<Command> {
    if let Ok(path) = program("redis-server", &["/usr/sbin/redis-server"]) {
        return Ok(Command::new(path));
    }
    let packages = installed("redis")?;
    let mut libraries = Vec::new();
    for package in std::fs::read_dir(&packages)?.flatten() {
        let below = std::fs::read_dir(package.path().join("usr/lib")).into_iter().flatten().flatten();
        libraries.extend(below.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    let mut command = Command::new(packages.join("redis-tools/usr/bin/redis-check-rdb"));
    command.arg0("redis-server").env("LD_LIBRARY_PATH", std::env::join_paths(libraries)?);
    Ok(command)
}

/// A command that is not root to PostgreSQL, which refuses to run as that: in a user namespace of its own root is
/// somebody else, with the same files. Its end with this process, which a change of user undoes, is asked for anew.
fn unprivileged(program: PathBuf) -> Command {
    if !geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-user=1000", "--map-group=1000", "--"])
        .args(["setpriv", "--pdeathsig", "TERM", "--"])
        .arg(program);
    command
}
