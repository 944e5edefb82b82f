//! The programs of `examples/`, asked over real HTTP. `./test` builds them first.

use serde_json::{Value, json};

#[cfg(feature = "sqlite")]
#[path = "support/file.rs"]
mod file;
#[path = "support/program.rs"]
mod program;
#[cfg(feature = "redis")]
#[path = "support/redis.rs"]
mod redis;
use program::{Answer, Program};

fn chat(program: &Program, path: &str, customer: &str, words: u32, max_tokens: u32) -> Answer {
    let content = vec!["word"; words as usize].join(" ");
    let body = json!({
        "model": "small-1",
        "messages": [{ "role": "user", "content": content }],
        "max_tokens": max_tokens,
    });
    program.ask("POST", path, Some(customer), &body.to_string())
}

fn usage(program: &Program, customer: &str) -> Value {
    let answer = program.ask("GET", "/usage", Some(customer), "");
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

const CHAT: &str = "/v1/chat/completions";

#[test]
fn quickstart_answers_like_a_model_and_counts_what_it_used() {
    let program = Program::start("quickstart");
    let answer = chat(&program, CHAT, "acct_1", 20, 80);
    assert_eq!(answer.status, 200);
    let used = &answer.json()["usage"];
    assert_eq!(used["prompt_tokens"], 20);
    assert_eq!(used["completion_tokens"], 80);
    assert_eq!(used["total_tokens"], 100);
    assert!(answer.header("ratelimit").unwrap().contains("\"daily-tokens\";r=900"));

    let body = json!({ "messages": [{ "role": "user", "content": "Say hello" }] }).to_string();
    let answer = program.ask("POST", CHAT, Some("acct_1"), &body);
    assert_eq!(answer.json()["usage"]["total_tokens"], 18, "16 tokens unless asked otherwise");

    let usage = usage(&program, "acct_1");
    assert_eq!(usage["customerId"], "acct_1");
    assert_eq!(usage["allowed"], true);
    assert_eq!(usage["balances"], json!([]));
    let limit = &usage["limits"][0];
    assert_eq!(limit["name"], "Daily token limit");
    assert_eq!(limit["used"], 118);
    assert_eq!(limit["remaining"], 882);
    assert_eq!(limit["limit"], 1_000);
    assert_eq!(limit["exceeded"], false);
    assert_eq!(limit["reset"].as_i64().unwrap() % 86_400, 0);
}

#[test]
fn quickstart_records_nothing_for_a_failure() {
    let program = Program::start("quickstart");
    assert_eq!(program.ask("POST", "/fail", Some("acct_1"), "").status, 500);
    assert_eq!(usage(&program, "acct_1")["limits"][0]["used"], 0);
    assert_eq!(program.ask("POST", "/fail", None, "").status, 401);
    assert_eq!(program.ask("GET", "/usage", None, "").status, 400);
}

#[test]
fn fifty_clients_at_once_get_exactly_what_the_limit_allows() {
    let program = Program::start("quickstart");
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..50).map(|_| scope.spawn(|| chat(&program, CHAT, "acct_1", 20, 80))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let (allowed, denied): (Vec<_>, Vec<_>) =
        answers.iter().partition(|answer| answer.status == 200);
    assert_eq!((allowed.len(), denied.len()), (10, 40));
    let reported: u64 =
        allowed.iter().map(|answer| answer.json()["usage"]["total_tokens"].as_u64().unwrap()).sum();
    let usage = usage(&program, "acct_1");
    assert_eq!(usage["limits"][0]["used"], reported);
    assert_eq!(usage["limits"][0]["exceeded"], true);
    assert_eq!(usage["allowed"], false);
    for answer in denied {
        assert_eq!(answer.status, 429);
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=86_400).contains(&wait), "{wait}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert!(answer.header("ratelimit-policy").unwrap().starts_with("\"daily-tokens\";q=1000"));
        assert!(answer.header("ratelimit").unwrap().starts_with("\"daily-tokens\";r="));
        assert_eq!(answer.json()["limits"][0]["name"], "Daily token limit");
    }
    let after = chat(&program, CHAT, "acct_1", 20, 80);
    assert_eq!(after.status, 429);
    assert!(after.header("ratelimit").unwrap().contains(";r=0;t="));
    assert_eq!(chat(&program, CHAT, "acct_2", 20, 80).status, 200, "each customer by themselves");
}

