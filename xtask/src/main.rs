//! The project's own commands. `cargo xtask --help` lists them.

mod bench;
mod cargo;
mod codegen;
mod demo;
mod descendants;
mod fuzz;
mod paths;
mod process;
mod setup;
mod test;
mod toolchain;
mod vectors;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The commands of load-watchdog's workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Bench(bench::Args),
    Codegen(codegen::Args),
    Demo(demo::Args),
    Fuzz(fuzz::Args),
    Setup(setup::Args),
    Test(test::Args),
    Vectors(vectors::Args),
    Vm(vm::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Codegen(args) => codegen::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Setup(args) => setup::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Vectors(args) => vectors::run(&args),
        Command::Vm(args) => vm::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
