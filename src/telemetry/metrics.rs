//! Metrics as they are shown: families of samples, gathered anew whenever somebody asks.
//!
//! Counters live where things happen, as plain atomics; whoever knows the components walks them into a [`Page`]. So a
//! series ends with the thing that it is about, and the path of a record touches no registry. Text form: Prometheus,
//! version 0.0.4.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::histogram::HistogramNow;

/// Content type of [`Page::text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What kind of number a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; its name is written with `_total` at the end.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Latencies in seconds.
    Latency,
    /// Amounts.
    Amount,
}

/// One family of samples.
#[derive(Debug)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    samples: Vec<(Labels, Value)>,
}

/// Everything that is shown at one moment, in the order in which it was put in.
#[derive(Debug, Default)]
pub struct Page {
    families: Vec<Family>,
}

/// Names and values of labels.
type Labels = Vec<(&'static str, Cow<'static, str>)>;

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Whole(u64),
    Real(f64),
    Histogram(HistogramNow),
}

impl Page {
    /// Begins a family; samples are added to what comes back.
    ///
    /// The name of a counter is given without `_total`.
    pub fn family(&mut self, kind: Kind, name: &'static str, help: &'static str) -> &mut Family {
        self.families.push(Family {
            name,
            help,
            kind,
            samples: Vec::new(),
        });
        let at = self.families.len() - 1;
        &mut self.families[at]
    }

    /// A family of one whole number without labels.
    pub fn one(&mut self, kind: Kind, name: &'static str, help: &'static str, value: u64) {
        self.family(kind, name, help).whole([], value);
    }

    /// The text that a scrape gets.
    pub fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // Writing to a String does not fail, and the collector only passes on what the encoder says.
        prometheus_text::encode(&mut text, &registry).expect("a String takes everything");
        text
    }
}

impl Family {
    /// Adds a whole number.
    pub fn whole<const N: usize>(
        &mut self,
        labels: [(&'static str, Cow<'static, str>); N],
        value: u64,
    ) -> &mut Self {
        self.put(labels, Value::Whole(value))
    }

    /// Adds a real number.
    pub fn real<const N: usize>(
        &mut self,
        labels: [(&'static str, Cow<'static, str>); N],
        value: f64,
    ) -> &mut Self {
        self.put(labels, Value::Real(value))
    }

    /// Adds a duration, in seconds.
    pub fn seconds<const N: usize>(
        &mut self,
        labels: [(&'static str, Cow<'static, str>); N],
        value: Duration,
    ) -> &mut Self {
        self.put(labels, Value::Real(value.as_secs_f64()))
    }

    /// Adds a histogram.
    pub fn histogram<const N: usize>(
        &mut self,
        labels: [(&'static str, Cow<'static, str>); N],
        value: HistogramNow,
    ) -> &mut Self {
        self.put(labels, Value::Histogram(value))
    }

    fn put<const N: usize>(
        &mut self,
        labels: [(&'static str, Cow<'static, str>); N],
        value: Value,
    ) -> &mut Self {
        self.samples.push((labels.into(), value));
        self
    }
}

impl Kind {
    const fn metric_type(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
            Self::Latency | Self::Amount => MetricType::Histogram,
        }
    }

    /// How many of a histogram's whole units are one of the family's: microseconds are shown as seconds.
    const fn units(self) -> f64 {
        match self {
            Self::Latency => 1e6,
            Self::Counter | Self::Gauge | Self::Amount => 1.0,
        }
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in self.families.iter().filter(|family| !family.samples.is_empty()) {
            let mut metric =
                encoder.encode_descriptor(family.name, family.help, None, family.kind.metric_type())?;
            for (labels, value) in &family.samples {
                let labelled = metric.encode_family(labels)?;
                encode_value(labelled, family.kind, value)?;
            }
        }
        Ok(())
    }
}

fn encode_value(mut metric: MetricEncoder<'_>, kind: Kind, value: &Value) -> fmt::Result {
    match (kind, value) {
        (Kind::Counter, Value::Whole(value)) => metric.encode_counter::<NoLabelSet, _, u64>(value, None),
        (Kind::Counter, Value::Real(value)) => metric.encode_counter::<NoLabelSet, _, u64>(value, None),
        (_, Value::Whole(value)) => metric.encode_gauge(value),
        (_, Value::Real(value)) => metric.encode_gauge(value),
        (kind, Value::Histogram(now)) => {
            let bucket = |(bound, count): &(u64, u64)| (real(*bound) / kind.units(), *count);
            let buckets: Vec<_> = now.buckets.iter().map(bucket).collect();
            metric.encode_histogram::<NoLabelSet>(real(now.sum) / kind.units(), now.count(), &buckets, None)
        }
    }
}

/// Exact up to 2^53, which is what a scrape can hold anyway.
#[expect(
    clippy::cast_precision_loss,
    reason = "the text form has no larger whole numbers"
)]
fn real(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Histogram;

    #[test]
    fn families_are_written_in_the_text_form_of_prometheus() {
        let mut page = Page::default();
        page.family(Kind::Counter, "naru_requests", "Requests answered.")
            .whole([("api", "fetch".into()), ("outcome", "ok".into())], 3);
        page.family(Kind::Gauge, "naru_disk_free_bytes", "Free.")
            .whole([], 1 << 40);
        page.family(Kind::Counter, "naru_nothing", "Has no samples and is left out.");
        let expected = "# HELP naru_requests_total Requests answered.\n\
            # TYPE naru_requests_total counter\n\
            naru_requests_total{api=\"fetch\",outcome=\"ok\"} 3\n\
            # HELP naru_disk_free_bytes Free.\n\
            # TYPE naru_disk_free_bytes gauge\n\
            naru_disk_free_bytes 1099511627776\n";
        assert_eq!(page.text(), expected);
    }

    #[test]
    fn latencies_are_shown_in_seconds_and_cumulated() {
        let histogram = Histogram::new(&[1_000, 10_000]);
        for micros in [500, 5_000, 50_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut page = Page::default();
        page.family(Kind::Latency, "naru_x_seconds", "X.")
            .histogram([], histogram.now());
        let text = page.text();
        for line in [
            "naru_x_seconds_sum 0.0555",
            "naru_x_seconds_count 3",
            "naru_x_seconds_bucket{le=\"0.001\"} 1",
            "naru_x_seconds_bucket{le=\"0.01\"} 2",
            "naru_x_seconds_bucket{le=\"+Inf\"} 3",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is missing in\n{text}"
            );
        }
    }

    #[test]
    fn label_values_cannot_break_out_of_their_line() {
        let mut page = Page::default();
        let value = "a\"} 1\nnaru_forged{x=\"\\";
        page.family(Kind::Gauge, "naru_x", "X.")
            .whole([("topic", value.into())], 1);
        let text = page.text();
        assert_eq!(
            text.lines().filter(|line| line.starts_with("naru_")).count(),
            1,
            "{text}"
        );
        assert!(
            !text.lines().any(|line| line.starts_with("naru_forged")),
            "{text}"
        );
    }
}