#[test]
fn prepaid_debits_what_a_request_really_cost() {
    for path in [CHAT, "/by-hand/v1/chat/completions"] {
        let program = Program::start("prepaid");
        assert_eq!(chat(&program, path, "acct_1", 20, 380).status, 200);
        let denied = chat(&program, path, "acct_1", 20, 81);
        assert_eq!(denied.status, 402, "100 credits are left: {}", denied.body);
        assert_eq!(denied.header("retry-after"), None, "waiting does not fill a balance");

        let top_up = r#"{"amount":50.5,"reference":"payment-1"}"#;
        for _ in 0..2 {
            let answer = program.ask("POST", "/topup", Some("acct_1"), top_up);
            assert_eq!(answer.status, 200);
            assert_eq!(answer.json()["currentBalance"], 150.5, "a payment counts once");
        }
        assert_eq!(chat(&program, path, "acct_1", 20, 81).status, 200);
        let transactions = program.ask("GET", "/transactions", Some("acct_1"), "").json();
        let amounts: Vec<_> = transactions
            .as_array()
            .unwrap()
            .iter()
            .map(|transaction| (transaction["type"].as_str().unwrap(), &transaction["amount"]))
            .collect();
        assert_eq!(
            amounts,
            [
                ("debit", &json!(101)),
                ("credit", &json!(50.5)),
                ("debit", &json!(400)),
                ("opening", &json!(500)),
            ],
        );
        // Over the daily limit of 1,000 before the credits are.
        let rich = r#"{"amount":5000,"reference":"payment-2"}"#;
        program.ask("POST", "/topup", Some("acct_1"), rich);
        assert_eq!(chat(&program, path, "acct_1", 20, 480).status, 429);
        let bad = program.ask("POST", "/topup", Some("acct_1"), r#"{"amount":-1,"reference":"x"}"#);
        assert_eq!(bad.status, 400);
    }
}

/// Killed while eight clients ask.
#[cfg(feature = "sqlite")]
#[test]
fn programs_keep_everything_they_answered_though_they_are_killed() {
    let path = file::fresh();
    let backend = format!("sqlite:{}", path.display());
    let mut answered = 0;
    for _ in 0..3 {
        let mut program = Program::start_on("prepaid", &backend);
        let rich = r#"{"amount":50,"reference":"the same payment"}"#;
        program.ask("POST", "/topup", Some("acct_1"), rich);
        answered += std::thread::scope(|scope| {
            let running = &program;
            let client = || {
                let body = r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":1}"#;
                let ask = || running.try_ask("POST", CHAT, Some("acct_1"), body);
                (0..10).map_while(|_| ask()).filter(|answer| answer.status == 200).count()
            };
            let clients: Vec<_> = (0..8).map(|_| scope.spawn(client)).collect();
            clients.into_iter().map(|client| client.join().unwrap()).sum::<usize>()
        });
        // Those that run now are never answered.
        let address = program.address().to_owned();
        std::thread::scope(|scope| {
            let body = r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":1}"#;
            for _ in 0..8 {
                scope.spawn(|| program::send(&address, CHAT, "acct_2", body));
            }
            program.kill();
        });
    }
    let program = Program::start_on("prepaid", &backend);
    let transactions = program.ask("GET", "/transactions", Some("acct_1"), "").json();
    let newest = &transactions[0];
    assert_eq!(answered, 240);
    assert_eq!(newest["balanceAfter"], 500 + 50 - 2 * answered as i64);
    drop(program);
    let program = Program::start_on("quickstart", &backend);
    assert_eq!(usage(&program, "acct_1")["limits"][0]["used"], 2 * answered);
}

#[cfg(feature = "server")]
#[cfg(unix)]
#[test]
fn the_server_keeps_its_books_when_it_is_stopped_or_killed() {
    let backend = format!("sqlite:{}", file::fresh().display());
    let start = || {
        let variables = [
            ("LISTEN", "127.0.0.1:0"),
            ("LIMITRY_API_KEYS", "one, two"),
            ("LIMITRY_REVOKED_API_KEYS", "old"),
            ("LIMITRY_BACKEND", &backend),
        ];
        Program::start_with("server", &variables)
    };
    let ask = |program: &Program, method: &str, path: &str, body: Value| {
        let headers = [("authorization", "Bearer two"), ("idempotency-key", "first")];
        program.ask_with(method, path, &headers, &body.to_string())
    };
    let limits = |program: &Program| {
        ask(program, "POST", "/v1/limits/check", json!({ "customerId": "acct_42" })).json()["limits"]
            .clone()
    };

    let program = start();
    let meter = json!({
        "name": "Tokens", "aggregation": "sum", "field": "values.tokens", "description": "all of them",
    });
    let meter = ask(&program, "POST", "/v1/meters", meter).json();
    let limit =
        json!({ "name": "Daily", "meterId": meter["id"], "limitValue": 10, "period": "all_time" });
    assert_eq!(ask(&program, "POST", "/v1/limits", limit).status, 201);
    let event = json!({ "customerId": "acct_42", "eventType": "chat", "values": { "tokens": 4 } });
    assert_eq!(ask(&program, "POST", "/v1/events/record", event.clone()).json()["recorded"], true);
    for (key, code) in [("three", "invalid_api_key"), ("old", "expired_api_key")] {
        let bearer = format!("Bearer {key}");
        let answer = program.ask_with("GET", "/v1/limits", &[("authorization", &bearer)], "");
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (401, &json!(code)));
    }
    let check = json!({
        "id": "r-1", "customerId": "acct_42", "eventType": "chat", "values": { "tokens": 5 },
    });
    let check = ask(&program, "POST", "/v1/x/check", check).json();
    assert_eq!(check["held"], true, "{check}");
    drop(program); // kills it

    let program = start();
    let settled = json!({ "settlements": [{
        "id": "r-1", "customerId": "acct_42", "at": check["at"], "eventType": "chat",
        "values": { "tokens": 6 },
    }] });
    for _ in 0..2 {
        assert_eq!(ask(&program, "POST", "/v1/x/settle", settled.clone()).status, 200);
        let again = ask(&program, "POST", "/v1/events/record", event.clone());
        assert_ne!(again.json()["recorded"], true, "{}", again.body);
        assert_eq!(limits(&program)[0]["used"], 10);
    }
    assert_eq!(program.ask("GET", "/readyz", None, "").status, 200);
    let metrics = program.ask("GET", "/metrics", None, "").body;
    let counted = r#"limitry_http_requests{method="POST",route="/v1/x/settle",status="200"} 2"#;
    assert!(metrics.contains(counted), "{metrics}");
    assert!(!metrics.contains("acct_42"), "{metrics}");
    assert!(program.stop(), "it stops in order");

    let program = start();
    assert_eq!(limits(&program)[0]["used"], 10);
    let path = format!("/v1/meters/{}", meter["id"].as_str().unwrap());
    assert_eq!(ask(&program, "GET", &path, Value::Null).json()["description"], "all of them");
    assert!(program.stop());
}

