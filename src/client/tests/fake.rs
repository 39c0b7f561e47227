//! A broker that keeps its records in memory and misbehaves as a test tells it to. Speaks the protocol over TCP.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::fake_group::Group;
use crate::client::{Client, ClientBuilder};
use crate::model::{ErrorCode, Sequence};
use crate::net::frame::FrameReader;
use crate::pb::v1 as pb;
use crate::pb::v1::fetched_partition::Payload as Fetched;
use crate::pb::v1::produce_partition::Payload as Produced;
use crate::pb::v1::{request::Body as RequestBody, response::Body as ResponseBody};
use crate::record::{BatchHeader, Batches, Records};
use crate::wire::errors::class_to_wire;

pub(super) const TOPIC_ID: [u8; 16] = [9; 16];

/// How long a fetch waits at most.
const FETCH_WAIT_MS_MAX: u32 = 100;

/// What the broker does with a request.
pub(super) enum Act {
    Serve,
    /// Does it, and the answer is lost with the connection.
    ServeAndHangUp,
    HangUp,
    /// Never answers.
    Ignore,
    /// Answers after the next request has been answered.
    Later,
    Answer(Box<ResponseBody>),
}

type Script = Box<dyn FnMut(u32, &RequestBody) -> Act + Send>;

pub(super) struct FakeBroker {
    address: String,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    state: Mutex<State>,
    script: Mutex<Script>,
    appended: Notify,
    group: Group,
}

#[derive(Default)]
struct State {
    partitions: Vec<Partition>,
    next_producer: i64,
    epochs: BTreeMap<i64, i32>,
}

#[derive(Default)]
struct Partition {
    batches: Vec<Bytes>,
    end: i64,
    producers: BTreeMap<i64, Known>,
}

/// The last batches of a producer: first and last sequence, offset.
struct Known {
    epoch: i16,
    batches: VecDeque<(i32, i32, i64)>,
}

impl FakeBroker {
    /// A broker whose topic `orders` has so many partitions. The script gets the number of the connection, from 1.
    pub(super) async fn start(
        partitions: usize,
        script: impl FnMut(u32, &RequestBody) -> Act + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = State {
            partitions: std::iter::repeat_with(Partition::default)
                .take(partitions)
                .collect(),
            ..State::default()
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            script: Mutex::new(Box::new(script)),
            appended: Notify::new(),
            group: Group::default(),
        });
        let mut tasks = JoinSet::new();
        let broker = shared.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            for number in 1.. {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(converse(stream, number, broker.clone()));
            }
        });
        Self {
            address,
            shared,
            _tasks: tasks,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("naru://{}", self.address)
    }

    pub(super) async fn client(&self) -> Client {
        fast().connect(&self.url()).await.unwrap()
    }

    /// The group that it has.
    pub(super) fn group(&self) -> &Group {
        &self.shared.group
    }

    /// Values of all records of a partition, in order.
    pub(super) fn values(&self, partition: usize) -> Vec<String> {
        let state = self.shared.state.lock().unwrap();
        let batches = state.partitions[partition].batches.iter();
        batches.flat_map(values).collect()
    }

    /// Gives the topic more partitions.
    pub(super) fn grow(&self, partitions: usize) {
        let mut state = self.shared.state.lock().unwrap();
        state.partitions.resize_with(partitions, Partition::default);
    }

    /// Number of batches of a partition.
    pub(super) fn batches(&self, partition: usize) -> usize {
        self.shared.state.lock().unwrap().partitions[partition]
            .batches
            .len()
    }

    /// Changes one byte of a stored batch.
    pub(super) fn damage(&self, partition: usize, batch: usize) {
        let mut state = self.shared.state.lock().unwrap();
        let stored = &mut state.partitions[partition].batches[batch];
        let mut bytes = BytesMut::from(&stored[..]);
        *bytes.last_mut().unwrap() ^= 1;
        *stored = bytes.freeze();
    }
}

/// A client that does not wait long for anything.
pub(super) fn fast() -> ClientBuilder {
    let ms = Duration::from_millis;
    Client::builder().reconnect_backoff(ms(1), ms(10))
}

fn values(batch: &Bytes) -> Vec<String> {
    let header = BatchHeader::parse(batch).unwrap();
    Records::new(&header, batch)
        .map(|record| String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap())
        .collect()
}

/// An error as a broker words it.
pub(super) fn refusal(code: ErrorCode) -> pb::Error {
    pb::Error {
        code: code.number(),
        name: code.name().into(),
        class: class_to_wire(code.class()).into(),
        definite: code.is_definite(),
        message: "says the test".into(),
        ..Default::default()
    }
}

