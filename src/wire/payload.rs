//! Messages whose last field is a payload of record bytes: what stands in front is encoded, the payload is shared.
//!
//! The payload field has the highest number of its message, so the bytes are the same that any protobuf library writes.

use bytes::{Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::net::frame::{FrameBuilder, FrameOut};

/// A submessage that may end in a payload.
pub(super) struct Part {
    /// The submessage without its payload.
    head: BytesMut,
    /// Extents of the payload; empty without one.
    payload: Vec<Bytes>,
    payload_bytes: usize,
}

impl Part {
    /// A submessage that is complete without a payload.
    pub(super) fn plain(message: &impl Message) -> Self {
        let mut head = BytesMut::with_capacity(message.encoded_len());
        append(message, &mut head);
        Self {
            head,
            payload: Vec::new(),
            payload_bytes: 0,
        }
    }

    /// A submessage with all fields but the last, which is the bytes field `tag`: the extents one after the other.
    pub(super) fn with_payload(message: &impl Message, tag: u32, payload: Vec<Bytes>) -> Self {
        let payload_bytes = payload.iter().map(Bytes::len).sum();
        let prefix = key_len(tag) + encoded_len_varint(payload_bytes as u64);
        let mut head = BytesMut::with_capacity(message.encoded_len() + prefix);
        append(message, &mut head);
        encode_key(tag, WireType::LengthDelimited, &mut head);
        encode_varint(payload_bytes as u64, &mut head);
        Self {
            head,
            payload,
            payload_bytes,
        }
    }

    fn bytes(&self) -> usize {
        self.head.len() + self.payload_bytes
    }
}

/// A frame of `envelope`, then a body with the number `body_tag` that has `fields` first and then `parts` as the repeated
/// field `parts_tag`. `None` if it would be larger than any frame.
pub(super) fn frame(
    envelope: &impl Message,
    body_tag: u32,
    fields: &impl Message,
    parts_tag: u32,
    parts: &[Part],
) -> Option<FrameOut> {
    let part_bytes =
        |part: &Part| key_len(parts_tag) + encoded_len_varint(part.bytes() as u64) + part.bytes();
    let body = fields.encoded_len() + parts.iter().map(part_bytes).sum::<usize>();
    let total = envelope.encoded_len() + key_len(body_tag) + encoded_len_varint(body as u64) + body;
    let payload: usize = parts.iter().map(|part| part.payload_bytes).sum();
    let mut frame = FrameBuilder::new(total, total - payload)?;
    append(envelope, frame.copied());
    encode_key(body_tag, WireType::LengthDelimited, frame.copied());
    encode_varint(body as u64, frame.copied());
    append(fields, frame.copied());
    for part in parts {
        encode_key(parts_tag, WireType::LengthDelimited, frame.copied());
        encode_varint(part.bytes() as u64, frame.copied());
        frame.copied().extend_from_slice(&part.head);
        for extent in &part.payload {
            frame.share(extent);
        }
    }
    Some(frame.finish())
}

/// A frame of one whole message. `None` if it would be larger than any frame.
pub(super) fn whole(message: &impl Message) -> Option<FrameOut> {
    let bytes = message.encoded_len();
    let mut frame = FrameBuilder::new(bytes, bytes)?;
    append(message, frame.copied());
    Some(frame.finish())
}

fn append(message: &impl Message, to: &mut BytesMut) {
    message.encode(to).expect("a BytesMut grows as needed");
}
