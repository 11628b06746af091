//! Components that begin long after the deploy: what they are about became known only then.
//!
//! A part of the capital is kept from the deploy on and bets on nothing, so it is worth what it was. A component that
//! begins takes its weight from it. That is the same as a component that was there from the deploy on and abstained, and
//! whether a bettor abstains may follow from all that was seen before: the sum stays a process that cannot be expected to
//! grow while the budgets hold. The price is that the others have less from the deploy on, as if the component had been
//! there.

use super::{Component, Endpoint, Engine, InvalidComponents, Late, Layout, Process, Processes};

impl Engine {
    /// The part of the capital that is on nothing yet.
    pub fn reserve(&self) -> f64 {
        self.reserve
    }

    /// From the next request on these bet too, each with its weight of the reserve; one by one, each is put at the place
    /// that is returned for it. The evidence does not change by it. Not once something was decided: what that rests on is
    /// named by its place.
    pub fn begin(&mut self, components: Vec<Component>) -> Result<Vec<usize>, InvalidComponents> {
        if self.of_build.stop.is_some() || self.overall.stop.is_some() {
            return Err(InvalidComponents::Decided);
        }
        let cost: f64 = components.iter().map(|component| component.weight).sum();
        if cost.is_nan() || cost > self.reserve + 1e-12 {
            return Err(InvalidComponents::Reserve(cost));
        }
        let reserve = (self.reserve - cost).max(0.0);
        let mut all = self.layout.components.clone();
        let mut places = Vec::with_capacity(components.len());
        let mut strata = Vec::with_capacity(components.len());
        for component in components {
            let same = |known: &Component| known.scope.endpoint == component.scope.endpoint;
            let at = all.iter().rposition(same).map_or(all.len(), |last| last + 1);
            strata.push(component.confirmation.len());
            all.insert(at, component);
            places.push(at);
        }
        let layout = Layout::with_reserve(all, self.layout.pool.clone(), reserve)?;
        let parameters = &self.parameters;
        // What was released by now is at stake at once: it is worth 1 in all.
        let process =
            || Process::with_bets(parameters.bets.clone(), self.released, parameters.outlier_allowance);
        for (&at, strata) in places.iter().zip(strata) {
            let confirmation = (0..strata).map(|_| process()).collect();
            self.processes.insert(at, Processes { own: process(), confirmation });
            self.late.insert(at, Late::new(&parameters.bets));
        }
        self.endpoints.resize(layout.endpoints(), Endpoint::default());
        (self.layout, self.reserve) = (layout, reserve);
        (0..self.endpoints.len()).for_each(|endpoint| self.add_up(endpoint));
        Ok(places)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Parameters;
    use super::super::super::component::{Conditions, Kind, Scope};
    use super::super::super::workload::Rng;
    use super::*;

    fn mean(weight: f64, endpoint: u16, class: Option<u8>, limit: f64) -> Component {
        Component {
            weight,
            scope: Scope { endpoint, class },
            kind: Kind::Mean,
            limit,
            confirmation: Vec::new(),
        }
    }

    fn feed(engine: &mut Engine, seconds: std::ops::Range<u64>, class: u8, x: f64) {
        for second in seconds {
            engine.observe(second, 1, class, x, 1, Conditions::NORMAL);
            engine.observe(second, 2, class, x, 1, Conditions::NORMAL);
        }
    }

    #[test]
    fn what_begins_late_is_as_if_it_had_waited_from_the_deploy_on() {
        // Class 3 is not seen before the second engine knows of it.
        let all = || {
            vec![
                mean(0.25, 1, None, 10.0),
                mean(0.25, 1, Some(3), 5.0),
                mean(0.25, 2, None, 10.0),
                mean(0.25, 2, Some(3), 5.0),
            ]
        };
        let mut whole = Engine::new(Parameters::default(), all()).unwrap();
        let first = vec![mean(0.25, 1, None, 10.0), mean(0.25, 2, None, 10.0)];
        let mut late = Engine::with_reserve(Parameters::default(), first, None, 0.5).unwrap();
        for engine in [&mut whole, &mut late] {
            feed(engine, 0..200, 0, 10.2);
        }
        let before = late.evidence();
        let places = late.begin(vec![mean(0.25, 1, Some(3), 5.0), mean(0.25, 2, Some(3), 5.0)]).unwrap();
        assert_eq!(places, [1, 3]);
        assert_eq!(late.components(), whole.components());
        assert!(late.reserve().abs() < 1e-12);
        assert!((late.evidence() - before).abs() < 1e-12, "nothing is won by beginning");
        for engine in [&mut whole, &mut late] {
            feed(engine, 200..206, 3, 9.0);
        }
        assert!((late.evidence() / whole.evidence() - 1.0).abs() < 1e-12);
        assert!(late.evidence() > before);
        let text = serde_json::to_string(&late).unwrap();
        assert_eq!(serde_json::from_str::<Engine>(&text).unwrap(), late);
    }

    #[test]
    fn an_engine_of_a_reserve_alone_begins_too() {
        let mut engine = Engine::with_reserve(Parameters::default(), Vec::new(), None, 1.0).unwrap();
        feed(&mut engine, 0..50, 0, 50.0);
        assert!((engine.evidence() - 1.0).abs() < 1e-12);
        assert_eq!(engine.begin(vec![mean(1.0, 2, None, 10.0)]).unwrap(), [0]);
        feed(&mut engine, 50..80, 0, 50.0);
        assert!(engine.violated().is_some());
        assert_eq!(engine.begin(Vec::new()), Err(InvalidComponents::Decided));
    }

    #[test]
    fn no_more_than_the_reserve_is_given_out() {
        let first = vec![mean(0.7, 1, None, 10.0)];
        let mut engine = Engine::with_reserve(Parameters::default(), first.clone(), None, 0.3).unwrap();
        assert_eq!(engine.begin(vec![mean(0.4, 1, None, 5.0)]), Err(InvalidComponents::Reserve(0.4)));
        assert!(Engine::with_reserve(Parameters::default(), first, None, 0.2).is_err(), "it sums to 0.9");
    }

    /// Requests exactly at their limits, and a component that begins when the other stands well: the promise holds.
    #[test]
    fn choosing_when_to_begin_buys_nothing() {
        let parameters = || Parameters { alpha: 0.05, ..Parameters::default() };
        let called = (0..600).filter(|&seed| {
            let mut rng = Rng::new(seed);
            let first = vec![mean(0.5, 1, None, 10.0)];
            let mut engine = Engine::with_reserve(parameters(), first, None, 0.5).unwrap();
            let mut begun = false;
            for second in 0..600 {
                let x = if rng.uniform() < 0.3 { 26.0 } else { 22.0 / 7.0 };
                engine.observe(second, 1, 0, x, 1, Conditions::NORMAL);
                if !begun && second > 20 && engine.evidence() > 1.5 && engine.violated().is_none() {
                    begun = engine.begin(vec![mean(0.5, 1, Some(0), 10.0)]).is_ok();
                }
            }
            engine.violated().is_some()
        });
        // 30 expected at most; three standard deviations are 16 more.
        let called = called.count();
        assert!(called <= 46, "{called} of 600");
    }
}
