//! `naru completion`: a script that lets the shell complete commands and flags.

use std::io::Write as _;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::Cli;
use super::failure::Outcome;

/// Arguments of `completion`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  naru completion bash > ~/.local/share/bash-completion/completions/naru
  naru completion zsh > ~/.zfunc/_naru
  naru completion fish > ~/.config/fish/completions/naru.fish")]
pub(crate) struct CompletionArgs {
    /// For which shell.
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// The output cannot be written.
pub(crate) fn run(args: &CompletionArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "naru", &mut script);
    let mut out = std::io::stdout().lock();
    out.write_all(&script)?;
    out.flush()?;
    Ok(())
}
