//! Java: a servlet in an embedded Tomcat, with PBKDF2 in the thread of the request. Beside the requests the virtual
//! machine compiles and collects garbage in threads of its own.

use std::process::Command;

use anyhow::{Context as _, ensure};

use super::{EXACT, Role, Running, Server, application, free_port, installed, mix, program};
use crate::load::{LoadOptions, Target, run};

/// Requests before the server counts as ready: enough for what they run to be compiled for good.
const WARM_UP: u64 = 1_200;
const WARM_UP_CONCURRENCY: usize = 8;

pub(super) const SERVERS: &[Server] = &[Server {
    name: "tomcat",
    model: "a pool of threads, fed by a poller thread; compiler and collector beside them",
    bound: EXACT,
    start,
}];

fn start() -> anyhow::Result<Running> {
    let port = free_port()?;
    let mut running = Running::new(Target::Tcp(([127, 0, 0, 1], port).into()))?;
    let shop = installed("java/Shop.class")?;
    let classes = shop.parent().context("the class lies in a folder")?;
    let mut command = Command::new(program("java", &[])?);
    command
        .arg(format!("@{}", application("java/tomcat.args").display()))
        .arg("Shop")
        .current_dir(classes)
        .env("PORT", port.to_string())
        .env("BASE_DIR", running.folder());
    running.start("tomcat", Role::Server, &mut command)?;
    let running = running.ready()?;
    let options = LoadOptions::new(running.target.clone(), mix(), WARM_UP);
    let report = run(LoadOptions { concurrency: WARM_UP_CONCURRENCY, ..options })?;
    ensure!(report.failures == 0, "{} of {WARM_UP} requests failed in the warm-up", report.failures);
    Ok(running)
}
