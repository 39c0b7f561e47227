//! `naru healthcheck`: asks `/readyz` once and says yes or no, for containers and service managers.
//!
//! Exit codes are 0 and 1 only: Docker reserves all others. One request over a plain socket needs no HTTP client, and a
//! check that runs every few seconds should cost no more than that.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Context;
use super::failure::{Exit, Failure, Outcome};
use super::output::line;
use super::serve::{ServeArgs, refused};
use crate::config::Sources;

/// Longest answer that is read, in bytes; the checks of `/readyz` fill far less.
const ANSWER_BYTES_MAX: u64 = 16 << 10;

/// Flags of `healthcheck`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  naru healthcheck
  naru healthcheck --http 127.0.0.1:9641 --timeout 2s
  naru healthcheck --port-file /run/naru/ports.json

Without --http and --port-file the address is that of the broker's configuration: NARU_SERVER__HTTP, the file that 'serve'
reads, or 127.0.0.1:9641; where that says port 0, server.port_file tells which it became.
Exit code 0 if the broker takes requests, 1 if it does not or nobody answers within --timeout.")]
pub(crate) struct HealthcheckArgs {
    /// Where the broker's HTTP listens. An address that stands for all of the machine's is asked on loopback.
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["port_file", "config"])]
    http: Option<SocketAddr>,
    /// Take the address from the file that 'serve --port-file' writes.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    port_file: Option<PathBuf>,
    /// The broker's configuration file, as for 'serve'.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

pub(crate) async fn run(args: HealthcheckArgs, context: &Context) -> Outcome {
    let address = reachable(address(args)?);
    let answer = ask(address, context.timeout).await?;
    match answer.status {
        200 => ready(address, context),
        status => Err(not_ready(status, &answer.body).into()),
    }
}

/// What the flags say, or the configuration that the broker was started with.
fn address(args: HealthcheckArgs) -> Result<SocketAddr, Failure> {
    match (args.http, &args.port_file) {
        (Some(address), _) => Ok(address),
        (None, Some(path)) => http_address(path),
        (None, None) => configured(&ServeArgs::with_file(args.config).sources(None)),
    }
}

fn configured(sources: &Sources) -> Result<SocketAddr, Failure> {
    let settings = sources
        .only(&["server.http", "server.port_file"])
        .map_err(|errors| refused(Exit::Unexpected, &errors))?;
    match settings.port_file {
        Some(path) if settings.http.listen.port() == 0 => http_address(&path),
        _ => Ok(settings.http.listen),
    }
}

fn ready(address: SocketAddr, context: &Context) -> Outcome {
    if context.output.quiet {
        return Ok(());
    }
    if context.output.wants_json() {
        context
            .output
            .json(&json!({"ready": true, "http": address.to_string()}))?;
    } else {
        line(&format!("ready: {address}"))?;
    }
    Ok(())
}

fn not_ready(status: u16, body: &str) -> Failure {
    // The body names the checks, one per line; those that failed begin with [-].
    let reasons: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("[-]")).collect();
    let reasons = if reasons.is_empty() {
        format!("it answered with status {status}")
    } else {
        reasons.join("; ")
    };
    let mut failure = Failure::new(
        Exit::Unexpected,
        "NOT_READY",
        format!("the broker is not ready: {reasons}"),
    );
    failure.retriable = true;
    failure
}

/// The address of HTTP in a port file.
fn http_address(path: &Path) -> Result<SocketAddr, Failure> {
    let fail = |why: String| {
        let message = format!("{}: {why}", path.display());
        Failure::new(Exit::Unexpected, "NOT_READY", message)
            .hint("the broker writes this file when it is ready: naru serve --port-file FILE")
    };
    let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
    let ports: serde_json::Value = serde_json::from_str(&text).map_err(|error| fail(error.to_string()))?;
    ports["http"]
        .as_str()
        .and_then(|address| address.parse().ok())
        .ok_or_else(|| fail("it has no address in the field 'http'".to_owned()))
}

/// A broker that listens on all addresses is asked on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    body: String,
}

