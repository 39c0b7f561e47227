//! Changes of topics: what is taken, what is refused, and that it is all or nothing.

use super::*;

fn alter(name: &str) -> AlterTopic {
    AlterTopic {
        name: name.to_owned(),
        ..AlterTopic::default()
    }
}

fn set(name: &str, value: &str) -> AlterTopic {
    AlterTopic {
        set: entry(name, value),
        ..alter("a")
    }
}

fn unset(name: &str) -> AlterTopic {
    AlterTopic {
        unset: vec![name.to_owned()],
        ..alter("a")
    }
}

fn partitions(partitions: u32) -> AlterTopic {
    AlterTopic {
        partitions,
        ..alter("a")
    }
}

fn change(machine: &mut Machine, command: AlterTopic) -> Result<(Arc<Topic>, bool), MetaError> {
    match run(machine, Command::AlterTopic(command)) {
        Reply::Altered { topic, changed } => Ok((topic, changed)),
        Reply::Refused(error) => Err(error),
        other => panic!("{other:?}"),
    }
}

/// A topic "a" with two partitions and `retention.ms` of its own.
fn machine() -> Machine {
    let mut machine = Machine::new(Limits::default());
    let command = CreateTopic {
        configs: entry("retention.ms", "1h"),
        ..create("a", 2, 1)
    };
    make(&mut machine, command).unwrap();
    machine
}

fn shown(topic: &Topic, name: &str) -> (String, ConfigSource) {
    let (value, source) = topic.value(ConfigKey::named(name).unwrap());
    (value.to_string(), source)
}

#[test]
fn entries_and_partitions_change_in_one_step_and_stay_changed() {
    let mut machine = machine();
    let command = AlterTopic {
        id: Some(id(1)),
        set: [entry("segment.bytes", "1MiB"), entry("preallocate", "true")].concat(),
        unset: vec!["retention.ms".to_owned()],
        partitions: 5,
        ..alter("a")
    };
    let (topic, changed) = change(&mut machine, command.clone()).unwrap();
    assert!(changed);
    assert_eq!(
        (topic.id, topic.partitions, topic.created),
        (id(1), 5, Timestamp(42))
    );
    assert_eq!(topic.config().segment_bytes, 1 << 20);
    assert_eq!(
        shown(&topic, "preallocate"),
        ("true".to_owned(), ConfigSource::Topic)
    );
    let seven_days = ("604800000".to_owned(), ConfigSource::Default);
    assert_eq!(shown(&topic, "retention.ms"), seven_days);
    assert_eq!(
        machine.topic("a"),
        Some(&topic),
        "what was answered is what there is"
    );
    assert_eq!(machine.topic_by_id(id(1)), Some(&topic));
    let restored = Machine::restore(Limits::default(), machine.snapshot()).unwrap();
    assert_eq!(restored.topic("a"), Some(&topic));
    assert_eq!(restored.snapshot(), machine.snapshot());
    // The same again changes nothing, so a repetition does no harm.
    assert_eq!(change(&mut machine, command), Ok((topic, false)));
}

