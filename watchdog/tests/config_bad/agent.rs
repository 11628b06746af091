//! The file itself and the `[agent]` section.

use super::check;

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
            "[agent]\ncontrol_operators = [\"ann\", \"%a b\"]\n[[service]]",
            &[
                r#"2:29: agent.control_operators[1]: "a b" is not the name of a user or group; write a name such as "deploy" or "adm""#,
            ],
        ),
        (
            "[[service]]",
            "[agent]\ncontrol_operators = \"ann\"\n[[service]]",
            &[
                r#"2:21: agent.control_operators: expected an array of strings, found a string; write for example ["ann", "%deploy"]"#,
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
