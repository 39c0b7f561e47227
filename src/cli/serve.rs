//! `naru serve`: from the command line to the broker's configuration. The broker itself is started by `main`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::failure::{Exit, Failure};
use crate::config::{Configuration, LoadError, LoadErrors, Sources, USUAL_FILES};

/// Text below `naru serve --help`.
pub(crate) const HELP: &str = "Examples:
  naru serve
  naru serve --data-dir /var/lib/naru --listen 127.0.0.1:9640
  naru serve --config /etc/naru/naru.toml --set log.level=debug
  naru serve --data-dir /tmp/x --listen 127.0.0.1:0 --http 127.0.0.1:0 --port-file /tmp/x.ports

Ends on SIGTERM or SIGINT: stops accepting, answers what is in flight for at most 10 s, and leaves a clean checkpoint.
A second signal ends it at once; nothing that was acknowledged is lost. SIGHUP: reads the configuration again.";

/// Flags of `serve`. What is not given comes from variables, a file, or the defaults.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ServeArgs {
    /// Configuration file; otherwise /etc/naru/naru.toml or ./naru.toml, if there is one.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Sets anything that a configuration file can set; may be repeated.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// Where the records are kept; made if it is missing [default: naru-data].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Address of the native protocol; port 0: any free one [default: 127.0.0.1:9640].
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Address of HTTP: health and metrics; port 0: any free one [default: 127.0.0.1:9641].
    #[arg(long, value_name = "ADDRESS")]
    pub http: Option<String>,
    /// Writes the addresses to this file as JSON once the broker is ready.
    #[arg(long, value_name = "FILE")]
    pub port_file: Option<String>,
    /// Allows addresses that others can reach although nobody has to log in.
    #[arg(long)]
    pub insecure_no_auth: bool,
    /// Keeps everything in memory: nothing survives the end of the process.
    #[arg(long, conflicts_with = "data_dir")]
    pub in_memory: bool,
    /// Size of a journal file; there are four of them, and the first of a new directory is at most 16MiB [default: 256MiB].
    #[arg(long, value_name = "SIZE")]
    pub journal_file_bytes: Option<String>,
    /// Form of the log lines; text on a terminal, otherwise JSON.
    #[arg(long, value_name = "FORMAT", value_parser = ["json", "text"])]
    pub log_format: Option<String>,
}

impl ServeArgs {
    /// No flags but perhaps this file.
    pub(crate) fn with_file(config: Option<PathBuf>) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    /// What the flags, the environment and the file say. `log_level` is that of the global flags, with the flag's name.
    pub(crate) fn sources(self, log_level: Option<(&'static str, String)>) -> Sources {
        let yes = |given: bool| given.then(|| "true".to_owned());
        let flags = [
            ("storage.data_dir", "--data-dir", self.data_dir),
            ("server.listen", "--listen", self.listen),
            ("server.http", "--http", self.http),
            ("server.port_file", "--port-file", self.port_file),
            (
                "server.insecure_no_auth",
                "--insecure-no-auth",
                yes(self.insecure_no_auth),
            ),
            ("storage.in_memory", "--in-memory", yes(self.in_memory)),
            (
                "storage.journal_file_bytes",
                "--journal-file-bytes",
                self.journal_file_bytes,
            ),
            ("log.format", "--log-format", self.log_format),
        ];
        let flags = flags
            .into_iter()
            .filter_map(|(key, flag, value)| Some((key, flag, value?)));
        let level = log_level.map(|(flag, level)| ("log.level", flag, level));
        Sources {
            file: self.config,
            usual_files: USUAL_FILES.iter().map(PathBuf::from).collect(),
            environment: std::env::vars_os().collect(),
            sets: self.set,
            flags: flags.chain(level).collect(),
        }
    }

    /// The broker's configuration: these flags over everything else.
    ///
    /// # Errors
    /// Something is wrong with it.
    pub(crate) fn configuration(
        self,
        log_level: Option<(&'static str, String)>,
    ) -> Result<Configuration, Failure> {
        self.sources(log_level)
            .load()
            .map_err(|error| refused(Exit::Usage, &error))
    }
}

/// All that is wrong with a configuration: for people with the lines of the file, for programs as a list.
pub(crate) fn refused(exit: Exit, errors: &LoadErrors) -> Failure {
    let problems: Vec<_> = errors
        .iter()
        .map(|error| json!({"message": error.to_string(), "hint": error.hint()}))
        .collect();
    let text: Vec<String> = errors.iter().map(shown).collect();
    let mut failure = Failure::new(exit, "INVALID_CONFIGURATION", errors.to_string()).hint(errors.hint());
    failure.as_text = Some(text.join("\n"));
    failure.details = Some(json!({ "problems": problems }));
    failure
}

fn shown(error: &LoadError) -> String {
    let mut text = format!("error: {error}");
    if let Some(excerpt) = error.excerpt() {
        text.push_str(&format!("\n{excerpt}"));
    }
    if !error.hint().is_empty() {
        text.push_str(&format!("\nhint: {}", error.hint()));
    }
    text
}
