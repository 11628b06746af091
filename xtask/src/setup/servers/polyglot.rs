//! Servers in Ruby, Perl, Java, Go and Rust: Debian's packages, and the applications that have to be compiled. None of these
//! packages starts a service: Tomcat comes as a library, the others as programs that the tests start themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::folder;
use crate::paths;
use crate::process::{self, Progress};
use crate::setup::{Component, Get, Step, find_any, install};

const LOG: &str = "setup.log";
/// Beside what was made: a copy of what it was made from.
const STAMP: &str = "made-from.txt";
/// Debian's sources of Go libraries, laid out as a GOPATH.
const GO_LIBRARIES: &str = "/usr/share/gocode";
/// A Go toolchain of today.
const GO_TOOLCHAIN: &str = "tests/apps/go/requirements.txt";
const TOMCAT: &str = "/usr/share/java/tomcat10-catalina.jar";
pub(super) const STEPS: &[Step] = &[
    Step {
        component: Component::Servers,
        name: "Puma and Sinatra",
        why: "the tests watch a real Ruby server",
        find: puma,
        get: Get::Packages(&["puma", "ruby-sinatra", "ruby-rack", "ruby-bcrypt"]),
    },
    Step {
        component: Component::Servers,
        name: "Mojolicious",
        why: "the tests watch a real Perl server",
        find: mojolicious,
        get: Get::Packages(&["perl", "libmojolicious-perl"]),
    },
    Step {
        component: Component::Servers,
        name: "Java compiler",
        why: "the tests watch a real Tomcat",
        find: || find_any(&["javac"]),
        get: Get::Packages(&["default-jdk-headless"]),
    },
    Step {
        component: Component::Servers,
        name: "Tomcat",
        why: "the tests watch a real Tomcat",
        find: || Path::new(TOMCAT).exists().then(|| TOMCAT.to_owned()),
        get: Get::Packages(&["libtomcat10-java"]),
    },
    Step {
        component: Component::Servers,
        name: "Tomcat application",
        why: "the tests watch a real Tomcat",
        find: || JAVA.found(),
        get: Get::With(|progress| JAVA.make(progress)),
    },
    Step {
        component: Component::Servers,
        name: "Go and its libraries",
        why: "the tests watch a real net/http server",
        find: go,
        get: Get::Packages(&["golang-go", "golang-golang-x-crypto-dev", "golang-golang-x-net-dev"]),
    },
    Step {
        component: Component::Servers,
        name: "Go application",
        why: "the tests watch a real net/http server, built as Debian does",
        find: || GO.found(),
        get: Get::With(|progress| GO.make(progress)),
    },
    Step {
        component: Component::Servers,
        name: "Go toolchain of today",
        why: "its scheduler and its crypto/tls differ from those of Debian's Go",
        find: || install::python_packages(GO_TOOLCHAIN, &folder("go-toolchain")),
        get: Get::With(|progress| {
            install::install_python_packages(GO_TOOLCHAIN, &folder("go-toolchain"), progress)
        }),
    },
    Step {
        component: Component::Servers,
        name: "Go application of today",
        why: "the tests watch a real net/http server",
        find: || GO_TODAY.found(),
        get: Get::With(|progress| GO_TODAY.make(progress)),
    },
    Step {
        component: Component::Servers,
        name: "axum application",
        why: "the tests watch a real server on tokio",
        find: || AXUM.found(),
        get: Get::With(|progress| AXUM.make(progress)),
    },
];

/// An application of tests/apps that is compiled to somewhere below the target folder.
struct Application {
    /// Of the folder that it is made in.
    name: &'static str,
    /// The folder of the sources below tests/apps.
    from: &'static str,
    sources: &'static [&'static str],
    /// Below the folder of the same name in the servers' folder.
    product: &'static str,
    /// The compiler's command, given the folders of the sources and of what is made.
    command: fn(&Path, &Path) -> Command,
}

