//! How many checks a second does the server answer, beside a route that reads as much and answers a
//! constant of the same length? And what does the layer add when its books are on that server?
//!
//! ```text
//! cargo bench --bench remote --features client,server,test-util
//! ```

mod layer;
mod rate;

fn main() {
    // Cargo asks every bench for its tests, too.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let only = std::env::args().nth(1).filter(|argument| !argument.starts_with('-'));
    match only.as_deref() {
        Some("check") => rate::run_checks(),
        Some("layer") => layer::compare(),
        _ => {
            rate::compare();
            layer::compare();
        }
    }
}
