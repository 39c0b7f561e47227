//! The machine by scripts of commands, and its snapshot.

mod alter;

use std::sync::Arc;

use super::*;
use crate::machine::{StateMachine, Stored};
use crate::model::{Glob, InvalidTopicName, Timestamp, TopicId};

fn id(n: u8) -> TopicId {
    TopicId::from_bytes([n; 16])
}

fn create(name: &str, partitions: u32, n: u8) -> CreateTopic {
    CreateTopic {
        name: name.to_owned(),
        partitions,
        configs: Vec::new(),
        if_not_exists: false,
        id: id(n),
        id_is_operation: true,
    }
}

fn entry(name: &str, value: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), value.to_owned())]
}

/// Decides, and applies what was decided after a round trip through its stored form.
fn run(machine: &mut Machine, command: Command) -> Reply {
    let effects = machine.handle(Timestamp(42), command);
    for record in &effects.records {
        let stored = MetaRecord::decode(record.encode()).unwrap();
        assert_eq!(stored.encode(), record.encode());
        machine.apply(&stored);
    }
    effects.reply
}

fn make(machine: &mut Machine, command: CreateTopic) -> Result<(Arc<Topic>, bool), MetaError> {
    match run(machine, Command::CreateTopic(command)) {
        Reply::Created { topic, created } => Ok((topic, created)),
        Reply::Refused(error) => Err(error),
        other => panic!("{other:?}"),
    }
}

fn delete(machine: &mut Machine, name: &str, id: Option<TopicId>) -> Result<TopicId, MetaError> {
    let name = name.to_owned();
    match run(machine, Command::DeleteTopic { name, id }) {
        Reply::Deleted(topic) => Ok(topic.id),
        Reply::Refused(error) => Err(error),
        other => panic!("{other:?}"),
    }
}

fn names(machine: &Machine) -> Vec<String> {
    machine.user_topics().map(|t| t.name.to_string()).collect()
}

#[test]
fn a_topic_is_found_by_name_and_id_until_it_is_deleted() {
    let mut machine = Machine::new(Limits::default());
    let (topic, created) = make(&mut machine, create("orders", 3, 9)).unwrap();
    assert!(created);
    assert_eq!((topic.partitions, topic.created), (3, Timestamp(42)));
    assert_eq!(machine.topic("orders"), Some(&topic));
    assert_eq!(machine.topic_by_id(id(9)), Some(&topic));
    assert_eq!(
        delete(&mut machine, "orders", Some(id(8))),
        Err(MetaError::OtherId {
            name: topic.name.clone(),
            id: id(9)
        })
    );
    assert_eq!(delete(&mut machine, "orders", Some(id(9))), Ok(id(9)));
    assert_eq!(machine.topic("orders"), None);
    assert_eq!(machine.topic_by_id(id(9)), None);
    assert!(matches!(
        delete(&mut machine, "orders", None),
        Err(MetaError::Unknown { .. })
    ));
}

#[test]
fn a_retry_with_the_same_operation_id_returns_the_first_result() {
    let mut machine = Machine::new(Limits::default());
    let first = make(&mut machine, create("orders", 3, 9)).unwrap();
    assert_eq!(make(&mut machine, create("orders", 3, 9)), Ok(first));
    let reused = Err(MetaError::OperationId(
        "this operation id was used to create another topic",
    ));
    assert_eq!(make(&mut machine, create("orders", 4, 9)), reused);
    assert_eq!(make(&mut machine, create("other", 3, 9)), reused);
    assert_eq!(names(&machine), ["orders"]);
}

#[test]
fn the_id_of_a_deleted_topic_never_comes_back() {
    let mut machine = Machine::new(Limits::default());
    make(&mut machine, create("orders", 1, 9)).unwrap();
    delete(&mut machine, "orders", None).unwrap();
    let gone = MetaError::OperationId("this operation made a topic that was deleted since");
    assert_eq!(make(&mut machine, create("orders", 1, 9)), Err(gone.clone()));
    let mut restored = Machine::restore(Limits::default(), machine.snapshot()).unwrap();
    assert_eq!(make(&mut restored, create("orders", 1, 9)), Err(gone));
    assert!(make(&mut restored, create("orders", 1, 10)).is_ok());
}

