//! Perl: see tests/apps/perl.

use std::process::Command;

use super::{Role, Running, SHARED, Server, application, free_address, program};
use crate::load::Target;

pub(super) const SERVERS: &[Server] = &[Server {
    name: "mojolicious",
    model: "one loop, which works on a request as soon as it has read it, and answers at the end of its turn",
    bound: SHARED,
    start,
}];

fn start() -> anyhow::Result<Running> {
    let address = free_address()?;
    let mut running = Running::new(Target::Tcp(address))?;
    let mut command = Command::new(program("perl", &[])?);
    command.arg(application("perl/shop.pl"));
    command.args(["daemon", "--mode", "production", "--listen", &format!("http://{address}")]);
    running.start("mojolicious", Role::Server, &mut command)?;
    running.ready()
}
