//! Which bets a request settles.

use serde::{Deserialize, Serialize};

use super::component::{Component, InvalidComponents, Pool, PoolLimit, check};

/// All components of a deploy and the pool, by endpoint: what the engine and a host's collector share, so that both
/// make the same `z` of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Layout {
    pub(super) components: Vec<Component>,
    pub(super) pool: Option<Pool>,
    /// By endpoint index; endpoints that nothing looks at are empty.
    endpoints: Vec<Places>,
}

/// An endpoint's components are `first..end`, its limits in the pool `pool_first..pool_end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Places {
    pub(super) first: usize,
    pub(super) end: usize,
    pool_first: usize,
    pool_end: usize,
}

/// One of the processes of a deploy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Own(usize),
    /// Of a component, its stratum.
    Confirmation(usize, usize),
    Pool,
    PoolOfBuild,
}

impl Layout {
    pub(super) fn new(components: Vec<Component>, pool: Option<Pool>) -> Result<Self, InvalidComponents> {
        Self::with_reserve(components, pool, 0.0)
    }

    pub(super) fn with_reserve(
        components: Vec<Component>,
        pool: Option<Pool>,
        reserve: f64,
    ) -> Result<Self, InvalidComponents> {
        check(&components, pool.as_ref(), reserve)?;
        let mut layout = Self { components, pool: None, endpoints: Vec::new() };
        for index in 0..layout.components.len() {
            let places = layout.places_mut(layout.components[index].scope.endpoint);
            if places.end == 0 {
                places.first = index;
            } else if places.end != index {
                return Err(InvalidComponents::Scattered(index));
            }
            places.end = index + 1;
        }
        if let Some(mut pool) = pool {
            pool.limits.sort_by_key(|limit| (limit.scope.endpoint, limit.scope.class.is_none()));
            for (index, limit) in pool.limits.iter().enumerate() {
                let places = layout.places_mut(limit.scope.endpoint);
                if places.pool_end == 0 {
                    places.pool_first = index;
                }
                places.pool_end = index + 1;
            }
            layout.pool = Some(pool);
        }
        Ok(layout)
    }

    fn places_mut(&mut self, endpoint: u16) -> &mut Places {
        let number = usize::from(endpoint);
        if self.endpoints.len() <= number {
            self.endpoints.resize(number + 1, Places::default());
        }
        &mut self.endpoints[number]
    }

    /// Number of endpoint indices, those that nothing looks at included.
    pub(super) fn endpoints(&self) -> usize {
        self.endpoints.len()
    }

    #[inline]
    pub(super) fn places(&self, number: usize) -> Places {
        self.endpoints[number]
    }

    pub(super) fn feeds_pool(&self, number: usize) -> bool {
        self.endpoints.get(number).is_some_and(|places| places.pool_end > 0)
    }

    /// The pool's limits of the endpoint by which a request weighs least, whatever its outcome.
    pub(super) fn largest_pool_limits(&self, number: usize) -> Option<(f64, f64)> {
        let places = self.endpoints.get(number)?;
        let limits = &self.pool.as_ref()?.limits[places.pool_first..places.pool_end];
        let largest = |of: fn(&PoolLimit) -> f64| limits.iter().map(of).max_by(f64::total_cmp);
        largest(|limit| limit.overall).zip(largest(|limit| limit.of_build))
    }

    /// Whether anything looks at the endpoint.
    #[inline]
    pub(super) fn watches(&self, number: usize) -> bool {
        self.endpoints.get(number).is_some_and(|places| places.end > 0 || places.pool_end > 0)
    }

    /// Whether the pool's processes for and without confirmation differ.
    pub(super) fn pool_is_confirmed(&self) -> bool {
        let differ = |limit: &PoolLimit| limit.overall.to_bits() != limit.of_build.to_bits();
        self.pool.as_ref().is_some_and(|pool| pool.limits.iter().any(differ))
    }

    /// Calls `settle` with each process that a request of figure `x` feeds, and the request's `z` there. `x` is what
    /// remains after warm-up and environment are taken out.
    #[inline]
    pub(super) fn each(
        &self,
        number: usize,
        class: u8,
        x: f64,
        cap: f64,
        mut settle: impl FnMut(Place, f64),
    ) {
        let Places { first, end, pool_first, pool_end } = self.endpoints[number];
        for (index, component) in (first..).zip(&self.components[first..end]) {
            if component.scope.class.is_none_or(|own| own == class) {
                settle(Place::Own(index), component.kind.z(x, component.limit, cap));
            }
            for (stratum, place) in component.confirmation.iter().zip(0..) {
                if stratum.class == class {
                    settle(Place::Confirmation(index, place), (x / stratum.limit).min(cap));
                }
            }
        }
        let Some(pool) = &self.pool else { return };
        let mut limits = pool.limits[pool_first..pool_end].iter();
        // The limit without a class comes last.
        if let Some(limit) = limits.find(|limit| limit.scope.class.is_none_or(|own| own == class)) {
            settle(Place::Pool, (x / limit.overall).min(cap));
            settle(Place::PoolOfBuild, (x / limit.of_build).min(cap));
        }
    }
}
