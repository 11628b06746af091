//! gunicorn, waitress, uvicorn and uWSGI, from Python's index, and Apache's `mod_wsgi`.

use std::path::Path;
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
        why: "gunicorn, waitress, uvicorn and uWSGI are Python's; uWSGI is compiled",
        find: with_headers,
        get: Get::Packages(&["python3", "python3-dev", "python3-venv", "gcc", "libc6-dev"]),
    },
    Step {
        component: Component::Servers,
        name: "gunicorn, waitress, uvicorn, uWSGI",
        why: "the tests watch them",
        find: || install::python_packages(PACKAGES, &folder("python")),
        get: Get::With(packages),
    },
    Step {
        component: Component::Servers,
        name: "Apache with mod_wsgi",
        why: "the tests watch it; neither package starts a service",
        find: mod_wsgi,
        get: Get::Packages(&["apache2-bin", "libapache2-mod-wsgi-py3"]),
    },
    Step {
        component: Component::Servers,
        name: "nginx before servers",
        why: "the tests watch it as a reverse proxy",
        find: nginx::describe,
        get: Get::With(nginx::unpack),
    },
];

fn mod_wsgi() -> Option<String> {
    const FILES: [&str; 2] = ["/usr/sbin/apache2", "/usr/lib/apache2/modules/mod_wsgi.so"];
    FILES.iter().all(|file| Path::new(file).exists()).then(|| FILES.join(", "))
}

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
