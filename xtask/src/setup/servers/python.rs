//! gunicorn, uvicorn and uWSGI, from Python's index.

use std::process::Command;

use anyhow::Result;

use super::super::{Component, Get, Step, install, nginx};
use super::folder;
use crate::process::{self, Progress};

/// The pinned packages of the applications in tests/apps/python.
const PACKAGES: &str = "tests/apps/python/requirements.txt";

pub(super) const STEPS: &[Step] = &[
    Step {
        component: Component::Servers,
        name: "Python for servers",
        why: "gunicorn, uvicorn and uWSGI are Python's; uWSGI is compiled",
        find: with_headers,
        get: Get::Packages(&["python3", "python3-dev", "python3-venv", "gcc", "libc6-dev"]),
    },
    Step {
        component: Component::Servers,
        name: "gunicorn, uvicorn, uWSGI",
        why: "the tests watch them",
        find: || install::python_packages(PACKAGES, &folder("python")),
        get: Get::With(packages),
    },
    Step {
        component: Component::Servers,
        name: "nginx before servers",
        why: "the tests watch it as a reverse proxy",
        find: nginx::describe,
        get: Get::With(nginx::unpack),
    },
];

/// Python, if C programs can be compiled for it.
fn with_headers() -> Option<String> {
    const ASK: &str = "import sysconfig; open(sysconfig.get_path('include') + '/Python.h')";
    let python = install::python()?;
    process::capture(Command::new(&python).args(["-c", ASK]))?;
    Some(python.display().to_string())
}

fn packages(progress: &Progress) -> Result<()> {
    install::install_python_packages(PACKAGES, &folder("python"), progress)
}
