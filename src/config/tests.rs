//! Checks of settings, and how they are read from their sources.

use std::path::Path;

use super::keys::KEYS;
use super::value::{Kind, Raw, Value};
use super::*;
use crate::metadata;

fn listening(native: &str, http: &str) -> Settings {
    let mut settings = Settings {
        listen: native.parse().unwrap(),
        ..Settings::default()
    };
    settings.http.listen = http.parse().unwrap();
    settings
}

#[test]
fn the_defaults_are_on_loopback_and_fine() {
    let settings = Settings::default();
    assert_eq!(settings.check(), Ok(()));
    assert!(settings.exposed().is_empty());
}

#[test]
fn addresses_that_others_can_reach_need_consent() {
    for (native, http, setting) in [
        ("0.0.0.0:9640", "127.0.0.1:9641", "server.listen"),
        ("127.0.0.1:9640", "[::]:9641", "server.http"),
        ("192.168.1.7:0", "[::1]:0", "server.listen"),
        ("[::ffff:10.0.0.1]:0", "[::1]:0", "server.listen"),
    ] {
        let mut settings = listening(native, http);
        let error = settings.check().unwrap_err();
        assert!(
            matches!(&error, ConfigError::Exposed { setting: s, .. } if *s == setting),
            "{native} {http}: {error}"
        );
        settings.insecure_no_auth = true;
        assert_eq!(settings.check(), Ok(()));
        assert_eq!(settings.exposed().len(), 1);
    }
    for loopback in ["127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        assert_eq!(listening(loopback, "127.0.0.1:2").check(), Ok(()), "{loopback}");
    }
}

#[test]
fn two_listeners_need_two_ports() {
    let error = listening("127.0.0.1:7", "127.0.0.1:7").check().unwrap_err();
    assert_eq!(error, ConfigError::SameAddress("127.0.0.1:7".parse().unwrap()));
    assert_eq!(listening("127.0.0.1:0", "127.0.0.1:0").check(), Ok(()));
}

#[test]
fn a_tiny_journal_file_is_refused() {
    let mut settings = Settings::default();
    settings.storage.journal_file_bytes = 100;
    let error = settings.check().unwrap_err();
    assert_eq!(
        error,
        ConfigError::JournalFile {
            bytes: 100,
            min: 65_536
        }
    );
}

#[test]
fn a_bad_log_level_is_refused_before_anything_starts() {
    let mut settings = Settings::default();
    settings.log.level = "x=y=z".to_owned();
    assert!(matches!(settings.check(), Err(ConfigError::LogLevel(_))));
}

fn sources(file: &str, environment: &[(&str, &str)], sets: &[&str]) -> (tempfile::TempDir, Sources) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("naru.toml");
    std::fs::write(&path, file).unwrap();
    let sources = Sources {
        file: Some(path),
        environment: environment
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        sets: sets.iter().map(|set| (*set).to_owned()).collect(),
        ..Sources::default()
    };
    (dir, sources)
}

/// The error and its hint, the directory of the file taken out.
fn refused(file: &str, environment: &[(&str, &str)], sets: &[&str]) -> String {
    let (dir, sources) = sources(file, environment, sets);
    let error = sources.load().unwrap_err();
    let text = format!("{error}; {}", error.hint());
    text.replace(&format!("{}/", dir.path().display()), "")
}

fn line(configuration: &Configuration, key: &str) -> (String, String) {
    let shown = configuration.shown();
    let shown = shown.into_iter().find(|shown| shown.key == key).unwrap();
    let source = shown.source.to_string();
    let source = source.rsplit('/').next().unwrap().to_owned();
    (shown.value, source)
}

#[test]
fn flags_win_over_set_over_variables_over_the_file_over_defaults() {
    let file = "[storage]\njournal_files = 5\nreads_max = 6\nreserve_bytes = \"1GiB\"\ndata_dir = \"/f\"";
    let environment = [
        ("NARU_STORAGE__READS_MAX", "7"),
        ("NARU_STORAGE__RESERVE_BYTES", "2GiB"),
        ("NARU_STORAGE__DATA_DIR", "/e"),
        ("NARU_SERVER", "naru://somewhere"),
        ("OTHER__KEY", "x"),
    ];
    let sets = [
        "storage.reserve_bytes=3GiB",
        "storage.reserve_bytes=4GiB",
        "storage.data_dir=/s",
    ];
    let (_dir, mut sources) = sources(file, &environment, &sets);
    sources
        .flags
        .push(("storage.data_dir", "--data-dir", "/flag".to_owned()));
    let configuration = sources.load().unwrap();
    for (key, value, source) in [
        ("storage.apply_bytes", "40MiB", "default"),
        ("storage.journal_files", "5", "naru.toml:2"),
        ("storage.reads_max", "7", "env NARU_STORAGE__READS_MAX"),
        ("storage.reserve_bytes", "4GiB", "--set"),
        ("storage.data_dir", "/flag", "flag --data-dir"),
    ] {
        let expected = (value.to_owned(), source.to_owned());
        assert_eq!(line(&configuration, key), expected, "{key}");
    }
    assert_eq!(configuration.settings.data_dir, Path::new("/flag"));
    assert_eq!(configuration.settings.storage.reserve_bytes, 4 << 30);
}

