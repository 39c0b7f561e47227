//! `naru dev`: a broker to play with, with sample topics, gone without a trace at the end.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::Context;
use super::demo::broker::{BrokerProcess, Ports};
use super::failure::{Failure, Outcome, Stopped};
use super::output::line;
use crate::client::{Client, CreateTopicOptions, ProducerRecord};
use crate::config::Settings;

/// Topics to begin with, and their partitions.
const TOPICS: [(&str, u32); 2] = [("orders", 3), ("events", 1)];

/// Records of the first topic: key and value.
const ORDERS: [(&str, &str); 5] = [
    ("o-1", r#"{"id":"o-1","item":"tea","total":42}"#),
    ("o-2", r#"{"id":"o-2","item":"bread","total":7}"#),
    ("o-3", r#"{"id":"o-3","item":"salt","total":3}"#),
    ("o-1", r#"{"id":"o-1","paid":true}"#),
    ("o-4", r#"{"id":"o-4","item":"coffee","total":12}"#),
];

/// Flags of `dev`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  naru dev
  naru dev --data-dir /tmp/play

Listens on 9640 and 9641 where both are free, otherwise on any free ports; it says which. Ends on Ctrl-C with exit code 130.
Records are synced as by any broker; without --data-dir they go with it all the same. It has the default configuration: no
file and no variable changes it; 'naru serve' runs a broker that is configured.")]
pub(crate) struct DevArgs {
    /// Keep everything in this directory instead of a temporary one.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub(crate) async fn run(args: DevArgs, context: &Context) -> Outcome {
    // Removed when this function ends, also by a signal: that drops its future.
    let temporary = match &args.data_dir {
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(|error| cannot_use(dir, &error))?;
            None
        }
        None => Some(
            tempfile::Builder::new()
                .prefix("naru-dev-")
                .tempdir()
                .map_err(|error| cannot_use(&std::env::temp_dir(), &error))?,
        ),
    };
    let dir = match (&temporary, &args.data_dir) {
        (Some(temporary), _) => temporary.path(),
        (None, kept) => kept.as_deref().unwrap_or(Path::new(".")),
    };
    // Declared behind the directory: it is stopped before its files are removed.
    let mut broker = BrokerProcess::start(dir, wanted_ports())?;
    let ports = broker.ready().await?;
    fill(ports).await?;
    tell(ports, dir, context)?;
    Err(broker.ended().await.into())
}

/// The ports that everybody expects, if nobody has them.
fn wanted_ports() -> Ports {
    let settings = Settings::default();
    let usual = Ports {
        native: settings.listen,
        http: settings.http.listen,
    };
    if is_free(usual.native) && is_free(usual.http) {
        usual
    } else {
        Ports::any()
    }
}

fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

/// Makes the sample topics; those of an earlier time are left as they are.
async fn fill(ports: Ports) -> Result<(), Stopped> {
    let client = Client::connect(&format!("naru://{}", ports.native)).await?;
    for (name, partitions) in TOPICS {
        let options = CreateTopicOptions {
            partitions,
            if_not_exists: true,
            ..CreateTopicOptions::default()
        };
        let made = client.create_topic(name, options).await?;
        if made.created && name == TOPICS[0].0 {
            let producer = client.producer().build().await?;
            for (key, value) in ORDERS {
                producer
                    .send(ProducerRecord::to(name).key(key).value(value))
                    .await?;
            }
            producer.close().await?;
        }
    }
    Ok(())
}

fn tell(ports: Ports, dir: &Path, context: &Context) -> Outcome {
    if context.output.wants_json() {
        context.output.json(&json!({
            "native": ports.native.to_string(), "http": ports.http.to_string(), "dir": dir.display().to_string(),
            "topics": TOPICS.map(|(name, _)| name),
        }))?;
        return Ok(());
    }
    line(&next_steps(ports, dir))?;
    Ok(())
}

fn next_steps(ports: Ports, dir: &Path) -> String {
    // Where the broker is not where every command looks for it, each must be told.
    let server = if ports.native == Settings::default().listen {
        String::new()
    } else {
        format!(" -s naru://{}", ports.native)
    };
    format!(
        "a broker runs in {}
native  naru://{}
http    http://{}/readyz  http://{}/metrics

try in another terminal:
  naru{server} topic list
  naru{server} consume orders -o start --exit-at-end
  echo hello | naru{server} produce events
  naru{server} cluster health

Ctrl-C ends it",
        dir.display(),
        ports.native,
        ports.http,
        ports.http
    )
}

fn cannot_use(dir: &Path, error: &std::io::Error) -> Failure {
    Failure::unexpected(format!("cannot use the directory {}: {error}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_name_the_server_only_where_it_is_not_the_usual_one() {
        let usual = Ports {
            native: Settings::default().listen,
            http: Settings::default().http.listen,
        };
        let dir = Path::new("/tmp/x");
        assert!(next_steps(usual, dir).contains("  naru topic list\n"));
        let other = Ports {
            native: "127.0.0.1:7".parse().unwrap(),
            ..usual
        };
        let text = next_steps(other, dir);
        assert!(
            text.contains("  naru -s naru://127.0.0.1:7 topic list\n"),
            "{text}"
        );
    }
}
