//! Whether a build may go on, for pipelines: one answer from all that is known, as a function of values.

use serde::{Deserialize, Serialize};

use crate::decision::{Decisions, Opinion};
use crate::incident::BuildState;
use crate::model::{BuildId, ServiceName};

/// The answer of `gate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateVerdict {
    /// Within its budgets so far, or good.
    Within,
    Exceeds,
    /// Condemned, by an incident or by a person.
    KnownBad,
    /// Nothing can be said yet, and why.
    Undecided,
}

impl GateVerdict {
    /// Of the command's process.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Within => 0,
            Self::Exceeds | Self::KnownBad => 1,
            Self::Undecided => 2,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateAnswer {
    pub service: ServiceName,
    pub build: BuildId,
    pub answer: GateVerdict,
    pub sentence: String,
}

/// What is known of a build.
#[derive(Clone, Debug)]
pub struct GateFacts<'a> {
    pub service: &'a ServiceName,
    pub build: &'a BuildId,
    pub decisions: &'a Decisions,
    /// State in the ledger, and why it has it; `None`: the ledger does not know the build.
    pub ledger: Option<(BuildState, &'a str)>,
    /// Id and state of an incident of this build that is open.
    pub open_incident: Option<(&'a str, &'a str)>,
    /// Label and sentence of the verdict, while the build is judged.
    pub verdict: Option<(&'a str, &'a str)>,
}

/// What people decided comes first, then the ledger, then what is measured now.
pub fn answer(facts: &GateFacts<'_>) -> GateAnswer {
    let (answer, sentence) = judge(facts);
    GateAnswer { service: facts.service.clone(), build: facts.build.clone(), answer, sentence }
}

fn judge(facts: &GateFacts<'_>) -> (GateVerdict, String) {
    let (service, build) = (facts.service, facts.build);
    match facts.decisions.build(service, build) {
        Some((decision, Opinion::Accepted)) => {
            return (GateVerdict::Within, format!("build {build} was accepted by {}", decision.who));
        }
        Some((decision, Opinion::Condemned)) => {
            return (GateVerdict::KnownBad, format!("build {build} was condemned by {}", decision.who));
        }
        None => {}
    }
    let on_endpoint = facts
        .decisions
        .of_build(service, build)
        .filter(|(_, _, opinion)| *opinion == Opinion::Condemned)
        .find_map(|(decision, endpoint, _)| Some((decision, endpoint?)));
    if let Some((decision, endpoint)) = on_endpoint {
        let sentence = format!("build {build} was condemned by {} on endpoint {endpoint}", decision.who);
        return (GateVerdict::KnownBad, sentence);
    }
    if let Some((BuildState::Condemned, why)) = facts.ledger {
        return (GateVerdict::KnownBad, format!("build {build} is condemned: {why}"));
    }
    if let Some((incident, state)) = facts.open_incident {
        return (GateVerdict::Exceeds, format!("incident {incident} of build {build} is open ({state})"));
    }
    match (facts.ledger, facts.verdict) {
        (Some((BuildState::Good | BuildState::Adopted, why)), _) => {
            (GateVerdict::Within, format!("build {build} is good: {why}"))
        }
        (Some(_), Some(("within", sentence))) => (GateVerdict::Within, sentence.to_owned()),
        (Some(_), Some(("exceeds", sentence))) => (GateVerdict::Exceeds, sentence.to_owned()),
        (Some(_), Some((_, sentence))) => (GateVerdict::Undecided, sentence.to_owned()),
        (Some(_), None) => (
            GateVerdict::Undecided,
            format!("build {build} is on probation, and no process of it is watched at the moment"),
        ),
        (None, _) => (GateVerdict::Undecided, format!("build {build} of {service} was not seen yet")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::{Decision, Subject, Who};
    use crate::incident::Moment;

    fn decided(endpoint: Option<&str>, opinion: Opinion) -> Decisions {
        Decisions(vec![Decision {
            id: 1,
            subject: Subject::Build {
                service: "web".into(),
                build: "v2".into(),
                endpoint: endpoint.map(Into::into),
                opinion,
            },
            who: Who { uid: Some(1000), name: "ann".to_owned() },
            made: Moment { unix_ms: 0, mono_ns: 0, boot: String::new() },
            holds_for: None,
            before: None,
        }])
    }

    fn with(change: impl FnOnce(&mut GateFacts<'_>), decisions: &Decisions) -> (u8, String) {
        let (service, build) = ("web".into(), "v2".into());
        let mut facts = GateFacts {
            service: &service,
            build: &build,
            decisions,
            ledger: Some((BuildState::Probation, "appeared")),
            open_incident: None,
            verdict: None,
        };
        change(&mut facts);
        let answer = answer(&facts);
        (answer.answer.exit_code(), answer.sentence)
    }

    #[test]
    fn what_is_measured_is_the_answer_when_nothing_else_is_known() {
        let none = Decisions::default();
        assert_eq!(with(|f| f.verdict = Some(("within", "fine")), &none), (0, "fine".to_owned()));
        assert_eq!(with(|f| f.verdict = Some(("exceeds", "dear")), &none), (1, "dear".to_owned()));
        for label in ["undecided", "not_measurable", "environment", "over_budget_unattributed"] {
            assert_eq!(with(|f| f.verdict = Some((label, "why")), &none), (2, "why".to_owned()));
        }
        assert!(with(|_| (), &none).1.contains("no process"));
        assert_eq!(with(|f| f.ledger = None, &none), (2, "build v2 of web was not seen yet".to_owned()));
    }

    #[test]
    fn the_ledger_comes_before_the_measurement_and_people_before_both() {
        let none = Decisions::default();
        let condemned = |f: &mut GateFacts<'_>| {
            f.ledger = Some((BuildState::Condemned, "incident 1"));
            f.verdict = Some(("within", "fine"));
        };
        assert_eq!(with(condemned, &none).0, 1);
        assert_eq!(with(condemned, &decided(None, Opinion::Accepted)).0, 0);
        let good = |f: &mut GateFacts<'_>| f.ledger = Some((BuildState::Good, "passed"));
        assert_eq!(with(good, &none).0, 0);
        let (code, said) = with(good, &decided(None, Opinion::Condemned));
        assert!(code == 1 && said.contains("by ann"), "{said}");
        let (code, said) = with(good, &decided(Some("login"), Opinion::Condemned));
        assert!(code == 1 && said.contains("endpoint login"), "{said}");
        assert_eq!(with(good, &decided(Some("login"), Opinion::Accepted)).0, 0);
        let open = |f: &mut GateFacts<'_>| {
            f.open_incident = Some(("20170127-0", "awaiting_approval"));
            f.verdict = Some(("undecided", "why"));
        };
        assert_eq!(with(open, &none).0, 1);
        assert_eq!(with(|f| f.ledger = None, &decided(None, Opinion::Condemned)).0, 1);
    }
}