#[test]
fn an_unknown_name_is_refused_with_its_place_and_the_nearest() {
    let unknown = |name, near| format!("there is no setting {name}; did you mean {near}?");
    assert_eq!(
        refused("# x\n[server]\nlistne = \"127.0.0.1:1\"", &[], &[]),
        format!("naru.toml:3:1: {}", unknown("server.listne", "server.listen"))
    );
    assert_eq!(
        refused("[server]\nlevel = \"info\"", &[], &[]),
        format!("naru.toml:2:1: {}", unknown("server.level", "log.level"))
    );
    assert_eq!(
        refused("", &[], &["storage.data_dri=x"]),
        format!("--set: {}", unknown("storage.data_dri", "storage.data_dir"))
    );
    assert_eq!(
        refused("", &[("NARU_STORAGE__DATA_DRI", "x")], &[]),
        "NARU_STORAGE__DATA_DRI: no setting has this variable; did you mean NARU_STORAGE__DATA_DIR?"
    );
    assert!(refused("[sevrer]", &[], &[]).starts_with("naru.toml:1:2: there is no setting sevrer;"));
    assert!(refused("", &[], &["server.listen"]).contains("has no ="));
    assert!(refused("a = = 1", &[], &[]).starts_with("naru.toml:1:5: this is no TOML"));
}

#[test]
fn values_of_a_wrong_type_unit_or_range_are_refused() {
    for (key, bad) in [
        ("server.listen", "\"localhost\""),
        ("server.listen", "9640"),
        ("server.insecure_no_auth", "\"yes\""),
        ("server.insecure_no_auth", "\"true\""),
        ("server.shutdown_grace", "\"10 parsecs\""),
        ("server.shutdown_grace", "-1"),
        ("server.shutdown_grace", "\"2h\""),
        ("server.shutdown_grace", "1.5"),
        ("storage.data_dir", "\"\""),
        ("storage.journal_file_bytes", "\"1KiB\""),
        ("storage.journal_file_bytes", "\"1 furlong\""),
        ("storage.journal_files", "2"),
        ("storage.journal_files", "\"4\""),
        ("storage.journal_files", "0x10"),
        ("storage.journal_files", "[4]"),
        ("storage.journal_files", "99999999999999999999"),
        ("limits.request_bytes_max", "\"65MiB\""),
        ("log.level", "\"x=y=z\""),
        ("log.level", "5"),
        ("log.format", "\"xml\""),
        ("topic.defaults.partitions", "0"),
    ] {
        let error = refused(&format!("{key} = {bad}"), &[], &[]);
        let start = format!("naru.toml:1:{}: {key} = ", key.len() + 4);
        assert!(
            error.starts_with(&start) || error.contains("this is no TOML"),
            "{key} {bad}: {error}"
        );
    }
    let text = refused("", &[], &["storage.journal_files=many"]);
    assert_eq!(
        text,
        "--set: storage.journal_files = \"many\" is not a whole number from 3 to 64; storage.journal_files: Journal files in the ring."
    );
}

#[test]
fn durations_and_sizes_have_units_and_plain_numbers_are_ms_and_bytes() {
    let file = "[server]\nshutdown_grace = 1500\n[storage]\ncheckpoint_every = \"2m\"\nreserve_bytes = 2097152\nmemory_tail_bytes = \"256 MB\"";
    let (_dir, sources) = sources(file, &[], &[]);
    let settings = sources.load().unwrap().settings;
    assert_eq!(settings.drain, Duration::from_millis(1500));
    assert_eq!(settings.storage.checkpoint_every, Duration::from_secs(120));
    assert_eq!(settings.storage.reserve_bytes, 2 << 20);
    assert_eq!(settings.storage.memory_tail_bytes, 256_000_000);
}

