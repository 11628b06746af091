//! Places for clients of the control socket: whoever takes many, others get theirs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::access::Access;

/// Clients of one user that are served at the same time.
const PER_USER: usize = 4;
/// Of root and of the agent's own user.
const PER_PRIVILEGED_USER: usize = 16;
/// Of all others together.
const OTHERS: usize = 24;

#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<u32, usize>>);

/// A place, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    uid: u32,
}

impl Places {
    /// `None`: this user has enough already, or all others together have.
    pub(super) fn take(self: &Arc<Self>, uid: u32) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(&uid).copied().unwrap_or(0);
        let fits = if Access::is_privileged(uid) {
            own < PER_PRIVILEGED_USER
        } else {
            let others: usize =
                taken.iter().filter(|(uid, _)| !Access::is_privileged(**uid)).map(|(_, count)| count).sum();
            own < PER_USER && others < OTHERS
        };
        fits.then(|| {
            taken.insert(uid, own + 1);
            Place { places: Arc::clone(self), uid }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_take_the_places_of_others() {
        let places = Arc::new(Places::default());
        let of_one: Vec<_> = (0..PER_USER).map(|_| places.take(65_001).unwrap()).collect();
        assert!(places.take(65_001).is_none());
        let mut of_others = Vec::new();
        for uid in 65_002..65_100 {
            of_others.extend(places.take(uid));
        }
        assert_eq!(of_one.len() + of_others.len(), OTHERS);
        let of_root: Vec<_> = (0..PER_PRIVILEGED_USER).map(|_| places.take(0).unwrap()).collect();
        assert!(places.take(0).is_none());
        drop((of_one, of_others, of_root));
        assert!(places.0.lock().unwrap().is_empty());
        assert!(places.take(65_001).is_some());
    }
}
