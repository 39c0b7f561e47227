//! What broken and hostile peers get from a real broker. Cases are numbered only to be found; 14 and 23 to 25 are in
//! `connections.rs`, 17 waits for TLS.
//!
//! Every case runs beside a greeted connection that must not notice, and one test looks at the memory afterwards.

use std::time::Duration;

use bytes::Bytes;
use naru::model::ErrorCode;
use naru::net::{Hangup, Settings};
use naru::pb::v1;
use naru::pb::v1::request::Body;
use naru::pb::v1::response::Body as Answer;
use prost::Message;
use tokio::io::AsyncWriteExt;

use crate::peer::{Peer, Server, framed, hello, metadata, ping, produce, request, start_broker, until};

const FRAME_MAX: usize = 8 << 20;

/// Requests whose id can be found have this one.
const ID: u64 = 5;

/// Deadlines so short that nobody waits for them.
fn hurried() -> Settings {
    Settings {
        greeting_deadline: Duration::from_millis(150),
        progress_window: Duration::from_millis(150),
        http_port: Some(9641),
        ..Settings::default()
    }
}

/// Ample time for everything but what a case is about.
fn patient() -> Settings {
    Settings {
        http_port: Some(9641),
        ..Settings::default()
    }
}

/// What a peer gets for its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// An error; the connection stays.
    Error(ErrorCode),
    /// An error, then the end.
    ErrorEnd(ErrorCode),
    /// One line that names the HTTP port, then the end.
    LineEnd,
    /// An answer.
    Served,
}

/// When the bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    BeforeHello,
    AfterHello,
}

async fn check(server: &Server, peer: &mut Peer, name: &str, expect: Expect) {
    match expect {
        Expect::Error(code) => {
            assert_eq!(peer.refusal().await.1.name, code.name(), "{name}");
            peer.expect_pong().await;
        }
        Expect::ErrorEnd(code) => {
            assert_eq!(peer.refusal().await.1.name, code.name(), "{name}");
            assert!(server.counters.bad_input(code) > 0, "{name} is counted");
            peer.expect_end().await;
        }
        Expect::LineEnd => {
            let line = String::from_utf8(peer.read_to_end().await).unwrap();
            assert!(line.ends_with("HTTP is on port 9641\r\n"), "{name}: {line}");
            assert!(
                server.counters.bad_input(ErrorCode::WrongProtocol) > 0,
                "{name} is counted"
            );
        }
        Expect::Served => {
            let answer = peer.answer().await;
            assert!(
                !matches!(answer.body, None | Some(Answer::Error(_))),
                "{name}: {answer:?}"
            );
            peer.expect_pong().await;
        }
    }
}

/// Sends each case on a connection of its own, beside one that must not notice.
async fn run(when: When, expect: Expect, cases: Vec<(&str, Vec<u8>)>) {
    let server = start_broker(patient());
    let mut bystander = server.friend().await;
    for (name, bytes) in cases {
        let mut peer = match when {
            When::BeforeHello => server.peer().await,
            When::AfterHello => server.friend().await,
        };
        // Who is refused may be cut off in the middle of sending.
        let _ = peer.stream.write_all(&bytes).await;
        check(&server, &mut peer, name, expect).await;
        bystander.expect_pong().await;
    }
    drop(bystander);
    until("all connections closed", || server.counters.open() == 0).await;
}

/// A length-delimited field.
fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_key(number, prost::encoding::WireType::LengthDelimited, &mut bytes);
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

/// A frame of a request id and what follows it.
fn with_id(rest: &[u8]) -> Vec<u8> {
    framed(&[&[0x08, 5], rest].concat())
}

/// A frame of a ping and what follows it.
fn with_ping(rest: &[u8]) -> Vec<u8> {
    with_id(&[field(11, b"").as_slice(), rest].concat())
}

fn structured(records: Vec<v1::Record>) -> Body {
    let Body::Produce(mut body) = produce(0, 0) else {
        unreachable!("it is a produce");
    };
    let records = v1::Records { records };
    body.partitions[0].payload = Some(v1::produce_partition::Payload::Structured(records));
    Body::Produce(body)
}

fn speaking(version_min: u32, version_max: u32) -> Vec<u8> {
    let hello = v1::HelloRequest {
        version_min,
        version_max,
        ..Default::default()
    };
    request(ID, Body::Hello(hello))
}