#[test]
fn limits_that_do_not_fit_each_other_are_refused() {
    for (small, large, sets) in [
        (
            "topic.defaults.partitions",
            "limits.partitions_per_topic_max",
            ["topic.defaults.partitions=3", "limits.partitions_per_topic_max=2"],
        ),
        (
            "limits.partitions_per_topic_max",
            "limits.partitions_max",
            ["limits.partitions_max=1000", "log.level=info"],
        ),
        (
            "limits.request_bytes_max",
            "limits.request_memory_bytes_max",
            [
                "limits.request_bytes_max=2MiB",
                "limits.request_memory_bytes_max=1MiB",
            ],
        ),
        (
            "limits.fetch_bytes_max",
            "limits.response_bytes_max",
            ["limits.fetch_bytes_max=9MiB", "log.level=info"],
        ),
        (
            "limits.request_bytes_max",
            "storage.journal_file_bytes",
            ["storage.journal_file_bytes=1MiB", "log.level=info"],
        ),
        (
            "limits.request_bytes_max",
            "storage.memory_tail_bytes",
            ["storage.memory_tail_bytes=16MiB", "storage.apply_bytes=1MiB"],
        ),
        (
            "storage.apply_bytes",
            "storage.memory_tail_bytes",
            ["storage.memory_tail_bytes=64MiB", "log.level=info"],
        ),
        (
            "topic.defaults.max.message.bytes",
            "limits.request_bytes_max",
            ["topic.defaults.max.message.bytes=8MiB", "log.level=info"],
        ),
    ] {
        let error = refused("", &[], &sets);
        assert!(
            error.starts_with(&format!("{small} is ")) && error.contains(large),
            "{error}"
        );
    }
    let error = refused("[storage]\nmemory_tail_bytes = \"64MiB\"", &[], &[]);
    let default = crate::model::show_bytes(Settings::default().storage.apply_bytes);
    assert_eq!(
        error,
        format!(
            "storage.apply_bytes is {default}, which is more than a third of storage.memory_tail_bytes, 64MiB \
             (storage.apply_bytes: default, storage.memory_tail_bytes: file naru.toml:2); lower the first or raise the second"
        )
    );
    let error = refused("", &[], &["storage.journal_file_bytes=1MiB"]);
    let expected = "limits.request_bytes_max is 8MiB, and a file of storage.journal_file_bytes, 1MiB, holds requests of 523KiB at most";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn what_the_engine_would_make_smaller_is_refused_before() {
    // Any of these sets, as far as it is not refused, is what the engine works with.
    for sets in [
        [
            "limits.request_bytes_max=64MiB",
            "storage.memory_tail_bytes=256MiB",
        ],
        [
            "limits.request_bytes_max=512KiB",
            "storage.journal_file_bytes=1MiB",
        ],
        [
            "limits.request_bytes_max=16KiB",
            "storage.journal_file_bytes=64KiB",
        ],
    ] {
        let (_dir, sources) = sources("", &[], &sets);
        let settings = sources.load().unwrap().settings;
        let fitted = settings.storage.clone().fitted();
        assert!(
            fitted.step_bytes_max >= settings.net.request_bytes_max,
            "{sets:?}"
        );
        assert_eq!(fitted.apply_bytes, settings.storage.apply_bytes, "{sets:?}");
        assert_eq!(fitted.journal_file_bytes, settings.storage.journal_file_bytes);
    }
    let (_dir, in_memory) = sources(
        "",
        &[],
        &["storage.in_memory=true", "storage.journal_file_bytes=64KiB"],
    );
    assert!(in_memory.load().is_ok(), "there is no journal");
}

#[test]
fn all_mistakes_are_told_at_once_with_a_mark_under_each() {
    let file = "[server]\n\tlistne = \"x\"\n[storage]\nreads_max =  0 # none\n";
    let (_dir, sources_of_file) = sources(file, &[("NARU_LOG__LEVLE", "x")], &["storage.journal_files=2"]);
    let errors = sources_of_file.load().unwrap_err();
    let places: Vec<String> = errors.iter().map(|error| error.to_string()).collect();
    let ends = [
        "naru.toml:2:2: there is no setting server.listne",
        "naru.toml:4:14: storage.reads_max = 0 is not a whole number from 1 to 256",
        "NARU_LOG__LEVLE: no setting has this variable",
        "--set: storage.journal_files = \"2\" is not a whole number from 3 to 64",
    ];
    assert_eq!(places.len(), ends.len(), "{places:?}");
    for (place, end) in places.iter().zip(ends) {
        assert!(place.ends_with(end), "{place}");
    }
    let shown: Vec<String> = errors
        .iter()
        .filter_map(|error| Some(error.excerpt()?.to_string()))
        .collect();
    assert_eq!(
        shown,
        [
            "  |\n2 |  listne = \"x\"\n  |  ^^^^^^",
            "  |\n4 | reads_max =  0 # none\n  |              ^"
        ]
    );
    let syntax = "a = = 1\n[server]\nb = \n";
    let (_dir, sources_of_syntax) = sources(syntax, &[], &[]);
    let errors = sources_of_syntax.load().unwrap_err();
    assert_eq!(errors.iter().count(), 2, "one per line: {errors}");
}

#[test]
fn a_broken_file_is_told_about_in_bounded_time_and_length() {
    use std::fmt::Write as _;
    // As many unknown names as fit, on one line.
    let mut line = "x = { ".to_owned();
    for number in 0..60_000 {
        let _ = write!(line, "k{number} = {number}, ");
    }
    line.push_str("z = 1 }");
    let (_dir, one_line) = sources(&line, &[], &[]);
    let errors = one_line.load().unwrap_err();
    assert_eq!(errors.iter().count(), 21);
    assert!(errors.to_string().ends_with("; and 59981 more"));
    for error in errors.iter() {
        let excerpt = error.excerpt().map(ToString::to_string).unwrap_or_default();
        assert!(excerpt.lines().all(|line| line.len() < 120), "{excerpt}");
    }
    let lines: String = (0..100_000).map(|number| format!("k{number}=1\n")).collect();
    let (_dir, many_lines) = sources(&lines, &[], &[]);
    assert!(many_lines.load().is_err());
}

#[test]
fn defaults_of_topics_are_quoted_or_nested_and_checked_like_a_topic() {
    let file = "[topic.defaults]\nretention.ms = \"1d\"\n\"segment.bytes\" = \"1MiB\"\npartitions = 3";
    let (_dir, sources_of_file) = sources(file, &[], &["topic.defaults.retention.ms=2d"]);
    let configuration = sources_of_file.load().unwrap();
    let expected =
        metadata::TopicDefaults::parse([("retention.ms", "2d"), ("segment.bytes", "1MiB")]).unwrap();
    assert_eq!(*configuration.settings.broker.topic_defaults, expected);
    assert_eq!(configuration.settings.broker.limits.partitions_default, 3);
    assert_eq!(
        line(&configuration, "topic.defaults.retention.ms"),
        ("2d".to_owned(), "--set".to_owned())
    );

    let error = refused("[topic.defaults]\nretention.m = 1", &[], &[]);
    assert!(
        error.starts_with("naru.toml:2:11: ") && error.ends_with("did you mean topic.defaults.retention.ms?"),
        "{error}"
    );
    let twice = refused(
        "[topic.defaults]\nretention.ms = 1\n\"retention.ms\" = 2",
        &[],
        &[],
    );
    assert!(
        twice.starts_with("naru.toml:3:1: topic.defaults.retention.ms is given twice; line 2"),
        "{twice}"
    );
    assert!(refused("[topic.defaults]\n\"retention.ms\" = [1]", &[], &[]).contains("an array"));
    assert!(refused("[topic.defaults]\n\"retention.ms\" = \"soon\"", &[], &[]).contains("a duration"));
    let variable = refused("", &[("NARU_TOPIC__DEFAULTS__RETENTION_MS", "1")], &[]);
    assert!(
        variable.contains("a variable cannot hold the defaults of topics"),
        "{variable}"
    );
}

#[test]
fn every_setting_reads_what_it_shows_and_sets_what_it_reads() {
    let defaults = Settings::default();
    for key in KEYS {
        let value = (key.get)(&defaults);
        let raw = Raw::Plain(key.shown(&defaults));
        assert_eq!(key.kind.parse(&raw), Some(value.clone()), "{}", key.name);
        let other = match (key.kind, value) {
            (
                Kind::Bytes { min, max } | Kind::Millis { min, max } | Kind::Count { min, max },
                Value::Number(now),
            ) => {
                // Whatever the range allows must fit the component.
                for number in [min, max] {
                    let mut settings = Settings::default();
                    (key.set)(&mut settings, Value::Number(number));
                    assert_eq!((key.get)(&settings), Value::Number(number), "{}", key.name);
                }
                Value::Number(if now == min { max } else { min })
            }
            (_, Value::Flag(flag)) => Value::Flag(!flag),
            (_, Value::Address(_)) => Value::Address("127.0.0.9:9".parse().unwrap()),
            (Kind::Words(words), Value::Text(now)) => {
                Value::Text(words.iter().find(|word| **word != now).unwrap().to_string())
            }
            (_, _) => Value::Text("debug".to_owned()),
        };
        let mut settings = Settings::default();
        (key.set)(&mut settings, other.clone());
        assert_eq!((key.get)(&settings), other, "{}", key.name);
        let changed = KEYS.iter().filter(|k| (k.get)(&settings) != (k.get)(&defaults));
        assert_eq!(changed.count(), 1, "{} changes itself alone", key.name);
    }
}

#[test]
fn the_commented_default_is_a_file_that_changes_nothing() {
    let text = commented_default();
    let (_dir, commented) = sources(&text, &[], &[]);
    assert!(
        commented
            .load()
            .unwrap()
            .shown()
            .iter()
            .all(|line| line.source == Source::Default)
    );
    let counting: Vec<&str> = text
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| !rest.starts_with(' '))
                .unwrap_or(line)
        })
        .collect();
    let (_dir, counting) = sources(&counting.join("\n"), &[], &[]);
    let shown = counting.load().unwrap().shown();
    let defaults = Settings::default();
    for key in KEYS {
        let line = shown.iter().find(|line| line.key == key.name).unwrap();
        assert_eq!(line.value, key.shown(&defaults), "{}", key.name);
        assert_ne!(line.source, Source::Default, "{}", key.name);
    }
    assert!(shown.iter().any(|line| line.key == "topic.defaults.retention.ms"));
}

