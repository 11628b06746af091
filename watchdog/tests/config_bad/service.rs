//! Services, the processes that belong to them, and their builds.

use super::check;

#[test]
fn services() {
    check(&[
        (
            "[[service]]",
            "[service]",
            &[
                r#"1:1: service: expected an array of tables, found a table; write for example [[service]] with name = "web""#,
            ],
        ),
        (
            "[[service]]",
            "[servic]",
            &[
                "1:2: servic: unknown key `servic` in the file; did you mean `service`?",
                r#"4:3: service: expected an array of tables, found a table; write for example [[service]] with name = "web""#,
            ],
        ),
        ("name = \"web\"\n", "", &[r#"1:1: service[#1]: `name` is missing; add for example name = "web""#]),
        (
            r#"name = "web""#,
            r#"name = """#,
            &[r#"2:8: service[#1].name: the name is empty; give it a name such as "web""#],
        ),
        (
            r#"name = "web""#,
            r#"name = "my web""#,
            &[
                r#"2:8: service[#1].name: "my web" is not a name; use letters, digits, '.', '_' and '-', beginning with a letter or digit, for it becomes a label of every metric"#,
            ],
        ),
        (
            r#"name = "web""#,
            r#"name = "wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww""#,
            &[
                "2:8: service[#1].name: the name has 65 bytes; at most 64, for it becomes a label of every metric",
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nname = \"web\"",
            &["3:1: not valid TOML: duplicate key; see https://toml.io"],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[[service]]\nname = \"web\"\nmatch = { listen = 80 }\n[[service.endpoint]]\nname = \"x\"\npath = \"/\"\nbudget = { vs_baseline = 2 }\n",
            &[
                r#"8:1: service[web]: a second service with the name "web"; every service needs a name of its own"#,
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nprotocol = \"scgi\"",
            &[
                r#"3:12: service[web].protocol: "scgi" is not available yet in this version; use "auto", and watch the server behind which speaks HTTP/1, FastCGI or uwsgi"#,
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nprotocol = \"htp1\"",
            &[
                r#"3:12: service[web].protocol: "htp1" is not one of the values it can have; did you mean `http1`?"#,
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nuprobes = [\"pool\", \"tsl\"]",
            &[
                r#"3:20: service[web].uprobes[1]: "tsl" is not one of the values it can have; did you mean `tls`?"#,
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nwarmup_factor = 0.5",
            &[
                "3:17: service[web].warmup_factor: 0.5 is no warm-up that can be worked with; it must be from 1 (no warm-up) to 100; 4 lets the first requests of a process cost four times their budget",
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nmode = \"enforce\"",
            &[
                r#"3:8: service[web].mode: there is nothing to run in this mode; add a [service.rollback] with exec = [..] below the service, or use mode = "observe""#,
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nmode = \"Enforce\"",
            &[
                r#"3:8: service[web].mode: "Enforce" is not one of the values it can have; did you mean `enforce`?"#,
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nmode = true",
            &[r#"3:8: service[web].mode: expected a string, found a boolean; write for example "observe""#],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nguard_for = \"1d\"",
            &[
                r#"3:13: service[web].guard_for: "1d" is given in days or weeks, whose length varies; write it in hours, such as "24h""#,
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nguard_for = 24",
            &[
                r#"3:13: service[web].guard_for: "24" has no unit; write "24ms", "24s", "24m" or "24h", whichever is meant"#,
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nguard_for = \"-5m\"",
            &[
                r#"3:13: service[web].guard_for: "-5m" is negative; write a number with its unit, such as "80ms", "120s", "30m" or "24h""#,
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nguard_for = \"soon\"",
            &[
                r#"3:13: service[web].guard_for: "soon" is not a duration; write a number with its unit, such as "80ms", "120s", "30m" or "24h""#,
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nguard_for = \"1000h\"",
            &[r#"3:13: service[web].guard_for: "1000h" is out of range; it must be from 1s to 720h"#],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nfalse_rollback_rate = 0.5",
            &[
                "3:23: service[web].false_rollback_rate: 0.5 is no probability that can be worked with; it must be over 0 and below 0.5; 0.001 is one needless rollback in 1000 deploys",
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nfalse_rollback_rate = 0",
            &[
                "3:23: service[web].false_rollback_rate: 0 is no probability that can be worked with; it must be over 0 and below 0.5; 0.001 is one needless rollback in 1000 deploys",
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nretries = 2",
            &[
                "3:1: service[web].retries: unknown key `retries` in `service[web]`; it can be `name`, `match`, `build`, `protocol`, `uprobes`, `warmup_factor`, `mode`, `guard_for`, `false_rollback_rate`, `endpoint`, `release_window` or `rollback`",
            ],
        ),
    ]);
}

#[test]
fn matches() {
    check(&[
        (
            "match = { unit = \"web.service\" }\n",
            "",
            &[
                r#"1:1: service[web]: `match` is missing; say which processes belong to it, for example match = { unit = "web.service" }"#,
            ],
        ),
        (
            r#"{ unit = "web.service" }"#,
            "{ }",
            &[
                "3:9: service[web].match: the match has no condition, so it would take in every process; give at least one of `unit`, `exe`, `cmdline`, `listen` or `cgroup`",
            ],
        ),
        (
            r#"{ unit = "web.service" }"#,
            r#""web.service""#,
            &[
                r#"3:9: service[web].match: expected a table, found a string; write for example { unit = "web.service" }"#,
            ],
        ),
        (
            r#"{ unit = "web.service" }"#,
            r#"{ unit = "web.timer" }"#,
            &[
                r#"3:18: service[web].match.unit: "web.timer" is not a unit that has processes; write its whole name, such as "web.service""#,
            ],
        ),
        (
            r#"{ unit = "web.service" }"#,
            r#"{ unit = "web@.service" }"#,
            &[
                r#"3:18: service[web].match.unit: "web@.service" is a template without an instance; name the instance, such as "web@1.service", or match the slice of all its instances"#,
            ],
        ),
        (
            r#"{ unit = "web.service" }"#,
            r#"{ exe = "node" }"#,
            &[
                r#"3:17: service[web].match.exe: "node" is not an absolute path; write it from the root, such as "/usr/bin/node""#,
            ],
        ),
        (
            r#"{ unit = "web.service" }"#,
            r#"{ cmdline = "gunicorn(" }"#,
            &[
                r#"3:21: service[web].match.cmdline: "gunicorn(" is not a regular expression (unclosed group); in TOML, write it in single quotes so that backslashes stay as they are"#,
            ],
        ),
        (
            r#"{ unit = "web.service" }"#,
            r#"{ cmdline = ".*" }"#,
            &[
                r#"3:21: service[web].match.cmdline: ".*" matches every command line; name the program or an argument that only this service has"#,
            ],
        ),
        (
            r#"{ unit = "web.service" }"#,
            "{ listen = 70000 }",
            &["3:20: service[web].match.listen: 70000 is out of range; it must be from 1 to 65535"],
        ),
        (
            r#"{ unit = "web.service" }"#,
            r#"{ listen = "127.0.0.1:8000" }"#,
            &[
                r#"3:20: service[web].match.listen: "127.0.0.1:8000" is neither a port nor the path of a unix socket; write the port as a number: listen = 8000 (any address)"#,
            ],
        ),
        (
            r#"{ unit = "web.service" }"#,
            r#"{ listen = "app.sock" }"#,
            &[
                r#"3:20: service[web].match.listen: "app.sock" is neither a port nor the path of a unix socket; write a port such as 8000, a path such as "/run/app.sock", or "@name" for an abstract socket"#,
            ],
        ),
        (
            r#"{ unit = "web.service" }"#,
            r#"{ listen = "/run/my app.sock" }"#,
            &[
                r#"3:20: service[web].match.listen: "/run/my app.sock" cannot be looked up in /proc/net/unix; use a path without white space and of at most 107 bytes"#,
            ],
        ),
        (
            r#"{ unit = "web.service" }"#,
            "{ listen = [80] }",
            &[
                r#"3:20: service[web].match.listen: expected a port or the path of a unix socket, found an array; write for example 8000 or "/run/app.sock""#,
            ],
        ),
        (
            r#"{ unit = "web.service" }"#,
            r#"{ cgroup = "/sys/fs/cgroup/x" }"#,
            &[
                r#"3:20: service[web].match.cgroup: "/sys/fs/cgroup/x" is a path of the file system; write it as in /proc/PID/cgroup, such as "/system.slice/web""#,
            ],
        ),
        (
            r#"{ unit = "web.service" }"#,
            r#"{ cgroup = "/" }"#,
            &["3:20: service[web].match.cgroup: the root cgroup holds every process; name a cgroup below it"],
        ),
        (
            r#"{ unit = "web.service" }"#,
            r#"{ container = "web" }"#,
            &[
                "3:23: service[web].match.container: matching by container is not available yet in this version; use cgroup, listen or exe",
            ],
        ),
        (
            r#"{ unit = "web.service" }"#,
            r#"{ unti = "web.service" }"#,
            &[
                "3:11: service[web].match.unti: unknown key `unti` in `service[web].match`; did you mean `unit`?",
            ],
        ),
    ]);
}

#[test]
fn builds() {
    check(&[
        (
            r#"name = "web""#,
            "name = \"web\"\nbuild = \"auto\"",
            &[
                r#"3:9: service[web].build: expected a table, found a string; write for example { from = "auto" }"#,
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nbuild = { }",
            &[
                "3:9: service[web].build: no source of the build; give exactly one of `from`, `env`, `file`, `symlink` or `command`",
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nbuild = { env = \"A\", file = \"B\" }",
            &[
                "3:9: service[web].build: more than one source of the build; give exactly one of `from`, `env`, `file`, `symlink` or `command`",
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nbuild = { env = \"A\", in_place = true }",
            &[
                "3:33: service[web].build.in_place: this source of the build cannot change under a process that runs; use in_place with `symlink` or `file`, and name the one that deploys change",
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nbuild = { symlink = \"/a\", in_place = \"yes\" }",
            &[
                "3:38: service[web].build.in_place: expected true or false, found a string; write for example true",
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nbuild = { from = \"image\" }",
            &[
                r#"3:18: service[web].build.from: "image" is not available yet in this version; use "auto" or "build-id", or { env = "GIT_SHA" } or { file = "REVISION" }"#,
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nbuild = { from = \"git\" }",
            &[
                r#"3:18: service[web].build.from: "git" is not one of the values it can have; it can be `auto` or `build-id`"#,
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nbuild = { env = \"$GIT_SHA\" }",
            &[
                r#"3:17: service[web].build.env: "$GIT_SHA" is not the name of an environment variable; write for example "GIT_SHA", without '$'"#,
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nbuild = { file = \"\" }",
            &[
                r#"3:18: service[web].build.file: "" is not the path of a file; write it relative to the process's working directory, such as "REVISION""#,
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nbuild = { symlink = \"current\" }",
            &[
                r#"3:21: service[web].build.symlink: "current" is not an absolute path; write it from the root, such as "/srv/web/current""#,
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nbuild = { command = \"git rev-parse HEAD\" }",
            &[
                r#"3:21: service[web].build.command: a command is given as one string, but no shell reads it; write its arguments one by one: ["git", "rev-parse", "HEAD"]"#,
            ],
        ),
        (
            r#"name = "web""#,
            "name = \"web\"\nbuild = { command = [\"git\", \"rev-parse\"] }",
            &[
                r#"3:22: service[web].build.command[0]: "git" is not an absolute path; write it from the root, such as "/usr/local/bin/git""#,
            ],
        ),
    ]);
}
