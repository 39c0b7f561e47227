//! Options of a client and the URL `naru://host:port[,host:port]`.

use std::time::Duration;

use super::{Client, Error};

/// Port of a broker if the URL names none.
pub const DEFAULT_PORT: u16 = 9640;

/// Options of a [`Client`]; all have defaults.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    pub(super) config: ClientConfig,
}

/// What the builder collects.
#[derive(Clone, Debug)]
pub(super) struct ClientConfig {
    pub(super) connect_timeout: Duration,
    pub(super) wait_for_broker: Duration,
    pub(super) request_timeout: Duration,
    pub(super) client_id: String,
    pub(super) expected_cluster_id: String,
    pub(super) backoff_first: Duration,
    pub(super) backoff_max: Duration,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            config: ClientConfig {
                connect_timeout: Duration::from_secs(5),
                wait_for_broker: Duration::ZERO,
                request_timeout: Duration::from_secs(30),
                client_id: String::new(),
                expected_cluster_id: String::new(),
                backoff_first: Duration::from_millis(50),
                backoff_max: Duration::from_secs(2),
            },
        }
    }
}

impl ClientBuilder {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long connecting to one address and the handshake may take together. Default: 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout = timeout;
        self
    }

    /// How long [`connect`](Self::connect) keeps trying while no broker answers. Default: 0, one round over the addresses.
    #[must_use]
    pub fn wait_for_broker(mut self, at_most: Duration) -> Self {
        self.config.wait_for_broker = at_most;
        self
    }

    /// How long one request may take, retries after a lost connection included. Default: 30 s.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.config.request_timeout = timeout;
        self
    }

    /// Free text that operators see. Default: empty.
    #[must_use]
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.config.client_id = id.into();
        self
    }

    /// Refuses to talk to any other cluster. Default: any.
    #[must_use]
    pub fn expected_cluster_id(mut self, id: impl Into<String>) -> Self {
        self.config.expected_cluster_id = id.into();
        self
    }

    /// Waiting time after the first and after many failed attempts to connect; doubles between them, with jitter.
    /// Default: 50 ms and 2 s.
    #[must_use]
    pub fn reconnect_backoff(mut self, first: Duration, max: Duration) -> Self {
        self.config.backoff_first = first;
        self.config.backoff_max = max;
        self
    }

    /// Connects and shakes hands.
    ///
    /// # Errors
    /// `Config` if the URL is wrong, `Connect` with address and reason if no broker answers, `Broker` if it refuses.
    pub async fn connect(self, url: &str) -> Result<Client, Error> {
        let addresses = parse_url(url)?;
        Client::open(addresses, self.config).await
    }
}

/// The `host:port` list of a URL.
pub(super) fn parse_url(url: &str) -> Result<Vec<String>, Error> {
    let wrong = |why: &str| Error::Config(format!("{url:?} is no broker URL: {why}"));
    let Some(hosts) = url.strip_prefix("naru://") else {
        return Err(wrong("it must look like naru://host:port"));
    };
    hosts
        .trim_end_matches('/')
        .split(',')
        .map(|host| {
            // Each address on its own is what the crate parses; it knows IPv6 brackets and refuses bad ports.
            let parsed = url::Url::parse(&format!("naru://{host}")).map_err(|e| wrong(&e.to_string()))?;
            let name = parsed.host_str().unwrap_or_default();
            if name.is_empty() {
                return Err(wrong("a host is missing"));
            }
            if !parsed.username().is_empty() || parsed.password().is_some() {
                return Err(wrong("user names and passwords are not supported"));
            }
            if !matches!(parsed.path(), "" | "/") || parsed.query().is_some() || parsed.fragment().is_some() {
                return Err(wrong("only hosts and ports are allowed"));
            }
            Ok(format!("{name}:{}", parsed.port().unwrap_or(DEFAULT_PORT)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_one_or_more_brokers() {
        assert_eq!(parse_url("naru://localhost").unwrap(), ["localhost:9640"]);
        assert_eq!(
            parse_url("naru://a:1,[::1]:2,10.0.0.1/").unwrap(),
            ["a:1", "[::1]:2", "10.0.0.1:9640"]
        );
    }

    #[test]
    fn other_urls_are_refused_with_a_reason() {
        for url in [
            "",
            "localhost:9640",
            "http://a",
            "naru://",
            "naru://a,,b",
            "naru://a:99999",
            "naru://a/b",
            "naru://a?x=1",
            "naru://me@a",
        ] {
            let error = parse_url(url).unwrap_err();
            assert!(
                matches!(&error, Error::Config(text) if text.contains("no broker URL")),
                "{url}: {error}"
            );
        }
    }
}
