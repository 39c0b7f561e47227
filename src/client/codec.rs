//! Requests to frames, frames to responses. Knows nothing of sockets.
//!
//! Record bytes are never copied: a produce request is written around them, field by field.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use smallvec::{SmallVec, smallvec};

use crate::pb::v1 as pb;
use crate::record::{HEADER_BYTES, SealedBatch};

/// Bytes of the length in front of a message.
const PREFIX_BYTES: usize = 4;

/// The pieces of a frame, in order.
pub(super) type Frame = SmallVec<[Bytes; 4]>;

/// One batch of a produce request.
#[derive(Debug)]
pub(super) struct ProduceItem<'a> {
    pub(super) partition: pb::TopicPartition,
    pub(super) batch: &'a SealedBatch,
}

/// The frame of any request but produce.
pub(super) fn request_frame(request: &pb::Request) -> Option<Frame> {
    let bytes = request.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + bytes);
    frame.put_u32(u32::try_from(bytes).ok()?);
    request
        .encode(&mut frame)
        .expect("the buffer grows as the message needs");
    Some(smallvec![frame.freeze()])
}

/// A produce request whose batches stay shared, but for its id and deadline.
#[derive(Debug)]
pub(super) struct ProducePlan {
    items: SmallVec<[ItemPlan; 4]>,
    /// Bytes of the partitions inside the request's body.
    bytes: u64,
}

/// One partition of the plan.
#[derive(Debug)]
struct ItemPlan {
    /// Everything of the partition but its batch.
    front: Vec<u8>,
    head: [u8; HEADER_BYTES],
    body: Bytes,
    raw_bytes: u64,
    /// Bytes of the whole partition.
    bytes: u64,
}

// Keys of the fields: number << 3 | wire type, where 2 is a field with a length.
const REQUEST_PRODUCE: u64 = 19 << 3 | 2;
const PRODUCE_PARTITIONS: u64 = 15 << 3 | 2;
const PARTITION_RAW: u64 = 14 << 3 | 2;

impl ProducePlan {
    pub(super) fn new(items: &[ProduceItem<'_>]) -> Self {
        let items: SmallVec<[ItemPlan; 4]> = items.iter().map(ItemPlan::new).collect();
        let bytes = items
            .iter()
            .map(|item| field_bytes(PRODUCE_PARTITIONS, item.bytes));
        Self {
            bytes: bytes.sum(),
            items,
        }
    }

    /// The frame; `None` if it is longer than any frame.
    pub(super) fn frame(self, request_id: u64, deadline_ms: u32, acks: pb::Acks) -> Option<Frame> {
        let envelope = pb::Request {
            request_id,
            deadline_ms,
            body: None,
        }
        .encode_to_vec();
        let front = pb::ProduceRequest {
            acks: acks.into(),
            ..Default::default()
        }
        .encode_to_vec();
        let body_bytes = len_u64(&front) + self.bytes;
        let total = len_u64(&envelope) + field_bytes(REQUEST_PRODUCE, body_bytes);

        let mut frame = Frame::new();
        let mut piece = BytesMut::with_capacity(256);
        piece.put_u32(u32::try_from(total).ok()?);
        piece.put_slice(&envelope);
        encode_varint(REQUEST_PRODUCE, &mut piece);
        encode_varint(body_bytes, &mut piece);
        piece.put_slice(&front);
        for item in self.items {
            encode_varint(PRODUCE_PARTITIONS, &mut piece);
            encode_varint(item.bytes, &mut piece);
            piece.put_slice(&item.front);
            encode_varint(PARTITION_RAW, &mut piece);
            encode_varint(item.raw_bytes, &mut piece);
            piece.put_slice(&item.head);
            frame.push(piece.split().freeze());
            frame.push(item.body);
        }
        if !piece.is_empty() {
            frame.push(piece.freeze());
        }
        Some(frame)
    }
}

impl ItemPlan {
    fn new(item: &ProduceItem<'_>) -> Self {
        let front = pb::ProducePartition {
            partition: Some(item.partition.clone()),
            ..Default::default()
        };
        let front = front.encode_to_vec();
        let raw_bytes = u64::from(item.batch.total_bytes());
        Self {
            bytes: len_u64(&front) + field_bytes(PARTITION_RAW, raw_bytes),
            head: *item.batch.head(),
            body: item.batch.body().clone(),
            raw_bytes,
            front,
        }
    }
}

fn field_bytes(key: u64, bytes: u64) -> u64 {
    encoded_len(key) + encoded_len(bytes) + bytes
}

fn encoded_len(value: u64) -> u64 {
    u64::try_from(encoded_len_varint(value)).unwrap_or(u64::MAX)
}

fn len_u64(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Cuts frames out of what was read.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    buffer: BytesMut,
}

/// The peer sends something that is no frame of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {bytes} bytes, at most {max} are allowed: is this a Naru broker?")]
pub(super) struct BadFrame {
    bytes: u32,
    max: u32,
}

impl FrameReader {
    /// Room to read into.
    pub(super) fn room(&mut self) -> &mut BytesMut {
        const ROOM_BYTES: usize = 64 << 10;
        self.buffer.reserve(ROOM_BYTES);
        &mut self.buffer
    }