const JAVA: Application = Application {
    name: "java",
    from: "java",
    sources: &["Shop.java", "tomcat.args"],
    product: "Shop.class",
    command: javac,
};
const GO: Application =
    Application { name: "go", from: "go", sources: &["main.go"], product: "shop", command: go_build };
const GO_TODAY: Application = Application {
    name: "go-today",
    from: "go",
    sources: &["main.go", "requirements.txt"],
    product: "shop",
    command: go_build_today,
};
const AXUM: Application = Application {
    name: "axum",
    from: "axum",
    sources: &["Cargo.toml", "Cargo.lock", "src/main.rs"],
    product: "release/axum-shop",
    command: cargo_build,
};

impl Application {
    fn folder(&self) -> PathBuf {
        paths::root().join("tests/apps").join(self.from)
    }

    fn made(&self) -> PathBuf {
        folder(self.name)
    }

    /// What was made, if from today's sources.
    fn found(&self) -> Option<String> {
        let product = self.made().join(self.product);
        let made_from = fs::read_to_string(self.made().join(STAMP)).ok()?;
        (made_from == self.text().ok()? && product.is_file()).then(|| product.display().to_string())
    }

    fn make(&self, progress: &Progress) -> Result<()> {
        let made = self.made();
        fs::create_dir_all(&made).with_context(|| format!("cannot make {}", made.display()))?;
        let text = self.text()?;
        process::run(&mut (self.command)(&self.folder(), &made), progress, LOG)?;
        fs::write(made.join(STAMP), text).context("cannot note what was made")
    }

    /// All sources, one after the other.
    fn text(&self) -> Result<String> {
        let read = |name: &&str| {
            let file = self.folder().join(name);
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
        };
        self.sources.iter().map(read).collect()
    }
}

/// Puma, if its Ruby has what the application requires.
fn puma() -> Option<String> {
    find_any(&["puma"])?;
    let script = r#"require "puma/const"; require "sinatra/base"; require "bcrypt"
        print "Puma #{Puma::Const::VERSION} with Sinatra #{Sinatra::VERSION}""#;
    process::capture(Command::new("ruby").args(["-e", script]))
}

fn mojolicious() -> Option<String> {
    process::capture(Command::new("perl").args([
        "-MMojolicious",
        "-e",
        "print \"Mojolicious $Mojolicious::VERSION\"",
    ]))
}

fn javac(sources: &Path, made: &Path) -> Command {
    let mut command = Command::new("javac");
    command
        .args(["-Xlint:all", "-Werror"])
        .arg(format!("@{}", sources.join("tomcat.args").display()))
        .args(["-d", "."])
        .arg(sources.join("Shop.java"))
        .current_dir(made);
    command
}

fn go() -> Option<String> {
    let version = process::capture(Command::new("go").arg("version"))?;
    let found = ["crypto/bcrypt", "net/http2/h2c"]
        .iter()
        .all(|library| Path::new(GO_LIBRARIES).join("src/golang.org/x").join(library).is_dir());
    found.then(|| version.trim().to_owned())
}

/// With Debian's libraries instead of modules from a proxy.
fn go_build(sources: &Path, made: &Path) -> Command {
    go_build_with(Path::new("go"), sources, made)
}

fn go_build_today(sources: &Path, made: &Path) -> Command {
    go_build_with(&folder("go-toolchain").join("bin/go"), sources, made)
}

fn go_build_with(go: &Path, sources: &Path, made: &Path) -> Command {
    let mut command = Command::new(go);
    command
        .args(["build", "-o"])
        .arg(made.join("shop"))
        .arg(".")
        .current_dir(sources)
        .env("GO111MODULE", "off")
        .env("GOPROXY", "off")
        .env("GOFLAGS", "")
        .env("GOTOOLCHAIN", "local")
        .env("GOPATH", GO_LIBRARIES)
        .env("GOCACHE", made.join("cache"));
    command
}

fn cargo_build(sources: &Path, made: &Path) -> Command {
    let mut command = Command::new("cargo");
    command
        .args(["build", "--release", "--locked", "--manifest-path"])
        .arg(sources.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(made);
    command
}
