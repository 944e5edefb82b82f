//! Where the API is, and what a path in it looks like.

use std::fmt::Write;
use std::net::IpAddr;

use reqwest::Url;

use crate::Error;

/// The base of every address, without a slash at its end.
#[derive(Clone, Debug)]
pub(super) struct Address(String);

impl Address {
    /// Reads a base URL. `field` names it in errors, which never show it: it may hold a password.
    pub(super) fn new(field: &str, text: &str, unencrypted: bool) -> Result<Self, Error> {
        let invalid = |problem: &str| Err(Error::invalid(field, problem));
        let Ok(url) = Url::parse(text) else {
            return invalid("is no URL; give one such as https://api.limitry.com/v1");
        };
        if !url.username().is_empty() || url.password().is_some() {
            return invalid("holds a user or password; give the key in LIMITRY_API_KEY alone");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return invalid("has a query or a fragment; give scheme, host and path alone");
        }
        match url.scheme() {
            "https" => {}
            "http" if unencrypted || is_loopback(&url) => {}
            "http" => return invalid("would send the key unencrypted; give an https URL"),
            _ => return invalid("is neither https nor http; give an https URL"),
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.0.starts_with("https:")
    }

    /// The address of a path in the API: each segment is one, whatever it holds.
    pub(super) fn of(&self, path: &[&str], query: &[(&str, String)]) -> Result<Url, Error> {
        let mut text = self.0.clone();
        for segment in path {
            // Written in any form, a URL would lose them.
            if matches!(*segment, "" | "." | "..") {
                return Err(Error::invalid("id", "is empty or dots alone, which no path can hold"));
            }
            text.push('/');
            encode(&mut text, segment);
        }
        for (at, (name, value)) in query.iter().enumerate() {
            text.push(if at == 0 { '?' } else { '&' });
            encode(&mut text, name);
            text.push('=');
            encode(&mut text, value);
        }
        Url::parse(&text).map_err(|_| Error::invalid("address", "cannot be written as a URL"))
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// All but the unreserved characters, in percents (RFC 3986, section 2.3).
fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                // A string takes everything.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(text: &str) -> Result<Address, String> {
        Address::new("LIMITRY_BASE_URL", text, false).map_err(|error| error.to_string())
    }

    #[test]
    fn a_key_is_sent_in_the_clear_to_this_machine_alone() {
        for fine in [
            "https://api.limitry.com/v1",
            "http://127.0.0.1:8080/v1",
            "http://127.9.9.9/",
            "http://localhost:1",
            "http://[::1]:8080/v1/",
        ] {
            assert!(base(fine).is_ok(), "{fine}");
        }
        for open in ["http://api.limitry.com/v1", "http://10.0.0.1/v1", "http://localhost.evil/"] {
            let told = base(open).unwrap_err();
            assert!(told.starts_with("LIMITRY_BASE_URL: would send"), "{told}");
            assert!(Address::new("url", open, true).is_ok());
        }
    }

    #[test]
    fn what_is_no_base_is_refused_and_not_repeated() {
        for wrong in [
            "",
            "api.limitry.com",
            "ftp://host/",
            "https://me:secret@host/",
            "https://host/?secret",
        ] {
            let told = base(wrong).unwrap_err();
            assert!(told.starts_with("LIMITRY_BASE_URL: ") && !told.contains("secret"), "{told}");
        }
    }

    #[test]
    fn every_segment_is_one_whatever_it_holds() {
        let base = base("https://host/v1/").unwrap();
        let url = base.of(&["customers", "a/b?c#d é:%2e"], &[("cursor", "x y&z=+".into())]);
        let expected =
            "https://host/v1/customers/a%2Fb%3Fc%23d%20%C3%A9%3A%252e?cursor=x%20y%26z%3D%2B";
        assert_eq!(url.unwrap().as_str(), expected);
        for lost in ["", ".", ".."] {
            assert!(base.of(&["customers", lost], &[]).is_err(), "{lost:?}");
        }
    }
}
