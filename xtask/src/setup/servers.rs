//! The servers of the tests in tests/src/servers, a file for each family.

mod databases;
mod node;
mod php;
mod polyglot;
mod python;
mod telemetry;

use std::path::PathBuf;

use super::Step;
use crate::paths;

/// What each family needs.
const FAMILIES: &[&[Step]] =
    &[python::STEPS, php::STEPS, databases::STEPS, node::STEPS, polyglot::STEPS, telemetry::STEPS];

pub(super) fn steps() -> impl Iterator<Item = &'static Step> {
    FAMILIES.iter().copied().flatten()
}

/// Where a family's packages go when they are not the system's: the tests look there too.
fn folder(family: &str) -> PathBuf {
    paths::artefacts().join("servers").join(family)
}
