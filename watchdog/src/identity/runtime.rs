//! Programs that read the application's code at each request: what they serve changes on disk, and no process restarts.

use std::collections::HashSet;

use super::process::{Process, Program};

/// By the program's name alone, without its version.
const BY_NAME: [&str; 3] = ["php-fpm", "php-cgi", "lsphp"];
/// Web servers that do so when this is loaded into them.
const SERVERS: [&str; 2] = ["apache2", "httpd"];
const MODULES: [&str; 2] = ["/libphp", "/mod_php"];
const MAX_PROGRAMS: usize = 1024;

/// Remembers which programs do. Which do not is asked again: a server loads its modules after it started.
#[derive(Debug, Default)]
pub(super) struct Runtimes {
    with_module: HashSet<Program>,
}

impl Runtimes {
    /// The name of what loads code at each request; `None` when nothing in this process is known to.
    pub(super) fn per_request(&mut self, process: &Process) -> Option<&'static str> {
        let exe = process.exe().ok()?;
        let name = exe.file_name()?.to_str()?;
        if let Some(found) = by_name(name) {
            return Some(found);
        }
        if !SERVERS.contains(&name) {
            return None;
        }
        if self.with_module.contains(&process.program) {
            return Some("mod_php");
        }
        let maps = process.maps().ok()?;
        if !maps.lines().any(maps_php) {
            return None;
        }
        if self.with_module.len() >= MAX_PROGRAMS {
            self.with_module.clear();
        }
        self.with_module.insert(process.program);
        Some("mod_php")
    }
}

fn by_name(name: &str) -> Option<&'static str> {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    BY_NAME.into_iter().find(|known| *known == stem)
}

/// A line of `/proc/PID/maps` that shows PHP as a library of the server.
fn maps_php(line: &str) -> bool {
    line.ends_with(".so") && MODULES.iter().any(|module| line.contains(module))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_known_with_their_versions() {
        for (name, expected) in [
            ("php-fpm8.2", Some("php-fpm")),
            ("php-fpm", Some("php-fpm")),
            ("php-cgi8.4", Some("php-cgi")),
            ("lsphp83", Some("lsphp")),
            ("php8.2", None),
            ("php", None),
            ("php-fpm-exporter", None),
            ("gunicorn", None),
        ] {
            assert_eq!(by_name(name), expected, "{name}");
        }
    }

    #[test]
    fn the_module_is_told_by_what_is_mapped() {
        let line =
            "7f5c3a000000-7f5c3a400000 r-xp 00000000 fe:00 1234  /usr/lib/apache2/modules/libphp8.2.so";
        assert!(maps_php(line));
        assert!(maps_php("7f-7f r-xp 0 fe:00 1 /usr/lib64/httpd/modules/mod_php7.so"));
        assert!(!maps_php("7f-7f r-xp 0 fe:00 1 /usr/lib/apache2/modules/mod_proxy_fcgi.so"));
        let me = Process::open(std::process::id()).unwrap().unwrap();
        assert_eq!(Runtimes::default().per_request(&me), None);
    }
}
