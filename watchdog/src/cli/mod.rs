//! The command line: what a newcomer reads first. [`dispatch`] does what it says.

// Doc comments here are the help text, which shows backticks as they are.
#![expect(clippy::doc_markdown, reason = "read in a terminal")]

mod decide;
mod dispatch;
mod gate;
mod output;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use self::decide::{AuditArgs, BuildsCommand, GateArgs, IncidentArgs, ModeArgs, PauseArgs};
pub use self::dispatch::run;

/// Where the packages put the configuration.
pub const DEFAULT_CONFIG: &str = "/etc/load-watchdog/config.toml";
/// Where the agent listens for commands unless the configuration says otherwise.
pub const DEFAULT_CONTROL: &str = "/run/load-watchdog/control.sock";

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   failed; the message says why
  64  the configuration (or the command line) is wrong
  69  this kernel cannot run the programs; `load-watchdog doctor` says what is missing
  77  no permission; run as root";

const GATE_EXIT_CODES: &str = "\
Exit codes:
  0   within its budgets, or good
  1   exceeds, or known to be bad
  2   undecided, or no agent and no ledger could be asked; the message says why
  64  the command line is wrong, or no such service is configured
  77  no permission; run as root or as a member of the control group";

/// Measures CPU time per request in the kernel, per endpoint and per build, and
/// rolls a bad build back.
///
/// The agent runs beside your application server, unmodified. It measures with
/// eBPF what each request costs, compares a new build with its budget and with
/// the last good build, and runs your rollback command, once, when it exceeds.
///
/// First steps:
///   load-watchdog doctor                            can this machine run it?
///   load-watchdog check-config /etc/load-watchdog/config.toml
///   load-watchdog run --config /etc/load-watchdog/config.toml
///   load-watchdog status                            what it sees, from another terminal
#[derive(Debug, Parser)]
#[command(name = "load-watchdog", version, verbatim_doc_comment, after_long_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent: measure, judge, roll back.
    ///
    /// Needs root (or CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE, CAP_SYS_RESOURCE) and
    /// stays in the foreground; systemd runs it as load-watchdog.service. SIGTERM or
    /// Ctrl-C ends it within a second and detaches every kernel program; SIGHUP
    /// reloads the configuration, and a faulty one leaves the old one in force.
    ///
    /// Example:
    ///   load-watchdog run --config /etc/load-watchdog/config.toml --log debug
    #[command(verbatim_doc_comment, after_long_help = EXIT_CODES)]
    Run(RunArgs),

    /// Check a configuration file and say what is wrong, where, and what would be
    /// right.
    ///
    /// Touches nothing and needs no privilege. Exits 0 when the file is right, 64
    /// when it is not.
    ///
    /// Example:
    ///   load-watchdog check-config /etc/load-watchdog/config.toml && systemctl reload load-watchdog
    #[command(verbatim_doc_comment, after_long_help = EXIT_CODES)]
    CheckConfig {
        /// The file to check.
        #[arg(default_value = DEFAULT_CONFIG)]
        file: PathBuf,
    },

    /// Check whether this machine can run the agent; each line is ok or says what to
    /// do.
    ///
    /// Loads and attaches the kernel programs for a moment, then detaches them. Exits
    /// 0 when everything needed is there, 69 when the kernel cannot, 77 when
    /// permission is missing.
    ///
    /// Example:
    ///   sudo load-watchdog doctor --config /etc/load-watchdog/config.toml
    #[command(verbatim_doc_comment, after_long_help = EXIT_CODES)]
    Doctor {
        /// Also check what this configuration needs: state directory, socket, services.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON for machines.
        #[arg(long)]
        json: bool,
    },

    /// Show what the running agent sees: services, builds, cost per request, verdicts.
    ///
    /// Lines that begin with "!!" name what cannot be measured or judged, and what to
    /// do.
    ///
    /// Example:
    ///   load-watchdog status
    #[command(verbatim_doc_comment, after_long_help = EXIT_CODES)]
    Status(Client),

    /// List the builds that were seen and how they were judged, or decide on one.
    ///
    /// Examples:
    ///   load-watchdog builds
    ///   load-watchdog builds accept web 9f3c
    ///   load-watchdog builds condemn web 9f3c --for 24h
    ///   load-watchdog builds forget web 9f3c
    #[command(verbatim_doc_comment, args_conflicts_with_subcommands = true, after_long_help = EXIT_CODES)]
    Builds {
        #[command(subcommand)]
        command: Option<BuildsCommand>,
        #[command(flatten)]
        client: Client,
    },

    /// List incidents, or show one with its timeline.
    ///
    /// Examples:
    ///   load-watchdog incidents
    ///   load-watchdog incidents show 20270127-k3v9x0ab
    #[command(verbatim_doc_comment, args_conflicts_with_subcommands = true, after_long_help = EXIT_CODES)]
    Incidents {
        #[command(subcommand)]
        command: Option<IncidentsCommand>,
        #[command(flatten)]
        client: Client,
    },

    /// Try a service's rollback hook.
    #[command(subcommand)]
    Hook(HookCommand),

    /// Let an incident's rollback run that waits for approval.
    ///
    /// Needs root or one of agent.control_operators. The name of who approved goes
    /// into the incident's timeline and the audit trail.
    ///
    /// Example:
    ///   load-watchdog approve 20270127-k3v9x0ab
    #[command(verbatim_doc_comment, after_long_help = EXIT_CODES)]
    Approve(IncidentArgs),

    /// Close an incident that waits for approval: nothing is rolled back.
    ///
    /// Example:
    ///   load-watchdog reject 20270127-k3v9x0ab
    #[command(verbatim_doc_comment, after_long_help = EXIT_CODES)]
    Reject(IncidentArgs),

    /// Say that a person knows of an escalated or observed incident: it is not told
    /// again.
    ///
    /// Of a rollback that failed or did not help, this also lets the next one run.
    ///
    /// Example:
    ///   load-watchdog acknowledge 20270127-k3v9x0ab
    #[command(verbatim_doc_comment, after_long_help = EXIT_CODES)]
    Acknowledge(IncidentArgs),

    /// Give a service another mode than its configuration does, or that one again.
    ///
    /// Holds through restarts and reloads, until it is withdrawn ("configured") or,
    /// with --for, over. Incidents that are open go on as they began.
    ///
    /// Examples:
    ///   load-watchdog mode web observe --for 2h
    ///   load-watchdog mode web configured
    #[command(verbatim_doc_comment, after_long_help = EXIT_CODES)]
    Mode(ModeArgs),

    /// Let no rollback run by itself for a while, of any service.
    ///
    /// What would have run asks for approval. A hook that runs goes on.
    ///
    /// Example:
    ///   load-watchdog pause --for 30m
    #[command(verbatim_doc_comment, after_long_help = EXIT_CODES)]
    Pause(PauseArgs),

    /// End a pause before its time.
    #[command(after_long_help = EXIT_CODES)]
    Resume(Client),

    /// Show who decided what, the newest first: done, refused, and over.
    #[command(after_long_help = EXIT_CODES)]
    Audit(AuditArgs),

    /// Ask whether a build may go on, for pipelines; the answer is the exit code.
    ///
    /// Exits 0 when the build is within its budgets or good, 1 when it exceeds or is
    /// known to be bad, and 2 when nothing can be said yet or nobody can be asked; 1
    /// never means anything else. With --wait it asks again until it knows or the time
    /// is over.
    ///
    /// Example:
    ///   load-watchdog gate web "$GIT_SHA" --wait 10m
    #[command(verbatim_doc_comment, after_long_help = GATE_EXIT_CODES)]
    Gate(GateArgs),
}

