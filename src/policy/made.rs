use super::Timestamp;

/// When a definition was made and last changed, where somebody told. No part of what it says: two
/// that differ in this alone are equal.
// Only the server tells.
#[cfg_attr(not(feature = "server"), allow(dead_code))]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Made {
    pub(crate) created: Option<Timestamp>,
    pub(crate) updated: Option<Timestamp>,
}

impl PartialEq for Made {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

#[cfg_attr(not(feature = "server"), allow(dead_code))]
impl Made {
    /// Of what is put now, in the place of what was there before.
    pub(crate) fn now(before: Option<&Self>, now: Timestamp) -> Self {
        let created = before.map_or(Some(now), |before| before.created);
        Self { created, updated: Some(now) }
    }
}