#[test]
fn the_document_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let written = std::fs::read_to_string(path).unwrap();
    assert!(
        written == reference(),
        "docs/configuration.md is not what `naru config docs` prints: write it anew"
    );
}

#[test]
fn a_reload_applies_what_is_hot_and_names_what_waits() {
    let (_dir, old) = sources("", &[], &[]);
    let sets = [
        "log.level=debug",
        "server.shutdown_grace=3s",
        "limits.topics_max=7",
        "limits.connections_max=7",
        "topic.defaults.retention.ms=1d",
    ];
    let (_other_dir, new) = sources("", &[], &sets);
    let (mut running, new) = (old.load().unwrap(), new.load().unwrap());
    let hot = [
        "server.shutdown_grace",
        "limits.topics_max",
        "log.level",
        "topic.defaults.retention.ms",
    ];
    for hot in [&hot[..], &[]] {
        // The second time nothing is left that is hot; the rest goes on waiting.
        assert_eq!(
            running.apply(&new),
            (
                hot.iter().map(|key| (*key).to_owned()).collect(),
                vec!["limits.connections_max".to_owned()]
            )
        );
        assert_eq!(running.settings.drain, Duration::from_secs(3));
        assert_eq!(running.settings.log.level, "debug");
        assert_eq!(running.settings.broker.limits.topics_max, 7);
        assert_eq!(
            running.settings.broker.topic_defaults.number("retention.ms"),
            Some(86_400_000)
        );
        assert_eq!(
            running.settings.net.connections_max,
            net::Settings::default().connections_max
        );
    }
}

