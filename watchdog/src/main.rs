//! `load-watchdog`: see `load-watchdog --help`.

use std::process::ExitCode;

use clap::Parser as _;
use watchdog::action::{SUPERVISE, supervise};
use watchdog::cli::{Cli, run};

/// As in sysexits(3): the command line is part of the configuration.
const EX_USAGE: u8 = 64;

fn main() -> ExitCode {
    // Before anything else: a rollback waits for it.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|argument| argument == SUPERVISE) && arguments.next().is_none() {
        return supervise();
    }
    match Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(error) => {
            // Help and version are "errors" that go to standard output and succeed.
            let code = if error.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS };
            let _ = error.print();
            code
        }
    }
}
