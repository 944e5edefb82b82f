use std::fmt;
use std::str::FromStr;

use compact_str::CompactString;
use uuid::Uuid;

use super::Timestamp;

/// Who is metered: your own id for them, 1 to 256 bytes of any text.
///
/// Ids up to 24 bytes are kept inline. `Debug` and `Display` show the id, so keep it out of logs
/// where it is personal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CustomerId(CompactString);

impl CustomerId {
    /// The longest id, in bytes.
    pub const MAX_LENGTH: usize = 256;

    /// In the place of an id that is none.
    pub(crate) const NOBODY: Self = Self(CompactString::const_new("?"));

    /// A customer's id.
    ///
    /// # Errors
    ///
    /// [`IdError`] when it is empty or longer than [`MAX_LENGTH`](Self::MAX_LENGTH) bytes.
    pub fn new(id: impl AsRef<str>) -> Result<Self, IdError> {
        let id = id.as_ref();
        match id.len() {
            0 => Err(IdError::Empty),
            1..=Self::MAX_LENGTH => Ok(Self(CompactString::new(id))),
            length => Err(IdError::TooLong { length }),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CustomerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for CustomerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl FromStr for CustomerId {
    type Err = IdError;

    fn from_str(id: &str) -> Result<Self, IdError> {
        Self::new(id)
    }
}

impl TryFrom<&str> for CustomerId {
    type Error = IdError;

    fn try_from(id: &str) -> Result<Self, IdError> {
        Self::new(id)
    }
}

impl TryFrom<&String> for CustomerId {
    type Error = IdError;

    fn try_from(id: &String) -> Result<Self, IdError> {
        Self::new(id)
    }
}

impl TryFrom<String> for CustomerId {
    type Error = IdError;

    fn try_from(id: String) -> Result<Self, IdError> {
        Self::new(id)
    }
}

impl TryFrom<&CustomerId> for CustomerId {
    type Error = IdError;

    fn try_from(id: &CustomerId) -> Result<Self, IdError> {
        Ok(id.clone())
    }
}

impl AsRef<str> for CustomerId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Names one use from its check to its record: hold id, event id and idempotency key in one.
///
/// Made ids are UUIDs of version 7 (RFC 9562, section 5.7) and carry the time of their making. An id
/// of your own is any text of 1 to 256 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(Repr);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Repr {
    Uuid(u128),
    Text(CompactString),
}

impl EventId {
    /// The longest id, in bytes.
    pub const MAX_LENGTH: usize = 256;

    /// What comes before the id of an event in the id of what takes it back.
    pub(super) const VOID: &str = "void:";

    /// In the place of an id that is not made yet.
    pub(crate) const NIL: Self = Self::from_uuid(0);

    /// An id of your own; the text of a UUID is read as that UUID.
    ///
    /// # Errors
    ///
    /// [`IdError`] when it is empty or longer than [`MAX_LENGTH`](Self::MAX_LENGTH) bytes.
    pub fn new(id: impl AsRef<str>) -> Result<Self, IdError> {
        let id = id.as_ref();
        match (id.len(), Uuid::try_parse(id)) {
            (0, _) => Err(IdError::Empty),
            (36, Ok(uuid)) => Ok(Self::from_uuid(uuid.as_u128())),
            (1..=Self::MAX_LENGTH, _) => Ok(Self(Repr::Text(CompactString::new(id)))),
            (length, _) => Err(IdError::TooLong { length }),
        }
    }

    /// An id that a caller gives to a use of its own.
    pub(crate) fn given(id: impl AsRef<str>) -> Result<Self, IdError> {
        match id.as_ref().starts_with(Self::VOID) {
            true => Err(IdError::Reserved),
            false => Self::new(id),
        }
    }

    /// The id of a use under the key of a client: no key reads as the end of another event type, and
    /// none as what takes an event back.
    pub(crate) fn of_key(event_type: &str, key: &str) -> Result<Self, IdError> {
        let event_type = event_type.replace('%', "%25").replace(':', "%3A");
        let id = format!("{event_type}:{key}");
        match Self::given(&id) {
            Err(IdError::Reserved) => Self::new(format!("%{id}")),
            made => made,
        }
    }

    /// The id with these 128 bits.
    pub const fn from_uuid(bits: u128) -> Self {
        Self(Repr::Uuid(bits))
    }

    /// The text of the id.
    pub(crate) fn write<'a>(&'a self, buffer: &'a mut [u8; 36]) -> &'a str {
        match &self.0 {
            Repr::Uuid(bits) => Uuid::from_u128(*bits).hyphenated().encode_lower(buffer),
            Repr::Text(text) => text,
        }
    }

    /// A number that no other made id has.
    pub(crate) fn attempt(&self) -> u64 {
        match self.0 {
            Repr::Uuid(bits) => bits as u64,
            Repr::Text(_) => 0,
        }
    }

    /// The 128 bits of a UUID.
    #[cfg(feature = "sqlite")]
    pub(crate) fn as_uuid(&self) -> Option<u128> {
        match self.0 {
            Repr::Uuid(bits) => Some(bits),
            Repr::Text(_) => None,
        }
    }

    /// When the id was made, to the millisecond, if it is a UUID of version 7.
    pub fn made_at(&self) -> Option<Timestamp> {
        match self.0 {
            Repr::Uuid(bits) if (bits >> 76) & 0xF == 7 => {
                let millis = i64::try_from(bits >> 80).ok()?;
                millis.checked_mul(1_000_000).map(Timestamp::from_nanos)
            }
            _ => None,
        }
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.write(&mut [0; 36]))
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl FromStr for EventId {
    type Err = IdError;

    fn from_str(id: &str) -> Result<Self, IdError> {
        Self::new(id)
    }
}

/// Names one queue of settlements, for as long as its file lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Producer(pub u128);

impl fmt::Display for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Uuid::from_u128(self.0), f)
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Producer({self})")
    }
}

/// Why a text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdError {
    /// There is no text at all.
    Empty,
    /// More than 256 bytes.
    TooLong {
        /// The length given, in bytes.
        length: usize,
    },
    /// Begins with `void:`, as the ids of what takes events back.
    Reserved,
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("an id is empty; give 1 to 256 bytes"),
            Self::TooLong { length } => {
                write!(f, "an id has {length} bytes; give 1 to 256 (a hash of it would do)")
            }
            Self::Reserved => f.write_str(
                "an id begins with \"void:\", as those of what takes events back; begin it otherwise",
            ),
        }
    }
}

impl std::error::Error for IdError {}

impl From<std::convert::Infallible> for IdError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}