/// Field 1 in field 1 in field 1, so deep.
fn nested(depth: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..depth {
        bytes = field(1, &bytes);
    }
    bytes
}

/// A produce whose payload is exactly as long as a frame may be.
fn largest_request() -> Vec<u8> {
    let overhead = request(ID, produce(0, FRAME_MAX - 100)).len() - (FRAME_MAX - 100);
    let bytes = request(ID, produce(0, FRAME_MAX + 4 - overhead));
    assert_eq!(bytes.len(), FRAME_MAX + 4);
    bytes
}

fn length(bytes: u32) -> Vec<u8> {
    bytes.to_be_bytes().to_vec()
}

/// 3, 4, 5 and 7.
#[tokio::test]
async fn lengths_that_no_frame_has() {
    let large = Expect::ErrorEnd(ErrorCode::FrameTooLarge);
    for (when, limit) in [(When::BeforeHello, 4096), (When::AfterHello, 8 << 20)] {
        let zero = vec![("length 0", length(0))];
        run(when, Expect::ErrorEnd(ErrorCode::EmptyFrame), zero).await;
        let cases = vec![
            ("4 length 2^32 - 1", length(u32::MAX)),
            ("5 one above the limit", length(limit + 1)),
            ("7 negative as i32", length(1 << 31)),
        ];
        run(when, large, cases).await;
    }
}

