//! `naru config`: shows, checks and writes the broker's configuration. Needs no broker.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::failure::{Exit, Failure, Outcome};
use super::output::{Output, line};
use super::serve::{ServeArgs, refused};
use crate::config;
use crate::model::shell_path;

/// Commands below `config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show every value in force and where it comes from; takes the flags of `serve`.
    Show(ShowArgs),
    /// Check a configuration without starting anything: all mistakes at once, exit code 8 if there are any.
    Check(CheckArgs),
    /// Write a file with all defaults, commented out.
    Init(InitArgs),
    /// Print the reference of all settings in Markdown.
    Docs,
}

/// Arguments of `config show`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  naru config show
  naru config show --config naru.toml --set log.level=debug --format json")]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    serve: ServeArgs,
}

/// Arguments of `config check`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  naru config check /etc/naru/naru.toml
  naru config check && systemctl reload naru")]
pub(crate) struct CheckArgs {
    /// The file; otherwise /etc/naru/naru.toml or ./naru.toml, if there is one. Variables are checked with it.
    file: Option<PathBuf>,
}

/// Arguments of `config init`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  naru config init /etc/naru/naru.toml")]
pub(crate) struct InitArgs {
    /// Where to write; must not be there yet.
    #[arg(default_value = "naru.toml")]
    file: PathBuf,
}

/// Runs a command. `log_level` is that of the global flags, with the flag's name.
///
/// # Errors
/// What the command says; the output cannot be written.
pub(crate) fn run(
    command: ConfigCommand,
    log_level: Option<(&'static str, String)>,
    output: Output,
) -> Outcome {
    match command {
        ConfigCommand::Show(args) => show(args.serve, log_level, output),
        ConfigCommand::Check(args) => check(args, output),
        ConfigCommand::Init(args) => init(&args, output),
        ConfigCommand::Docs => Ok(line(config::reference().trim_end())?),
    }
}

fn show(args: ServeArgs, log_level: Option<(&'static str, String)>, output: Output) -> Outcome {
    let shown = args.configuration(log_level)?.shown();
    let items = shown.into_iter().map(|shown| {
        let (source, reload) = (shown.source.to_string(), shown.reload.word());
        let value = json!({"key": shown.key, "value": shown.value, "source": source, "reload": reload});
        (vec![shown.key, shown.value, source], value)
    });
    Ok(output.list(&["KEY", "VALUE", "SOURCE"], &[], items)?)
}

fn check(args: CheckArgs, output: Output) -> Outcome {
    ServeArgs::with_file(args.file)
        .sources(None)
        .load()
        .map_err(|error| refused(Exit::CheckFailed, &error))?;
    if output.wants_json() {
        return Ok(output.json(&json!({"ok": true}))?);
    }
    Ok(line("ok")?)
}

fn init(args: &InitArgs, output: Output) -> Outcome {
    let path = args.file.display();
    // Never over a file that somebody has written.
    let opened = OpenOptions::new().write(true).create_new(true).open(&args.file);
    let written = opened.and_then(|mut file| file.write_all(config::commented_default().as_bytes()));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::new(Exit::Conflict, "FILE_EXISTS", format!("{path} exists already"))
                .hint("name another file, or move this one away")
        }
        _ => Failure::unexpected(format!("cannot write {path}: {error}")),
    })?;
    output.tell(&format!(
        "wrote {path}; `naru config check {}` checks it once it is changed",
        shell_path(&args.file)
    ));
    Ok(())
}
