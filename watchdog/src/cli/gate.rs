//! `gate`: asks until something can be said of a build, and says it by exit code.

use std::process::ExitCode;
use std::time::Duration;

use super::decide::GateArgs;
use super::dispatch::Failure;
use super::output::{print, print_json};
use crate::clock;
use crate::control::client::{ClientError, ask};
use crate::control::{Command, GateAnswer, GateVerdict, Outcome, RefusalCode, ledger};

const ASK_EVERY: Duration = Duration::from_millis(500);

/// What came of asking once.
enum Asked {
    Answer(GateAnswer),
    /// Nobody could be asked; it may be otherwise in a moment.
    Nobody(String),
}

pub(super) fn run(arguments: &GateArgs) -> Result<ExitCode, Failure> {
    let began_mono_ns = clock::mono_ns();
    let wait_ns = arguments.wait.map_or(0, |wait| u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX));
    loop {
        let asked = ask_once(arguments)?;
        let decided = matches!(&asked, Asked::Answer(answer) if answer.answer != GateVerdict::Undecided);
        if decided || clock::mono_ns().saturating_sub(began_mono_ns) >= wait_ns {
            return tell(arguments, asked);
        }
        std::thread::sleep(ASK_EVERY);
    }
}

fn tell(arguments: &GateArgs, asked: Asked) -> Result<ExitCode, Failure> {
    let answer = match asked {
        Asked::Answer(answer) => answer,
        Asked::Nobody(why) => return Err(Failure::new(GateVerdict::Undecided.exit_code(), why)),
    };
    // Not 1: that is an answer.
    let failed = |error: anyhow::Error| Failure::new(GateVerdict::Undecided.exit_code(), error);
    if arguments.client.json {
        print_json(&answer).map_err(failed)?;
    } else {
        let word = match answer.answer {
            GateVerdict::Within => "within",
            GateVerdict::Exceeds => "EXCEEDS",
            GateVerdict::KnownBad => "KNOWN BAD",
            GateVerdict::Undecided => "undecided",
        };
        print(&format!("{word}: {}\n", answer.sentence)).map_err(|error| failed(error.into()))?;
    }
    Ok(ExitCode::from(answer.answer.exit_code()))
}

fn ask_once(arguments: &GateArgs) -> Result<Asked, Failure> {
    let client = &arguments.client;
    let command =
        Command::Gate { service: arguments.service.as_str().into(), build: arguments.build.as_str().into() };
    command.check().map_err(|why| Failure::new(64, why))?;
    match ask(&client.control, command.clone()) {
        Ok(Outcome::Gate(answer)) => Ok(Asked::Answer(answer)),
        Ok(other) => Ok(Asked::Nobody(format!("the agent answered something else: {other:?}"))),
        Err(ClientError::NotRunning { .. }) if ledger::exists(&client.state_dir) => {
            Ok(from_ledger(arguments, &command))
        }
        Err(error @ ClientError::Permission { .. }) => Err(Failure::new(77, error)),
        Err(error @ ClientError::Refused { code: RefusalCode::Forbidden, .. }) => {
            Err(Failure::new(77, error))
        }
        Err(error @ ClientError::Refused { code: RefusalCode::NotFound, .. }) => Err(Failure::new(64, error)),
        Err(error) => Ok(Asked::Nobody(error.to_string())),
    }
}

/// What is known to be good or bad is so without an agent too; nothing is measured then.
fn from_ledger(arguments: &GateArgs, command: &Command) -> Asked {
    match ledger::answer(&arguments.client.state_dir, command) {
        Ok(Outcome::Gate(mut answer)) => {
            if answer.answer == GateVerdict::Undecided {
                answer.sentence.push_str(", and no agent runs that could measure it");
            }
            Asked::Answer(answer)
        }
        Ok(other) => Asked::Nobody(format!("the ledger answered something else: {other:?}")),
        Err(error) => Asked::Nobody(error.to_string()),
    }
}
