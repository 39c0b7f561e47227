//! `naru serve`: from the command line to the broker's settings. The broker itself is started by `main`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::failure::Failure;
use crate::config::{ConfigError, Settings};
use crate::telemetry::LogFormat;

/// Flags of `serve`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  naru serve
  naru serve --data-dir /var/lib/naru --listen 127.0.0.1:9640
  naru serve --data-dir /tmp/x --listen 127.0.0.1:0 --http 127.0.0.1:0 --port-file /tmp/x.ports

Ends on SIGTERM or SIGINT: stops accepting, answers what is in flight for at most 10 s, and leaves a clean checkpoint.
A second signal ends it at once; nothing that was acknowledged is lost.")]
pub struct ServeArgs {
    /// Where the records are kept; made if it is missing.
    #[arg(long, value_name = "DIR", default_value = "naru-data")]
    pub data_dir: PathBuf,
    /// Address of the native protocol; port 0: any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9640")]
    pub listen: SocketAddr,
    /// Address of HTTP: /livez and /readyz; port 0: any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9641")]
    pub http: SocketAddr,
    /// Writes the addresses to this file as JSON once the broker is ready.
    #[arg(long, value_name = "FILE")]
    pub port_file: Option<PathBuf>,
    /// Allows addresses that others can reach although nobody has to log in.
    #[arg(long)]
    pub insecure_no_auth: bool,
    /// Keeps everything in memory: nothing survives the end of the process.
    #[arg(long, conflicts_with = "data_dir")]
    pub in_memory: bool,
    /// Form of the log lines; text on a terminal, otherwise JSON.
    #[arg(long, value_name = "FORMAT", value_parser = ["json", "text"])]
    pub log_format: Option<String>,
}

impl ServeArgs {
    /// The broker's settings: these flags over the defaults.
    ///
    /// # Errors
    /// They do not fit together.
    pub fn settings(self, log_level: &str) -> Result<Settings, Failure> {
        let mut settings = Settings {
            data_dir: self.data_dir,
            in_memory: self.in_memory,
            port_file: self.port_file,
            insecure_no_auth: self.insecure_no_auth,
            ..Settings::default()
        };
        settings.listen = self.listen;
        settings.http.listen = self.http;
        settings.log.level = log_level.to_owned();
        settings.log.format = match self.log_format.as_deref() {
            Some("json") => LogFormat::Json,
            Some(_) => LogFormat::Text,
            None => LogFormat::Auto,
        };
        settings.check().map_err(refused)?;
        Ok(settings)
    }
}

fn refused(error: ConfigError) -> Failure {
    let hint = error.hint();
    Failure::usage(error.to_string()).hint(hint)
}
