//! The burn server: see `burn --help`.

use std::io::Write as _;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser as _;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use watchdog_tests::burn::options::{Model, Options};
use watchdog_tests::burn::{Listener, backend, meter, serve};

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if let Some(amount) = options.spin_us {
        meter::spin(Duration::from_micros(amount), None);
        return Ok(());
    }
    if options.exit_with_parent {
        set_pdeathsig(Signal::SIGKILL).context("asking to end with the parent")?;
    }
    if options.backend_only {
        let listener =
            TcpListener::bind(&options.listen).with_context(|| format!("binding {}", options.listen))?;
        announce(&listener.local_addr()?.to_string())?;
        return Ok(backend::serve(&listener)?);
    }
    if let Some(address) = &options.serve_backend {
        ensure!(
            options.model != Model::Prefork,
            "--serve-backend needs a thread, and a process with threads cannot be forked safely: start a second burn \
             server with --backend-only"
        );
        let listener = TcpListener::bind(address).with_context(|| format!("binding {address}"))?;
        std::thread::Builder::new()
            .name("burn-backend".to_owned())
            .spawn(move || backend::serve(&listener))?;
    }
    let listener = Listener::bind(&options.listen)?;
    announce(&listener.address()?)?;
    serve(options, &listener)
}

/// One line of JSON tells the parent that connections are taken from now on, and where.
fn announce(address: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::json!({ "listening": address, "pid": std::process::id() }))?;
    Ok(out.flush()?)
}
