//! What an incident is about.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One build can have an open incident of each kind; neither stands in the other's way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IncidentKind {
    /// What the build's requests cost, or did when it was condemned.
    #[default]
    Cost,
    /// That it appeared outside its service's release window, whatever it costs.
    ReleaseWindow,
}

impl IncidentKind {
    pub const ALL: [Self; 2] = [Self::Cost, Self::ReleaseWindow];

    /// The name used in the store, in JSON and in labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::ReleaseWindow => "release_window",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for IncidentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_agree_with_json() {
        for kind in IncidentKind::ALL {
            assert_eq!(IncidentKind::from_name(kind.name()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        assert_eq!(IncidentKind::from_name("boredom"), None);
    }
}
