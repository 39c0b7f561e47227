//! `naru version`.

use serde_json::json;

use super::failure::Outcome;
use super::output::{Output, line};

/// Version of the crate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prints what this binary is.
///
/// # Errors
/// The output cannot be written.
pub fn run(output: Output) -> Outcome {
    // Set by whoever builds a release; a plain build does not know.
    let revision = option_env!("NARU_REVISION");
    let rustc = option_env!("NARU_RUSTC_VERSION");
    let (lowest, highest) = protocol_versions();
    if output.is_table() {
        let revision = revision.map(|r| format!(" ({r})")).unwrap_or_default();
        line(&format!("naru {VERSION}{revision}"))?;
        line(&format!("rustc     {}", rustc.unwrap_or("unknown")))?;
        line(&format!("protocol  {lowest} to {highest}"))?;
    } else {
        output.json(&json!({
            "version": VERSION,
            "revision": revision,
            "rustc": rustc,
            "protocol": {"lowest": lowest, "highest": highest},
        }))?;
    }
    Ok(())
}

/// The native protocol's versions that this binary speaks.
fn protocol_versions() -> (u32, u32) {
    (1, 1)
}
