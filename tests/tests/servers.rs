//! Real servers: the kernel's figures against the applications' own, at concurrency 1, 8 and 32, over connections that
//! are kept and that are not; of every day, each server gets two of these six. `cargo xtask setup servers` installs them; `server-check` runs them with other loads.

use std::fmt::Write as _;

use watchdog::kernel::{KernelOptions, Uprobes};
use watchdog_tests::servers::{self, Session, Trial, judge};
use watchdog_tests::skip::kernel_or_skip;

/// Set by `cargo xtask test --slow`: each concurrency with connections that are kept and with ones that are not. Else it is
/// 8 and 32, one with connections that are kept and one with ones that are not: one request after another is the easy
/// case, and takes longest.
const SLOW: &str = "LOAD_WATCHDOG_SLOW";
const REQUESTS: u64 = 100;
/// A run so short can miss a bound by a request that was cut in two by its ends. One that does not hold is made again,
/// so much longer, twice at most: then it must.
const LONGER: [u64; 3] = [1, 3, 3];

fn holds(name: &str) {
    let server = servers::named(name).unwrap_or_else(|error| panic!("{error:#}"));
    // Taking the probes of a TLS library out takes the kernel most of a second for each process, and Apache has 41.
    let uprobes = Uprobes { tls: ["tls", "https"].iter().any(|word| name.contains(word)), ..Uprobes::ALL };
    let Some(mut kernel) = kernel_or_skip(&KernelOptions { uprobes, ..KernelOptions::default() }) else {
        return;
    };
    let session = Session::open(&mut kernel, server).unwrap_or_else(|error| panic!("{error:#}"));
    let (mut failed, mut holds) = (String::new(), true);
    // All six take three times as long.
    let place = servers::all().position(|other| other.name == name).unwrap_or(0);
    let all = std::env::var_os(SLOW).is_some();
    let concurrencies: &[usize] = if all { &[1, 8, 32] } else { &[8, 32] };
    for (turn, &concurrency) in concurrencies.iter().enumerate() {
        let kept_first = (place + turn) % 2 == 0;
        for keep_alive in [kept_first, !kept_first].into_iter().take(if all { 2 } else { 1 }) {
            let mut wrong = Vec::new();
            for requests in LONGER.map(|times| times * REQUESTS) {
                // As over a network: a reactor may read what came later than its connection.
                let distant = !keep_alive && concurrency == 8;
                let trial = Trial { concurrency, keep_alive, requests, contended: false, distant };
                let outcome = session
                    .run(&mut kernel, trial)
                    .unwrap_or_else(|error| panic!("{name}, {trial}: {error:#}"));
                wrong = judge(server, &outcome);
                if wrong.is_empty() {
                    break;
                }
                let told = outcome.told(server);
                let _ = writeln!(failed, "{name}, {trial}:\n- {}\n{told}", wrong.join("\n- "));
            }
            holds &= wrong.is_empty();
        }
    }
    assert!(holds, "\n{failed}");
}

/// A test for each server, and one that fails when a server has none.
macro_rules! servers {
    ($($(#[$attribute:meta])* $test:ident: $name:literal,)*) => {
        $(
            #[test]
            $(#[$attribute])*
            fn $test() {
                holds($name);
            }
        )*

        #[test]
        fn every_server_has_a_test() {
            let tested = [$($name),*];
            let untested: Vec<_> =
                servers::all().map(|server| server.name).filter(|name| !tested.contains(name)).collect();
            assert!(untested.is_empty(), "{untested:?}");
        }
    };
}

servers! {
    gunicorn_sync: "gunicorn-sync",
    #[ignore = "slow: `cargo xtask test --slow` runs it"]
    puma_threads: "puma-threads",
    puma_cluster: "puma-cluster",
    tomcat: "tomcat",
    go_nethttp: "go-nethttp",
    #[ignore = "slow: `cargo xtask test --slow` runs it"]
    go_locked: "go-locked",
    go_tls: "go-tls",
    #[ignore = "slow: `cargo xtask test --slow` runs it"]
    go_debian: "go-debian",
    #[ignore = "slow: `cargo xtask test --slow` runs it"]
    go_debian_tls: "go-debian-tls",
    axum_blocking: "axum-blocking",
    #[ignore = "slow: `cargo xtask test --slow` runs it"]
    axum_worker: "axum-worker",
    gunicorn_gthread: "gunicorn-gthread",
    waitress: "waitress",
    apache_mod_wsgi: "apache-mod-wsgi",
    #[ignore = "slow: `cargo xtask test --slow` runs it"]
    gunicorn_tls: "gunicorn-tls",
    gunicorn_postgres: "gunicorn-postgres",
    nginx_gunicorn: "nginx-gunicorn",
    #[ignore = "slow: `cargo xtask test --slow` runs it"]
    nginx_tls_gunicorn: "nginx-tls-gunicorn",
    uvicorn_pool: "uvicorn-pool",
    uvicorn_uvloop_pool: "uvicorn-uvloop-pool",
    uvicorn_onloop: "uvicorn-onloop",
    #[ignore = "slow: `cargo xtask test --slow` runs it"]
    uvicorn_uvloop_onloop: "uvicorn-uvloop-onloop",
    #[ignore = "slow: `cargo xtask test --slow` runs it"]
    uwsgi_http_socket: "uwsgi-http-socket",
    #[ignore = "slow: `cargo xtask test --slow` runs it"]
    uwsgi_http_router: "uwsgi-http-router",
    nginx_uwsgi: "nginx-uwsgi",
    node_express_scrypt: "node-express-scrypt",
    #[ignore = "slow: `cargo xtask test --slow` runs it"]
    node_express_pbkdf2: "node-express-pbkdf2",
    #[ignore = "slow: `cargo xtask test --slow` runs it"]
    node_express_bcrypt: "node-express-bcrypt",
    #[ignore = "slow: `cargo xtask test --slow` runs it"]
    node_http_sync: "node-http-sync",
    node_express_data: "node-express-data",
    node_https: "node-https",
    #[ignore = "slow: `cargo xtask test --slow` runs it"]
    node_cluster: "node-cluster",
    nginx_php_fpm_unix: "nginx-php-fpm-unix",
    #[ignore = "slow: `cargo xtask test --slow` runs it"]
    nginx_php_fpm_tcp: "nginx-php-fpm-tcp",
    apache_mod_php: "apache-mod-php",
    mojolicious: "mojolicious",
    #[ignore = "slow: `cargo xtask test --slow` runs it"]
    apache_mod_php_tls: "apache-mod-php-tls",
}
