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
pub(crate) struct ServeArgs {
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
    /// Size of a journal file; there are four of them, and the first of a new directory is at most 16MiB.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_size)]
    pub journal_file_bytes: u64,
    /// Form of the log lines; text on a terminal, otherwise JSON.
    #[arg(long, value_name = "FORMAT", value_parser = ["json", "text"])]
    pub log_format: Option<String>,
}

impl ServeArgs {
    /// The broker's settings: these flags over the defaults.
    ///
    /// # Errors
    /// They do not fit together.
    pub(crate) fn settings(self, log_level: &str) -> Result<Settings, Failure> {
        let mut settings = Settings {
            data_dir: self.data_dir,
            in_memory: self.in_memory,
            port_file: self.port_file,
            insecure_no_auth: self.insecure_no_auth,
            ..Settings::default()
        };
        settings.listen = self.listen;
        settings.http.listen = self.http;
        settings.storage.journal_file_bytes = self.journal_file_bytes;
        settings.log.node = settings.broker.broker_id.0;
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

/// Reads `256MiB`, `64KiB`, `1GiB` or a bare number of bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err("use a number with KiB, MiB or GiB".to_owned()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "use a number, as in 256MiB".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "the number is too large".to_owned())
}

fn refused(error: ConfigError) -> Failure {
    let hint = error.hint();
    Failure::usage(error.to_string()).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        assert_eq!(parse_size("12"), Ok(12));
        for bad in ["", "MiB", "1MB", "1.5GiB", "-1", "99999999999GiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
