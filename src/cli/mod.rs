//! The command line: reads the words, runs the command, says how it went.
//!
//! Data goes to stdout, everything else to stderr. `-f` is a record format, `-o` an offset, `--format` the form of the
//! output, everywhere. The broker is not started here: `serve` comes back to `main` as [`Invocation::Serve`].

mod bench;
mod check_history;
mod cluster;
mod completion;
mod config;
mod config_entries;
mod consume;
mod consume_group;
mod consume_member;
mod demo;
mod dev;
mod doctor;
mod errors;
mod failure;
mod group;
mod group_admin;
mod group_config;
mod healthcheck;
mod help;
mod lines;
mod log;
mod log_dump;
mod log_salvage;
mod log_verify;
mod new_partitions;
mod offline;
mod offset_range;
mod output;
#[cfg(test)]
mod page_tests;
mod produce;
mod produce_input;
mod progress;
mod ranges;
mod record_format;
mod record_json;
mod record_output;
mod record_time;
mod serve;
mod session;
mod signals;
mod skipped;
mod topic;
mod topic_config;
mod topic_offsets;
mod topic_partitions;
mod topic_trim;
mod version;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum as _};
use tokio::runtime::Runtime;

pub use failure::{Exit, Failure, Outcome, Stopped};
pub use offline::{Offline, Salvage, StateOf};
pub use output::{Format, Output};

use crate::config::Configuration;
use crate::rt::{Clock as _, SystemClock};
use crate::telemetry::{self, InvalidLevel, LogFormat, LogTime};
use output::{Wishes, say};

/// Where a broker is if nothing else is said.
const SERVER_DEFAULT: &str = "naru://127.0.0.1:9640";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "naru",
    version,
    about = "A message broker in one small binary: an acknowledged record is on disk",
    after_help = failure::EXIT_CODES_HELP,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags that every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// The broker to talk to.
    #[arg(short, long, global = true, env = "NARU_SERVER", default_value = SERVER_DEFAULT, value_name = "URL")]
    server: String,
    /// Form of the output; a table on a terminal, one JSON value per line in a pipe.
    #[arg(long, global = true, env = "NARU_FORMAT", value_name = "FORMAT")]
    format: Option<Format>,
    /// How long to wait for the broker.
    #[arg(long, global = true, env = "NARU_TIMEOUT", default_value = "10s", value_name = "DURATION",
          value_parser = parse_duration)]
    timeout: Duration,
    /// Say nothing that was not asked for.
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Say more on stderr; twice: everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Answer every question with yes.
    #[arg(short, long, global = true)]
    yes: bool,
    /// No colours; NO_COLOR does the same.
    #[arg(long, global = true)]
    no_color: bool,
    /// Level of the log on stderr: error, warn, info, debug, trace, or directives as in warn,naru::storage=debug.
    #[arg(long, global = true, env = "NARU_LOG", value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker.
    #[command(after_help = serve::HELP)]
    Serve(serve::ServeArgs),
    /// Create, list, describe, change and delete topics.
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Write the lines of stdin to a topic.
    Produce(produce::ProduceArgs),
    /// Run a broker to play with: sample topics in a temporary directory, removed on Ctrl-C.
    Dev(dev::DevArgs),
    /// Show that an acknowledged record survives a kill.
    Demo(demo::DemoArgs),
    /// Read a topic.
    Consume(consume::ConsumeArgs),
    /// Show and set how far groups are.
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Show who the broker is and how it is.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Show, check and write the broker's configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Say in one page whether a data directory is well, and what to do if not: exit code 8 if not. Changes nothing.
    Doctor(doctor::DoctorArgs),
    /// Look into a data directory that no broker uses: check it, show its files.
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Say whether what clients asked and were told keeps the broker's promises: exit code 8 if not.
    CheckHistory(check_history::CheckArgs),
    /// Explain error codes.
    #[command(subcommand)]
    Errors(errors::ErrorsCommand),
    /// Say whether the broker on this machine takes requests: exit code 0 or 1.
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Print a completion script for a shell.
    Completion(completion::CompletionArgs),
    /// Print version, revision and protocol range.
    Version,
}

/// What a command knows beside its own arguments.
#[derive(Clone, Debug)]
struct Context {
    server: String,
    timeout: Duration,
    yes: bool,
    output: Output,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Run the broker.
    Serve(Box<Configuration>),
    /// Anything else.
    Command(Box<CommandLine>),
    /// Nothing more: help was shown, or the words made no sense.
    Done(ExitCode),
}

