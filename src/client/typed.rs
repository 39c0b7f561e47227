//! Topics whose keys and values have types. Bytes become values where a record is made or taken apart, and nowhere else:
//! the broker knows nothing of it.
//!
//! ```no_run
//! use naru::client::{Client, Json, Start, Text, Topic};
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Order { id: String, total: u64 }
//!
//! const ORDERS: Topic<Text, Json<Order>> = Topic::new("orders");
//!
//! # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! let producer = client.producer().build().await?;
//! let order = Order { id: "o-1".into(), total: 42 };
//! producer.send(ORDERS.record("o-1", &order)?).await?;
//!
//! let mut reader = client.reader(ORDERS.name(), 0, Start::Earliest).build().await?;
//! while let Some(record) = reader.next().await {
//!     match record?.decode(&ORDERS) {
//!         Ok((key, order)) => println!("{key}: {}", order.total),
//!         // The record is all there: put it where somebody looks at it, and go on.
//!         Err(bad) => eprintln!("{bad}: {:?}", bad.record.value),
//!     }
//! }
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ConsumedRecord, ProducerRecord};

/// How a type of values is written as bytes.
pub trait Format {
    /// What is written: borrowed, so that nothing is copied first.
    type Value: ?Sized;
    /// What is read.
    type Owned;

    /// Bytes of a value; `None` is a null.
    ///
    /// # Errors
    /// The value cannot be written in this format.
    fn encode(value: &Self::Value) -> Result<Option<Bytes>, String>;

    /// The value of some bytes; `None` is a null.
    ///
    /// # Errors
    /// The bytes are no value in this format.
    fn decode(bytes: Option<&Bytes>) -> Result<Self::Owned, String>;
}

/// A value of any type that serde knows, as JSON. A null is the JSON value `null`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Json<T>(PhantomData<fn() -> T>);

/// Text, as UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text;

/// Bytes as they are; a null is `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw;

impl<T: Serialize + DeserializeOwned> Format for Json<T> {
    type Value = T;
    type Owned = T;

    fn encode(value: &T) -> Result<Option<Bytes>, String> {
        let bytes = serde_json::to_vec(value).map_err(|error| error.to_string())?;
        Ok(Some(bytes.into()))
    }

    fn decode(bytes: Option<&Bytes>) -> Result<T, String> {
        let bytes = bytes.map_or(b"null".as_slice(), |bytes| bytes);
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}

impl Format for Text {
    type Value = str;
    type Owned = String;

    fn encode(value: &str) -> Result<Option<Bytes>, String> {
        Ok(Some(Bytes::copy_from_slice(value.as_bytes())))
    }

    fn decode(bytes: Option<&Bytes>) -> Result<String, String> {
        let bytes = bytes.ok_or("it is null")?;
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        Ok(text.to_owned())
    }
}

impl Format for Raw {
    type Value = [u8];
    type Owned = Option<Bytes>;

    fn encode(value: &[u8]) -> Result<Option<Bytes>, String> {
        Ok(Some(Bytes::copy_from_slice(value)))
    }

    fn decode(bytes: Option<&Bytes>) -> Result<Option<Bytes>, String> {
        Ok(bytes.cloned())
    }
}

/// The name of a topic together with the formats of its keys and values.
pub struct Topic<K = Raw, V = Raw> {
    name: &'static str,
    formats: PhantomData<fn() -> (K, V)>,
}

/// A part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its key.
    Key,
    /// Its value.
    Value,
}

/// A key or value that cannot be written; nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {part} for topic {topic} cannot be encoded: {reason}")]
pub struct EncodeError {
    /// Name of the topic.
    pub topic: &'static str,
    /// Which part.
    pub part: Part,
    /// What the format says.
    pub reason: String,
}

/// A record whose key or value is not what its topic says. The record itself is all there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the {part} of the record at offset {} of {}/{} cannot be decoded: {reason}",
    .record.offset, .record.topic, .record.partition
)]
pub struct DecodeError {
    /// The record as it was read.
    pub record: Box<ConsumedRecord>,
    /// Which part.
    pub part: Part,
    /// What the format says.
    pub reason: String,
}

impl<K: Format, V: Format> Topic<K, V> {
    /// The topic of this name.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            formats: PhantomData,
        }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// A record of this key and value, to which headers and more can be added.
    ///
    /// # Errors
    /// One of them cannot be written in its format.
    pub fn record(&self, key: &K::Value, value: &V::Value) -> Result<ProducerRecord, EncodeError> {
        let key = K::encode(key).map_err(|reason| self.unwritten(Part::Key, reason))?;
        let record = self.keyless(value)?;
        Ok(match key {
            Some(key) => record.key(key),
            None => record,
        })
    }

    /// A record of this value without a key.
    ///
    /// # Errors
    /// The value cannot be written in its format.
    pub fn keyless(&self, value: &V::Value) -> Result<ProducerRecord, EncodeError> {
        let value = V::encode(value).map_err(|reason| self.unwritten(Part::Value, reason))?;
        let record = ProducerRecord::to(self.name);
        Ok(match value {
            Some(value) => record.value(value),
            None => record,
        })
    }

    fn unwritten(&self, part: Part, reason: String) -> EncodeError {
        EncodeError {
            topic: self.name,
            part,
            reason,
        }
    }
}

