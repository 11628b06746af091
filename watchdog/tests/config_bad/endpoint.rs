//! Endpoints and their budgets.

use super::check;

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
            "name = \"login\"\ncontrol = true",
            &[
                "6:11: service[web].endpoint[login].control: an endpoint with a budget cannot be a control as well; remove one of the two: a control is what the service's changes do not touch",
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
                "7:29: service[web].endpoint[login].budget.max_host_share: `max_host_share` needs the rate at which the peak comes; add peak_rate = 40.0 (requests per second at the busiest time), or \"auto\" to learn it",
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
