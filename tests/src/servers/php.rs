//! PHP's servers: see tests/apps/php. nginx before php-fpm, and Apache with PHP as a module.
//!
//! The application is deployed as most PHP is: `current` is a symlink to a release, and the processes that run serve
//! another one once it is flipped ([`Release`]).

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use super::{EXACT, Role, Running, Server, application, certificate, free_port, installed, program};
use crate::load::Target;

pub(super) const SERVERS: &[Server] = &[
    Server {
        name: "nginx-php-fpm-unix",
        model: "one process does one request at a time, behind nginx",
        bound: EXACT,
        start: || php_fpm(Listen::Unix, bcrypt_cost()),
    },
    Server {
        name: "nginx-php-fpm-tcp",
        model: "one process does one request at a time, behind nginx",
        bound: EXACT,
        start: || php_fpm(Listen::Tcp, bcrypt_cost()),
    },
    Server {
        name: "apache-mod-php",
        model: "one process does one connection at a time",
        bound: EXACT,
        start: || apache(bcrypt_cost()),
    },
    Server {
        name: "apache-mod-php-tls",
        model: "one process does one connection at a time; TLS ends in it",
        bound: EXACT,
        start: || apache_with(site_tls(bcrypt_cost())?),
    },
];

/// Cost of a password's bcrypt hash, about 25 ms; each more doubles it.
const BCRYPT_COST: u32 = 9;
/// Processes of php-fpm; this machine may have more CPUs.
const WORKERS: &str = "4";
/// Each connection that is kept holds a process of Apache.
const CHILDREN: &str = "40";

/// Where php-fpm listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    Unix,
    Tcp,
}

/// A release of the application below a folder.
#[derive(Clone, Copy, Debug)]
pub struct Release<'f> {
    pub folder: &'f Path,
    pub name: &'f str,
}

impl Release<'_> {
    /// Lays it out, with passwords hashed at this cost: each more doubles a login.
    pub fn lay_out(self, bcrypt_cost: u32) -> anyhow::Result<()> {
        let public = self.folder.join("releases").join(self.name).join("public");
        fs::create_dir_all(&public).with_context(|| format!("making {}", public.display()))?;
        fs::copy(application("php/index.php"), public.join("index.php"))
            .context("copying the application")?;
        let script = "echo '<?php return ', var_export(['ann' => password_hash('secret', PASSWORD_BCRYPT, \
                      ['cost' => (int) $argv[1]])], true), ';';";
        let made = Command::new(program("php", &["/usr/bin/php"])?)
            .args(["-n", "-r", script, &bcrypt_cost.to_string()])
            .output()
            .context("hashing the password")?;
        ensure!(made.status.success(), "php: {}", String::from_utf8_lossy(&made.stderr));
        fs::write(public.join("users.php"), made.stdout).context("writing the application's users")
    }

    /// From now on it serves: the symlink changes in one step.
    pub fn serve(self) -> anyhow::Result<()> {
        let next = self.folder.join("next");
        symlink(Path::new("releases").join(self.name), &next).context("making the new link")?;
        fs::rename(&next, self.folder.join("current")).context("flipping the link")
    }
}

/// nginx before php-fpm, with the release `first` in service.
pub fn php_fpm(listen: Listen, bcrypt_cost: u32) -> anyhow::Result<Running> {
    let (mut running, port) = site(bcrypt_cost)?;
    let folder = running.folder().to_owned();
    let (listen, pass) = match listen {
        Listen::Unix => {
            let socket = folder.join("fpm.sock");
            (socket.display().to_string(), format!("unix:{}", socket.display()))
        }
        Listen::Tcp => {
            let address = format!("127.0.0.1:{}", free_port()?);
            (address.clone(), address)
        }
    };
    write(&folder, "php.ini", &ini()?)?;
    write(
        &folder,
        "fpm.conf",
        &format!(
            "[global]\ndaemonize = no\nerror_log = /proc/self/fd/2\n[www]\nuser = root\ngroup = root\n\
             listen = {listen}\npm = static\npm.max_children = {WORKERS}\nclear_env = no\n"
        ),
    )?;
    write(&folder, "nginx.conf", &nginx_conf(&folder, port, &pass))?;
    let mut fpm = Command::new(fpm_program()?);
    fpm.args(["--nodaemonize", "--allow-to-run-as-root", "--php-ini"])
        .arg(folder.join("php.ini"))
        .arg("--fpm-config")
        .arg(folder.join("fpm.conf"))
        .env("PHP_INI_SCAN_DIR", "");
    running.start("php-fpm", Role::Server, &mut fpm)?;
    let mut nginx = Command::new(nginx_program()?);
    nginx.arg("-e").arg("stderr").arg("-p").arg(&folder).arg("-c").arg(folder.join("nginx.conf"));
    running.start("nginx", Role::Front, &mut nginx)?;
    running.ready()
}