#[cfg(all(unix, feature = "server"))]
#[test]
fn the_server_reads_its_definitions_again_when_it_is_asked_to() {
    let path = file::fresh();
    let define = |limit: &str| {
        let text = "[meters.calls]\nname = 'Calls'\naggregation = 'count'\nfield = '*'\n\
                    [limits.daily]\nname = 'Daily'\nmeterId = 'calls'\nperiod = 'day'\nlimitValue = ";
        std::fs::write(&path, format!("{text}{limit}")).unwrap();
    };
    define("5");
    let variables = [
        ("LISTEN", "127.0.0.1:0"),
        ("LIMITRY_API_KEYS", "one"),
        ("LIMITRY_DEFINITIONS", path.to_str().unwrap()),
    ];
    let program = Program::start_with("server", &variables);
    let limit = || {
        let headers = [("authorization", "Bearer one")];
        program.ask_with("GET", "/v1/limits/daily", &headers, "").json()["limitValue"].clone()
    };
    assert_eq!(limit(), 5);
    for (written, expected) in [("7", 7), ("nonsense", 7), ("9", 9)] {
        define(written);
        program.signal("-HUP");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while limit() != expected {
            assert!(std::time::Instant::now() < deadline, "{written} was not read");
            std::thread::yield_now();
        }
    }
}

