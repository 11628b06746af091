//! What runs a process's code, as far as it decides how its first requests cost: told by the program's name, or by what is
//! mapped into it where the program only embeds the runtime.

use super::process::Process;

/// What runs the application's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    Jvm,
    Node,
    Python,
    Ruby,
    Php,
    DotNet,
    Beam,
    /// Compiled ahead of time, as far as can be seen: Go, Rust, C.
    Compiled,
}

impl Runtime {
    pub fn name(self) -> &'static str {
        match self {
            Self::Jvm => "Java",
            Self::Node => "JavaScript",
            Self::Python => "Python",
            Self::Ruby => "Ruby",
            Self::Php => "PHP",
            Self::DotNet => ".NET",
            Self::Beam => "Erlang",
            Self::Compiled => "compiled ahead of time",
        }
    }

    /// Whether its first requests load, compile or fill what later ones find.
    pub fn starts_cold(self) -> bool {
        self != Self::Compiled
    }
}

/// By the program's name without its version.
const BY_NAME: [(&str, Runtime); 19] = [
    ("java", Runtime::Jvm),
    ("node", Runtime::Node),
    ("nodejs", Runtime::Node),
    ("bun", Runtime::Node),
    ("deno", Runtime::Node),
    ("python", Runtime::Python),
    ("pypy", Runtime::Python),
    ("gunicorn", Runtime::Python),
    ("uvicorn", Runtime::Python),
    ("ruby", Runtime::Ruby),
    ("puma", Runtime::Ruby),
    ("truffleruby", Runtime::Ruby),
    ("php", Runtime::Php),
    ("php-fpm", Runtime::Php),
    ("php-cgi", Runtime::Php),
    ("lsphp", Runtime::Php),
    ("frankenphp", Runtime::Php),
    ("dotnet", Runtime::DotNet),
    ("beam.smp", Runtime::Beam),
];

/// By a library, as it begins behind the last `/` of what is mapped: servers such as uWSGI and Apache embed the runtime.
const BY_LIBRARY: [(&str, Runtime); 10] = [
    ("libjvm.so", Runtime::Jvm),
    ("libnode.so", Runtime::Node),
    ("libpython2", Runtime::Python),
    ("libpython3", Runtime::Python),
    ("libruby", Runtime::Ruby),
    ("libphp", Runtime::Php),
    ("mod_php", Runtime::Php),
    ("libcoreclr.so", Runtime::DotNet),
    ("python3_plugin.so", Runtime::Python),
    ("python_plugin.so", Runtime::Python),
];

/// What runs this process; `None` when it is gone or may not be read.
pub(super) fn of(process: &Process) -> Option<Runtime> {
    let exe = process.exe().ok()?;
    let name = exe.file_name()?.to_str()?;
    if let Some(found) = by_name(name) {
        return Some(found);
    }
    let maps = process.maps().ok()?;
    Some(maps.lines().find_map(by_library).unwrap_or(Runtime::Compiled))
}

fn by_name(name: &str) -> Option<Runtime> {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    BY_NAME.into_iter().find(|(known, _)| *known == stem).map(|(_, runtime)| runtime)
}

/// A line of `/proc/PID/maps`.
fn by_library(line: &str) -> Option<Runtime> {
    let (_, file) = line.rsplit_once('/')?;
    BY_LIBRARY.into_iter().find(|(start, _)| file.starts_with(start)).map(|(_, runtime)| runtime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_are_known_by_their_programs_and_libraries() {
        for (name, expected) in [
            ("java", Some(Runtime::Jvm)),
            ("node", Some(Runtime::Node)),
            ("node20", Some(Runtime::Node)),
            ("python3.11", Some(Runtime::Python)),
            ("ruby3.1", Some(Runtime::Ruby)),
            ("php-fpm8.2", Some(Runtime::Php)),
            ("beam.smp", Some(Runtime::Beam)),
            ("javac", None),
            ("nginx", None),
        ] {
            assert_eq!(by_name(name), expected, "{name}");
        }
        let line = |path: &str| format!("7f5c3a000000-7f5c3a400000 r-xp 00000000 fe:00 1234  {path}");
        for (path, expected) in [
            ("/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0", Some(Runtime::Python)),
            ("/usr/lib/apache2/modules/libphp8.2.so", Some(Runtime::Php)),
            ("/usr/lib/jvm/java-17/lib/server/libjvm.so", Some(Runtime::Jvm)),
            ("/srv/libpython3/app", None),
            ("/usr/lib/x86_64-linux-gnu/libc.so.6", None),
        ] {
            assert_eq!(by_library(&line(path)), expected, "{path}");
        }
    }

    #[test]
    fn this_program_is_compiled_ahead_of_time() {
        let me = Process::open(std::process::id()).unwrap().unwrap();
        assert_eq!(of(&me), Some(Runtime::Compiled));
        assert!(!Runtime::Compiled.starts_cold() && Runtime::Python.starts_cold());
    }
}
