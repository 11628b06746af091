//! Rollback hooks and release windows.

use super::check;

#[test]
fn rollbacks() {
    check(&[
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nuser = \"deploy\"\n",
            &[
                r#"8:1: service[web].rollback: neither `exec` nor `webhook` says what to do; add for example exec = ["/usr/local/bin/rollback-web", "{good_build}"]"#,
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
                "10:11: service[web].rollback.webhook: there is an `exec` too; a hook is one or the other: remove one, or let the program send the request",
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
                "10:1: service[web].rollback.shell: unknown key `shell` in `service[web].rollback`; it can be `exec`, `webhook`, `user`, `groups`, `cwd`, `environment`, `umask`, `timeout`, `retries`, `cooldown`, `max_per_day`, `verify_within`, `dry_run`, `pre`, `post` or `escalate`",
            ],
        ),
    ]);
}

#[test]
fn hooks() {
    check(&[
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nexec = [\"/bin/rb\"]\ngroups = [\"www-data\"]\ncwd = \"srv\"\n",
            &[
                "10:10: service[web].rollback.groups: there are groups but no user; say which `user` the hook runs as",
                r#"11:7: service[web].rollback.cwd: "srv" is not an absolute path; write it from the root, such as "/srv/web""#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nexec = [\"/bin/rb\"]\nenvironment = [\"A=1\", \"1A\", \"LOAD_WATCHDOG_TEST=0\"]\n",
            &[
                r#"10:23: service[web].rollback.environment[1]: "1A" is not a variable; write NAME to hand the agent's own on, or NAME=value"#,
                "10:29: service[web].rollback.environment[2]: LOAD_WATCHDOG_TEST is one of the variables that tell the hook what to do; choose a name without LOAD_WATCHDOG_",
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nexec = [\"/bin/rb\"]\numask = \"22\"\n",
            &[
                r#"10:9: service[web].rollback.umask: "22" is not a file mode mask; write three octal digits, such as "022" (others may read) or "077" (only the user may)"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nwebhook = { url = \"https://x.example/s3cret\" }\ncwd = \"/srv\"\n",
            &[
                "9:11: service[web].rollback.webhook: `secret_file` is missing; name the file that holds the key of the signature",
                "10:7: service[web].rollback.cwd: `cwd` says how a program is started, but this hook is a webhook; remove it, or use exec",
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nwebhook = { url = \"http://x.example/s3cret\", secret_file = \"key\", insecure = true }\n",
            &[
                r#"9:19: service[web].rollback.webhook.url: the address cannot be used: it does not begin with https://; write it as "https://deploy.example/rollback""#,
                r#"9:60: service[web].rollback.webhook.secret_file: "key" is not an absolute path; write it from the root, such as "/etc/load-watchdog/webhook.key""#,
                "9:67: service[web].rollback.webhook.insecure: unknown key `insecure` in `service[web].rollback.webhook`; it can be `url`, `secret_file` or `ca_file`",
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.rollback]\nexec = [\"/bin/rb\"]\n[service.rollback.post]\ntimeout = \"2h\"\n[service.rollback.pre]\nexec = [\"/bin/pre\"]\ncooldown = \"1h\"\n",
            &[
                r#"10:1: service[web].rollback.post: neither `exec` nor `webhook` says what to do; add for example exec = ["/usr/local/bin/rollback-web", "{good_build}"]"#,
                r#"11:11: service[web].rollback.post.timeout: "2h" is out of range; it must be from 1s to 1h"#,
                "14:1: service[web].rollback.pre.cooldown: unknown key `cooldown` in `service[web].rollback.pre`; it can be `exec`, `webhook`, `user`, `groups`, `cwd`, `environment`, `umask`, `timeout` or `retries`",
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
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.release_window]\nallow = [\"Sun 00:00-23:59\"]\nfreezes = [\"Christmas\"]\n",
            &[
                r#"10:12: service[web].release_window.freezes[0]: "Christmas" is not a freeze; write a day such as "2026-11-27", or the first and the last one such as "2026-12-20..2027-01-05""#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.release_window]\nallow = [\"Sun 00:00-23:59\"]\nfreezes = [\"2026-12-20 - 2027-01-05\"]\n",
            &[
                r#"10:12: service[web].release_window.freezes[0]: "2026-12-20 - 2027-01-05" is not a freeze; write a day such as "2026-11-27", or the first and the last one such as "2026-12-20..2027-01-05""#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.release_window]\nallow = [\"Sun 00:00-23:59\"]\nfreezes = [\"2026-11-27\", \"2026-11-31\"]\n",
            &[
                r#"10:26: service[web].release_window.freezes[1]: "2026-11-31" is not a day of the calendar; write it as year-month-day"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.release_window]\nallow = [\"Sun 00:00-23:59\"]\nfreezes = [\"2027-01-05..2026-12-20\"]\n",
            &[
                r#"10:12: service[web].release_window.freezes[0]: "2027-01-05..2026-12-20" ends before it begins; the first day comes first: "2026-12-20..2027-01-05""#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.release_window]\nallow = [\"Sun 00:00-23:59\"]\nfreezes = [\"2026-12-20..2072-01-05\"]\n",
            &[
                r#"10:12: service[web].release_window.freezes[0]: "2026-12-20..2072-01-05" is longer than a year; check the years; if it is meant, write a freeze for each of them"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.release_window]\nallow = [\"Sun 00:00-23:59\"]\nusers_within = \"0s\"\n",
            &[
                r#"10:16: service[web].release_window.users_within: "0s" is out of range; it must be from 1s to 1h"#,
            ],
        ),
        (
            "budget = { mean_cpu = \"80ms\" }\n",
            "budget = { mean_cpu = \"80ms\" }\n[service.release_window]\nallow = [\"Sun 00:00-23:59\"]\nusers_within = 5\n",
            &[
                r#"10:16: service[web].release_window.users_within: "5" has no unit; write "5ms", "5s", "5m" or "5h", whichever is meant"#,
            ],
        ),
    ]);
}
