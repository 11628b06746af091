//! Which outcomes of an endpoint are judged by themselves.
//!
//! The baseline alone decides, once, when a judge is made; so a class is the same on both sides, and a request's class is
//! known from its status and its process's age when it ends:
//!
//! 1. A status class (2xx, 3xx, ...) with [`MIN_CLASS_REQUESTS`] requests is a class.
//! 2. It is divided into exact statuses where two or more of them have [`MIN_CLASS_REQUESTS`] requests each, and the exact
//!    status is known of at least half of its requests. A status class with one such status stays whole: 302 and 3xx are
//!    the same then, and the name says the wider.
//! 3. Once the warm-up is known, each of these is divided by the process's age.
//! 4. Of what results, the [`MAX_CLASSES`] - 1 with the most requests stay. All else is in "other": what is rare, and what
//!    the baseline never saw.

use serde::{Deserialize, Serialize};

use super::baseline::MIN_CLASS_REQUESTS;
use super::cell::{Age, Cell};
use super::{ClassAggregate, EndpointAggregate};
use crate::model::StatusClass;

/// Of an endpoint, "other" included.
pub const MAX_CLASSES: usize = 16;

/// One class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClassKey {
    pub class: StatusClass,
    /// `None`: all of the class.
    pub status: Option<u16>,
    /// `None`: of any age.
    pub age: Option<Age>,
}

impl ClassKey {
    pub fn holds(self, cell: Cell) -> bool {
        self.class == cell.class
            && self.status.is_none_or(|status| status == cell.status)
            && self.age.is_none_or(|age| age == cell.age)
    }
}

/// The classes of an endpoint without "other", in their order; an engine's number of a class is its place here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassMap(Vec<ClassKey>);

impl ClassMap {
    /// `warm_up_known`: divided by age.
    pub fn new(baseline: &EndpointAggregate, warm_up_known: bool) -> Self {
        let mut candidates: Vec<(ClassKey, u64)> = Vec::new();
        for class in StatusClass::ALL {
            for status in divided(baseline, class) {
                let whole = ClassKey { class, status, age: None };
                if warm_up_known {
                    candidates.extend(Age::ALL.map(|age| {
                        let key = ClassKey { age: Some(age), ..whole };
                        (key, requests(baseline, key))
                    }));
                } else {
                    candidates.push((whole, requests(baseline, whole)));
                }
            }
        }
        candidates.retain(|(_, requests)| *requests >= MIN_CLASS_REQUESTS);
        candidates.sort_by_key(|(key, requests)| (std::cmp::Reverse(*requests), *key));
        let mut keys: Vec<ClassKey> =
            candidates.into_iter().take(MAX_CLASSES - 1).map(|(key, _)| key).collect();
        keys.sort_unstable();
        Self(keys)
    }

    /// The class of a request; `None`: "other".
    pub fn of(&self, cell: Cell) -> Option<u8> {
        let place = self.0.iter().position(|key| key.holds(cell))?;
        u8::try_from(place).ok()
    }

    pub fn key(&self, class: u8) -> Option<ClassKey> {
        self.0.get(usize::from(class)).copied()
    }