#[test]
fn one_bad_part_refuses_all_of_a_change() {
    let mut machine = machine();
    let before = machine.snapshot();
    let good = || entry("segment.bytes", "1MiB");
    let with = |bad: (String, String)| AlterTopic {
        set: [good(), vec![bad]].concat(),
        ..alter("a")
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    for (name, value, reason) in [
        ("retention.mss", "1", "there is no topic configuration"),
        ("retention.ms", "soon", "is not a duration"),
        ("cleanup.policy", "compact", "there is no compaction yet"),
        ("delete.retention.ms", "1", "there is no compaction yet"),
        ("segment.bytes", "2MiB", "is given twice"),
        ("storage", "memory", "is fixed when a topic is made"),
        ("", "", "there is no topic configuration"),
    ] {
        let refused = change(&mut machine, with(pair(name, value))).unwrap_err();
        assert!(refused.to_string().contains(reason), "{name}: {refused}");
    }
    let both = AlterTopic {
        set: good(),
        unset: vec!["segment.bytes".to_owned()],
        ..alter("a")
    };
    assert_eq!(
        change(&mut machine, both),
        Err(MetaError::Config(ConfigError::Twice("segment.bytes")))
    );
    let refused = change(&mut machine, unset("retention.m")).unwrap_err();
    let unknown = ConfigError::Unknown {
        name: "retention.m".to_owned(),
        nearest: Some("retention.ms"),
    };
    assert_eq!(refused, MetaError::Config(unknown));
    let fewer = AlterTopic {
        set: good(),
        partitions: 1,
        ..alter("a")
    };
    let refused = change(&mut machine, fewer).unwrap_err();
    assert!(
        matches!(&refused, MetaError::FewerPartitions { has: 2, asked: 1, .. }),
        "{refused:?}"
    );
    assert_eq!(machine.snapshot(), before);
}

#[test]
fn what_is_so_already_is_no_change() {
    let mut machine = machine();
    for command in [
        alter("a"),
        set("retention.ms", "60m"),
        unset("segment.bytes"),
        partitions(2),
        set("storage", "disk"),
        unset("storage"),
    ] {
        let (topic, changed) = change(&mut machine, command.clone()).unwrap();
        assert!(!changed, "{command:?}");
        assert_eq!(topic.partitions, 2);
    }
    // Its own from now on, although the value is the default's.
    let (topic, changed) = change(&mut machine, set("segment.bytes", "256MiB")).unwrap();
    assert!(changed);
    assert_eq!(shown(&topic, "segment.bytes").1, ConfigSource::Topic);
}

#[test]
fn storage_stays_as_the_topic_was_made() {
    let mut machine = Machine::new(Limits::default());
    let command = CreateTopic {
        configs: entry("storage", "disk"),
        ..create("a", 1, 1)
    };
    make(&mut machine, command).unwrap();
    let fixed = Err(MetaError::Config(ConfigError::Fixed("storage")));
    assert_eq!(change(&mut machine, unset("storage")), fixed);
    assert_eq!(change(&mut machine, set("storage", "memory")), fixed);
    assert!(!change(&mut machine, set("storage", "disk")).unwrap().1);
}

#[test]
fn partitions_grow_within_the_limits_and_count_for_later_topics() {
    let limits = Limits {
        topics_max: 3,
        partitions_per_topic_max: 4,
        partitions_max: 6,
        partitions_default: 1,
    };
    let mut machine = Machine::new(limits);
    make(&mut machine, create("a", 2, 1)).unwrap();
    make(&mut machine, create("b", 2, 2)).unwrap();
    assert_eq!(
        change(&mut machine, partitions(5)),
        Err(MetaError::Partitions { asked: 5, max: 4 })
    );
    assert_eq!(change(&mut machine, partitions(4)).unwrap().0.partitions, 4);
    assert_eq!(
        make(&mut machine, create("c", 1, 3)),
        Err(MetaError::TooManyPartitions { asked: 1, max: 6 })
    );
    let more = AlterTopic {
        partitions: 3,
        ..alter("b")
    };
    assert_eq!(
        change(&mut machine, more),
        Err(MetaError::TooManyPartitions { asked: 1, max: 6 })
    );
    let mut restored = Machine::restore(limits, machine.snapshot()).unwrap();
    for machine in [&mut machine, &mut restored] {
        delete(machine, "a", None).unwrap();
        assert_eq!(make(machine, create("c", 4, 4)).unwrap().0.partitions, 4);
    }
    // A limit that was lowered since refuses no change that does not touch it.
    let lowered = Limits {
        partitions_per_topic_max: 1,
        partitions_max: 1,
        ..limits
    };
    let mut lowered = Machine::restore(lowered, machine.snapshot()).unwrap();
    let command = AlterTopic {
        set: entry("retention.ms", "1h"),
        partitions: 4,
        ..alter("c")
    };
    assert!(change(&mut lowered, command).unwrap().1);
}

#[test]
fn only_the_topic_that_is_meant_is_changed() {
    let mut machine = machine();
    let other = AlterTopic {
        id: Some(id(9)),
        ..partitions(3)
    };
    assert!(matches!(
        change(&mut machine, other),
        Err(MetaError::OtherId { id: is, .. }) if is == id(1)
    ));
    let refused = change(&mut machine, alter("aa")).unwrap_err();
    assert!(
        matches!(&refused, MetaError::Unknown { nearest: Some(nearest), .. } if nearest.as_str() == "a"),
        "{refused:?}"
    );
    for internal in ["__meta", "__groups"] {
        assert!(matches!(
            change(&mut machine, alter(internal)),
            Err(MetaError::Name(InvalidTopicName::Reserved))
        ));
    }
}

#[test]
fn an_entry_that_is_unset_falls_back_to_the_brokers() {
    let defaults = TopicDefaults::parse([("retention.ms", "1d")]).unwrap();
    let mut machine = machine().with_defaults(&Arc::new(defaults));
    let (topic, _) = change(&mut machine, unset("retention.ms")).unwrap();
    assert_eq!(topic.config().retention_ms, Some(86_400_000));
    assert_eq!(shown(&topic, "retention.ms").1, ConfigSource::Broker);
    assert_eq!(machine.topic("a"), Some(&topic));
}

#[test]
fn a_creation_that_is_repeated_after_a_change_finds_its_topic() {
    let mut machine = machine();
    change(&mut machine, partitions(3)).unwrap();
    let again = CreateTopic {
        configs: entry("retention.ms", "1h"),
        ..create("a", 2, 1)
    };
    let mut restored = Machine::restore(Limits::default(), machine.snapshot()).unwrap();
    for machine in [&mut machine, &mut restored] {
        let (topic, created) = make(machine, again.clone()).unwrap();
        assert_eq!((topic.partitions, created), (3, true));
        let reused = make(machine, create("b", 2, 1));
        assert!(matches!(reused, Err(MetaError::OperationId(_))), "{reused:?}");
    }
}

#[test]
fn stored_changes_that_cannot_be_are_refused() {
    let decode = |bytes: &'static [u8]| MetaRecord::decode(bytes::Bytes::from_static(bytes));
    assert_eq!(decode(&[0x22, 0x00]), Err(DecodeError::TopicId(0)));
    let mut no_partitions = vec![0x22, 18, 0x0a, 16];
    no_partitions.extend([9; 16]);
    assert_eq!(
        MetaRecord::decode(no_partitions.into()),
        Err(DecodeError::NoPartitions)
    );
}