#[cfg(all(unix, feature = "redis", feature = "server"))]
#[test]
fn servers_that_share_books_are_one_and_may_be_killed() {
    let redis = redis::Server::start_with(&["--save", "", "--appendonly", "yes"]);
    let backend = redis.url();
    let start = || {
        let variables = [
            ("LISTEN", "127.0.0.1:0"),
            ("LIMITRY_API_KEYS", "one"),
            ("LIMITRY_BACKEND", backend.as_str()),
        ];
        Program::start_with("server", &variables)
    };
    let bearer = [("authorization", "Bearer one")];
    let mut servers = [start(), start(), start()];
    let meter = json!({ "name": "Tokens", "aggregation": "sum", "field": "values.tokens" });
    let meter = servers[0].ask_with("POST", "/v1/meters", &bearer, &meter.to_string()).json();
    let limit = json!({
        "name": "Ever", "meterId": meter["id"], "limitValue": 1_000_000, "period": "all_time",
    });
    // Each of them knows at once what another was told.
    servers[1].ask_with("POST", "/v1/limits/check", &bearer, r#"{"customerId":"acct_0"}"#);
    let made = servers[1].ask_with("POST", "/v1/limits", &bearer, &limit.to_string());
    assert_eq!(made.status, 201, "{}", made.body);

    // `LIMITRY_SOAK=300` goes on for so many seconds.
    let soak = std::env::var("LIMITRY_SOAK").ok().and_then(|seconds| seconds.parse().ok());
    let time = std::time::Duration::from_secs(soak.unwrap_or(6));
    let pause = if soak.is_some() { 10 } else { 1 };
    let begun = std::time::Instant::now();
    let slots = servers.each_ref().map(|server| std::sync::Mutex::new(server.address().to_owned()));
    let counts = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let slots = &slots;
                scope.spawn(move || {
                    let mut recorded = 0;
                    while begun.elapsed() < time {
                        let id = format!("event-{client}-{recorded}");
                        let event = json!({
                            "idempotencyKey": id, "customerId": format!("acct_{client}"), "eventType": "chat",
                            "timestamp": tower_limitry::policy::Timestamp::from(std::time::SystemTime::now()).to_string(),
                            "values": { "tokens": 1 },
                        });
                        // Again on another one, under one id, until somebody has it.
                        for attempt in 0.. {
                            let slot = &slots[(client + recorded + attempt) % slots.len()];
                            let address = slot.lock().unwrap().clone();
                            let body = event.to_string();
                            let answer = program::try_ask_at(
                                &address,
                                "POST",
                                "/v1/events/record",
                                &bearer,
                                &body,
                            );
                            if answer.is_some_and(|answer| matches!(answer.status, 200 | 201)) {
                                break;
                            }
                        }
                        recorded += 1;
                    }
                    recorded
                })
            })
            .collect();
        let mut next = 0;
        while begun.elapsed() < time {
            std::thread::sleep(std::time::Duration::from_secs(pause));
            servers[next].kill();
            servers[next] = start();
            *slots[next].lock().unwrap() = servers[next].address().to_owned();
            next = (next + 1) % 3;
        }
        clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    for (client, count) in counts.into_iter().enumerate() {
        assert!(count > 0);
        for server in &servers {
            let check = json!({ "customerId": format!("acct_{client}") }).to_string();
            let checked = server.ask_with("POST", "/v1/limits/check", &bearer, &check).json();
            assert_eq!(checked["limits"][0]["used"], count, "{checked}");
        }
        println!("acct_{client}: {count} events");
    }
}

#[cfg(all(feature = "client", feature = "server"))]
#[allow(clippy::unwrap_used)]
mod over_a_server {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    /// A server with these definitions.
    fn server(definitions: &str) -> Program {
        let path = crate::file::fresh();
        std::fs::write(&path, definitions).unwrap();
        let variables = [
            ("LISTEN", "127.0.0.1:0"),
            ("LIMITRY_API_KEYS", "key"),
            ("LIMITRY_DEFINITIONS", path.to_str().unwrap()),
        ];
        Program::start_with("server", &variables)
    }

