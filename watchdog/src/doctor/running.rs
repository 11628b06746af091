//! What the running agent cannot see of each service, and what would help: asked over its control socket.

use std::path::Path;

use super::{Check, Level};
use crate::control::client::{ClientError, ask};
use crate::control::{Command, Outcome, ServiceStatus};

/// One line for the agent, and one for each service.
pub(super) fn services(control: &Path) -> Vec<Check> {
    const NAME: &str = "agent";
    match ask(control, Command::Status) {
        Ok(Outcome::Status(status)) => {
            let finding = format!(
                "pid {} answers on {}, {} services",
                status.agent.pid,
                control.display(),
                status.services.len()
            );
            let mut checks = vec![Check::ok(NAME, finding)];
            checks.extend(status.services.iter().map(service));
            checks
        }
        Ok(_) => vec![Check::bad(
            Level::Warning,
            NAME,
            "it answered something else than its status",
            "restart it: it is of another version than this command",
        )],
        Err(ClientError::NotRunning { .. }) => vec![Check::bad(
            Level::Warning,
            NAME,
            format!("none answers on {}", control.display()),
            "what of the services' traffic can be read is known once it runs",
        )],
        Err(error) => vec![Check::bad(
            Level::Warning,
            NAME,
            error.to_string(),
            "what of the services' traffic can be read is not known",
        )],
    }
}

/// The worst that is wrong with it, with the remedy in the same sentence.
fn service(status: &ServiceStatus) -> Check {
    const NAME: &str = "service";
    let hidden: f64 = status.hidden.values().sum();
    let coverage = status.coverage.map_or_else(
        || "how much of its CPU time could be charged to requests cannot be told".to_owned(),
        |coverage| format!("{:.0} % of its CPU time charged to requests", 100.0 * coverage),
    );
    let finding = format!(
        "{}: {} processes, {:.0} % of what it receives cannot be read, {coverage}",
        status.service,
        status.processes,
        100.0 * hidden
    );
    let finding =
        if status.notes.is_empty() { finding } else { format!("{finding}. {}", status.notes.join(" ")) };
    if status.problems.is_empty() {
        return Check::ok(NAME, finding);
    }
    Check::bad(Level::Warning, NAME, finding, status.problems.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;

    #[test]
    fn a_service_whose_traffic_is_hidden_is_named_with_what_would_help() {
        let status = ServiceStatus {
            service: "web".into(),
            mode: Mode::Observe,
            configured_mode: None,
            observed: crate::decision::Observed::default(),
            processes: 3,
            coverage: Some(0.4),
            min_coverage: 0.8,
            hidden: [("tls".to_owned(), 0.62)].into(),
            following: Vec::new(),
            notes: Vec::new(),
            problems: vec!["62 % of what web receives is TLS: let the agent read it.".to_owned()],
            open_incident: None,
            release_window: None,
            builds: Vec::new(),
        };
        let check = service(&status);
        assert_eq!(check.level, Level::Warning);
        assert_eq!(
            check.finding,
            "web: 3 processes, 62 % of what it receives cannot be read, 40 % of its CPU time charged to requests"
        );
        assert!(check.remedy.unwrap().contains("let the agent read it"));
        let notes = vec!["Requests of web come by HTTP/2.".to_owned()];
        let well = ServiceStatus { notes, problems: Vec::new(), hidden: [].into(), coverage: None, ..status };
        let check = service(&well);
        assert_eq!(check.level, Level::Ok);
        assert!(
            check.finding.ends_with("cannot be told. Requests of web come by HTTP/2."),
            "{}",
            check.finding
        );
    }

    #[test]
    fn no_agent_is_a_note_and_no_failure() {
        let checks = services(Path::new("/nonexistent/control.sock"));
        assert_eq!((checks.len(), checks[0].level), (1, Level::Warning));
    }
}