#[test]
fn ids_of_the_broker_itself_are_refused() {
    let mut machine = Machine::new(Limits::default());
    let mut command = create("orders", 1, 0);
    for internal in [TopicId::META, TopicId::GROUPS, TopicId::from_bytes([0; 16])] {
        command.id = internal;
        assert!(matches!(
            make(&mut machine, command.clone()),
            Err(MetaError::OperationId(_))
        ));
    }
}

#[test]
fn an_existing_topic_is_success_only_if_asked_for_and_alike() {
    let mut machine = Machine::new(Limits::default());
    let (topic, _) = make(&mut machine, create("orders", 3, 9)).unwrap();
    let exists = Err(MetaError::Exists {
        name: topic.name.clone(),
        partitions: 3,
    });
    assert_eq!(make(&mut machine, create("orders", 3, 10)), exists);
    let again = |partitions| CreateTopic {
        if_not_exists: true,
        ..create("orders", partitions, 10)
    };
    assert_eq!(make(&mut machine, again(3)), Ok((Arc::clone(&topic), false)));
    assert_eq!(make(&mut machine, again(0)), Ok((topic, false)));
    assert_eq!(make(&mut machine, again(4)), exists);
}

#[test]
fn names_of_the_bad_input_catalogue_are_refused() {
    let mut machine = Machine::new(Limits::default());
    let long = "x".repeat(201);
    let bad = [
        "../../etc/passwd",
        "a/b",
        ".",
        "..",
        "",
        &long,
        "a\0b",
        "CON ",
        "a\nlevel=info msg=fake",
        "\u{1b}[31mred",
        "\u{202e}evil",
        "cafe\u{301}",
        "caf\u{e9}",
        "__internal",
        "__meta",
        "__groups",
        "dlq.orders",
        "<script>",
        "topic{label=\"x\"}",
    ];
    for name in bad {
        let refused = make(&mut machine, create(name, 1, 9));
        assert!(
            matches!(refused, Err(MetaError::Name(_))),
            "{name:?}: {refused:?}"
        );
    }
    for (n, name) in (1..).zip(["a.b", "a_b", "Orders", "orders", "CON"]) {
        assert!(make(&mut machine, create(name, 1, n)).is_ok(), "{name}");
    }
    assert_eq!(names(&machine), ["CON", "Orders", "a.b", "a_b", "orders"]);
    assert_eq!(
        delete(&mut machine, "__meta", None),
        Err(MetaError::Name(InvalidTopicName::Reserved))
    );
}

#[test]
fn numbers_of_topics_and_partitions_are_limited() {
    let limits = Limits {
        topics_max: 3,
        partitions_per_topic_max: 4,
        partitions_max: 6,
        partitions_default: 2,
    };
    let mut machine = Machine::new(limits);
    assert_eq!(
        make(&mut machine, create("a", 5, 1)),
        Err(MetaError::Partitions { asked: 5, max: 4 })
    );
    assert_eq!(make(&mut machine, create("a", 4, 1)).unwrap().0.partitions, 4);
    assert_eq!(
        make(&mut machine, create("b", 3, 2)),
        Err(MetaError::TooManyPartitions { asked: 3, max: 6 })
    );
    assert_eq!(make(&mut machine, create("b", 1, 2)).unwrap().0.partitions, 1);
    assert_eq!(make(&mut machine, create("c", 1, 3)).unwrap().0.partitions, 1);
    assert_eq!(
        make(&mut machine, create("d", 1, 4)),
        Err(MetaError::TooManyTopics { max: 3 })
    );
    delete(&mut machine, "a", None).unwrap();
    assert_eq!(make(&mut machine, create("d", 0, 5)).unwrap().0.partitions, 2);
}

