use std::fmt;

use super::Dimensions;

/// A definition that cannot be used: which one, what is wrong with it, and how to mend it.
///
/// ```
/// use tower_limitry::{Engine, Limit};
///
/// let error = Engine::builder().limit(Limit::per_day("daily", "tokens", 1_000)).build().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     r#"limit "daily": meter "tokens" is not defined; define the meter too, or correct its id"#,
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    field: Box<str>,
    problem: Box<str>,
}

impl ConfigError {
    pub(crate) fn new(field: impl Into<Box<str>>, problem: impl Into<Box<str>>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// What is wrong, such as `limit "daily": cap`.
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong with it, and the remedy.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// Header fields carry ids (RFC 9651, section 3.3.3), so they are kept to characters that need no
    /// escape anywhere.
    pub(crate) fn check_slug(kind: &str, id: &str) -> Result<(), Self> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
        if (1..=128).contains(&id.len()) && id.bytes().all(fits) {
            return Ok(());
        }
        Err(Self::new(
            format!("{kind} {:?}: id", id.chars().take(40).collect::<String>()),
            "is not a slug; give 1 to 128 of a-z, A-Z, 0-9, - _ . : / (names are for people)",
        ))
    }

    pub(crate) fn check_dimensions(
        kind: &str,
        id: &str,
        dimensions: &Dimensions,
    ) -> Result<(), Self> {
        for (key, value) in dimensions.iter() {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if !(1..=64).contains(&key.len()) || !key.bytes().all(fits) {
                return Err(Self::new(
                    format!("{kind} {id:?}: dimension {key:?}"),
                    "is not a key; give 1 to 64 letters, digits or underscores",
                ));
            }
            if value.ends_with('…') && value.len() > Dimensions::MAX_LENGTH - 4 {
                return Err(Self::new(
                    format!("{kind} {id:?}: dimension {key:?}"),
                    "has a text that is too long; give at most 256 bytes",
                ));
            }
        }
        Ok(())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.problem)
    }
}

impl std::error::Error for ConfigError {}
