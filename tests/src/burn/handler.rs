//! What each endpoint does, and the account of what it cost.

use std::io;
use std::process::Command;
use std::time::Duration;

use super::Server;
use super::answer::{Response, send_response};
use super::backend;
use super::connection::Connection;
use super::meter::spin;
use super::options::{Answer, Protocol};
use super::request::{Request, read_request};
use super::stats::Endpoint;

/// What becomes of a connection after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    KeepAlive,
    Close,
}

/// Serves one connection to its end on the calling thread.
pub fn serve_connection(server: &Server, mut connection: Connection) {
    // A client that breaks off is its own affair: the driver counts its failures.
    let _ = connection.prepare(&server.options);
    while matches!(serve_next(server, &mut connection), Ok(Next::KeepAlive)) {}
}

/// Reads and answers the next request of a connection.
pub fn serve_next(server: &Server, connection: &mut Connection) -> io::Result<Next> {
    match read_request(connection, server)? {
        Some(request) => answer(server, connection, &request),
        None => Ok(Next::Close),
    }
}

/// Does the work of a request, sends its response and records what it cost.
pub fn answer(server: &Server, connection: &mut Connection, request: &Request) -> io::Result<Next> {
    let options = &server.options;
    let endpoint = request.endpoint;
    let (own_us, status) = match endpoint {
        Endpoint::Login | Endpoint::ApiLogin => (options.login_us, 200),
        Endpoint::Browse => (options.browse_us, 200),
        Endpoint::Report => (options.report_us, 200),
        Endpoint::Unknown => (options.unknown_us, 401),
        Endpoint::Stats => (0, 200),
        Endpoint::Other => (0, 404),
    };
    let amount = request.cpu.unwrap_or(Duration::from_micros(own_us));
    let streamed = options.answer == Answer::Stream
        && (request.chunked_allowed || options.protocol == Protocol::Fastcgi)
        && endpoint != Endpoint::Stats;
    let before = if streamed { amount / 2 } else { amount };

    spin(before, server.gil.as_ref());
    if endpoint == Endpoint::Report {
        std::thread::sleep(options.report_sleep());
    }
    if matches!(endpoint, Endpoint::Login | Endpoint::ApiLogin) {
        ask_others(server)?;
    }
    if options.probe_read {
        connection.probe();
    }
    let account = match endpoint {
        Endpoint::Stats => Some(serde_json::to_vec(&server.stats.snapshot(&options.build))?),
        _ => None,
    };
    let response = Response {
        status,
        keep_alive: request.keep_alive,
        chunked_allowed: request.chunked_allowed,
        body: account.as_deref(),
        while_streaming: amount.saturating_sub(before),
        record_id: request.record_id,
    };
    send_response(connection, server, &response)?;
    server.stats.record(endpoint, request.meter.elapsed_ns());
    Ok(if request.keep_alive { Next::KeepAlive } else { Next::Close })
}

fn ask_others(server: &Server) -> io::Result<()> {
    let options = &server.options;
    if let Some(address) = &options.backend {
        backend::ask(address, options.backend_us, options.backend_keep_alive)?;
    }
    if options.helper_us > 0 {
        run_helper(server)?;
    }
    Ok(())
}

/// Forks and executes this program again, which spins and ends.
fn run_helper(server: &Server) -> io::Result<()> {
    let status =
        Command::new("/proc/self/exe").args(["--spin-us", &server.options.helper_us.to_string()]).status()?;
    if !status.success() {
        return Err(io::Error::other(format!("the helper process ended with {status}")));
    }
    server.stats.record_helper(server.options.helper_us * 1_000);
    Ok(())
}
