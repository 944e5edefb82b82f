//! Bodies as the providers document them, in the variants that occur.

mod anthropic;
mod google;
mod lookalikes;
mod openai;
mod others;
mod speakers;
