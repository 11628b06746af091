//! Bad configurations, each with its exact messages.

#![allow(clippy::too_many_lines, reason = "each test is one table")]

use watchdog::config::Config;

const GOOD: &str = r#"[[service]]
name = "web"
match = { unit = "web.service" }
[[service.endpoint]]
name = "login"
path = "/login"
budget = { mean_cpu = "80ms" }
"#;

/// (what is replaced in [`GOOD`], by what, the messages without the file's name).
type Case = (&'static str, &'static str, &'static [&'static str]);

fn check(cases: &[Case]) {
    for (from, to, wanted) in cases {
        assert!(GOOD.contains(from), "{from:?} is not in the good configuration");
        let text = GOOD.replacen(from, to, 1);
        let found: Vec<String> = match Config::parse(&text, "c.toml") {
            Ok(_) => vec!["accepted".to_owned()],
            Err(errors) => errors.iter().map(|error| error.to_string().replacen("c.toml:", "", 1)).collect(),
        };
        assert_eq!(&found, wanted, "for {to:?}");
    }
}

#[test]
fn agent() {
    check(&[
        (
            "[[service]]",
            "[agent]\nlisten = \"0.0.0.0:9847\"\n[[service]]",
            &[
                r#"2:10: agent.listen: 0.0.0.0:9847 can be reached from other hosts, but metrics are plain HTTP without a login; listen on "127.0.0.1:9847" and let a reverse proxy or an agent on this host pass them on"#,
            ],
        ),
        (
            "[[service]]",
            "[agent]\nlisten = \"localhost:9847\"\n[[service]]",
            &[
                r#"2:10: agent.listen: "localhost:9847" is not an address with a port; write for example "127.0.0.1:9847" or "[::1]:9847""#,
            ],
        ),
        (
            "[[service]]",
            "[agent]\nlisten = \"127.0.0.1:0\"\n[[service]]",
            &["2:10: agent.listen: port 0 is no fixed port; choose one, such as 9847"],
        ),
        (
            "[[service]]",
            "[agent]\nlisten = 9847\n[[service]]",
            &[
                r#"2:10: agent.listen: expected a string, found an integer; write for example "127.0.0.1:9847""#,
            ],
        ),
        (
            "[[service]]",
            "[agent]\nstate_dir = \"state\"\n[[service]]",
            &[
                r#"2:13: agent.state_dir: "state" is not an absolute path; write it from the root, such as "/var/lib/load-watchdog""#,
            ],
        ),
        (
            "[[service]]",
            "[agent]\ncontrol = \"/run/../x.sock\"\n[[service]]",
            &[
                r#"2:11: agent.control: "/run/../x.sock" contains '..' or a zero byte; write the path as it is, such as "/run/load-watchdog/control.sock""#,
            ],
        ),
        (
            "[[service]]",
            "[agent]\ncontrol_group = \"a b\"\n[[service]]",
            &[
                r#"2:17: agent.control_group: "a b" is not the name of a user or group; write a name such as "deploy" or "adm""#,
            ],
        ),
        (
            "[[service]]",
            "[agent]\nmin_coverage = 80\n[[service]]",
            &[
                "2:16: agent.min_coverage: 80 is not a share; it must be over 0 and at most 1; for 80 % write 0.8",
            ],
        ),
        (
            "[[service]]",
            "[agent]\nmin_coverage = \"0.8\"\n[[service]]",
            &["2:16: agent.min_coverage: expected a number, found a string; write for example 0.8"],
        ),
        (
            "[[service]]",
            "[agent]\nmin_coverage = 0\n[[service]]",
            &["2:16: agent.min_coverage: 0 is not a share; it must be over 0 and at most 1"],
        ),
        (
            "[[service]]",
            "[agent]\nlog = \"verbose\"\n[[service]]",
            &[
                r#"2:7: agent.log: "verbose" is not a log level; it can be `error`, `warn`, `info`, `debug`, `trace` or `off`"#,
            ],
        ),
        (
            "[[service]]",
            "[agent]\nlog = \"info,kernel=loud\"\n[[service]]",
            &[
                r#"2:7: agent.log: "info,kernel=loud" is not a log filter (error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5); write a level such as "info", or levels per module such as "info,watchdog::kernel=debug""#,
            ],
        ),
        (
            "[[service]]",
            "[agent]\nlisen = \"127.0.0.1:9847\"\n[[service]]",
            &["2:1: agent.lisen: unknown key `lisen` in `agent`; did you mean `listen`?"],
        ),
        (
            "[[service]]",
            "agent = 1\n[[service]]",
            &["1:9: agent: expected a table, found an integer; write for example [agent]"],
        ),
    ]);
}

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
            "name = \"web\"\nprotocol = \"fastcgi\"",
            &[
                r#"3:12: service[web].protocol: "fastcgi" is not available yet in this version; use "auto" or "http1", and watch the server behind which speaks HTTP/1"#,
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
                "3:1: service[web].retries: unknown key `retries` in `service[web]`; it can be `name`, `match`, `build`, `protocol`, `mode`, `guard_for`, `false_rollback_rate`, `endpoint`, `release_window` or `rollback`",
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

#[test]
fn endpoints() {
    check(&[
        (
            "[[service.endpoint]]\nname = \"login\"\npath = \"/login\"\nbudget = { mean_cpu = \"80ms\" }\n",
            "",
            &[
                "1:1: service[web]: `endpoint` is missing; add a [[service.endpoint]] below the service: only requests of an endpoint are judged",
            ],
        ),
        (
            "name = \"login\"\n",
            "",
            &[r#"4:1: service[web].endpoint[#1]: `name` is missing; add for example name = "login""#],
        ),
        (
            r#"name = "login""#,
            r#"name = "other""#,
            &[
                r#"5:8: service[web].endpoint[#1].name: "other" is the name of the requests that match no endpoint; choose another name"#,
            ],
        ),
        (
            "path = \"/login\"\n",
            "",
            &[
                r#"4:1: service[web].endpoint[login]: `path` is missing; add the path of its requests, for example path = "/login""#,
            ],
        ),
        (
            r#""/login""#,
            r#""login""#,
            &[
                r#"6:8: service[web].endpoint[login].path: "login" does not start with '/'; write for example "/login""#,
            ],
        ),
        (
            r#""/login""#,
            r#""https://x.example/login""#,
            &[
                r#"6:8: service[web].endpoint[login].path: "https://x.example/login" is a whole address; write only its path, such as "/login""#,
            ],
        ),
        (
            r#""/login""#,
            r#""/login?next=/""#,
            &[
                r#"6:8: service[web].endpoint[login].path: "/login?next=/" has a query string or fragment, which is not matched; write "/login""#,
            ],
        ),
        (
            r#""/login""#,
            r#""/login#top""#,
            &[
                r#"6:8: service[web].endpoint[login].path: "/login#top" has a query string or fragment, which is not matched; write "/login""#,
            ],
        ),
        (
            r#""/login""#,
            r#""/log*""#,
            &[
                r#"6:8: service[web].endpoint[login].path: '*' is only a part of the segment "log*"; '*' stands for one whole segment, as in "/api/*/login""#,
            ],
        ),
        (
            r#""/login""#,
            r#""/größe""#,
            &[
                r#"6:8: service[web].endpoint[login].path: "/größe" has a character that never travels in a request line; write it percent-encoded, as the client sends it"#,
            ],
        ),
        (
            r#""/login""#,
            r#""/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa""#,
            &[
                "6:8: service[web].endpoint[login].path: the path has 201 bytes; at most 200; put * for the segments that vary",
            ],
        ),
        (
            r#""/login""#,
            r#""/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q""#,
            &["6:8: service[web].endpoint[login].path: the path has 17 segments; at most 16"],
        ),
        (
            r#"name = "login""#,
            "name = \"login\"\nmethod = \"post\"",
            &[
                r#"6:10: service[web].endpoint[login].method: methods are case-sensitive and "post" is not in upper case; write "POST""#,
            ],
        ),
        (
            r#"name = "login""#,
            "name = \"login\"\nmethod = \"PROPPATCH\"",
            &[
                r#"6:10: service[web].endpoint[login].method: "PROPPATCH" is not a method; write one of at most 8 letters such as "POST", or leave it out for any"#,
            ],
        ),
        (
            r#"name = "login""#,
            "name = \"login\"\nmethod = \"GET POST\"",
            &[
                r#"6:10: service[web].endpoint[login].method: "GET POST" is not a method; write one of at most 8 letters such as "POST", or leave it out for any"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[[service.endpoint]]\nname = \"two\"\npath = \"/login\"\n",
            &[
                r#"8:1: service[web].endpoint[two]: some requests match both this and endpoint "login" (/login); make one of the paths more specific than the other, or give them different methods"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[[service.endpoint]]\nname = \"login\"\npath = \"/x\"\n",
            &[
                r#"8:1: service[web].endpoint[login]: a second endpoint with the name "login"; every endpoint of a service needs a name of its own"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[[service.endpoint]]\nname = \"a\"\npath = \"/a/*\"\n[[service.endpoint]]\nname = \"b\"\npath = \"/*/b\"\n",
            &[
                r#"11:1: service[web].endpoint[b]: some requests match both this and endpoint "a" (/a/*); make one of the paths more specific than the other, or give them different methods"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[[service.endpoint]]\nname = \"e1\"\npath = \"/*/x1\"\n[[service.endpoint]]\nname = \"e2\"\npath = \"/*/*/x2\"\n[[service.endpoint]]\nname = \"e3\"\npath = \"/*/*/*/x3\"\n[[service.endpoint]]\nname = \"e4\"\npath = \"/*/*/*/*/x4\"\n",
            &[
                "4:1: service[web].endpoint: the paths have '*' at 5 different sets of positions (/*/*/*/*/x4, /*/*/*/x3, /*/*/x2, /*/x1, /login); at most 4 sets per service, paths without '*' being one of them; watch fewer endpoints",
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[[service.endpoint]]\nname = \"e0\"\npath = \"/e0\"\n[[service.endpoint]]\nname = \"e1\"\npath = \"/e1\"\n[[service.endpoint]]\nname = \"e2\"\npath = \"/e2\"\n[[service.endpoint]]\nname = \"e3\"\npath = \"/e3\"\n[[service.endpoint]]\nname = \"e4\"\npath = \"/e4\"\n[[service.endpoint]]\nname = \"e5\"\npath = \"/e5\"\n[[service.endpoint]]\nname = \"e6\"\npath = \"/e6\"\n[[service.endpoint]]\nname = \"e7\"\npath = \"/e7\"\n[[service.endpoint]]\nname = \"e8\"\npath = \"/e8\"\n[[service.endpoint]]\nname = \"e9\"\npath = \"/e9\"\n[[service.endpoint]]\nname = \"e10\"\npath = \"/e10\"\n[[service.endpoint]]\nname = \"e11\"\npath = \"/e11\"\n[[service.endpoint]]\nname = \"e12\"\npath = \"/e12\"\n[[service.endpoint]]\nname = \"e13\"\npath = \"/e13\"\n[[service.endpoint]]\nname = \"e14\"\npath = \"/e14\"\n[[service.endpoint]]\nname = \"e15\"\npath = \"/e15\"\n[[service.endpoint]]\nname = \"e16\"\npath = \"/e16\"\n[[service.endpoint]]\nname = \"e17\"\npath = \"/e17\"\n[[service.endpoint]]\nname = \"e18\"\npath = \"/e18\"\n[[service.endpoint]]\nname = \"e19\"\npath = \"/e19\"\n[[service.endpoint]]\nname = \"e20\"\npath = \"/e20\"\n[[service.endpoint]]\nname = \"e21\"\npath = \"/e21\"\n[[service.endpoint]]\nname = \"e22\"\npath = \"/e22\"\n[[service.endpoint]]\nname = \"e23\"\npath = \"/e23\"\n[[service.endpoint]]\nname = \"e24\"\npath = \"/e24\"\n[[service.endpoint]]\nname = \"e25\"\npath = \"/e25\"\n[[service.endpoint]]\nname = \"e26\"\npath = \"/e26\"\n[[service.endpoint]]\nname = \"e27\"\npath = \"/e27\"\n[[service.endpoint]]\nname = \"e28\"\npath = \"/e28\"\n[[service.endpoint]]\nname = \"e29\"\npath = \"/e29\"\n[[service.endpoint]]\nname = \"e30\"\npath = \"/e30\"\n",
            &["4:1: service[web].endpoint: 32 endpoints; a service has from 1 to 31 endpoints"],
        ),
    ]);
}

#[test]
fn budgets() {
    check(&[
        (
            r#"{ mean_cpu = "80ms" }"#,
            "{ }",
            &[
                r#"7:10: service[web].endpoint[login].budget: the budget has nothing in it; add for example mean_cpu = "80ms" or vs_baseline = 1.3, or leave `budget` out to measure only"#,
            ],
        ),
        (
            r#"{ mean_cpu = "80ms" }"#,
            "{ mean_cpu = 80 }",
            &[
                r#"7:23: service[web].endpoint[login].budget.mean_cpu: "80" has no unit; write "80ms", "80s", "80m" or "80h", whichever is meant"#,
            ],
        ),
        (
            r#"{ mean_cpu = "80ms" }"#,
            r#"{ mean_cpu = "80" }"#,
            &[
                r#"7:23: service[web].endpoint[login].budget.mean_cpu: "80" has no unit; write "80ms", "80s", "80m" or "80h", whichever is meant"#,
            ],
        ),
        (
            r#"{ mean_cpu = "80ms" }"#,
            r#"{ mean_cpu = "0ms" }"#,
            &[
                r#"7:23: service[web].endpoint[login].budget.mean_cpu: "0ms" is out of range; it must be from 1µs to 1h"#,
            ],
        ),
        (
            r#"{ mean_cpu = "80ms" }"#,
            r#"{ mean_cpu = "2h" }"#,
            &[
                r#"7:23: service[web].endpoint[login].budget.mean_cpu: "2h" is out of range; it must be from 1µs to 1h"#,
            ],
        ),
        (
            r#"{ mean_cpu = "80ms" }"#,
            r#"{ mean_cpu = "80 milles" }"#,
            &[
                r#"7:23: service[web].endpoint[login].budget.mean_cpu: "80 milles" is not a duration; write a number with its unit, such as "80ms", "120s", "30m" or "24h""#,
            ],
        ),
        (
            r#"{ mean_cpu = "80ms" }"#,
            r#"{ p100_cpu = "1s" }"#,
            &[
                "7:23: service[web].endpoint[login].budget.p100_cpu: `p100_cpu` is not a quantile that can be watched; it can be `p50_cpu` to `p99_cpu`, or `p999_cpu` for 99.9 %",
            ],
        ),
        (
            r#"{ mean_cpu = "80ms" }"#,
            r#"{ p9_cpu = "1s" }"#,
            &[
                "7:21: service[web].endpoint[login].budget.p9_cpu: `p9_cpu` is not a quantile that can be watched; it can be `p50_cpu` to `p99_cpu`, or `p999_cpu` for 99.9 %",
            ],
        ),
        (
            r#"{ mean_cpu = "80ms" }"#,
            r#"{ p50_cpu = "2s", p99_cpu = "1s" }"#,
            &[
                "7:10: service[web].endpoint[login].budget: the limit at 99 % is below the limit at 50 %; a higher quantile cannot have a lower limit",
            ],
        ),
        (
            r#"{ mean_cpu = "80ms" }"#,
            "{ p95_cpu = 1.5 }",
            &[
                r#"7:22: service[web].endpoint[login].budget.p95_cpu: "1.5" has no unit; write "1.5ms", "1.5s", "1.5m" or "1.5h", whichever is meant"#,
            ],
        ),
        (
            r#"{ mean_cpu = "80ms" }"#,
            "{ vs_baseline = 1.0 }",
            &[
                "7:26: service[web].endpoint[login].budget.vs_baseline: 1 would condemn a build that costs the same as the last good one; it must be over 1 (1.3 allows 30 % more) and at most 1000",
            ],
        ),
        (
            r#"{ mean_cpu = "80ms" }"#,
            r#"{ vs_baseline = "130%" }"#,
            &[
                "7:26: service[web].endpoint[login].budget.vs_baseline: expected a number, found a string; write for example 1.3",
            ],
        ),
        (
            r#"{ mean_cpu = "80ms" }"#,
            "{ vs_baseline = inf }",
            &[
                "7:26: service[web].endpoint[login].budget.vs_baseline: expected a number, found a float; write for example 1.3",
            ],
        ),
        (
            r#"{ mean_cpu = "80ms" }"#,
            "{ peak_rate = 40.0 }",
            &[
                "7:24: service[web].endpoint[login].budget.peak_rate: `peak_rate` says nothing without `max_host_share`; add max_host_share = 0.25",
            ],
        ),
        (
            r#"{ mean_cpu = "80ms" }"#,
            "{ max_host_share = 0.25 }",
            &[
                "7:29: service[web].endpoint[login].budget.max_host_share: `max_host_share` needs the rate at which the peak comes; add peak_rate = 40.0 (requests per second at the busiest time)",
            ],
        ),
        (
            r#"{ mean_cpu = "80ms" }"#,
            "{ peak_rate = 40.0, max_host_share = 25 }",
            &[
                "7:47: service[web].endpoint[login].budget.max_host_share: 25 is not a share; it must be over 0 and at most 1; for 25 % write 0.25",
            ],
        ),
        (
            r#"{ mean_cpu = "80ms" }"#,
            r#"{ peak_rate = "auto", max_host_share = 0.25 }"#,
            &[
                r#"7:24: service[web].endpoint[login].budget.peak_rate: peak_rate = "auto" is not available yet in this version; write the requests per second at the busiest time, such as 40.0"#,
            ],
        ),
        (
            r#"{ mean_cpu = "80ms" }"#,
            "{ peak_rate = -1, max_host_share = 0.25 }",
            &[
                "7:24: service[web].endpoint[login].budget.peak_rate: -1 is not a rate; write the requests per second at the busiest time, such as 40.0",
            ],
        ),
        (
            r#"{ mean_cpu = "80ms" }"#,
            r#"{ mean = "80ms" }"#,
            &[
                "7:12: service[web].endpoint[login].budget.mean: unknown key `mean` in `service[web].endpoint[login].budget`; it can be `mean_cpu`, `peak_rate`, `max_host_share`, `vs_baseline` or `p99_cpu`",
            ],
        ),
        (
            r#"{ mean_cpu = "80ms" }"#,
            r#""80ms""#,
            &[
                r#"7:10: service[web].endpoint[login].budget: expected a table, found a string; write for example { mean_cpu = "80ms" }"#,
            ],
        ),
    ]);
}

#[test]
fn rollbacks() {
    check(&[
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nuser = \"deploy\"\n",
            &[
                r#"8:1: service[web].rollback: `exec` is missing; add the command that brings the good build back, for example exec = ["/usr/local/bin/rollback-web", "{good_build}"]"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nexec = []\n",
            &[
                r#"9:8: service[web].rollback.exec: the array is empty; write at least ["/usr/local/bin/rollback-web", "{good_build}"]"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nexec = \"/bin/rb {good_build}\"\n",
            &[
                r#"9:8: service[web].rollback.exec: a command is given as one string, but no shell reads it; write its arguments one by one: ["/bin/rb", "{good_build}"]"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nexec = [\"/bin/rb {good_build}\"]\n",
            &[
                r#"9:9: service[web].rollback.exec[0]: "/bin/rb {good_build}" holds a whole command line, but no shell reads it (program "/bin/rb"); write its arguments one by one: ["/bin/rb", "{good_build}"]"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nexec = [\"rb\"]\n",
            &[
                r#"9:9: service[web].rollback.exec[0]: "rb" is not an absolute path; write it from the root, such as "/usr/local/bin/rb""#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nexec = [\"/bin/rb\", \"{god_build}\"]\n",
            &[
                r#"9:8: service[web].rollback.exec: unknown placeholder {god_build} in "{god_build}"; did you mean `good_build`?"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nexec = [\"/opt/{service}/rb\"]\n",
            &[
                "9:8: service[web].rollback.exec: the program itself contains the placeholder {service}; write the program's path, and pass what varies as an argument",
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nexec = [\"/bin/sh\", \"-c\", \"rb {good_build}\"]\n",
            &[
                r#"9:8: service[web].rollback.exec: {good_build} would become part of a shell script, which a build's name must never be; use "$LOAD_WATCHDOG_GOOD_BUILD" in the script"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nexec = [\"/bin/rb\", 1]\n",
            &[
                r#"9:20: service[web].rollback.exec[1]: expected a string, found an integer; write for example "text""#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nexec = [\"/bin/rb\"]\nwebhook = { url = \"https://x.example\" }",
            &[
                r#"10:11: service[web].rollback.webhook: a webhook is not available yet in this version; use exec = ["/usr/local/bin/rollback-web", "{good_build}"]"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nexec = [\"/bin/rb\"]\nuser = \"0 0\"",
            &[
                r#"10:8: service[web].rollback.user: "0 0" is not the name of a user or group; write a name such as "deploy" or "adm""#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nexec = [\"/bin/rb\"]\ntimeout = 120",
            &[
                r#"10:11: service[web].rollback.timeout: "120" has no unit; write "120ms", "120s", "120m" or "120h", whichever is meant"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nexec = [\"/bin/rb\"]\ntimeout = \"0s\"",
            &[r#"10:11: service[web].rollback.timeout: "0s" is out of range; it must be from 1s to 1h"#],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nexec = [\"/bin/rb\"]\nretries = -1",
            &["10:11: service[web].rollback.retries: -1 is out of range; it must be from 0 to 10"],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nexec = [\"/bin/rb\"]\nretries = 1.5",
            &[
                "10:11: service[web].rollback.retries: expected a whole number, found a float; write for example 0",
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nexec = [\"/bin/rb\"]\nmax_per_day = 0",
            &["10:15: service[web].rollback.max_per_day: 0 is out of range; it must be from 1 to 100"],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nexec = [\"/bin/rb\"]\nshell = true",
            &[
                "10:1: service[web].rollback.shell: unknown key `shell` in `service[web].rollback`; it can be `webhook`, `exec`, `user`, `timeout`, `retries`, `cooldown`, `max_per_day` or `verify_within`",
            ],
        ),
    ]);
}

#[test]
fn release_windows() {
    check(&[
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.release_window]\n\n",
            &[
                r#"8:1: service[web].release_window: `allow` is missing; say when releases are allowed, for example allow = ["Mon-Thu 20:00-23:59"]"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.release_window]\nallow = []\n",
            &[
                r#"9:9: service[web].release_window.allow: the array is empty; write at least ["Mon-Thu 20:00-23:59"]"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.release_window]\nallow = [\"always\"]\n",
            &[
                r#"9:10: service[web].release_window.allow[0]: "always" is not a window; write days and times such as "Mon-Thu 20:00-23:59" or "Sun 00:00-23:59""#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.release_window]\nallow = [\"Mo-Th 20:00-23:59\"]\n",
            &[r#"9:10: service[web].release_window.allow[0]: "Mo" is not a day; did you mean `Mon`?"#],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.release_window]\nallow = [\"Mon 20:00-24:00\"]\n",
            &[
                r#"9:10: service[web].release_window.allow[0]: "24:00" is not a time of day; write it from 00:00 to 23:59"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.release_window]\nallow = [\"Fri 22:00-02:00\"]\n",
            &[
                r#"9:10: service[web].release_window.allow[0]: "Fri 22:00-02:00" ends before it begins; for a window past midnight, write two: one until 23:59 and one from 00:00 on the next day"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.release_window]\nallow = [\"Sun 00:00-23:59\"]\ntimezone = \"Australia/Melborne\"\n",
            &[
                r#"10:12: service[web].release_window.timezone: "Australia/Melborne" is not a time zone; did you mean `Australia/Melbourne`?"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.release_window]\nallow = [\"Sun 00:00-23:59\"]\ntimezone = \"AEST\"\n",
            &[
                r#"10:12: service[web].release_window.timezone: "AEST" is not a time zone; write a name of the time zone database, such as `Australia/Melbourne`, `Europe/Vienna` or `UTC`"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.release_window]\nallow = [\"Sun 00:00-23:59\"]\non_violation = \"page\"\n",
            &[
                r#"10:16: service[web].release_window.on_violation: "page" is not one of the values it can have; it can be `alert` or `rollback`"#,
            ],
        ),
    ]);
}

#[test]
fn syntax() {
    check(&[
        (
            r#"name = "web""#,
            "name = web",
            &[
                "2:8: not valid TOML: string values must be quoted, expected literal string; see https://toml.io",
            ],
        ),
        (
            r#"name = "web""#,
            r#"name = "web"#,
            &[r#"2:12: not valid TOML: invalid basic string, expected `"`; see https://toml.io"#],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback\n",
            &["8:18: not valid TOML: unclosed table, expected `]`; see https://toml.io"],
        ),
    ]);
}
