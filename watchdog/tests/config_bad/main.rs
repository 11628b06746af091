//! Bad configurations, each with its exact messages.

#![allow(clippy::too_many_lines, reason = "each test is one table")]

mod agent;
mod endpoint;
mod rollback;
mod service;

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