#[test]
fn configurations_are_checked_and_unknown_ones_named() {
    let mut machine = Machine::new(Limits::default());
    let mut with = |configs| {
        make(
            &mut machine,
            CreateTopic {
                configs,
                ..create("a", 1, 1)
            },
        )
    };
    assert_eq!(
        with(entry("max.mesage.bytes", "5000")),
        Err(MetaError::Config(ConfigError::Unknown {
            name: "max.mesage.bytes".to_owned(),
            nearest: Some("max.message.bytes"),
        }))
    );
    for value in ["1023", "8388609", "-1", "", "1e6", "9MiB", "99999999999999999999"] {
        assert_eq!(
            with(entry("max.message.bytes", value)).unwrap_err().to_string(),
            format!(
                "max.message.bytes = {value:?} is not a size from 1024 to 8388608 bytes (256MiB is understood)"
            )
        );
    }
    let twice = [entry("segment.bytes", "65536"), entry("segment.bytes", "65536")].concat();
    assert_eq!(
        with(twice),
        Err(MetaError::Config(ConfigError::Twice("segment.bytes")))
    );
    let (topic, _) = with(entry("segment.bytes", "65536")).unwrap();
    assert_eq!(topic.config().segment_bytes, 65536);
    assert_eq!(topic.config().max_message_bytes, 1_048_588);
    let source = |name| topic.value(ConfigKey::named(name).unwrap()).1;
    assert_eq!(source("segment.bytes"), ConfigSource::Topic);
    assert_eq!(source("max.message.bytes"), ConfigSource::Default);
}

#[test]
fn what_kafka_has_and_we_have_not_is_refused_with_the_reason() {
    let refused = |name: &str, value: &str| {
        let mut machine = Machine::new(Limits::default());
        let configs = entry(name, value);
        let command = CreateTopic {
            configs,
            ..create("a", 1, 1)
        };
        make(&mut machine, command).unwrap_err().to_string()
    };
    for (name, value, reason) in [
        ("cleanup.policy", "compact", "retention.ms"),
        ("delete.retention.ms", "1000", "compaction"),
        ("min.cleanable.dirty.ratio", "0.5", "compaction"),
        ("min.insync.replicas", "2", "acks=fsync"),
        ("compression.type", "zstd", "in the producer"),
        ("remote.storage.enable", "true", "tiered storage"),
        ("local.retention.ms", "5", "tiered storage"),
        ("message.format.version", "2.8", "version 2"),
        ("leader.replication.throttled.replicas", "*", "max_bytes"),
    ] {
        let text = refused(name, value);
        assert!(text.contains(name) && text.contains(reason), "{text}");
    }
}

#[test]
fn entries_without_effect_are_kept_and_named_so() {
    let mut machine = Machine::new(Limits::default());
    let configs = [entry("preallocate", "true"), entry("min.insync.replicas", "1")].concat();
    let command = CreateTopic {
        configs,
        ..create("a", 1, 1)
    };
    make(&mut machine, command).unwrap();
    let restored = Machine::restore(Limits::default(), machine.snapshot()).unwrap();
    let key = ConfigKey::named("preallocate").unwrap();
    assert!(!key.has_effect());
    let (value, source) = restored.topic("a").unwrap().value(key);
    assert_eq!(
        (value.to_string().as_str(), source),
        ("true", ConfigSource::Topic)
    );
}

#[test]
fn a_topics_entry_wins_over_the_brokers_which_wins_over_the_built_in() {
    let defaults = TopicDefaults::parse([("retention.ms", "1d"), ("segment.bytes", "1MiB")]).unwrap();
    let mut machine = Machine::new(Limits::default()).with_defaults(&Arc::new(defaults));
    let configs = entry("retention.ms", "none");
    let command = CreateTopic {
        configs,
        ..create("a", 1, 1)
    };
    let (topic, _) = make(&mut machine, command).unwrap();
    let check = |topic: &Topic, segment_bytes, source| {
        assert_eq!(topic.config().retention_ms, None);
        assert_eq!(topic.config().segment_bytes, segment_bytes);
        assert_eq!(topic.config().segment_ms, 604_800_000);
        let key = ConfigKey::named("segment.bytes").unwrap();
        assert_eq!(topic.value(key).1, source);
    };
    check(&topic, 1 << 20, ConfigSource::Broker);
    check(machine.topic("a").unwrap(), 1 << 20, ConfigSource::Broker);
    // Without the broker's defaults, its topics fall back to the built-in ones.
    let restored = Machine::restore(Limits::default(), machine.snapshot()).unwrap();
    check(restored.topic("a").unwrap(), 256 << 20, ConfigSource::Default);
    let other = TopicDefaults::parse([("segment.bytes", "2MiB")]).unwrap();
    let restored = restored.with_defaults(&Arc::new(other));
    check(restored.topic("a").unwrap(), 2 << 20, ConfigSource::Broker);
    assert_eq!(
        TopicDefaults::parse([("storage", "disk")]),
        Err(ConfigError::NoDefault("storage"))
    );
}