async fn converse(mut stream: TcpStream, number: u32, shared: Arc<Shared>) {
    let mut frames = FrameReader::new();
    let mut later = Vec::new();
    loop {
        while let Some(frame) = frames.take(64 << 20).unwrap() {
            let request = <pb::Request as prost::Message>::decode(frame).unwrap();
            let body = request.body.unwrap();
            let act = (shared.script.lock().unwrap())(number, &body);
            let answer = match act {
                Act::Serve => shared.serve(body).await,
                Act::ServeAndHangUp => {
                    shared.serve(body).await;
                    return;
                }
                Act::HangUp => return,
                Act::Ignore => continue,
                Act::Later => {
                    later.push((request.request_id, shared.serve(body).await));
                    continue;
                }
                Act::Answer(answer) => *answer,
            };
            let mut answers = vec![(request.request_id, answer)];
            answers.append(&mut later);
            for (request_id, body) in answers {
                let response = pb::Response {
                    request_id,
                    body: Some(body),
                };
                let bytes = prost::Message::encode_to_vec(&response);
                let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
                if stream.write_all(&[&length[..], &bytes].concat()).await.is_err() {
                    return;
                }
            }
        }
        if !matches!(stream.read_buf(frames.room()).await, Ok(1..)) {
            return;
        }
    }
}