/// 15, 16 and 18.
#[tokio::test]
async fn other_protocols_are_sent_elsewhere() {
    let tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on";
    let cases = vec![
        ("15 HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("16 TLS", tls.to_vec()),
        ("18 PROXY", b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n".to_vec()),
        (
            "18 PROXY, version 2",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec(),
        ),
        ("SSH", b"SSH-2.0-OpenSSH_9.9\r\n".to_vec()),
        ("Kafka", framed(b"\0\x12\0\x04\0\0\0\x01\0\x04test\0")),
    ];
    run(When::BeforeHello, Expect::LineEnd, cases).await;
}

/// 19, 22, 26, 31, 32, 33 and 36 before Hello, where every one of them is the end.
#[tokio::test]
async fn what_is_said_instead_of_hello() {
    use ErrorCode as E;
    let deep = request(ID, structured(vec![v1::Record::default()]));
    for (code, cases) in [
        (
            E::UnsupportedVersion,
            vec![("newer", speaking(2, 3)), ("none", speaking(0, 0))],
        ),
        (
            E::Protocol,
            vec![
                ("a request", request(ID, metadata())),
                ("a response", with_id(&field(2, b""))),
            ],
        ),
        (
            E::Malformed,
            vec![
                ("random", framed(&[0xd7, 0x9e, 0x31])),
                ("group", with_id(&[0x53, 0x54])),
            ],
        ),
        (E::TooDeep, vec![("five messages deep", deep)]),
        (
            E::TooManyElements,
            vec![("33 elements", framed(&[0x08, 1].repeat(33)))],
        ),
        (
            E::TooManyUnknown,
            vec![("an unknown field", with_ping(&field(9, b"")))],
        ),
    ] {
        run(When::BeforeHello, Expect::ErrorEnd(code), cases).await;
    }
}

#[tokio::test]
async fn what_is_unusual_and_served() {
    // No message of the protocol contains itself: what nests deeper than any of them is an unknown field.
    let cases = vec![
        ("6 a frame as long as the limit", largest_request()),
        ("32 nesting 9", with_ping(&field(9, &nested(9)))),
        ("32 nesting 101", with_ping(&field(9, &nested(101)))),
        ("36 1 KiB of unknown fields", with_ping(&field(9, &[0; 1021]))),
        (
            "40 two bodies",
            with_id(&[field(11, b""), field(12, b"")].concat()),
        ),
    ];
    run(When::AfterHello, Expect::Served, cases).await;
}

/// 20 to 22.
#[tokio::test]
async fn what_is_out_of_order() {
    let cases = vec![
        ("20 Hello twice", request(ID, hello())),
        ("22 a response", with_id(&field(2, b"\x08\x01"))),
    ];
    run(When::AfterHello, Expect::ErrorEnd(ErrorCode::Protocol), cases).await;
    let cases = vec![
        ("21 unknown request kind", with_id(&field(99, &[1; 5000]))),
        ("21 no request at all", with_id(&[])),
    ];
    run(When::AfterHello, Expect::Error(ErrorCode::UnknownRequest), cases).await;
}

#[tokio::test]
async fn what_is_no_protobuf() {
    let eleven = [&[0x10], [0xff_u8; 10].as_slice(), &[1]].concat();
    let cases = vec![
        ("26 random bytes", framed(&[0xd7, 0x9e, 0x31, 0x55, 0x10])),
        ("27 truncated varint", with_id(&[0x10, 0x80])),
        ("28 11-byte varint", with_id(&eleven)),
        ("29 longer than the rest", with_id(&[0x5a, 3, 1])),
        ("30 wire type 6", with_id(&[0x5e])),
        ("30 wire type 7", with_id(&[0x5f])),
        ("31 group begins", with_id(&[0x5b, 0x08, 1, 0x5c])),
        ("31 group ends", with_id(&[0x5c])),
        ("32 groups 100,000 deep", with_id(&[0x0b].repeat(100_000))),
        (
            "34 packed where no list is",
            with_id(&field(18, &field(1, &[0; 1000]))),
        ),
        ("37 field number 0", with_id(&[0x00, 0x00])),
        (
            "37 field number 2^29",
            with_id(&[0x80, 0x80, 0x80, 0x80, 0x10, 0]),
        ),
        ("38 not UTF-8", with_id(&field(15, &field(1, &[0xff])))),
        ("44 trailing garbage", with_ping(&[0xff])),
    ];
    run(When::AfterHello, Expect::Error(ErrorCode::Malformed), cases).await;
}

#[tokio::test]
async fn what_is_too_much() {
    let empty_records = vec![v1::Record::default(); 100_001];
    let cases = vec![
        (
            "33 4 M empty messages",
            with_id(&field(20, &[0x7a, 0].repeat(4_000_000))),
        ),
        ("33 100,001 empty records", request(ID, structured(empty_records))),
        (
            "35 1 M equal entries",
            with_id(&field(13, &field(3, &[0x0a, 0]).repeat(1_000_000))),
        ),
        (
            "39 one field 100,000 times",
            with_ping(&[0x08, 5].repeat(100_000)),
        ),
    ];
    run(When::AfterHello, Expect::Error(ErrorCode::TooManyElements), cases).await;
    let cases = vec![
        ("32 nesting 1,000", with_ping(&field(9, &nested(1000)))),
        ("34 8 M packed zeros", with_ping(&field(9, &vec![0; 8_000_000]))),
        (
            "36 more than 1 KiB of unknown fields",
            with_ping(&field(9, &[0; 1022])),
        ),
    ];
    run(When::AfterHello, Expect::Error(ErrorCode::TooManyUnknown), cases).await;
}

#[tokio::test]
async fn what_has_impossible_values() {
    let cases = vec![
        ("41 unknown enum value", with_id(&field(20, &[0x20, 77]))),
        (
            "42 64 bits for 32",
            with_id(&field(20, &[0x08, 0x80, 0x80, 0x80, 0x80, 0x10])),
        ),
        ("43 empty fetch", with_id(&field(20, b""))),
    ];
    run(When::AfterHello, Expect::Error(ErrorCode::InvalidArgument), cases).await;
}

#[tokio::test]
async fn refusals_name_the_request_and_the_limit() {
    let server = start_broker(patient());
    let mut peer = server.friend().await;
    peer.send(&with_id(&[0x5b])).await;
    let (id, error) = peer.refusal().await;
    assert_eq!((id, error.code, error.definite), (ID, 22, true));
    peer.send(&length(9 << 20)).await;
    let details = peer.refusal().await.1.details.unwrap();
    assert_eq!((details.limit, details.actual), (Some(8 << 20), Some(9 << 20)));
    let mut peer = server.peer().await;
    peer.send(&speaking(7, 9)).await;
    let (id, error) = peer.refusal().await;
    let details = error.details.unwrap();
    assert_eq!(
        (id, details.version_min, details.version_max),
        (ID, Some(1), Some(1))
    );
}

/// 1 and 2.
#[tokio::test]
async fn hello_has_one_deadline_however_many_bytes_come() {
    let server = start_broker(hurried());
    let mut silent = server.peer().await;
    let mut slow = server.peer().await;
    let trickle = async {
        for byte in request(ID, hello()).into_iter().chain(std::iter::repeat(0)) {
            if slow.stream.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    };
    let (end, ()) = tokio::join!(silent.next(), trickle);
    assert_eq!(end, None);
    until("two hang-ups", || server.counters.hangups(Hangup::Greeting) == 2).await;
    server.friend().await.expect_pong().await;
}

/// 101 and the byte limit before the greeting.
#[tokio::test]
async fn who_only_pings_before_hello_is_cut_off() {
    let server = start_broker(patient());
    let mut peer = server.peer().await;
    peer.send(&request(ID, ping()).repeat(8)).await;
    for _ in 0..8 {
        assert!(matches!(peer.answer().await.body, Some(Answer::Ping(_))));
    }
    peer.ask(ID, ping()).await;
    peer.expect_end().await;
    assert_eq!(server.counters.hangups(Hangup::Greeting), 1);
}

/// 8 and 11.
#[tokio::test]
async fn frames_that_end_in_the_middle_give_back_what_they_took() {
    let settings = Settings {
        request_memory_bytes_max: 12 << 20,
        ..patient()
    };
    let server = start_broker(settings);
    let mut bystander = server.friend().await;
    for bytes in [100, 8 << 20] {
        let mut peer = server.friend().await;
        peer.send(&[length(bytes), vec![0; 10]].concat()).await;
        peer.stream.shutdown().await.unwrap();
        peer.expect_end().await;
        let mut peer = server.friend().await;
        peer.send(&[length(bytes), vec![0; 10]].concat()).await;
        socket2::SockRef::from(&peer.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(peer);
    }
    until("all but one closed", || server.counters.open() == 1).await;
    // All of the memory for large requests is there again.
    bystander.send(&largest_request()).await;
    assert!(matches!(bystander.answer().await.body, Some(Answer::Produce(_))));
}

/// 9.
#[tokio::test]
async fn a_frame_that_hardly_grows_is_hung_up_on() {
    let server = start_broker(hurried());
    let mut bystander = server.friend().await;
    let mut peer = server.friend().await;
    peer.send(&length(8 << 20)).await;
    while peer.stream.write_all(&[0]).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(server.counters.hangups(Hangup::SlowFrame), 1);
    bystander.expect_pong().await;
}

#[tokio::test]
async fn a_frame_that_grows_steadily_may_take_many_windows() {
    let settings = Settings {
        progress_bytes: 1000,
        ..hurried()
    };
    let server = start_broker(settings);
    let mut peer = server.friend().await;
    let bytes = request(ID, produce(0, 100_000));
    for part in bytes.chunks(bytes.len() / 20) {
        peer.send(part).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(matches!(peer.answer().await.body, Some(Answer::Produce(_))));
}

/// 10.
#[tokio::test]
async fn declared_lengths_reserve_no_more_than_there_is() {
    let server = start_broker(patient());
    let mut bystander = server.friend().await;
    let mut peers = Vec::new();
    for _ in 0..64 {
        let mut peer = server.friend().await;
        peer.send(&[length(8 << 20), vec![0; 100]].concat()).await;
        peers.push(peer);
    }
    bystander.expect_pong().await;
    bystander.ask(ID, produce(0, 1000)).await;
    assert!(matches!(bystander.answer().await.body, Some(Answer::Produce(_))));
    drop(peers);
    bystander.send(&largest_request()).await;
    assert!(matches!(bystander.answer().await.body, Some(Answer::Produce(_))));
}

/// 12.
#[tokio::test]
async fn a_request_split_anywhere_is_answered_as_a_whole_one() {
    let server = start_broker(patient());
    let mut peer = server.friend().await;
    peer.stream.set_nodelay(true).unwrap();
    let bytes = request(ID, ping());
    let expected = {
        peer.send(&bytes).await;
        peer.answer().await
    };
    for cut in 1..bytes.len() {
        let before = server.counters.bytes_in();
        peer.send(&bytes[..cut]).await;
        until("the first part", || {
            server.counters.bytes_in() == before + cut as u64
        })
        .await;
        peer.send(&bytes[cut..]).await;
        assert_eq!(peer.answer().await, expected, "cut at {cut}");
    }
}

/// 13.
#[tokio::test]
async fn a_thousand_requests_in_one_piece_are_all_answered_each_kind_in_order() {
    let server = start_broker(patient());
    let mut peer = server.friend().await;
    let all: Vec<u8> = (0..1000)
        .flat_map(|id| request(id, if id % 2 == 0 { ping() } else { metadata() }))
        .collect();
    peer.send(&all).await;
    // Pings are answered at once and may pass the others, which wait for what they have seen to be durable.
    let mut answered = [Vec::new(), Vec::new()];
    for _ in 0..1000 {
        let id = peer.answer().await.request_id;
        answered[usize::from(id % 2 == 1)].push(id);
    }
    let [pings, others] = answered;
    assert!(pings.into_iter().eq((0..1000).step_by(2)));
    assert!(others.into_iter().eq((1..1000).step_by(2)));
}

/// Kilobytes of memory that this process has in use.
fn resident_kib() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Garbage, oversize, truncated and slow frames, large and small, many times over.
async fn abuse(server: &Server) {
    let mut slow = Vec::new();
    for _ in 0..16 {
        let mut peer = server.friend().await;
        peer.send(&[length(8 << 20), vec![0; 5000]].concat()).await;
        slow.push(peer);
    }
    for bytes in [
        length(u32::MAX),
        with_id(&field(20, &[0x7a, 0].repeat(3_000_000))),
        with_ping(&field(9, &vec![0; 8_000_000])),
        request(ID, structured(vec![v1::Record::default(); 100_000])),
        framed(&[0xd7; 100_000]),
        [length(1000), vec![7; 10]].concat(),
    ]
    .iter()
    .cycle()
    .take(60)
    {
        let mut peer = server.friend().await;
        let _ = peer.stream.write_all(bytes).await;
        peer.stream.shutdown().await.unwrap();
        peer.read_to_end().await;
    }
    drop(slow);
    until("all connections closed", || server.counters.open() == 0).await;
}

/// Other tests of this process would disturb the figure, so this one runs itself again, alone.
#[test]
fn memory_is_back_after_bad_input() {
    const ALONE: &str = "NARU_TEST_ALONE";
    if !cfg!(target_os = "linux") {
        eprintln!("skipped: needs /proc/self/status");
        return;
    }
    if std::env::var_os(ALONE).is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "bad_input::memory_is_back_after_bad_input",
                "--nocapture",
            ])
            .env(ALONE, "1")
            // glibc otherwise keeps a changing part of what was freed; the figure is about what the server keeps.
            .env("MALLOC_MMAP_THRESHOLD_", "131072")
            .env("MALLOC_TRIM_THRESHOLD_", "131072")
            .status()
            .unwrap();
        assert!(status.success(), "{status}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let server = start_broker(patient());
        // Once for the allocator, which keeps some of what it has had.
        abuse(&server).await;
        let before = resident_kib();
        for _ in 0..3 {
            abuse(&server).await;
        }
        let grown = resident_kib() - before;
        assert!(grown < 4096, "{grown} KiB more after the same again");
        let mut declared = Vec::new();
        for _ in 0..64 {
            let mut peer = server.friend().await;
            peer.send(&length(8 << 20)).await;
            declared.push(peer);
        }
        server.friend().await.expect_pong().await;
        let grown = resident_kib() - before;
        assert!(
            grown < 8192,
            "{grown} KiB more for 512 MiB that were only announced"
        );
    });
}

#[tokio::test]
async fn as_many_small_records_as_a_batch_can_hold_are_served() {
    let server = start_broker(patient());
    let mut peer = server.friend().await;
    let record = v1::Record {
        key: Some(Bytes::from_static(b"k")),
        value: Some(Bytes::from_static(b"v")),
        ..Default::default()
    };
    let topic = v1::CreateTopicRequest {
        name: "orders".to_owned(),
        partitions: 1,
        ..Default::default()
    };
    peer.ask(ID, Body::CreateTopic(topic)).await;
    assert!(matches!(peer.answer().await.body, Some(Answer::CreateTopic(_))));
    let body = structured(vec![record; 80_000]);
    let request = v1::Request {
        request_id: ID,
        deadline_ms: 0,
        body: Some(body),
    };
    peer.send(&framed(&request.encode_to_vec())).await;
    let Some(Answer::Produce(produced)) = peer.answer().await.body else {
        panic!("no produce");
    };
    let partition = &produced.partitions[0];
    assert_eq!(partition.error, None);
    assert_eq!((partition.base_offset, partition.last_offset), (0, 79_999));
}
