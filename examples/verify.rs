//! Works out what the books in a file should say, and tells where they differ.
//!
//! ```sh
//! cargo run --example verify -- usage.db
//! ```

use std::process::ExitCode;
use std::time::SystemTime;

use tower_limitry::store::sqlite::verify;

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("which file? verify usage.db");
        return ExitCode::from(2);
    };
    let compared = match verify(path, SystemTime::now().into()) {
        Ok(compared) => compared,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    for difference in &compared.found {
        println!("{difference}");
    }
    println!("{} compared, {} differ", compared.checked, compared.found.len());
    if compared.found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
