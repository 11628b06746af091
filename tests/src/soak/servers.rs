//! The servers of the soak, and how each is made to change its processes without failing a request.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent::site::{Service, Site};
use crate::harness::{Burn, executable};
use crate::load::Target;
use crate::servers::free_address;
use crate::shop::gunicorn;

/// What the servers that are never deployed anew say they are.
pub const BUILD: &str = "one";
const GUNICORN_CONFIG: &str = "soak_gunicorn.py";
const NGINX_CONFIG: &str = "nginx/nginx.conf";
const READY_WITHIN: Duration = Duration::from_secs(30);
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// nginx or gunicorn: a master that starts its workers anew on SIGHUP. Ended when dropped.
#[derive(Debug)]
pub struct Reloading {
    child: Child,
    address: SocketAddr,
}

/// Two gunicorn workers (sync) that end by themselves after some requests, too.
pub fn start_gunicorn(folder: &Path) -> anyhow::Result<Reloading> {
    let address = free_address()?;
    fs::write(
        folder.join("soak_app.py"),
        "import hashlib\n\
         def app(environ, start_response):\n    \
             login = environ['PATH_INFO'] == '/login'\n    \
             if login:\n        environ['wsgi.input'].read()\n    \
             hashlib.pbkdf2_hmac('sha256', b'secret', b'salt', 8000 if login else 300)\n    \
             start_response('200 OK', [('Content-Length', '3')])\n    \
             return [b'ok\\n']\n",
    )?;
    fs::write(
        folder.join(GUNICORN_CONFIG),
        format!(
            "bind = '{address}'\nworkers = 2\nmax_requests = 150\nmax_requests_jitter = 50\n\
             graceful_timeout = 20\nerrorlog = '{}'\ncontrol_socket_disable = True\n",
            folder.join("gunicorn.log").display()
        ),
    )?;
    let mut command = Command::new(gunicorn()?);
    command.arg("--config").arg(folder.join(GUNICORN_CONFIG)).arg("soak_app:app");
    Reloading::start(&mut command, folder, address)
}

/// Two nginx workers that answer from the configuration.
pub fn start_nginx(program: &Path, folder: &Path) -> anyhow::Result<Reloading> {
    let address = free_address()?;
    let config = folder.join(NGINX_CONFIG);
    let folder = folder.join("nginx");
    fs::create_dir_all(folder.join("temp"))?;
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path temp;\n"))
        .concat();
    fs::write(
        &config,
        format!(
            "daemon off;\nworker_processes 2;\npid nginx.pid;\nerror_log error.log;\n\
             worker_rlimit_nofile 30000;\n\
             events {{ worker_connections 12000; }}\nhttp {{\n{temporary}    access_log off;\n    \
             keepalive_timeout 600;\n    keepalive_requests 100000000;\n    \
             server {{\n        listen {address};\n        location / {{ return 200 \"ok\\n\"; }}\n    }}\n}}\n"
        ),
    )?;
    let mut command = Command::new(program);
    command.arg("-e").arg(folder.join("error.log")).arg("-p").arg(&folder);
    command.arg("-c").arg(config);
    Reloading::start(&mut command, &folder, address)
}

impl Reloading {
    fn start(command: &mut Command, folder: &Path, address: SocketAddr) -> anyhow::Result<Self> {
        fs::write(folder.join("REVISION"), BUILD)?;
        let child = command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        let mut server = Self { child, address };
        let end = Instant::now() + READY_WITHIN;
        while TcpStream::connect(address).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("{} ended ({status})", command.get_program().display());
            }
            ensure!(Instant::now() < end, "{} takes no connections", command.get_program().display());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    pub fn target(&self) -> Target {
        Target::Tcp(self.address)
    }

    /// The master's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// New workers; the old ones end after the requests they have.
    pub fn reload(&self) -> anyhow::Result<()> {
        kill(self.pid(), Signal::SIGHUP).context("reloading")
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Reloading {
    fn drop(&mut self) {
        // All of these fail only when it has ended already.
        let _ = kill(self.pid(), Signal::SIGTERM);
        let end = Instant::now() + ENDS_WITHIN;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The services of the configuration. All are told by a word of the site's own folder on the command line: ports that
/// are not bound yet may be anybody's.
pub fn services(site: &Site) -> anyhow::Result<Vec<Service>> {
    let folder = site.folder().display();
    let of = |name: &str, word: String| Service {
        name: name.to_owned(),
        matcher: format!("{{ cmdline = '{word}' }}"),
        build: "{ env = \"REVISION\" }".to_owned(),
        mode: "observe".to_owned(),
        hook: None,
        rollback: String::new(),
        guard_for: "24h".to_owned(),
        more: String::new(),
        budget: "{ mean_cpu = \"500ms\" }".to_owned(),
    };
    // nginx writes its title over its environment.
    let by_file = |service: Service| Service { build: "{ file = \"REVISION\" }".to_owned(), ..service };
    Ok(vec![
        Service { mode: "observe".to_owned(), hook: None, ..site.web()? },
        of("kept", format!("--build {}", burn_mark(site, "kept"))),
        of("forking", format!("--build {}", burn_mark(site, "forking"))),
        by_file(of("gunicorn", format!("{folder}/{GUNICORN_CONFIG}"))),
        by_file(of("nginx", format!("{folder}/{NGINX_CONFIG}"))),
    ])
}

/// A burn server that is told by what it says its build is.
pub fn start_burn(site: &Site, name: &str, args: &[&str]) -> anyhow::Result<Burn> {
    let mut command = Command::new(executable("burn")?);
    command.args(["--login-us", "2000", "--browse-us", "300", "--build", &burn_mark(site, name)]).args(args);
    Burn::start_command(command.env("REVISION", BUILD))
}

fn burn_mark(site: &Site, name: &str) -> String {
    format!("{name}@{}", site.folder().display())
}
