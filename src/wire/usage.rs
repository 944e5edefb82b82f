use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::Number;
use crate::policy::{Dimensions, Usage, Values};

/// How many values or dimensions an event or a check may have.
pub(crate) const MOST_ENTRIES: usize = 100;
/// The longest name of one, in bytes.
pub(crate) const LONGEST_NAME: usize = 256;

/// Values by name, in their order.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Amounts(pub(crate) Values);

/// Dimensions, in their order.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Pairs(pub(crate) Dimensions);

impl Amounts {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Pairs {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is asked or was used.
pub(crate) fn usage(values: &Amounts, dimensions: &Pairs) -> Usage {
    Usage::from_parts(values.0.clone(), dimensions.0.clone())
}

/// The same as it is sent.
#[cfg(feature = "client")]
pub(crate) fn parts(usage: &Usage) -> (Amounts, Pairs) {
    (Amounts(usage.values().clone()), Pairs(usage.dimensions().clone()))
}

/// Whether the other side takes it.
pub(crate) fn fits(usage: &Usage) -> Result<(), &'static str> {
    let names = usage.values().iter().map(|(name, _)| name);
    let keys = usage.dimensions().iter().map(|(key, _)| key);
    if usage.values().iter().len() > MOST_ENTRIES || usage.dimensions().iter().len() > MOST_ENTRIES
    {
        return Err("has more than 100 values or dimensions; give fewer");
    }
    match names.chain(keys).all(|name| (1..=LONGEST_NAME).contains(&name.len())) {
        true => Ok(()),
        false => Err("has a name that is empty or too long; give 1 to 256 bytes"),
    }
}

impl<'de> Deserialize<'de> for Amounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Values;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("amounts by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Values, A::Error> {
                let mut values = Values::default();
                let mut count = 0;
                while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    admit("values", &mut count, &name)?;
                    values.set(&name, map.next_value::<Number>()?.0);
                }
                Ok(values)
            }
        }
        deserializer.deserialize_map(Members).map(Self)
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Dimensions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("texts by key")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Dimensions, A::Error> {
                let mut dimensions = Dimensions::new();
                let mut count = 0;
                while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
                    admit("dimensions", &mut count, &key)?;
                    dimensions.set(&key, &map.next_value::<std::borrow::Cow<'de, str>>()?);
                }
                Ok(dimensions)
            }
        }
        deserializer.deserialize_map(Members).map(Self)
    }
}

/// Adding to values and dimensions looks at all that are there, so there must be few.
fn admit<E: serde::de::Error>(field: &str, count: &mut usize, name: &str) -> Result<(), E> {
    *count += 1;
    if *count > MOST_ENTRIES {
        return Err(E::custom(format_args!("{field}: are more than {MOST_ENTRIES}; give fewer")));
    }
    if name.len() > LONGEST_NAME {
        return Err(E::custom(format_args!(
            "{field}: has a name that is too long; give 1 to 256 bytes"
        )));
    }
    Ok(())
}
