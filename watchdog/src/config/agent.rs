//! `[agent]`, and the flags of the same names that win over it.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::error::{ConfigError, ConfigErrors, Fault, Findings};
use super::section::{Node, Section};
use super::{AgentConfig, ControlOperator, defaults, values};

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            listen: defaults::LISTEN,
            state_dir: defaults::STATE_DIR.into(),
            control: defaults::CONTROL.into(),
            control_group: defaults::CONTROL_GROUP.to_owned(),
            control_operators: Vec::new(),
            min_coverage: defaults::MIN_COVERAGE,
            log: defaults::LOG.to_owned(),
        }
    }
}

/// What the command line says; `None` leaves the file's value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentOverrides {
    pub listen: Option<SocketAddr>,
    pub state_dir: Option<PathBuf>,
    pub control: Option<PathBuf>,
    pub control_group: Option<String>,
    pub control_operators: Option<Vec<String>>,
    pub min_coverage: Option<f64>,
    pub log: Option<String>,
}

impl AgentOverrides {
    /// Puts the flags' values over the file's, under the same checks. Nothing changes when any is refused.
    pub fn apply(&self, agent: &mut AgentConfig) -> Result<(), ConfigErrors> {
        let mut errors = Vec::new();
        let mut result = agent.clone();
        let path = |path: &PathBuf, example| {
            values::absolute_path(&path.to_string_lossy(), example).map(|_| path.clone())
        };
        over(&mut errors, "--listen", &mut result.listen, self.listen.map(values::loopback_address));
        let state_dir = self.state_dir.as_ref().map(|it| path(it, defaults::STATE_DIR));
        over(&mut errors, "--state-dir", &mut result.state_dir, state_dir);
        let control = self.control.as_ref().map(|it| path(it, defaults::CONTROL));
        over(&mut errors, "--control", &mut result.control, control);
        let group = self.control_group.as_deref().map(values::account);
        over(&mut errors, "--control-group", &mut result.control_group, group);
        let operators =
            self.control_operators.as_ref().map(|names| names.iter().map(|it| operator(it)).collect());
        over(&mut errors, "--control-operators", &mut result.control_operators, operators);
        let coverage = self.min_coverage.map(values::share);
        over(&mut errors, "--min-coverage", &mut result.min_coverage, coverage);
        over(&mut errors, "--log", &mut result.log, self.log.as_deref().map(values::log_filter));
        if errors.is_empty() {
            *agent = result;
            Ok(())
        } else {
            Err(errors.into())
        }
    }
}

fn over<T>(errors: &mut Vec<ConfigError>, flag: &str, slot: &mut T, value: Option<Result<T, Fault>>) {
    match value {
        None => {}
        Some(Ok(value)) => *slot = value,
        Some(Err(fault)) => errors.push(ConfigError {
            file: "command line".to_owned(),
            position: None,
            key: flag.to_owned(),
            problem: fault.problem,
            remedy: fault.remedy,
        }),
    }
}

pub(super) fn read(node: Option<Node<'_>>, findings: &mut Findings) -> AgentConfig {
    let mut agent = AgentConfig::default();
    let Some(mut section) = node.and_then(|node| node.table(findings, "[agent]")) else { return agent };
    let mut set = Setter { section: &mut section, findings };
    set.text("listen", "\"127.0.0.1:9847\"", &mut agent.listen, values::loopback);
    set.text("state_dir", "\"/var/lib/load-watchdog\"", &mut agent.state_dir, |text| {
        values::absolute_path(text, defaults::STATE_DIR)
    });
    set.text("control", "\"/run/load-watchdog/control.sock\"", &mut agent.control, |text| {
        values::absolute_path(text, defaults::CONTROL)
    });
    set.text("control_group", "\"adm\"", &mut agent.control_group, values::account);
    set.text("log", "\"info\"", &mut agent.log, values::log_filter);
    if let Some(node) = section.take("control_operators")
        && let Some(names) = operators(&node, findings)
    {
        agent.control_operators = names;
    }
    if let Some(node) = section.take("min_coverage")
        && let Some(number) = node.number(findings, "0.8")
        && let Some(share) = node.check(findings, values::share(number))
    {
        agent.min_coverage = share;
    }
    section.finish(findings);
    agent
}

/// Users, and groups with a `%` before their name.
fn operators(node: &Node<'_>, findings: &mut Findings) -> Option<Vec<ControlOperator>> {
    let names = node.texts(findings, "[\"ann\", \"%deploy\"]")?;
    let operators: Vec<_> = names.iter().map(|(text, node)| node.check(findings, operator(text))).collect();
    operators.into_iter().collect()
}

fn operator(text: &str) -> Result<ControlOperator, Fault> {
    values::account(text.strip_prefix('%').unwrap_or(text)).map(|_| ControlOperator::from(text))
}

struct Setter<'a, 'b, 't> {
    section: &'a mut Section<'t>,
    findings: &'a mut Findings<'b>,
}

impl Setter<'_, '_, '_> {
    fn text<T>(
        &mut self,
        key: &'static str,
        example: &str,
        slot: &mut T,
        read: impl FnOnce(&str) -> Result<T, Fault>,
    ) {
        if let Some(node) = self.section.take(key)
            && let Some(value) = node.text_as(self.findings, example, read)
        {
            *slot = value;
        }
    }
}