impl<K, V> fmt::Debug for Topic<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Topic").field(&self.name).finish()
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Value => "value",
        })
    }
}

impl ConsumedRecord {
    /// Key and value as the topic says.
    ///
    /// # Errors
    /// One of them is something else. The error has the record.
    pub fn decode<K: Format, V: Format>(
        self,
        _topic: &Topic<K, V>,
    ) -> Result<(K::Owned, V::Owned), DecodeError> {
        match (K::decode(self.key.as_ref()), V::decode(self.value.as_ref())) {
            (Ok(key), Ok(value)) => Ok((key, value)),
            (Err(reason), _) => Err(self.undecoded(Part::Key, reason)),
            (_, Err(reason)) => Err(self.undecoded(Part::Value, reason)),
        }
    }

    /// The value alone, whatever the key is.
    ///
    /// # Errors
    /// It is something else. The error has the record.
    pub fn decode_value<K: Format, V: Format>(self, _topic: &Topic<K, V>) -> Result<V::Owned, DecodeError> {
        V::decode(self.value.as_ref()).map_err(|reason| self.undecoded(Part::Value, reason))
    }

    fn undecoded(self, part: Part, reason: String) -> DecodeError {
        DecodeError {
            record: Box::new(self),
            part,
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Offset, PartitionId, Timestamp};

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Order {
        id: String,
        total: u64,
    }

    const ORDERS: Topic<Text, Json<Order>> = Topic::new("orders");

    fn read(key: Option<&'static [u8]>, value: Option<&'static [u8]>) -> ConsumedRecord {
        ConsumedRecord {
            topic: "orders".into(),
            partition: PartitionId(3),
            offset: Offset::new(7).unwrap(),
            timestamp: Timestamp(1),
            key: key.map(Bytes::from_static),
            value: value.map(Bytes::from_static),
            headers: Vec::new(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let order = Order {
            id: "o-1".to_owned(),
            total: 42,
        };
        let made = ORDERS.record("k", &order).unwrap();
        assert_eq!(
            format!("{made:?}"),
            format!(
                "{:?}",
                ProducerRecord::to("orders")
                    .key("k")
                    .value(r#"{"id":"o-1","total":42}"#)
            )
        );
        let back = read(Some(b"k"), Some(br#"{"id":"o-1","total":42}"#)).decode(&ORDERS);
        assert_eq!(back, Ok(("k".to_owned(), order)));
        let raw: Topic = Topic::new("raw");
        let both = read(None, Some(b"\xff")).decode(&raw).unwrap();
        assert_eq!(both, (None, Some(Bytes::from_static(b"\xff"))));
    }

    #[test]
    fn a_failure_names_the_part_and_keeps_the_record() {
        for (key, value, part) in [
            (Some(b"\xff".as_slice()), Some(b"{}".as_slice()), Part::Key),
            (None, Some(b"{}".as_slice()), Part::Key),
            (Some(b"k".as_slice()), Some(b"{}".as_slice()), Part::Value),
            (Some(b"k".as_slice()), None, Part::Value),
        ] {
            let record = read(key, value);
            let error = record.clone().decode(&ORDERS).unwrap_err();
            assert_eq!((error.part, &*error.record), (part, &record));
            let text = error.to_string();
            assert!(
                text.contains("offset 7 of orders/3") && text.contains(&part.to_string()),
                "{text}"
            );
        }
        // A bad key does not matter to who wants the value.
        let value = read(Some(b"\xff"), Some(br#"{"id":"","total":1}"#)).decode_value(&ORDERS);
        assert_eq!(value.unwrap().total, 1);
    }

    #[test]
    fn what_json_cannot_say_is_not_sent() {
        const PAIRS: Topic<Raw, Json<std::collections::BTreeMap<Vec<u8>, u8>>> = Topic::new("pairs");
        let value = std::collections::BTreeMap::from([(vec![1], 2)]);
        let error = PAIRS.record(b"k", &value).unwrap_err();
        assert_eq!((error.topic, error.part), ("pairs", Part::Value));
        let numbers: Topic<Raw, Json<Option<u8>>> = Topic::new("numbers");
        assert_eq!(read(None, None).decode_value(&numbers), Ok(None));
    }
}
