//! What the program says about its environment.

use std::time::Duration;

use crate::program::config::Config;
use crate::support::*;

#[test]
fn what_is_not_set_has_its_default() {
    let url = |name: &str| (name == "UPSTREAM_URL").then(|| "https://api.openai.com".into());
    let config = Config::read(url).unwrap();
    assert_eq!((&*config.host, config.port), ("127.0.0.1", 3000));
    assert_eq!(config.connect_timeout, Duration::from_secs(10));
    assert_eq!(config.answer_timeout, Duration::from_secs(900));
    assert_eq!(config.daily_tokens, 1_000_000);
    assert_eq!((config.minute_tokens, config.credits), (None, None));
    assert!(!config.include_usage && !config.upstream_http2);
}

#[test]
fn what_is_wrong_is_told_with_its_remedy() {
    let url = ("UPSTREAM_URL", "http://localhost:1");
    for (variables, told) in [
        (
            vec![],
            "UPSTREAM_URL is not set; give the URL of the API to forward to, such as \
             https://api.openai.com",
        ),
        (vec![("UPSTREAM_URL", "")], "UPSTREAM_URL is not set; "),
        (vec![("UPSTREAM_URL", "api.openai.com")], "UPSTREAM_URL does not begin with http:// or "),
        (vec![("UPSTREAM_URL", "ftp://host")], "UPSTREAM_URL does not begin with http:// or "),
        (vec![("UPSTREAM_URL", "http://a b")], "UPSTREAM_URL is no URL; "),
        (vec![("UPSTREAM_URL", "http://host:65536")], "UPSTREAM_URL has a port that is none; "),
        (vec![("UPSTREAM_URL", "http://me:secret@host")], "UPSTREAM_URL has a user or a query"),
        (vec![url, ("PORT", "65536")], "PORT is \"65536\"; give a whole number from 0 to 65535"),
        (
            vec![url, ("DAILY_TOKEN_LIMIT", "1e6")],
            "DAILY_TOKEN_LIMIT is \"1e6\"; give a whole number from 1 to 1000000000000",
        ),
        (vec![url, ("MINUTE_TOKEN_LIMIT", "0")], "MINUTE_TOKEN_LIMIT is \"0\"; give a whole "),
        (vec![url, ("CREDITS", "-1")], "CREDITS is \"-1\"; give a number, 0 or more"),
        (vec![url, ("INCLUDE_USAGE", "yes")], "INCLUDE_USAGE is \"yes\"; give 1, or 0 for off"),
        (vec![url, ("UPSTREAM_HTTP2", "2")], "UPSTREAM_HTTP2 is \"2\"; give 1, or 0 for off"),
        (vec![url, ("CONNECT_TIMEOUT", "0")], "CONNECT_TIMEOUT is \"0\"; give a whole number"),
        (vec![url, ("ANSWER_TIMEOUT", "1s")], "ANSWER_TIMEOUT is \"1s\"; give a whole number"),
        (vec![url, ("HOST", "256.0.0.1"), ("PORT", "0")], "cannot listen on 256.0.0.1:0: "),
    ] {
        let (code, error) = refusal_to_start(&variables);
        assert_eq!(code, Some(1), "{variables:?}");
        assert!(error.starts_with(&format!("gateway: {told}")), "{variables:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
