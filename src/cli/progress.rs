//! Progress bars: on stderr, only on a terminal, only if people want to hear anything.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Context;

/// Redraws per second.
const DRAWS_PER_S: u8 = 10;

/// A bar for so many things of this name; invisible where nobody would see it.
pub(crate) fn bar(context: &Context, total: u64, what: &str) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() && !context.output.quiet {
        ProgressDrawTarget::stderr_with_hz(DRAWS_PER_S)
    } else {
        ProgressDrawTarget::hidden()
    };
    let template = format!(
        "[{{elapsed_precise}}] {{bar:30}} {{human_pos}} of {{human_len}} {what}  {{per_sec}}  {{msg}}"
    );
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(total), target).with_style(style)
}
