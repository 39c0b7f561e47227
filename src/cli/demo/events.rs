//! Made-up order events, the same in every run.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::model::Timestamp;
use crate::telemetry::rfc3339_millis;

/// Orders that are open at the same time.
const OPEN_ORDERS: usize = 64;
const SEED: u64 = 0x6e61_7275;
const STAGES: [&str; 5] = ["placed", "paid", "packed", "shipped", "delivered"];
/// 2026-01-01T00:00:00Z.
const FIRST_MS: i64 = 1_767_225_600_000;

/// Key and value of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyValue {
    /// Key.
    pub(crate) key: Bytes,
    /// Value.
    pub(crate) value: Bytes,
}

struct Order {
    number: u32,
    stage: usize,
    customer: u32,
    cents: u32,
}

/// So many events: keys are orders, values are JSON, the stages of an order follow each other.
pub(crate) fn order_events(count: usize) -> Vec<KeyValue> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut numbers = 1..;
    let mut next_order = |random: &mut fastrand::Rng| Order {
        number: numbers.next().unwrap_or(u32::MAX),
        stage: 0,
        customer: random.u32(1..=9_999),
        cents: random.u32(100..=500_000),
    };
    let mut open: VecDeque<Order> = (0..OPEN_ORDERS).map(|_| next_order(&mut random)).collect();
    let mut now_ms = FIRST_MS;
    let mut events = Vec::with_capacity(count);
    while events.len() < count {
        now_ms += random.i64(1..=40);
        let chosen = random.usize(..open.len());
        let order = &mut open[chosen];
        events.push(event(order, now_ms));
        order.stage += 1;
        if order.stage == STAGES.len() {
            *order = next_order(&mut random);
        }
    }
    events
}

fn event(order: &Order, at_ms: i64) -> KeyValue {
    let key = format!("order-{:06}", order.number);
    let value = format!(
        r#"{{"order":"{key}","event":"{}","customer":"c-{:04}","total_cents":{},"currency":"EUR","at":"{}"}}"#,
        STAGES[order.stage],
        order.customer,
        order.cents,
        rfc3339_millis(Timestamp(at_ms)),
    );
    KeyValue {
        key: key.into(),
        value: value.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn events_are_the_same_every_time_and_valid_json() {
        let events = order_events(2_000);
        assert_eq!(events, order_events(2_000));
        let mut last: BTreeMap<Bytes, usize> = BTreeMap::new();
        for event in &events {
            let json: serde_json::Value = serde_json::from_slice(&event.value).unwrap();
            let stage = STAGES.iter().position(|s| json["event"] == *s).unwrap();
            assert_eq!(last.insert(event.key.clone(), stage).map_or(0, |s| s + 1), stage);
        }
        assert!(last.len() > 100);
    }
}