/// Apache prefork with PHP inside, with the release `first` in service.
pub fn apache(bcrypt_cost: u32) -> anyhow::Result<Running> {
    apache_with(site(bcrypt_cost)?)
}

fn apache_with((mut running, port): (Running, u16)) -> anyhow::Result<Running> {
    let folder = running.folder().to_owned();
    // A link's target is asked for at every request: the module has nobody before it that does.
    let own = "opcache.revalidate_path = 1\nrealpath_cache_size = 0\n";
    write(&folder, "php.ini", &format!("{}{own}", ini()?))?;
    let tls = match running.target {
        Target::Tls(_) => Some(certificate(&folder)?),
        _ => None,
    };
    write(&folder, "apache.conf", &apache_conf(&folder, port, tls.as_ref())?)?;
    let mut apache = apache_with_settings(&folder)?;
    running.start("apache", Role::Server, apache.env("PHP_INI_SCAN_DIR", ""))?;
    running.ready()
}

/// Apache with the settings `apache.conf` of the folder, which is opened to others: Apache gives up root.
pub(super) fn apache_with_settings(folder: &Path) -> anyhow::Result<Command> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).context("opening the folder")?;
    let mut apache = Command::new(program("apache2", &["/usr/sbin/apache2"])?);
    // When it ends, it ends its whole process group.
    apache.process_group(0);
    apache.args(["-D", "FOREGROUND", "-f"]).arg(folder.join("apache.conf"));
    Ok(apache)
}

/// A folder with the release `first`, and a port.
fn site(bcrypt_cost: u32) -> anyhow::Result<(Running, u16)> {
    site_at(Target::Tcp, bcrypt_cost)
}

fn site_tls(bcrypt_cost: u32) -> anyhow::Result<(Running, u16)> {
    site_at(Target::Tls, bcrypt_cost)
}

fn site_at(target: fn(SocketAddr) -> Target, bcrypt_cost: u32) -> anyhow::Result<(Running, u16)> {
    let port = free_port()?;
    let running = Running::new(target((Ipv4Addr::LOCALHOST, port).into()))?;
    let first = Release { folder: running.folder(), name: "first" };
    first.lay_out(bcrypt_cost)?;
    first.serve()?;
    Ok((running, port))
}

/// bcrypt's cost can only double: `HASH_COST=3` makes logins four times as heavy.
fn bcrypt_cost() -> u32 {
    let times: u32 = std::env::var("HASH_COST").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    BCRYPT_COST + times.next_power_of_two().ilog2()
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    fs::write(folder.join(name), text).with_context(|| format!("writing {name}"))
}

/// As in production: compiled scripts are kept, and nothing else is loaded.
fn ini() -> anyhow::Result<String> {
    let opcache = newest("/usr/lib/php", "opcache.so")?;
    Ok(format!(
        "zend_extension = {}\nopcache.enable = 1\nopcache.validate_timestamps = 0\nexpose_php = 0\n\
         display_errors = 0\nlog_errors = 1\n",
        opcache.display()
    ))
}

/// `name` in the last of the folders below `folder`.
fn newest(folder: &str, name: &str) -> anyhow::Result<PathBuf> {
    let found = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join(name)))
        .filter(|path| path.is_file());
    found.max().with_context(|| format!("no {folder}/*/{name}: run `cargo xtask setup servers`"))
}

/// The newest program or library of this kind in one of the folders.
fn versioned(folders: &[PathBuf], prefix: &str, suffix: &str) -> anyhow::Result<PathBuf> {
    let found = folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(prefix) && name.ends_with(suffix)
        });
    found.max().with_context(|| format!("no {prefix}*{suffix}: run `cargo xtask setup servers`"))
}

/// The system's, else the one that setup has unpacked.
fn fpm_program() -> anyhow::Result<PathBuf> {
    let mut folders = vec![PathBuf::from("/usr/sbin")];
    folders.extend(installed("php/usr/sbin"));
    versioned(&folders, "php-fpm", "")
}