#[derive(Debug, Subcommand)]
pub enum IncidentsCommand {
    /// Show one incident: what was seen, what was decided, what was run, how it ended.
    #[command(visible_alias = "report", after_long_help = EXIT_CODES)]
    Show {
        /// The incident's id, as `load-watchdog incidents` shows it.
        id: String,
        /// Print the review as one HTML page that needs nothing beside itself.
        #[arg(long, conflicts_with = "json")]
        html: bool,
        #[command(flatten)]
        client: Client,
    },
}

#[derive(Debug, Subcommand)]
pub enum HookCommand {
    /// Run one of a service's hooks with a payload that is marked as a test.
    ///
    /// The hook gets LOAD_WATCHDOG_TEST=1 and "test": true in its JSON; it should
    /// check its inputs and change nothing. Runs it as the configured user, with the
    /// configured timeout, and prints its exit code and output; of a webhook, what
    /// its endpoint answered. Exits 0 when the hook exited 0 or the endpoint
    /// confirmed, 1 otherwise.
    ///
    /// Examples:
    ///   sudo load-watchdog hook test web
    ///   sudo load-watchdog hook test web --hook escalate
    #[command(verbatim_doc_comment, after_long_help = EXIT_CODES)]
    Test {
        /// The service, as [[service]] name in the configuration.
        service: String,
        /// Which of its hooks.
        #[arg(long, value_name = "HOOK", default_value = "rollback",
              value_parser = ["pre", "rollback", "post", "escalate"])]
        hook: String,
        /// The configuration file.
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
}

/// Flags of the commands that ask the running agent.
#[derive(Clone, Debug, Args)]
pub struct Client {
    /// Print JSON for machines; its field names are stable.
    #[arg(long)]
    pub json: bool,
    /// The agent's control socket.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONTROL)]
    pub control: PathBuf,
    /// Where the agent keeps its ledger, read when no agent answers.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/load-watchdog")]
    pub state_dir: PathBuf,
}

/// Flags of `run`. Each that names a key of `[agent]` wins over the file.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Address of /metrics and /healthz [agent.listen].
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Directory of the ledger [agent.state_dir].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Control socket [agent.control].
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// Group that may read over the control socket [agent.control_group].
    #[arg(long, value_name = "GROUP")]
    pub control_group: Option<String>,
    /// Users, and groups with a % before their name, that may change something over the
    /// control socket beside root, separated by commas [agent.control_operators].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub control_operators: Option<Vec<String>>,
    /// Smallest share of CPU time that must be attributed for a verdict, 0 to 1
    /// [agent.min_coverage].
    #[arg(long, value_name = "SHARE")]
    pub min_coverage: Option<f64>,
    /// Log level, or a filter such as "info,watchdog::kernel=debug" [agent.log].
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// Let the kernel count runs and run time of each program, exported as probe_run
    /// metrics.
    ///
    /// Costs two clock reads per run, so it is off otherwise.
    #[arg(long)]
    pub probe_stats: bool,
    /// Bytes of the sample ring, a power of two; for tests of its overflow.
    #[arg(long, hide = true, value_name = "BYTES")]
    pub sample_ring_bytes: Option<u32>,
}

/// The whole command line, for man pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does() {
        fn walk(command: &clap::Command) {
            for sub in command.get_subcommands() {
                assert!(sub.get_about().is_some(), "{} has no help", sub.get_name());
                for argument in sub.get_arguments().filter(|a| !a.is_hide_set()) {
                    assert!(
                        argument.get_help().is_some(),
                        "{} {} has no help",
                        sub.get_name(),
                        argument.get_id()
                    );
                }
                walk(sub);
            }
        }
        walk(&command());
    }
}