    pub fn keys(&self) -> impl Iterator<Item = ClassKey> {
        self.0.iter().copied()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn requests(baseline: &EndpointAggregate, key: ClassKey) -> u64 {
    let held = baseline.cells().filter(|(cell, _)| key.holds(*cell));
    held.map(|(_, aggregate): (_, &ClassAggregate)| aggregate.requests).sum()
}

/// The exact statuses that a status class is divided into, or `None` for the whole.
fn divided(baseline: &EndpointAggregate, class: StatusClass) -> Vec<Option<u16>> {
    let mut statuses: Vec<u16> =
        baseline.cells().map(|(cell, _)| cell).filter(|cell| cell.class == class).map(|c| c.status).collect();
    statuses.sort_unstable();
    statuses.dedup();
    let of = |status| requests(baseline, ClassKey { class, status, age: None });
    let told: u64 = statuses.iter().filter(|status| **status != 0).map(|status| of(Some(*status))).sum();
    statuses.retain(|status| *status != 0 && of(Some(*status)) >= MIN_CLASS_REQUESTS);
    if statuses.len() >= 2 && 2 * told >= of(None) {
        statuses.into_iter().map(Some).collect()
    } else {
        vec![None]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(cells: &[(u16, Age, u64)]) -> EndpointAggregate {
        let mut endpoint = EndpointAggregate::default();
        for &(status, age, count) in cells {
            endpoint.record(Cell::new(status, age), 1_000_000, count);
        }
        endpoint
    }

    fn names(map: &ClassMap) -> Vec<String> {
        map.keys()
            .map(|key| {
                let status = key.status.map_or(key.class.label().to_owned(), |status| status.to_string());
                match key.age {
                    Some(age) => format!("{status}/{}", age.index()),
                    None => status,
                }
            })
            .collect()
    }

    #[test]
    fn a_status_class_is_divided_where_two_statuses_are_frequent() {
        let of = |cells: &[(u16, u64)]| {
            let cells: Vec<_> = cells.iter().map(|&(status, count)| (status, Age::Older, count)).collect();
            names(&ClassMap::new(&endpoint(&cells), false))
        };
        assert_eq!(of(&[(302, 900), (401, 60)]), ["3xx", "4xx"]);
        assert_eq!(of(&[(302, 900), (401, 60), (422, 50)]), ["3xx", "401", "422"]);
        // Rare ones beside them are "other" then, and part of the whole otherwise.
        assert_eq!(of(&[(302, 900), (401, 60), (422, 50), (429, 49)]), ["3xx", "401", "422"]);
        assert_eq!(of(&[(302, 900), (401, 60), (429, 49)]), ["3xx", "4xx"]);
        assert_eq!(of(&[(200, 49)]), [""; 0]);
    }

    #[test]
    fn requests_without_an_exact_status_keep_a_class_whole_when_they_are_most() {
        let mut endpoint = endpoint(&[(401, Age::Older, 60), (422, Age::Older, 60)]);
        endpoint.record(StatusClass::ClientError, 1, 120);
        assert_eq!(names(&ClassMap::new(&endpoint, false)), ["401", "422"]);
        endpoint.record(StatusClass::ClientError, 1, 1);
        assert_eq!(names(&ClassMap::new(&endpoint, false)), ["4xx"]);
    }

    #[test]
    fn there_are_at_most_sixteen_and_the_rarest_are_other() {
        let cells: Vec<_> = (0..20u16).map(|n| (400 + n, Age::Older, 50 + u64::from(n))).collect();
        let map = ClassMap::new(&endpoint(&cells), false);
        assert_eq!(map.len(), MAX_CLASSES - 1);
        assert_eq!(map.of(Cell::new(404, Age::Older)), None);
        assert_eq!(map.of(Cell::new(405, Age::Older)), Some(0));
        assert_eq!(map.of(Cell::new(419, Age::Older)), Some(14));
        // Never seen, and not told apart.
        assert_eq!(map.of(Cell::new(500, Age::Older)), None);
        assert_eq!(map.of(StatusClass::ClientError.into()), None);
    }

    #[test]
    fn the_age_is_a_part_of_the_class_once_the_warm_up_is_known() {
        let baseline = endpoint(&[(200, Age::To3, 70), (200, Age::To10, 20), (200, Age::Older, 1000)]);
        assert_eq!(names(&ClassMap::new(&baseline, false)), ["2xx"]);
        let map = ClassMap::new(&baseline, true);
        assert_eq!(names(&map), ["2xx/0", "2xx/4"]);
        // An age that is hardly known is judged with what is rare, not with what is warm.
        assert_eq!(map.of(Cell::new(200, Age::To10)), None);
        assert_eq!(map.of(Cell::new(201, Age::Older)), Some(1));
    }
}
