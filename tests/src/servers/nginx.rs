//! nginx before an application server, as a reverse proxy.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::{EXACT, Role, Running, Server, certificate, free_port, installed, program};
use crate::load::Target;

/// nginx itself as the server: it answers from its settings and from a file, which it sends without reading it.
pub(super) const HTTP2_SERVERS: &[Server] =
    &[Server { name: "nginx-h2c", model: "one loop with HTTP/2", bound: EXACT, start: serve }];

fn serve() -> anyhow::Result<Running> {
    let address = ([127, 0, 0, 1], free_port()?).into();
    let mut running = Running::new(Target::Http2 { address, tls: false })?;
    let folder = running.folder();
    std::fs::write(folder.join("report"), vec![b'r'; 300_000]).context("writing a file to serve")?;
    let locations = format!(
        "listen {address} http2;
        root {};
        location = /login {{ if ($content_length = 27) {{ return 401 no; }} return 200 yes; }}
        location = /browse {{ return 200 articles; }}
        location = /report {{ sendfile on; }}",
        folder.display()
    );
    let path = write_settings(folder, "", &locations)?;
    let mut command = Command::new(nginx()?);
    command.arg("-p").arg(folder).arg("-c").arg(&path).args(["-e", "stderr"]);
    running.start("nginx", Role::Server, &mut command)?;
    running.ready()
}

/// How nginx speaks to what is behind it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Backend {
    Http,
    Uwsgi,
}

impl Backend {
    fn directive(self) -> &'static str {
        match self {
            Self::Http => "proxy_pass http://backend",
            Self::Uwsgi => "include uwsgi_params; uwsgi_pass backend",
        }
    }
}

/// Starts nginx on the port of the running server's target; `server` is where the application server listens, as
/// `IP:PORT` or `unix:PATH`.
pub(super) fn front(running: &mut Running, backend: Backend, server: &str) -> anyhow::Result<()> {
    let folder = running.folder();
    let listen = match running.target {
        Target::Tcp(address) => format!("listen {address};"),
        Target::Tls(address) => {
            let (certificate, key) = certificate(folder)?;
            format!(
                "listen {address} ssl; ssl_certificate {}; ssl_certificate_key {};",
                certificate.display(),
                key.display()
            )
        }
        ref other => anyhow::bail!("nginx listens on a TCP port in these tests, not on {other:?}"),
    };
    // What the file of that name in nginx's own package holds: an unpacked nginx has none in its place.
    let parameters = "\
        uwsgi_param QUERY_STRING $query_string;\n\
        uwsgi_param REQUEST_METHOD $request_method;\n\
        uwsgi_param CONTENT_TYPE $content_type;\n\
        uwsgi_param CONTENT_LENGTH $content_length;\n\
        uwsgi_param REQUEST_URI $request_uri;\n\
        uwsgi_param PATH_INFO $document_uri;\n\
        uwsgi_param DOCUMENT_ROOT $document_root;\n\
        uwsgi_param SERVER_PROTOCOL $server_protocol;\n\
        uwsgi_param REQUEST_SCHEME $scheme;\n\
        uwsgi_param REMOTE_ADDR $remote_addr;\n\
        uwsgi_param REMOTE_PORT $remote_port;\n\
        uwsgi_param SERVER_PORT $server_port;\n\
        uwsgi_param SERVER_NAME $server_name;\n";
    std::fs::write(folder.join("uwsgi_params"), parameters).context("writing uwsgi_params")?;
    let backend_is = format!("upstream backend {{ server {server}; }}");
    let to_backend = format!("{listen}\n        location / {{ {}; }}", backend.directive());
    let path = write_settings(folder, &backend_is, &to_backend)?;
    let mut command = Command::new(nginx()?);
    command.arg("-p").arg(folder).arg("-c").arg(&path).args(["-e", "stderr"]);
    running.start("nginx", Role::Front, &mut command)?;
    Ok(())
}

/// Writes nginx's settings; `server` is what they say of its one server, `before` what comes before that.
fn write_settings(folder: &Path, before: &str, server: &str) -> anyhow::Result<PathBuf> {
    // The worker must reach sockets and files in a folder that only this user may enter.
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid())?.context("this user has no name")?.name;
    let settings = format!(
        "daemon off;
user {user};
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log access.log;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {before}
    server {{
        {server}
    }}
}}
"
    );
    let path = folder.join("nginx.conf");
    std::fs::write(&path, settings).context("writing nginx's settings")?;
    Ok(path)
}

/// `NGINX`, the system's nginx, or the one that setup unpacked.
pub fn nginx() -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os("NGINX") {
        return Ok(named.into());
    }
    program("nginx", &["/usr/sbin/nginx", "/usr/local/sbin/nginx"])
        .or_else(|_| installed("../nginx/usr/sbin/nginx"))
        .context("no nginx: run `cargo xtask setup servers`, or set NGINX")
}
