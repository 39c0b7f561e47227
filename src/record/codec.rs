//! Records inside a batch.

use bytes::Bytes;

use super::{BatchError, BatchHeader};
use crate::model::{Offset, Timestamp};

/// A record header: a key, which is text, and a value, which may be null.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Header {
    /// Key, UTF-8.
    pub key: String,
    /// Value; `None` is null.
    pub value: Option<Bytes>,
}

/// A record outside of its batch.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Record {
    /// Key; `None` is null.
    pub key: Option<Bytes>,
    /// Value; `None` is null (a tombstone).
    pub value: Option<Bytes>,
    /// Headers, in order; keys may repeat.
    pub headers: Vec<Header>,
    /// Create time; `None` on produce: to be filled with the clock.
    pub timestamp: Option<Timestamp>,
}

impl Record {
    /// An upper bound of the record's encoded size.
    pub fn encoded_bytes_max(&self) -> u64 {
        unimplemented!()
    }
}

/// A record inside a batch, borrowed from it; keys and values are slices, nothing is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Its offset.
    pub offset: Offset,
    /// Its create time.
    pub timestamp: Timestamp,
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Value.
    pub value: Option<&'a [u8]>,
    /// Number of headers.
    pub header_count: u32,
    /// Encoded headers, already checked to be well-formed.
    headers: &'a [u8],
}

impl RecordView<'_> {
    /// Decodes the headers: key and value.
    pub fn headers(&self) -> Vec<Header> {
        let _ = self.headers;
        unimplemented!()
    }

    /// An owned copy whose bytes are slices of `batch`, the very bytes this view was made from.
    pub fn to_record(&self, _batch: &Bytes) -> Record {
        unimplemented!()
    }
}

/// Walks the records of one uncompressed batch.
#[derive(Debug)]
pub struct Records<'a> {
    _body: &'a [u8],
}

impl<'a> Records<'a> {
    /// Over a whole batch (header included) whose header was parsed.
    pub fn new(_header: &BatchHeader, _batch: &'a [u8]) -> Self {
        unimplemented!()
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        unimplemented!()
    }
}
