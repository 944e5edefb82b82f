//! The program's own modules, for what only a clock of another kind shows.

#[path = "../../examples/gateway/app.rs"]
pub(crate) mod app;
#[path = "../../examples/gateway/config.rs"]
pub(crate) mod config;
#[path = "../../examples/gateway/estimate.rs"]
mod estimate;
#[path = "../../examples/gateway/forward.rs"]
mod forward;
#[path = "../../examples/gateway/include_usage.rs"]
mod include_usage;