#[test]
fn producer_ids_come_in_blocks_that_never_overlap() {
    let mut machine = Machine::new(Limits::default());
    let reserve = |machine: &mut Machine| match run(machine, Command::ReserveProducerIds) {
        Reply::Reserved(ids) => ids,
        other => panic!("{other:?}"),
    };
    assert_eq!(reserve(&mut machine), ProducerIds { first: 1, end: 1001 });
    assert_eq!(
        reserve(&mut machine),
        ProducerIds {
            first: 1001,
            end: 2001
        }
    );
    let mut restored = Machine::restore(Limits::default(), machine.snapshot()).unwrap();
    assert_eq!(
        reserve(&mut restored),
        ProducerIds {
            first: 2001,
            end: 3001
        }
    );
}

#[test]
fn a_snapshot_and_the_records_behind_it_give_the_same_state() {
    let mut machine = Machine::new(Limits::default());
    let configs = entry("max.message.bytes", "2048");
    make(
        &mut machine,
        CreateTopic {
            configs,
            ..create("a", 2, 1)
        },
    )
    .unwrap();
    make(&mut machine, create("b", 1, 2)).unwrap();
    let mut restored = Machine::restore(Limits::default(), machine.snapshot()).unwrap();
    for machine in [&mut machine, &mut restored] {
        delete(machine, "b", None).unwrap();
        make(machine, create("c", 5, 3)).unwrap();
    }
    assert_eq!(restored.snapshot(), machine.snapshot());
    assert_eq!(restored.topic("a").unwrap().config().max_message_bytes, 2048);
}

#[test]
fn stored_records_that_cannot_be_are_refused() {
    let decode = |bytes: &'static [u8]| MetaRecord::decode(bytes::Bytes::from_static(bytes));
    assert_eq!(decode(&[]), Err(DecodeError::UnknownKind));
    assert_eq!(decode(&[0x12, 0x02, 0x0a, 0x00]), Err(DecodeError::TopicId(0)));
    assert!(matches!(
        decode(&[0x0a, 0x05, 0x0a]),
        Err(DecodeError::Malformed(_))
    ));
    // A kind with number 15, from the future.
    assert_eq!(decode(&[0x7a, 0x00]), Err(DecodeError::UnknownKind));
}

#[test]
fn pages_show_each_topic_once_in_the_order_of_names() {
    let mut machine = Machine::new(Limits::default());
    for (n, name) in (1..).zip(["e", "a", "dd", "b", "c"]) {
        make(&mut machine, create(name, 1, n)).unwrap();
    }
    let scan = |count: usize, pattern: &str, include_internal: bool| {
        let matching = Glob::new(pattern).unwrap();
        let (mut seen, mut behind) = (Vec::new(), String::new());
        loop {
            let page = Page {
                behind: &behind,
                count,
                matching: &matching,
                include_internal,
            };
            let (topics, next) = machine.page(&page);
            assert!(topics.len() <= count);
            seen.extend(topics.iter().map(|t| t.name.to_string()));
            match next {
                Some(name) => behind = name.to_string(),
                None => return seen,
            }
        }
    };
    for count in 1..7 {
        assert_eq!(scan(count, "", false), ["a", "b", "c", "dd", "e"]);
        assert_eq!(scan(count, "?", true), ["a", "b", "c", "e"]);
    }
    assert_eq!(
        scan(10, "*", true),
        ["__groups", "__meta", "a", "b", "c", "dd", "e"]
    );
}

#[test]
fn a_similar_name_is_found_but_never_an_internal_one() {
    let mut machine = Machine::new(Limits::default());
    make(&mut machine, create("orders", 1, 1)).unwrap();
    assert_eq!(machine.nearest("order").unwrap().as_str(), "orders");
    assert_eq!(machine.nearest("__met"), None);
    assert_eq!(machine.nearest("payments"), None);
}
