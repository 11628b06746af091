//! Does what the command line says, and turns failures into messages and exit codes.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::output::{print, print_json, width};
use super::{Cli, Client, Command, HookCommand, IncidentsCommand, RunArgs, gate};
use crate::action::HookKind;
use crate::agent::{self, AgentOptions};
use crate::config::{AgentOverrides, Config, ConfigErrors};
use crate::control::client::{ClientError, ask};
use crate::control::{self, Outcome, RefusalCode, ledger, table};
use crate::kernel::{KernelError, KernelOptions};
use crate::{action, doctor, report, text};

/// A failure with its exit code, as in sysexits(3).
pub(super) struct Failure {
    pub(super) code: u8,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(code: u8, message: impl std::fmt::Display) -> Self {
        Self { code, message: format!("{message}") }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let code = if error.is::<KernelError>() {
            if nix::unistd::Uid::effective().is_root() { 69 } else { 77 }
        } else if error.is::<ConfigErrors>() {
            64
        } else if is_permission(&error) {
            77
        } else {
            1
        };
        Self::new(code, told(&error))
    }
}

/// The error and its causes, without those that it has told already.
fn told(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| {
        let cause = cause.to_string();
        match text.as_str() {
            "" => cause,
            told if told.contains(&cause) => text,
            told => format!("{told}: {cause}"),
        }
    })
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        anyhow::Error::from(error).into()
    }
}

fn is_permission(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(
            cause.downcast_ref::<ClientError>(),
            Some(ClientError::Permission { .. } | ClientError::Refused { code: RefusalCode::Forbidden, .. })
        ) || cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::PermissionDenied)
    })
}

/// Runs the command; everything it has to say about a failure goes to standard error.
pub fn run(cli: Cli) -> ExitCode {
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("load-watchdog: {}", text::lines(&failure.message));
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Run(arguments) => run_agent(arguments),
        Command::CheckConfig { file } => check_config(&file),
        Command::Doctor { config, json } => {
            let diagnosis = doctor::diagnose(config.as_deref());
            if json {
                print_json(&diagnosis)?;
            } else {
                print(&diagnosis.text())?;
            }
            Ok(ExitCode::from(diagnosis.worst().exit_code()))
        }
        Command::Status(client) => show(&client, &control::Command::Status),
        Command::Builds { command: None, client } => show(&client, &control::Command::Builds),
        Command::Builds { command: Some(decision), .. } => ask_for(decision.request()),
        Command::Incidents { command: None, client } => show(&client, &control::Command::Incidents),
        Command::Incidents { command: Some(IncidentsCommand::Show { id, html, client }), .. } => {
            let incident = control::Command::Incident { id };
            if html { show_page(&client, &incident) } else { show(&client, &incident) }
        }
        Command::Approve(of) => show(&of.client, &control::Command::Approve { incident: of.incident }),
        Command::Reject(of) => show(&of.client, &control::Command::Reject { incident: of.incident }),
        Command::Acknowledge(of) => {
            show(&of.client, &control::Command::Acknowledge { incident: of.incident })
        }
        Command::Mode(mode) => ask_for(mode.request()),
        Command::Pause(pause) => {
            show(&pause.client, &control::Command::Pause { for_seconds: pause.holds_for.as_secs() })
        }
        Command::Resume(client) => show(&client, &control::Command::Resume),
        Command::Audit(audit) => show(&audit.client, &control::Command::Audit { limit: audit.limit }),
        Command::Gate(arguments) => gate::run(&arguments),
        Command::Hook(HookCommand::Test { service, hook, config }) => hook_test(&service, &hook, &config),
    }
}

fn run_agent(arguments: RunArgs) -> Result<ExitCode, Failure> {
    let overrides = AgentOverrides {
        listen: arguments.listen,
        state_dir: arguments.state_dir,
        control: arguments.control,
        control_group: arguments.control_group,
        control_operators: arguments.control_operators,
        min_coverage: arguments.min_coverage,
        log: arguments.log,
    };
    let kernel = KernelOptions {
        sample_ring_bytes: arguments.sample_ring_bytes,
        probe_stats: arguments.probe_stats,
        ..KernelOptions::default()
    };
    agent::run(AgentOptions { config_file: arguments.config, overrides, kernel })?;
    Ok(ExitCode::SUCCESS)
}

