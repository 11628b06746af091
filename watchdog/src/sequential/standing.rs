//! How things stand, as plain data: for status, metrics and the ledger.

use serde::{Deserialize, Serialize};

use super::engine::{Carrier, Engine, Stop};
use super::late::{SinceStart, Totals};

/// The evidence against a build at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Natural logarithm of the evidence now; 0 at the deploy.
    pub ln_evidence: f64,
    /// Of the largest so far.
    pub ln_max_evidence: f64,
    /// Of what it has to reach.
    pub ln_bar: f64,
    /// What the largest evidence lacks to the bar; 0 or less once it was reached.
    pub ln_missing: f64,
    /// `1 / largest evidence`: the probability of seeing as much, at whatever time one looks, while the build is within its
    /// budgets. At most 1.
    pub p_value: f64,
    /// The same without confirmation by outcome class.
    pub p_value_overall: f64,
    /// The part that is worth most, the parts in the order of the components, and the pool's.
    pub carrier: Option<Carrier>,
    pub parts: Vec<Part>,
    pub ln_pool: Option<f64>,
    /// Requests of all judged endpoints so far; those that it took are in `stop`.
    pub requests: u64,
    /// Requests of the leading component that may be needed still, if they go on as since its most likely start. A guess,
    /// and `None` while no single component leads or when it is over.
    pub requests_to_go: Option<f64>,
    /// Requests whose figure was none; they are in nothing above.
    pub rejected: u64,
    pub second: u64,
    pub stop: Option<Stop>,
    /// A stake is at the most that is counted: the evidence is at least what is told.
    pub at_least: bool,
}

/// One component's part.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Natural logarithm of the component's own evidence, confirmed where that is asked for: above 0 speaks against the
    /// build.
    pub ln_evidence: f64,
    /// Share of the evidence that it carries, 0 to 1.
    pub share: f64,
    pub totals: Totals,
    pub since_start: Option<SinceStart>,
}

impl Engine {
    /// Costs some logarithms per component: for reports, not for every request.
    pub fn standing(&self) -> Standing {
        let ln_bar = libm::log(self.parameters.bar());
        let ln_max_evidence = libm::log(self.of_build.max);
        let carrier = self.carrier(|worth| worth.0);
        let requests_to_go = match carrier {
            Some((Carrier::Component(component), _)) if self.of_build.stop.is_none() => {
                self.to_go(component, ln_bar)
            }
            _ => None,
        };
        Standing {
            ln_evidence: libm::log(self.of_build.now),
            ln_max_evidence,
            ln_bar,
            ln_missing: ln_bar - ln_max_evidence,
            p_value: 1.0 / self.of_build.max,
            p_value_overall: 1.0 / self.overall.max,
            carrier: carrier.map(|(carrier, _)| carrier),
            parts: (0..self.layout.components.len()).map(|index| self.part(index)).collect(),
            ln_pool: self.pool_evidence().map(libm::log),
            requests: self.requests,
            requests_to_go,
            rejected: self.rejected,
            second: self.second,
            stop: self.of_build.stop,
            at_least: self.is_full(),
        }
    }

    fn part(&self, index: usize) -> Part {
        let (worth, _) = self.worth(index);
        Part {
            ln_evidence: libm::log(worth),
            share: self.layout.components[index].weight * worth / self.of_build.now,
            totals: self.late[index].whole,
            since_start: self.since_start(index),
        }
    }

    /// Requests of a component until it alone reaches the bar, at the pace since its most likely start. Only the stake of
    /// the bet that gained most is known to go on at that pace, so the others are left out: it may take a little less.
    fn to_go(&self, component: usize, ln_bar: f64) -> Option<f64> {
        let since = self.since_start(component)?;
        let pace = since.ln_gain / since.totals.requests as f64;
        let (worth, own) = self.worth(component);
        let confirmed = self.processes[component].own.stake_of(since.bet) * worth / own;
        let stake = self.layout.components[component].weight * confirmed;
        (pace > 0.0 && stake > 0.0).then(|| ((ln_bar - libm::log(stake)).max(0.0) / pace).ceil())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Parameters;
    use super::super::component::{Component, Conditions, Kind, Scope};
    use super::*;

    fn engine() -> Engine {
        let mean = |endpoint| Component {
            weight: 0.5,
            scope: Scope { endpoint, class: None },
            kind: Kind::Mean,
            limit: 10.0,
            confirmation: Vec::new(),
        };
        Engine::new(Parameters::default(), vec![mean(0), mean(1)]).unwrap()
    }

    #[test]
    fn nothing_stands_against_a_build_at_the_deploy() {
        let standing = engine().standing();
        assert!(standing.ln_evidence.abs() < 1e-12 && (standing.p_value - 1.0).abs() < 1e-12);
        assert!((standing.ln_missing - libm::log(1000.0)).abs() < 1e-12);
        assert_eq!((standing.requests, standing.requests_to_go, standing.stop), (0, None, None));
    }

    #[test]
    fn what_carries_the_evidence_and_how_far_it_is_is_told() {
        let mut engine = engine();
        for second in 0..8 {
            engine.observe(second, 0, 0, 8.0, 1, Conditions::NORMAL);
            engine.observe(second, 1, 0, 20.0, 1, Conditions::NORMAL);
        }
        let standing = engine.standing();
        assert_eq!(standing.carrier, Some(Carrier::Component(1)));
        assert!(standing.parts[1].share > 0.9 && standing.parts[0].ln_evidence < 0.0);
        assert!((standing.parts.iter().map(|part| part.share).sum::<f64>() - 1.0).abs() < 1e-12);
        assert!((standing.p_value - libm::exp(-standing.ln_max_evidence)).abs() < 1e-12);
        // The guess comes true: all requests are alike.
        let to_go = standing.requests_to_go.unwrap();
        let mut needed = 0.0;
        while engine.violated().is_none() {
            engine.observe(8, 1, 0, 20.0, 1, Conditions::NORMAL);
            needed += 1.0;
        }
        assert!((to_go - needed).abs() <= 2.0, "{to_go} and {needed}");
        let standing = engine.standing();
        assert_eq!((standing.requests_to_go, standing.stop), (None, engine.stop()));
        assert!(standing.ln_missing <= 0.0 && standing.p_value <= 1e-3);
        assert_eq!(
            serde_json::from_str::<Standing>(&serde_json::to_string(&standing).unwrap()).unwrap(),
            standing
        );
    }

    #[test]
    fn a_late_violation_tells_what_requests_cost_since() {
        let mut engine = engine();
        for second in 0..3600 {
            let x = if second < 3500 { 7.0 } else { 25.0 };
            engine.observe(second, 1, 0, x, 1, Conditions::NORMAL);
        }
        let stop = engine.stop().unwrap();
        let since = stop.since_start.unwrap();
        assert_eq!(since.second, 3500);
        assert!((since.totals.mean_x().unwrap() - 25.0).abs() < 1e-9);
        // The mean since the deploy hides it, and so does everything that rests on it.
        assert!(stop.totals.mean_x().unwrap() < 7.2);
    }
}