async fn ask(address: SocketAddr, at_most: Duration) -> Result<Answer, Failure> {
    let unreachable = |why: String| {
        let mut failure = Failure::new(
            Exit::Unexpected,
            "NOT_READY",
            format!("no answer from {address}: {why}"),
        )
        .hint("is the broker running, and is this its HTTP address? --http names another");
        failure.retriable = true;
        failure
    };
    match tokio::time::timeout(at_most, exchange(address)).await {
        Err(_) => Err(unreachable(format!("nothing within {at_most:?}"))),
        Ok(Err(error)) => Err(unreachable(error.to_string())),
        Ok(Ok(bytes)) => {
            parse(&bytes).ok_or_else(|| unreachable("what answers there is not HTTP".to_owned()))
        }
    }
}

async fn exchange(address: SocketAddr) -> io::Result<Vec<u8>> {
    let mut socket = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    socket.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Status and body of an answer in HTTP/1; `None` if it is something else.
fn parse(bytes: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut words = head.lines().next()?.split(' ');
    if !words.next()?.starts_with("HTTP/1.") {
        return None;
    }
    let status = words.next().filter(|digits| digits.len() == 3)?.parse().ok()?;
    Some(Answer {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn status_and_body_are_read_and_other_protocols_are_not() {
        let answer = parse(b"HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\n[-]recovery failed").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (503, "[-]recovery failed"));
        for other in [
            "",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 abc\r\n\r\n",
            "HTTP/1.1 20",
            "\0\0\0\r\n\r\n",
        ] {
            assert_eq!(parse(other.as_bytes()), None, "{other:?}");
        }
    }

    #[test]
    fn reasons_are_told_on_one_line() {
        let failure = not_ready(
            503,
            "[+]storage ok\n[-]recovery failed: recovering\n[-]listeners failed: x\n",
        );
        assert_eq!(
            failure.message,
            "the broker is not ready: recovery failed: recovering; listeners failed: x"
        );
        assert_eq!(failure.exit.code(), 1);
        assert!(not_ready(404, "").message.contains("status 404"));
    }

    #[test]
    fn a_wildcard_address_is_asked_on_loopback() {
        for (listens, asked) in [
            ("0.0.0.0:7", "127.0.0.1:7"),
            ("[::]:7", "[::1]:7"),
            ("10.1.2.3:7", "10.1.2.3:7"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()), asked.parse().unwrap());
        }
    }

    #[test]
    fn a_port_file_gives_the_address_or_says_what_is_wrong_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ports.json");
        assert!(http_address(&path).is_err_and(|f| f.exit.code() == 1));
        std::fs::write(&path, r#"{"native": "127.0.0.1:1", "http": "127.0.0.1:2"}"#).unwrap();
        assert_eq!(http_address(&path), Ok("127.0.0.1:2".parse().unwrap()));
        for bad in ["{", "{}", r#"{"http": 7}"#, r#"{"http": "x"}"#] {
            std::fs::write(&path, bad).unwrap();
            assert!(http_address(&path).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_address_is_that_of_the_configuration_whatever_else_is_wrong_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let (file, ports) = (dir.path().join("naru.toml"), dir.path().join("ports.json"));
        let mut sources = Sources {
            usual_files: vec![file.clone()],
            ..Sources::default()
        };
        let is = |sources: &Sources, address: &str| {
            assert_eq!(configured(sources), Ok(address.parse().unwrap()));
        };
        is(&sources, "127.0.0.1:9641");
        std::fs::write(&file, "[server]\nhttp = \"127.0.0.1:7\"\nlistne = 1").unwrap();
        is(&sources, "127.0.0.1:7");
        std::fs::write(&ports, r#"{"native": "127.0.0.1:1", "http": "127.0.0.1:2"}"#).unwrap();
        let text = format!("[server]\nhttp = \"127.0.0.1:0\"\nport_file = {ports:?}");
        std::fs::write(&file, text).unwrap();
        is(&sources, "127.0.0.1:2");
        std::fs::write(&file, "no toml").unwrap();
        let failure = configured(&sources).unwrap_err();
        assert_eq!(failure.exit.code(), 1);
        assert!(failure.message.contains("this is no TOML"), "{}", failure.message);
        sources.environment = vec![("NARU_SERVER__HTTP".into(), "127.0.0.1:8".into())];
        is(&sources, "127.0.0.1:8");
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_the_connection_and_says_nothing_is_not_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let failure = ask(listener.local_addr().unwrap(), Duration::from_secs(1))
            .await
            .unwrap_err();
        assert_eq!((failure.exit.code(), failure.retriable), (1, true));
        assert!(
            failure.message.contains("nothing within 1s"),
            "{}",
            failure.message
        );
    }
}