fn nginx_program() -> anyhow::Result<PathBuf> {
    // Unpacked beside the servers: the benchmark uses it too.
    program("nginx", &["/usr/sbin/nginx"]).or_else(|_| installed("../nginx/usr/sbin/nginx"))
}

/// Debian's usual parameters, and the release resolved by nginx: php-fpm sees the real path, so that a flip of the link
/// takes effect with the next request.
fn nginx_conf(folder: &Path, port: u16, pass: &str) -> String {
    let folder = folder.display();
    format!(
        "daemon off;\nuser root;\nworker_processes 2;\npid {folder}/nginx.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 512; }}\n\
         http {{\n  access_log off;\n  client_body_temp_path {folder}/bodies;\n  \
         fastcgi_temp_path {folder}/fastcgi;\n  proxy_temp_path {folder}/proxy;\n  \
         uwsgi_temp_path {folder}/uwsgi;\n  scgi_temp_path {folder}/scgi;\n  server {{\n    \
         listen 127.0.0.1:{port};\n    root {folder}/current/public;\n    location / {{\n      \
         fastcgi_param QUERY_STRING $query_string;\n      fastcgi_param REQUEST_METHOD $request_method;\n      \
         fastcgi_param CONTENT_TYPE $content_type;\n      fastcgi_param CONTENT_LENGTH $content_length;\n      \
         fastcgi_param SCRIPT_FILENAME $realpath_root/index.php;\n      fastcgi_param SCRIPT_NAME /index.php;\n      \
         fastcgi_param REQUEST_URI $request_uri;\n      fastcgi_param DOCUMENT_URI $document_uri;\n      \
         fastcgi_param DOCUMENT_ROOT $realpath_root;\n      fastcgi_param SERVER_PROTOCOL $server_protocol;\n      \
         fastcgi_param REQUEST_SCHEME $scheme;\n      fastcgi_param GATEWAY_INTERFACE CGI/1.1;\n      \
         fastcgi_param SERVER_SOFTWARE nginx/$nginx_version;\n      fastcgi_param REMOTE_ADDR $remote_addr;\n      \
         fastcgi_param REMOTE_PORT $remote_port;\n      fastcgi_param SERVER_ADDR $server_addr;\n      \
         fastcgi_param SERVER_PORT $server_port;\n      fastcgi_param SERVER_NAME $server_name;\n      \
         fastcgi_pass {pass};\n    }}\n  }}\n}}\n"
    )
}

/// With `tls`, a certificate and its key, all is encrypted.
fn apache_conf(folder: &Path, port: u16, tls: Option<&(PathBuf, PathBuf)>) -> anyhow::Result<String> {
    let modules = Path::new("/usr/lib/apache2/modules");
    let php = versioned(&[modules.to_owned()], "libphp", ".so")?;
    let mut text = String::new();
    for name in ["mpm_prefork", "authz_core", "dir"] {
        let file = modules.join(format!("mod_{name}.so"));
        writeln!(text, "LoadModule {name}_module {}", file.display())?;
    }
    writeln!(text, "LoadModule php_module {}", php.display())?;
    if let Some((certificate, key)) = tls {
        for name in ["socache_shmcb", "ssl"] {
            writeln!(text, "LoadModule {name}_module {}", modules.join(format!("mod_{name}.so")).display())?;
        }
        writeln!(
            text,
            "SSLEngine on\nSSLCertificateFile {}\nSSLCertificateKeyFile {}",
            certificate.display(),
            key.display()
        )?;
    }
    let folder = folder.display();
    write!(
        text,
        "ServerRoot {folder}\nServerName localhost\nDefaultRuntimeDir {folder}\nPidFile {folder}/apache.pid\n\
         Mutex posixsem\nListen 127.0.0.1:{port}\nUser www-data\nGroup www-data\nErrorLog /proc/self/fd/2\n\
         PHPIniDir {folder}\nDocumentRoot {folder}/current/public\n\
         <Directory />\n  Require all granted\n  Options FollowSymLinks\n</Directory>\n\
         FallbackResource /index.php\n<FilesMatch \"\\.php$\">\n  SetHandler application/x-httpd-php\n</FilesMatch>\n\
         StartServers {CHILDREN}\nMinSpareServers {CHILDREN}\nMaxSpareServers {CHILDREN}\n\
         ServerLimit {CHILDREN}\nMaxRequestWorkers {CHILDREN}\nMaxConnectionsPerChild 0\n\
         KeepAlive On\nMaxKeepAliveRequests 0\nTimeout 60\n"
    )?;
    Ok(text)
}
