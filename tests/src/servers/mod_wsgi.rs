//! Python behind Apache, as `mod_wsgi`'s manual wants it: Apache's processes speak with those of Python over unix sockets,
//! in a protocol of `mod_wsgi`'s own. To those who watch, both are one service.

use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::php::apache_with_settings;
use super::{EXACT, Role, Running, Server, application, free_address};
use crate::load::Target;

const MODULES: &str = "/usr/lib/apache2/modules";
const APPLICATION: &str = "shop_alone.py";

pub(super) const SERVERS: &[Server] = &[Server {
    name: "apache-mod-wsgi",
    model: "a thread of Apache's passes each request to one of a process of Python's, over a unix socket",
    bound: EXACT,
    start,
}];

fn start() -> anyhow::Result<Running> {
    let address = free_address()?;
    let mut running = Running::new(Target::Tcp(address))?;
    let folder = running.folder().to_owned();
    fs::copy(application("python").join(APPLICATION), folder.join(APPLICATION))
        .context("copying the application")?;
    fs::write(folder.join("apache.conf"), settings(&folder, address.port()))
        .context("writing apache.conf")?;
    running.start("apache", Role::Server, &mut apache_with_settings(&folder)?)?;
    running.ready()
}

/// One process of Python's: the application is loaded when the server is ready. Apache keeps its own two.
fn settings(folder: &Path, port: u16) -> String {
    let folder = folder.display();
    format!(
        "LoadModule mpm_event_module {MODULES}/mod_mpm_event.so\n\
         LoadModule authz_core_module {MODULES}/mod_authz_core.so\n\
         LoadModule wsgi_module {MODULES}/mod_wsgi.so\n\
         ServerRoot {folder}\nServerName localhost\nDefaultRuntimeDir {folder}\nPidFile {folder}/apache.pid\n\
         Mutex posixsem\nListen 127.0.0.1:{port}\nUser www-data\nGroup www-data\nErrorLog /proc/self/fd/2\n\
         StartServers 2\nServerLimit 2\nThreadsPerChild 32\nMaxRequestWorkers 64\nMinSpareThreads 1\n\
         MaxSpareThreads 64\nKeepAlive On\nMaxKeepAliveRequests 0\nKeepAliveTimeout 60\n\
         WSGISocketPrefix {folder}/wsgi\n\
         WSGIDaemonProcess shop processes=1 threads=4\nWSGIProcessGroup shop\n\
         WSGIApplicationGroup %{{GLOBAL}}\nWSGIScriptAlias / {folder}/{APPLICATION}\n\
         <Directory {folder}>\n  Require all granted\n</Directory>\n"
    )
}