impl Shared {
    async fn serve(&self, body: RequestBody) -> ResponseBody {
        match body {
            RequestBody::Hello(_) => ResponseBody::Hello(pb::HelloResponse {
                version: 1,
                cluster_id: "fake".into(),
                limits: Some(pb::Limits {
                    requests_running_max: 8,
                    requests_parked_max: 8,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            RequestBody::Ping(ping) => ResponseBody::Ping(pb::PingResponse {
                payload: ping.payload,
            }),
            RequestBody::DescribeTopic(described) if described.name == "orders" => self.describe(),
            RequestBody::DescribeTopic(_) => ResponseBody::Error(refusal(ErrorCode::UnknownTopicOrPartition)),
            RequestBody::InitProducer(init) => self.init_producer(&init),
            RequestBody::Produce(produce) => self.produce(produce),
            RequestBody::Fetch(fetch) => self.fetch(fetch).await,
            RequestBody::ListOffsets(list) => self.list_offsets(&list),
            RequestBody::GroupHeartbeat(beat) => self.group.heartbeat(beat).await,
            RequestBody::CommitOffsets(commit) => self.group.commit(commit),
            RequestBody::CloseConsumer(close) => self.group.close(close),
            RequestBody::FetchOffsets(fetch) => self.group.offsets(&fetch, &|partition| self.end(partition)),
            RequestBody::Step(step) => {
                let answer = self.group.step(step, |partition, batch| {
                    let mut state = self.state.lock().unwrap();
                    let partition = &mut state.partitions[usize::try_from(partition).unwrap()];
                    partition.append(batch).base_offset
                });
                self.appended.notify_waiters();
                answer
            }
            other => panic!("the fake broker has no {other:?}"),
        }
    }

    fn end(&self, partition: u32) -> i64 {
        self.state.lock().unwrap().partitions[usize::try_from(partition).unwrap()].end
    }

    fn describe(&self) -> ResponseBody {
        let partitions = 0..u32::try_from(self.state.lock().unwrap().partitions.len()).unwrap();
        ResponseBody::DescribeTopic(pb::DescribeTopicResponse {
            name: "orders".into(),
            topic_id: Bytes::from_static(&TOPIC_ID),
            configs: vec![pb::ConfigEntry {
                name: "max.message.bytes".into(),
                value: "100000".into(),
                source: "topic".into(),
                without_effect: false,
            }],
            partitions: partitions
                .map(|partition| pb::PartitionDescription {
                    partition,
                    ..Default::default()
                })
                .collect(),
            created_ms: 1,
        })
    }

    fn init_producer(&self, init: &pb::InitProducerRequest) -> ResponseBody {
        let mut state = self.state.lock().unwrap();
        let producer_id = if init.producer_epoch < 0 {
            state.next_producer += 1;
            state.next_producer
        } else {
            init.producer_id
        };
        let current = state.epochs.get(&producer_id).copied().unwrap_or(-1);
        if init.producer_epoch >= 0 && init.producer_epoch != current {
            return ResponseBody::Error(pb::Error {
                details: Some(pb::ErrorDetails {
                    current_epoch: Some(current),
                    ..Default::default()
                }),
                ..refusal(ErrorCode::InvalidProducerEpoch)
            });
        }
        state.epochs.insert(producer_id, current + 1);
        ResponseBody::InitProducer(pb::InitProducerResponse {
            producer_id,
            producer_epoch: current + 1,
        })
    }

    fn produce(&self, produce: pb::ProduceRequest) -> ResponseBody {
        let mut state = self.state.lock().unwrap();
        let partitions = produce.partitions.into_iter().map(|item| {
            let place = item.partition.unwrap();
            let Some(Produced::Raw(batch)) = item.payload else {
                panic!("raw batches only")
            };
            state.partitions[usize::try_from(place.partition).unwrap()].append(&batch)
        });
        let partitions = partitions.collect();
        self.appended.notify_waiters();
        ResponseBody::Produce(pb::ProduceResponse { partitions })
    }

    async fn fetch(&self, fetch: pb::FetchRequest) -> ResponseBody {
        let asked = fetch.partitions[0].clone();
        let at = usize::try_from(asked.partition.unwrap().partition).unwrap();
        let mut appended = std::pin::pin!(self.appended.notified());
        appended.as_mut().enable();
        let is_there = self.state.lock().unwrap().partitions[at].end > asked.offset;
        if !is_there {
            // In vain or not, what is there is answered; early, as other requests of the connection wait meanwhile.
            let wait = fetch.max_wait_ms.min(FETCH_WAIT_MS_MAX);
            let _ = tokio::time::timeout(Duration::from_millis(wait.into()), appended).await;
        }
        let state = self.state.lock().unwrap();
        let partition = &state.partitions[at];
        let (raw, next_offset) = partition.read(asked.offset, asked.max_bytes);
        ResponseBody::Fetch(pb::FetchResponse {
            partitions: vec![pb::FetchedPartition {
                high_watermark: partition.end,
                next_offset,
                payload: Some(Fetched::RawBatches(raw)),
                ..Default::default()
            }],
        })
    }

    fn list_offsets(&self, list: &pb::ListOffsetsRequest) -> ResponseBody {
        let state = self.state.lock().unwrap();
        let listed = list.partitions.iter().map(|asked| {
            let at = usize::try_from(asked.partition.as_ref().unwrap().partition).unwrap();
            let offset = match asked.spec() {
                pb::OffsetSpec::Latest => state.partitions[at].end,
                _ => 0,
            };
            pb::ListedOffset {
                offset,
                ..Default::default()
            }
        });
        ResponseBody::ListOffsets(pb::ListOffsetsResponse {
            partitions: listed.collect(),
        })
    }
}

impl Partition {
    fn append(&mut self, batch: &Bytes) -> pb::ProducedPartition {
        let refused = |code| pb::ProducedPartition {
            error: Some(refusal(code)),
            ..Default::default()
        };
        let batch = crate::record::validate(batch.clone(), u32::MAX)
            .unwrap()
            .to_bytes();
        let header = BatchHeader::parse(&batch).unwrap();
        if values(&batch)[0].starts_with("bad") {
            return refused(ErrorCode::InvalidRecord);
        }
        if let Some((id, epoch, first)) = header.producer {
            let last = header.last_sequence().unwrap();
            let known = self.producers.entry(id.0).or_insert_with(|| Known {
                epoch: epoch.0,
                batches: VecDeque::new(),
            });
            if epoch.0 < known.epoch {
                return refused(ErrorCode::InvalidProducerEpoch);
            }
            let expected = match known.batches.back() {
                _ if epoch.0 > known.epoch => Sequence::ZERO,
                Some((_, last, _)) => Sequence(*last).next(),
                None => first,
            };
            let same = |b: &&(i32, i32, i64)| epoch.0 == known.epoch && (b.0, b.1) == (first.0, last.0);
            if let Some((_, _, base_offset)) = known.batches.iter().find(same) {
                return pb::ProducedPartition {
                    base_offset: *base_offset,
                    duplicate: true,
                    ..Default::default()
                };
            }
            if first != expected {
                return refused(ErrorCode::OutOfOrderSequence);
            }
            if epoch.0 > known.epoch {
                known.batches.clear();
            }
            known.epoch = epoch.0;
            known.batches.push_back((first.0, last.0, self.end));
            if known.batches.len() > 5 {
                known.batches.pop_front();
            }
        }
        let base_offset = self.end;
        let mut stamped = BytesMut::from(&batch[..]);
        stamped[..8].copy_from_slice(&base_offset.to_be_bytes());
        self.batches.push(stamped.freeze());
        self.end += i64::from(header.count);
        pb::ProducedPartition {
            base_offset,
            acks: pb::Acks::Fsync.into(),
            durable_through: Some(1),
            ..Default::default()
        }
    }

    /// Whole batches from the one with `offset` on, and where to go on.
    fn read(&self, offset: i64, bytes_max: u32) -> (Bytes, i64) {
        let mut raw = BytesMut::new();
        let mut next = offset;
        for batch in &self.batches {
            let header = BatchHeader::parse(batch).unwrap();
            if header.last_offset().get() < offset {
                continue;
            }
            if !raw.is_empty() && raw.len() + batch.len() > usize::try_from(bytes_max).unwrap() {
                break;
            }
            raw.extend_from_slice(batch);
            next = header.last_offset().get() + 1;
        }
        let raw = raw.freeze();
        assert!(Batches::new(raw.clone()).all(|batch| batch.is_ok()));
        (raw, next)
    }
}