fn check_config(file: &Path) -> Result<ExitCode, Failure> {
    let config = load(file)?;
    for warning in &config.warnings {
        eprintln!("note: {warning}");
    }
    let endpoints: usize = config.services.iter().map(|service| service.endpoints.len()).sum();
    print(&format!("{}: ok, {} services, {endpoints} endpoints\n", file.display(), config.services.len()))?;
    Ok(ExitCode::SUCCESS)
}

fn load(file: &Path) -> Result<Config, Failure> {
    Config::load(file).map_err(|errors| Failure::new(64, errors))
}

fn ask_for((command, client): (control::Command, Client)) -> Result<ExitCode, Failure> {
    show(&client, &command)
}

/// Asks the agent; builds, incidents and the audit trail come from the ledger when no agent answers.
/// The review of an incident as a page.
fn show_page(client: &Client, command: &control::Command) -> Result<ExitCode, Failure> {
    match answer(client, command)? {
        Outcome::Incident(detail) => {
            print(&report::html(&detail).map_err(anyhow::Error::from)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Error(refusal) => Err(Failure::new(1, refusal.message)),
        _ => Err(Failure::new(1, "the agent answered something else".to_owned())),
    }
}

/// What the agent says, or its ledger where that is enough.
fn answer(client: &Client, command: &control::Command) -> Result<Outcome, Failure> {
    Ok(match ask(&client.control, command.clone()) {
        Err(ClientError::NotRunning { .. }) if ledger::has(command) && ledger::exists(&client.state_dir) => {
            eprintln!(
                "note: no agent answers on {}; this is its ledger as it left it",
                client.control.display()
            );
            ledger::answer(&client.state_dir, command).map_err(anyhow::Error::from)?
        }
        answer => answer.map_err(anyhow::Error::from)?,
    })
}

fn show(client: &Client, command: &control::Command) -> Result<ExitCode, Failure> {
    match answer(client, command)? {
        Outcome::Status(snapshot) if client.json => print_json(&snapshot)?,
        Outcome::Builds(snapshot) if client.json => print_json(&snapshot)?,
        Outcome::Incidents(list) if client.json => print_json(&list)?,
        Outcome::Incident(detail) if client.json => print_json(&detail)?,
        Outcome::Audit(lines) if client.json => print_json(&lines)?,
        Outcome::Gate(answer) => print_json(&answer)?,
        Outcome::Status(snapshot) => print(&table::status(&snapshot, width()))?,
        Outcome::Builds(snapshot) => print(&table::builds(&snapshot, width()))?,
        Outcome::Incidents(list) => print(&table::incidents(&list, width()))?,
        Outcome::Incident(detail) => print(&table::incident(&detail, width()))?,
        Outcome::Audit(lines) => print(&table::audit(&lines, width()))?,
        Outcome::Done(message) if client.json => print_json(&serde_json::json!({ "done": message }))?,
        Outcome::Done(message) => print(&format!("{message}\n"))?,
        Outcome::Error(refusal) => return Err(Failure::new(1, refusal.message)),
    }
    Ok(ExitCode::SUCCESS)
}

fn hook_test(service: &str, hook: &str, config_file: &Path) -> Result<ExitCode, Failure> {
    let kind = HookKind::from_name(hook).unwrap_or(HookKind::Rollback);
    let config = load(config_file)?;
    for warning in &config.warnings {
        eprintln!("note: {warning}");
    }
    let Some(service) = config.services.iter().find(|candidate| candidate.name.as_str() == service) else {
        let known: Vec<&str> = config.services.iter().map(|known| known.name.as_str()).collect();
        let message = format!(
            "{} has no service {service:?}; it has: {}",
            config_file.display(),
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        );
        return Err(Failure::new(64, message));
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from)?;
    let run = runtime.block_on(action::hook_test(service, kind)).map_err(|error| Failure::new(64, error))?;
    let mut text = format!("The hook ended after {} ms: {}.\n", run.took_ms, run.outcome);
    let first = match &run.outcome {
        action::HookOutcome::NotConfirmed { .. } => "answer",
        _ => "standard output",
    };
    for (name, output) in [(first, &run.stdout), ("standard error", &run.stderr)] {
        if !output.is_empty() {
            let _ = writeln!(text, "--- {name} ---\n{}", output.trim_end());
        }
    }
    for note in &run.notes {
        let _ = writeln!(text, "note: {note}");
    }
    print(&text)?;
    Ok(ExitCode::from(u8::from(run.outcome != action::HookOutcome::Done)))
}