    /// The next message, if all of it is there.
    pub(super) fn take(&mut self, max: u32) -> Result<Option<Bytes>, BadFrame> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let bytes = u32::from_be_bytes(*prefix);
        if bytes == 0 || bytes > max {
            return Err(BadFrame { bytes, max });
        }
        let total = usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .saturating_add(PREFIX_BYTES);
        if self.buffer.len() < total {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(total);
        Ok(Some(frame.split_off(PREFIX_BYTES).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;
    use crate::record::BatchBuilder;

    fn batch(records: i64) -> SealedBatch {
        let mut builder = BatchBuilder::new();
        for i in 0..records {
            builder.push(Timestamp(i), None, Some(&[7; 100]), &[]);
        }
        builder.seal(None)
    }

    #[test]
    fn a_produce_frame_is_what_prost_would_have_written() {
        let batches = [batch(1), batch(2), batch(1_000)];
        for count in 0..=batches.len() {
            for acks in [pb::Acks::Unspecified, pb::Acks::Memory] {
                let partitions: Vec<_> = (0_u32..)
                    .zip(&batches[..count])
                    .map(|(partition, batch)| pb::ProducePartition {
                        partition: Some(pb::TopicPartition {
                            topic: "orders".into(),
                            topic_id: Bytes::from_static(&[9; 16]),
                            partition,
                        }),
                        payload: Some(pb::produce_partition::Payload::Raw(batch.to_bytes())),
                        ..Default::default()
                    })
                    .collect();
                let items: Vec<_> = partitions
                    .iter()
                    .zip(&batches)
                    .map(|(partition, batch)| ProduceItem {
                        partition: partition.partition.clone().unwrap(),
                        batch,
                    })
                    .collect();
                let ours = ProducePlan::new(&items)
                    .frame(300, 30_000, acks)
                    .unwrap()
                    .concat();
                let produce = pb::ProduceRequest {
                    acks: acks.into(),
                    partitions,
                };
                let request = pb::Request {
                    request_id: 300,
                    deadline_ms: 30_000,
                    body: Some(pb::request::Body::Produce(produce)),
                };
                let theirs = request_frame(&request).unwrap().concat();
                assert!(ours == theirs, "{count} batches");
            }
        }
    }

    #[test]
    fn frames_come_out_whole_however_they_arrive() {
        let bytes = [&[0, 0, 0, 2][..], b"ab", &[0, 0, 0, 1], b"c"].concat();
        for cut in 0..bytes.len() {
            let mut reader = FrameReader::default();
            let mut frames = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                reader.room().extend_from_slice(part);
                while let Some(frame) = reader.take(10).unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, [&b"ab"[..], b"c"], "cut at {cut}");
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_refused() {
        for length in [0, 11, u32::MAX] {
            let mut reader = FrameReader::default();
            reader.room().extend_from_slice(&length.to_be_bytes());
            assert_eq!(
                reader.take(10),
                Err(BadFrame {
                    bytes: length,
                    max: 10
                })
            );
        }
    }
}
