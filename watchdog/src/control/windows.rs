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
    /// The freeze that keeps it closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze: Option<String>,
    /// When that changes, wall clock; absent: not within eight days.
    pub changes_unix_ms: Option<i64>,
    /// Builds that appeared while it was closed, with the incidents about that which are open.
    pub outside: Vec<OutsideStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideStatus {
    pub build: BuildId,
    pub incident: String,
}
