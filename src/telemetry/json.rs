//! Log lines as flat JSON objects.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::{LogTime, fields};

/// Writes an event as one line: time, level, severity, event, message, target, node, then its own fields.
#[derive(Clone, Debug)]
pub struct JsonLines {
    time: LogTime,
    node: u32,
}

impl JsonLines {
    /// Lines of this broker.
    pub fn new(time: LogTime, node: u32) -> Self {
        Self { time, node }
    }
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut own = Collected::default();
        event.record(&mut own);
        let level = *event.metadata().level();
        // Built as text part by part, because the order of the first keys is for people and a map would sort them.
        write!(
            writer,
            "{{\"{}\":\"{}\",\"{}\":\"{}\"",
            fields::TS,
            self.time.text(),
            fields::LEVEL,
            level_name(level),
        )?;
        let severity = own.take(fields::SEVERITY).unwrap_or(severity_of(level).into());
        pair(&mut writer, fields::SEVERITY, &severity)?;
        if let Some(code) = own.take(fields::EVENT) {
            pair(&mut writer, fields::EVENT, &code)?;
        }
        let message = own.take("message").unwrap_or_default();
        pair(&mut writer, fields::MSG, &message)?;
        pair(&mut writer, fields::TARGET, &event.metadata().target().into())?;
        pair(&mut writer, fields::NODE, &self.node.into())?;
        for (name, value) in &own.0 {
            pair(&mut writer, name, value)?;
        }
        writer.write_str("}\n")
    }
}

/// Writes `,"name":value`.
fn pair(writer: &mut Writer<'_>, name: &str, value: &Value) -> fmt::Result {
    write!(writer, ",{}:{value}", Value::from(name))
}

const fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// Tracing has no level above `error`; a line that is worse carries `severity = "critical"` itself.
const fn severity_of(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

/// Fields of one event, sorted by name.
#[derive(Default)]
struct Collected(Map<String, Value>);

impl Collected {
    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }

    fn put_text(&mut self, field: &Field, text: &str) {
        let max = match field.name() {
            fields::ERROR_MESSAGE => fields::MESSAGE_BYTES_MAX,
            _ => fields::VALUE_BYTES_MAX,
        };
        self.put(field, Value::from(cut(text, max)));
    }
}

impl Visit for Collected {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put_text(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put_text(field, &format!("{value:?}"));
    }
}

/// At most so many bytes of a text, cut between characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::model::Timestamp;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(emit: impl FnOnce()) -> (String, Value) {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .with_writer(move || writer.clone())
            .event_format(JsonLines::new(LogTime::new(|| Timestamp(0)), 3))
            .finish();
        tracing::subscriber::with_default(subscriber, emit);
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let value = serde_json::from_str(&text).unwrap();
        (text, value)
    }

    #[test]
    fn a_line_is_one_flat_object_with_the_known_names() {
        let (text, line) = logged(
            || tracing::warn!(target: "naru::x", event = "disk_low", topic = %"orders", partition = 3, "disk is low"),
        );
        assert_eq!(text.matches('\n').count(), 1);
        assert_eq!(
            line,
            serde_json::json!({
                "ts": "1970-01-01T00:00:00.000Z", "level": "warn", "severity": "warning", "event": "disk_low",
                "msg": "disk is low", "target": "naru::x", "node": 3, "topic": "orders", "partition": 3,
            })
        );
        assert!(text.starts_with("{\"ts\":\"1970-01-01T00:00:00.000Z\",\"level\":\"warn\""));
    }

    #[test]
    fn what_is_worse_than_an_error_says_so() {
        let (_, line) = logged(|| tracing::error!(severity = "critical", "the engine failed"));
        assert_eq!(line["level"], "error");
        assert_eq!(line["severity"], "critical");
    }

    #[test]
    fn why_a_broker_does_not_start_is_said_to_the_end() {
        let why = format!("{}put a whole copy in its place", "a long path/".repeat(60));
        let (_, line) = logged(|| tracing::error!(error.message = %why, "the broker has ended"));
        assert_eq!(line["error.message"], why);
    }

    #[test]
    fn client_text_is_escaped_and_cut() {
        let nasty = format!("a\"\n\u{1b}[1m{}", "\u{e9}".repeat(400));
        let (text, line) = logged(|| tracing::info!(client_id = %nasty, "hello"));
        assert_eq!(text.matches('\n').count(), 1);
        assert!(!text.contains('\u{1b}'));
        let kept = line["client_id"].as_str().unwrap();
        assert!(nasty.starts_with(kept));
        assert!((200..=fields::VALUE_BYTES_MAX).contains(&kept.len()));
    }
}
