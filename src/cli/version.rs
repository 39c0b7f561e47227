//! `naru version`.

use serde_json::json;

use super::failure::Outcome;
use super::output::{Output, line};
use crate::client::PROTOCOL_VERSION;

/// Version of the crate.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prints what this binary is.
///
/// # Errors
/// The output cannot be written.
pub(crate) fn run(output: Output) -> Outcome {
    // Set by whoever builds a release; a plain build does not know.
    let revision = option_env!("NARU_REVISION");
    let rustc = env!("NARU_RUSTC_VERSION");
    let (lowest, highest) = (PROTOCOL_VERSION, PROTOCOL_VERSION);
    if output.is_table() {
        let revision = revision.map(|r| format!(" ({r})")).unwrap_or_default();
        line(&format!("naru {VERSION}{revision}"))?;
        line(&format!("rustc     {}", rustc))?;
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
