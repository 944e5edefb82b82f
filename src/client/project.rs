use serde::Deserialize;

use super::{Call, Client};
use crate::Error;

/// The project that a key is for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Project {
    /// The API's id of it.
    pub id: String,
    /// Its name, if the API tells.
    pub name: Option<String>,
}

impl Client {
    /// The project that the key is for.
    ///
    /// # Errors
    ///
    /// What went wrong with the call.
    pub async fn project(&self) -> Result<Project, Error> {
        self.http().fetch(Call::get(&["project"])).await
    }
}
