//! The client's side of the protocol: requests out, responses in.

use bytes::Bytes;
use prost::{DecodeError, Message};

use super::payload::{self, Part};
use crate::net::frame::FrameOut;
use crate::pb::v1;
use crate::pb::v1::produce_partition::Payload;
use crate::pb::v1::request::Body;

const PRODUCE_TAG: u32 = 19;
const STEP_TAG: u32 = 41;
/// Of the partitions of a produce and of the appends of a step.
const PARTITIONS_TAG: u32 = 15;
const RAW_TAG: u32 = 14;

/// Encodes a request. Raw batches of a produce and of a step are shared, not copied.
///
/// Returns `None` if the request is larger than any frame; the broker's own limit (`Limits.request_bytes_max`) is
/// the caller's to keep.
pub fn encode_request(request_id: u64, deadline_ms: u32, body: Body) -> Option<FrameOut> {
    let envelope = |body| v1::Request {
        request_id,
        deadline_ms,
        body,
    };
    match body {
        Body::Produce(mut produce) => {
            let parts = parts(std::mem::take(&mut produce.partitions));
            payload::frame(&envelope(None), PRODUCE_TAG, &produce, PARTITIONS_TAG, &parts)
        }
        Body::Step(mut step) => {
            let parts = parts(std::mem::take(&mut step.appends));
            payload::frame(&envelope(None), STEP_TAG, &step, PARTITIONS_TAG, &parts)
        }
        other => payload::whole(&envelope(Some(other))),
    }
}

fn parts(partitions: Vec<v1::ProducePartition>) -> Vec<Part> {
    partitions.into_iter().map(part).collect()
}

fn part(mut partition: v1::ProducePartition) -> Part {
    match partition.payload.take() {
        Some(Payload::Raw(batch)) => Part::with_payload(&partition, RAW_TAG, vec![batch]),
        other => {
            partition.payload = other;
            Part::plain(&partition)
        }
    }
}

/// Encodes a produce request of batches whose headers were stamped apart from their shared bodies: each partition comes
/// without a payload, and with the pieces of its batch. `None` as for [`encode_request`].
pub fn encode_produce(
    request_id: u64,
    deadline_ms: u32,
    acks: v1::Acks,
    batches: Vec<(v1::ProducePartition, [Bytes; 2])>,
) -> Option<FrameOut> {
    let envelope = v1::Request {
        request_id,
        deadline_ms,
        body: None,
    };
    let produce = v1::ProduceRequest {
        acks: acks.into(),
        partitions: Vec::new(),
    };
    let parts: Vec<Part> = batches
        .into_iter()
        .map(|(partition, pieces)| Part::with_payload(&partition, RAW_TAG, pieces.into()))
        .collect();
    payload::frame(&envelope, PRODUCE_TAG, &produce, PARTITIONS_TAG, &parts)
}

/// Decodes the payload of a response frame; fetched batches are slices of it.
///
/// # Errors
/// The broker sent something else: nothing on this connection can be trusted any more.
pub fn decode_response(frame: Bytes) -> Result<v1::Response, DecodeError> {
    v1::Response::decode(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(index: u32, payload: Option<Payload>) -> v1::ProducePartition {
        v1::ProducePartition {
            partition: Some(v1::TopicPartition {
                topic: "orders".to_owned(),
                topic_id: Bytes::new(),
                partition: index,
            }),
            leader_epoch: Some(3),
            producer_id: None,
            producer_epoch: None,
            base_sequence: None,
            payload,
        }
    }

    #[test]
    fn produces_and_steps_by_hand_are_what_prost_writes() {
        let structured = Payload::Structured(v1::Records {
            records: vec![v1::Record {
                value: Some(Bytes::from_static(b"v")),
                ..v1::Record::default()
            }],
        });
        let large = Bytes::from(vec![7; 200_000]);
        for partitions in [
            vec![],
            vec![partition(0, Some(Payload::Raw(large.clone())))],
            vec![
                partition(0, Some(Payload::Raw(Bytes::from_static(b"small")))),
                partition(1, Some(structured)),
                partition(2, None),
                partition(3, Some(Payload::Raw(Bytes::new()))),
                partition(4, Some(Payload::Raw(large.clone()))),
            ],
        ] {
            let produce = Body::Produce(v1::ProduceRequest {
                acks: 2,
                partitions: partitions.clone(),
            });
            let step = Body::Step(v1::StepRequest {
                group: "g".to_owned(),
                member: Some(v1::GroupMember::default()),
                producer_id: 7,
                producer_epoch: 1,
                sequence: 300,
                offsets: vec![v1::OffsetToCommit::default(); 2],
                appends: partitions,
            });
            for (request_id, deadline_ms, body) in
                [(0, 0, produce.clone()), (u64::MAX, 30_000, produce), (9, 0, step)]
            {
                let frame = encode_request(request_id, deadline_ms, body.clone()).unwrap();
                let prost = v1::Request {
                    request_id,
                    deadline_ms,
                    body: Some(body),
                };
                assert_eq!(frame.bytes(), 4 + prost.encoded_len());
                assert_eq!(frame.to_bytes()[4..], prost.encode_to_vec());
            }
        }
    }

    #[test]
    fn batches_in_pieces_make_the_same_frame_as_whole_ones() {
        let whole = Bytes::from(vec![7; 5000]);
        let body = Body::Produce(v1::ProduceRequest {
            acks: v1::Acks::Memory.into(),
            partitions: (0..3)
                .map(|i| partition(i, Some(Payload::Raw(whole.clone()))))
                .collect(),
        });
        let pieces = [whole.slice(..61), whole.slice(61..)];
        let batches = (0..3).map(|i| (partition(i, None), pieces.clone()));
        let frame = encode_produce(300, 30_000, v1::Acks::Memory, batches.collect()).unwrap();
        let expected = encode_request(300, 30_000, body).unwrap();
        assert_eq!(frame.to_bytes(), expected.to_bytes());
    }

    #[test]
    fn raw_batches_are_not_copied() {
        let batch = Bytes::from(vec![7; 5000]);
        let body = Body::Produce(v1::ProduceRequest {
            acks: 0,
            partitions: vec![partition(0, Some(Payload::Raw(batch.clone())))],
        });
        let step = Body::Step(v1::StepRequest {
            appends: vec![partition(0, Some(Payload::Raw(batch.clone())))],
            ..v1::StepRequest::default()
        });
        for body in [body, step] {
            let chunks = encode_request(1, 0, body).unwrap().into_chunks();
            assert_eq!(chunks.last().map(|chunk| chunk.as_ptr()), Some(batch.as_ptr()));
        }
    }

    #[test]
    fn other_requests_are_whole_messages() {
        let body = Body::Ping(v1::PingRequest {
            payload: Bytes::from_static(b"hi"),
        });
        let frame = encode_request(7, 0, body.clone()).unwrap().to_bytes();
        let request = v1::Request::decode(frame.slice(4..)).unwrap();
        assert_eq!((request.request_id, request.body), (7, Some(body)));
    }
}
