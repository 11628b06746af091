//! What `status` says of a service's release window.

use serde::{Deserialize, Serialize};

use crate::model::BuildId;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseWindowStatus {
    /// As configured.
    pub allow: Vec<String>,
    pub timezone: String,
    /// Whether a new build may appear now.
    pub open: bool,
    /// When that changes, wall clock; absent: not within eight days.
    pub changes_unix_ms: Option<i64>,
    /// Builds on probation that appeared while it was closed.
    pub outside: Vec<OutsideStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideStatus {
    pub build: BuildId,
    pub incident: String,
}