/// A command that is not `serve`.
#[derive(Debug)]
pub struct CommandLine {
    command: Command,
    context: Context,
    log_level: String,
}

/// Reads the command line.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Invocation {
    let words: Vec<OsString> = args.into_iter().collect();
    let cli = match help::read(&words) {
        Ok(cli) => cli,
        Err(error) => return Invocation::Done(misread(&error, &words)),
    };
    let global = cli.global;
    let no_colour_wanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let output = Output::new(Wishes {
        format: global.format,
        quiet: global.quiet,
        no_colours: global.no_color || no_colour_wanted,
    });
    match cli.command {
        Command::Serve(args) => match args.configuration(wanted_level(global.log_level, global.verbose)) {
            Ok(configuration) => Invocation::Serve(Box::new(configuration)),
            Err(failure) => Invocation::Done(report(&failure, global.format)),
        },
        Command::Config(command) => {
            let level = wanted_level(global.log_level, global.verbose);
            Invocation::Done(ended(config::run(command, level, output), output))
        }
        command => Invocation::Command(Box::new(CommandLine {
            command,
            log_level: global
                .log_level
                .unwrap_or_else(|| level_of(global.verbose, "error")),
            context: Context {
                server: global.server,
                timeout: global.timeout,
                yes: global.yes,
                output,
            },
        })),
    }
}

/// Help that was asked for, or a complaint about words that make no sense.
fn misread(error: &clap::Error, words: &[OsString]) -> ExitCode {
    let format = format_in(words).or_else(|| std::env::var("NARU_FORMAT").ok());
    let format = format.and_then(|name| Format::from_str(&name, true).ok());
    if error.use_stderr() && matches!(format, Some(Format::Json | Format::Ndjson)) {
        return report(&complaint(&error.render().to_string()), format);
    }
    // Help goes to stdout, complaints to stderr; there is nobody left to tell if that fails.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.code()))
}

/// The form of the output as the words name it, although they cannot be read as a whole.
fn format_in(words: &[OsString]) -> Option<String> {
    let words: Vec<_> = words.iter().filter_map(|word| word.to_str()).collect();
    let at = words.iter().position(|word| word.starts_with("--format"))?;
    let behind = words[at].strip_prefix("--format=").or(words.get(at + 1).copied());
    behind.map(str::to_owned)
}

/// What is wrong and what would be right, out of a text for people: paragraphs, the last of which points to --help.
fn complaint(text: &str) -> Failure {
    let on_one_line = |part: &str| part.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut parts = text.split("\n\n").map(on_one_line);
    let what = parts.next().unwrap_or_default();
    let mut rest: Vec<_> = parts.filter(|part| !part.starts_with("For more")).collect();
    if rest.is_empty() {
        rest.push("--help shows what can be written".to_owned());
    }
    Failure::usage(what.trim_start_matches("error: ")).hint(rest.join("; "))
}

impl CommandLine {
    /// Whether the command measures how long single records take, which memory in huge pages would disturb.
    pub fn is_timed(&self) -> bool {
        matches!(self.command, Command::Bench(bench::BenchCommand::E2e(_)))
    }

    /// Runs the command to its end, or until a signal.
    pub fn run(self, runtime: &Runtime, offline: Offline) -> ExitCode {
        if let Err(error) = start_log(&self.log_level) {
            return report(&Failure::usage(error.to_string()), self.context.output.chosen);
        }
        let output = self.context.output;
        let ends_in_order = matches!(self.command, Command::Consume(_));
        let ended = runtime.block_on(async {
            tokio::select! {
                biased;
                // Dropping the command here ends what it started: guards remove files and child processes.
                code = signals::ends_now(ends_in_order) => Err(code),
                outcome = dispatch(self.command, &self.context, offline) => Ok(outcome),
            }
        });
        match ended {
            Err(code) => ExitCode::from(code),
            Ok(outcome) => self::ended(outcome, output),
        }
    }
}

/// The exit code of a command, after telling why it failed if it did.
fn ended(outcome: Outcome, output: Output) -> ExitCode {
    match outcome {
        Ok(()) | Err(Stopped::ReaderGone) => ExitCode::SUCCESS,
        Err(Stopped::Told(code)) => ExitCode::from(code),
        Err(Stopped::Failed(failure)) => report(&failure, output.chosen),
    }
}

