use std::fmt;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Our trouble, never the customer's: a backend that cannot answer, or a call that makes no sense.
///
/// A refusal is not an error; it is a [`Denial`](crate::Denial).
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: Box<str>,
    source: Option<BoxError>,
}

/// What kind of trouble an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call itself is wrong; the message names the field, the problem and the remedy. Repeating
    /// it does not help.
    Invalid,
    /// What the call names does not exist.
    NotFound,
    /// What the call would make exists already, or the same id is in use right now.
    Conflict,
    /// The event is older than the time for which ids are remembered, so a repeat could not be told
    /// from a new one. Nothing was counted.
    TooOld,
    /// The backend cannot answer now. Nothing is known to have happened.
    Unavailable,
    /// The backend did not answer in time. Whether it acted is unknown.
    TimedOut,
}

impl Error {
    /// An error of that kind. The message is one lower-case clause; it must hold no secret.
    pub fn new(kind: ErrorKind, message: impl Into<Box<str>>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), source: None }))
    }

    /// Adds what caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Unavailable | ErrorKind::TimedOut)
    }

    /// Whether it is unknown if the backend acted.
    pub fn is_unknown(&self) -> bool {
        self.0.kind == ErrorKind::TimedOut
    }

    pub(crate) fn invalid(field: &str, problem: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Invalid, format!("{field}: {problem}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut error = f.debug_struct("Error");
        error.field("kind", &self.0.kind).field("message", &self.0.message);
        if let Some(source) = &self.0.source {
            error.field("source", source);
        }
        error.finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<crate::policy::ConfigError> for Error {
    fn from(error: crate::policy::ConfigError) -> Self {
        Self::new(ErrorKind::Invalid, error.to_string())
    }
}