#[test]
fn a_file_that_is_named_must_be_there_and_be_small() {
    let named = |path: &str| Sources {
        file: Some(path.into()),
        ..Sources::default()
    };
    let missing = named("/nowhere/naru.toml").load().unwrap_err();
    assert!(
        missing
            .to_string()
            .starts_with("cannot read the configuration /nowhere/naru.toml")
    );
    assert!(
        named("/dev/zero")
            .load()
            .unwrap_err()
            .to_string()
            .contains("longer than")
    );
    let usual = Sources {
        usual_files: vec!["/nowhere/naru.toml".into()],
        ..Sources::default()
    };
    assert!(usual.load().is_ok());
}

#[test]
fn the_file_of_the_start_is_the_one_that_is_read_again() {
    let (_dir, sources) = sources("[log]\nlevel = \"debug\"", &[], &[]);
    let file = sources.file.clone().unwrap();
    let earlier = file.with_file_name("earlier.toml");
    let usual = Sources {
        file: None,
        usual_files: vec![earlier.clone(), file.clone()],
        ..sources
    };
    let running = usual.load().unwrap();
    std::fs::write(&earlier, "[log]\nlevel = \"trace\"").unwrap();
    assert_eq!(running.read_again().unwrap().settings.log.level, "debug");
    std::fs::remove_file(&file).unwrap();
    let error = running.read_again().unwrap_err().to_string();
    assert!(error.starts_with("cannot read the configuration"), "{error}");
    // One that appears where none was is read, and stays.
    std::fs::remove_file(&earlier).unwrap();
    let mut without = usual.load().unwrap();
    std::fs::write(&file, "[log]\nlevel = \"warn\"").unwrap();
    let new = without.read_again().unwrap();
    assert_eq!(without.apply(&new).0, ["log.level"]);
    std::fs::remove_file(&file).unwrap();
    assert!(without.read_again().is_err());
}