/// A command logs as text: what it says is for whoever typed it.
fn start_log(level: &str) -> Result<(), InvalidLevel> {
    let clock = SystemClock::new();
    let settings = telemetry::Settings {
        level: level.to_owned(),
        format: LogFormat::Text,
        ..telemetry::Settings::default()
    };
    telemetry::init(&settings, LogTime::new(move || clock.wall())).map(drop)
}

async fn dispatch(command: Command, context: &Context, offline: Offline) -> Outcome {
    match command {
        Command::Serve(_) | Command::Config(_) => Err(Failure::unexpected("this was done before").into()),
        Command::Topic(command) => topic::run(command, context).await,
        Command::Produce(args) => produce::run(args, context).await,
        Command::Dev(args) => dev::run(args, context).await,
        Command::Demo(args) => demo::run(args, context).await,
        Command::Consume(args) => consume::run(args, context).await,
        Command::Group(command) => group::run(command, context).await,
        Command::Bench(command) => bench::run(command, context).await,
        Command::Cluster(command) => cluster::run(command, context).await,
        Command::Log(command) => log::run(command, context, offline).await,
        Command::Doctor(args) => doctor::run(args, context, offline).await,
        Command::CheckHistory(args) => check_history::run(args, context).await,
        Command::Errors(command) => errors::run(&command, context),
        Command::Healthcheck(args) => healthcheck::run(args, context).await,
        Command::Completion(args) => completion::run(&args),
        Command::Version => version::run(context.output),
    }
}

/// Tells about a failure in the form that the output has.
pub fn report(failure: &Failure, format: Option<Format>) -> ExitCode {
    match format {
        Some(Format::Json | Format::Ndjson) => say(&failure.to_json()),
        Some(Format::Table | Format::Csv) | None => say(&failure.to_string()),
    }
    ExitCode::from(failure.exit.code())
}

/// The log level that the command line asks for, and by which flag.
fn wanted_level(log_level: Option<String>, verbose: u8) -> Option<(&'static str, String)> {
    match log_level {
        Some(level) => Some(("--log-level or NARU_LOG", level)),
        None if verbose > 0 => Some(("--verbose", level_of(verbose, "info"))),
        None => None,
    }
}

fn level_of(verbose: u8, default: &str) -> String {
    match verbose {
        0 => default,
        1 => "debug",
        _ => "trace",
    }
    .to_owned()
}

/// Reads `10s`, `500ms`, `1m 30s`, or a bare number of seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let signed: jiff::SignedDuration = text
        .parse()
        .map_err(|_| "use a number with a unit, as in 10s, 500ms or 1m".to_owned())?;
    Duration::try_from(signed).map_err(|_| "a duration is not negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Invocation {
        parse(["naru"].iter().chain(words).map(OsString::from))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("3"), Ok(Duration::from_secs(3)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert!(parse_duration("-1s").is_err());
        assert!(parse_duration("soon").is_err());
    }

    #[test]
    fn a_complaint_about_words_is_one_object_with_a_hint() {
        let error = Cli::try_parse_from(["naru", "cluster", "helth"]).unwrap_err();
        let failure = complaint(&error.render().to_string());
        assert_eq!(failure.exit.code(), 2);
        assert_eq!(failure.message, "unrecognized subcommand 'helth'");
        let hint = failure.hint.unwrap();
        assert!(
            hint.contains("'health'") && hint.contains("Usage: naru cluster"),
            "{hint}"
        );
        assert!(!hint.contains('\n') && !hint.contains("For more"), "{hint}");
        let format = |words: &[&str]| format_in(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(
            format(&["naru", "--format", "json", "x"]).as_deref(),
            Some("json")
        );
        assert_eq!(
            format(&["naru", "x", "--format=ndjson"]).as_deref(),
            Some("ndjson")
        );
        assert_eq!(format(&["naru", "x", "--format"]), None);
    }

    #[test]
    fn serve_turns_flags_into_settings() {
        let invocation = parsed(&[
            "serve",
            "--data-dir",
            "/x",
            "--listen",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--port-file",
            "/y",
            "--log-level",
            "warn",
        ]);
        let Invocation::Serve(configuration) = invocation else {
            panic!("{invocation:?}");
        };
        let settings = configuration.settings;
        assert_eq!(settings.data_dir, std::path::Path::new("/x"));
        assert_eq!(settings.port_file.as_deref(), Some(std::path::Path::new("/y")));
        assert_eq!(settings.listen.port(), 0);
        assert_eq!(settings.log.level, "warn");
    }
}