    fn variables(server: &Program) -> [(&'static str, String); 3] {
        [
            ("LIMITRY_BACKEND", format!("http://{}/v1", server.address())),
            ("LIMITRY_API_KEY", "key".into()),
            ("LIMITRY_OUTBOX", crate::file::fresh().display().to_string()),
        ]
    }

    fn start(name: &str, server: &Program) -> Program {
        let variables = variables(server);
        let variables: Vec<_> =
            variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Program::start_with(name, &variables)
    }

    /// Settlements are on their way for a moment.
    fn until(mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !holds() {
            assert!(Instant::now() < end, "it never came to this");
            std::thread::yield_now();
        }
    }

    #[test]
    fn programs_share_one_budget_and_one_balance() {
        let server = server("[balances.\"AI Credits\"]\ninitialBalance = 500\n");
        let programs = [start("quickstart", &server), start("quickstart", &server)];
        for program in &programs {
            assert_eq!(chat(program, CHAT, "acct_1", 20, 80).status, 200);
        }
        for program in &programs {
            until(|| usage(program, "acct_1")["limits"][0]["used"] == 200);
            assert_eq!(usage(program, "acct_1")["limits"][0]["name"], "Daily token limit");
        }
        assert_eq!(chat(&programs[0], CHAT, "acct_1", 20, 880).status, 429);

        let prepaid = start("prepaid", &server);
        assert_eq!(chat(&prepaid, CHAT, "acct_2", 20, 80).status, 200);
        until(|| usage(&programs[0], "acct_2")["balances"][0]["currentBalance"] == 400);
        let top_up = r#"{"amount":250,"reference":"payment-1"}"#;
        for _ in 0..2 {
            let answer = prepaid.ask("POST", "/topup", Some("acct_2"), top_up);
            assert_eq!(answer.json()["currentBalance"], 650, "{}", answer.body);
        }
        let listed = prepaid.ask("GET", "/transactions", Some("acct_2"), "").json();
        assert_eq!(listed[0]["amount"], 250);
    }

    /// The server serves Limitry's own routes, too.
    #[test]
    fn a_program_speaks_as_with_the_hosted_service_where_it_is_told_to() {
        let server = server("");
        let [backend, key, outbox] = variables(&server);
        let variables = [
            (backend.0, &*backend.1),
            (key.0, &*key.1),
            (outbox.0, &*outbox.1),
            ("LIMITRY_DIALECT", "limitry"),
        ];
        for used in [100, 200] {
            // The second time it finds what it made the first time, by its name.
            let program = Program::start_with("quickstart", &variables);
            assert_eq!(chat(&program, CHAT, "acct_1", 20, 80).status, 200);
            until(|| usage(&program, "acct_1")["limits"][0]["used"] == used);
            let limits = usage(&program, "acct_1")["limits"].as_array().unwrap().clone();
            assert_eq!((limits.len(), &limits[0]["name"]), (1, &"Daily token limit".into()));
            assert_eq!(chat(&program, CHAT, "acct_1", 20, 990).status, 429);
        }
    }

    /// As in a deployment, where the new program starts before the old one has ended.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_program_waits_for_the_one_before_it_to_let_go_of_its_files() {
        let server = server("");
        let path = crate::file::fresh().display().to_string();
        let (own, limitry) = (variables(&server), variables(&server));
        let books = vec![("LIMITRY_BACKEND", format!("sqlite:{path}"))];
        let dialect = ("LIMITRY_DIALECT", "limitry".to_owned());
        for (mut variables, file) in [
            (books, format!("{path}-lock")),
            (own.to_vec(), format!("{}-lock", own[2].1)),
            (limitry.iter().cloned().chain([dialect]).collect(), format!("{}.debts", limitry[2].1)),
        ] {
            let start = |variables: &[(&str, String)]| {
                let variables: Vec<_> =
                    variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
                Program::start_with("quickstart", &variables)
            };
            let before = start(&variables);
            assert_eq!(chat(&before, CHAT, "acct_1", 20, 80).status, 200);
            variables.push(("LIMITRY_OPEN_WAIT", "60".to_owned()));
            std::thread::scope(|scope| {
                let after = scope.spawn(|| start(&variables));
                until(|| is_open_elsewhere(&file, before.id()) || after.is_finished());
                drop(before);
                let after = after.join().unwrap();
                assert_eq!(chat(&after, CHAT, "acct_1", 20, 80).status, 200);
            });
        }
    }

    /// Whether any process but that one has the file open.
    #[cfg(target_os = "linux")]
    fn is_open_elsewhere(file: &str, but: u32) -> bool {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let others = processes.filter(|process| *process.file_name() != *but.to_string());
        let handles =
            others.filter_map(|process| std::fs::read_dir(process.path().join("fd")).ok());
        let opened =
            handles.flatten().flatten().filter_map(|handle| handle.path().read_link().ok());
        opened.into_iter().any(|path| path == std::path::Path::new(file))
    }

    #[test]
    fn a_program_says_what_its_server_lacks_and_what_is_wrong_with_its_variables() {
        let server = server("");
        let run = |changed: &[(&str, &str)]| {
            let mut path = std::env::current_exe().unwrap();
            path.pop();
            path.pop();
            let mut program = Command::new(path.join("examples/prepaid"));
            program.env("PORT", "0").envs(variables(&server)).envs(changed.iter().copied());
            let output = program.output().unwrap();
            assert!(!output.status.success());
            String::from_utf8(output.stderr).unwrap()
        };
        let told = run(&[]);
        assert!(told.contains("AI Credits") && told.contains("[balances]"), "{told}");
        let told = run(&[("LIMITRY_API_KEY", "")]);
        assert!(told.contains("LIMITRY_API_KEY"), "{told}");
        let told = run(&[("LIMITRY_DIALECT", "klingon")]);
        assert!(told.contains("LIMITRY_DIALECT"), "{told}");
        for nonsense in ["soon", "-1", "1.5", "3601"] {
            let told = run(&[("LIMITRY_OPEN_WAIT", nonsense)]);
            assert!(told.contains("LIMITRY_OPEN_WAIT") && told.contains("0 to 3600"), "{told}");
        }
        let told = run(&[("LIMITRY_BACKEND", "http://books.example/v1")]);
        assert!(told.contains("https"), "{told}");
    }
}
