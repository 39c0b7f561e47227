//! Rules about what the broker is deployed with: image, compose file, unit, alerts and the page about operations say what the code
//! does.
//!
//! Each file is read only as far as the rules need, line by line: no parser for its format.

use std::collections::BTreeSet;
use std::time::Duration;

use naru::cli::Exit;
use naru::config::{Configuration, LoadErrors, Settings, Sources};
use naru::server::ServeError;

use super::scan::{read, repository};

const DOCKERFILE: &str = "Dockerfile";
const COMPOSE: &str = "deploy/docker-compose.yml";
const UNIT: &str = "deploy/naru.service";
const FILE: &str = "deploy/naru.toml";
const ALERTS: &str = "deploy/prometheus/alerts.yml";
const OPERATIONS: &str = "docs/operations.md";

/// What the last checkpoint may take behind the drain, at least.
const CHECKPOINT_ROOM: Duration = Duration::from_secs(20);

/// What newer builders know and buildah 1.28 does not.
const TOO_NEW: &[&str] = &["<<", "--link", "--parents"];

/// An instruction of a Dockerfile: its name, and the rest with continued lines joined.
fn instructions(text: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let mut goes_on = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let (part, more) = line
            .strip_suffix('\\')
            .map_or((line, false), |part| (part.trim(), true));
        match found.last_mut().filter(|_| goes_on) {
            Some((_, rest)) => *rest = format!("{rest} {part}"),
            None => {
                let (name, rest) = part.split_once(' ').unwrap_or((part, ""));
                found.push((name.to_owned(), rest.to_owned()));
            }
        }
        goes_on = more;
    }
    found
}

/// The instructions of this name.
fn all<'a>(instructions: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    let named = instructions.iter().filter(|(n, _)| n == name);
    named.map(|(_, rest)| rest.as_str()).collect()
}

/// The last instruction of this name: the one that counts.
fn last<'a>(instructions: &'a [(String, String)], name: &str) -> &'a str {
    all(instructions, name).pop().unwrap_or_default()
}

/// `A=b C=d` as pairs.
fn pairs(text: &str) -> Vec<(String, String)> {
    let words = text.split_whitespace().filter_map(|word| word.split_once('='));
    words
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The words of `["a", "b"]`.
fn listed(text: &str) -> Vec<String> {
    let inside = text.split_once('[').and_then(|(_, rest)| rest.rsplit_once(']'));
    let items = inside.map_or("", |(inside, _)| inside).split(',');
    items
        .map(|item| item.trim().trim_matches('"').to_owned())
        .collect()
}

/// Values of `key: value` lines, whatever they stand below.
fn yaml<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let value = |line: &'a str| line.trim().strip_prefix(key)?.strip_prefix(": ");
    text.lines()
        .filter_map(value)
        .map(|v| v.trim_matches('"'))
        .collect()
}

/// Values of `Key=value` lines of a unit, the words of all of them.
fn unit_words(text: &str, key: &str) -> Vec<String> {
    let value = |line: &str| line.strip_prefix(key)?.strip_prefix('=').map(str::to_owned);
    let values: Vec<String> = text.lines().filter_map(value).collect();
    values.join(" ").split_whitespace().map(str::to_owned).collect()
}

fn seconds(text: &str) -> Duration {
    let number = text.strip_suffix('s').and_then(|digits| digits.parse().ok());
    Duration::from_secs(number.unwrap_or_else(|| panic!("{text} is not a number of seconds")))
}

fn loaded(environment: &[(String, String)]) -> Result<Configuration, LoadErrors> {
    Sources {
        environment: environment
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        ..Sources::default()
    }
    .load()
}

/// Words of a text that are made of these characters alone, and begin so.
fn words<'a>(text: &'a str, begin: &str, of: fn(char) -> bool) -> BTreeSet<&'a str> {
    text.split(|c| !of(c))
        .filter(|word| word.starts_with(begin))
        .collect()
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Metrics that a text names and the page about metrics does not explain. Histograms have three series.
fn unknown_metrics<'a>(text: &'a str, reference: &str) -> Vec<&'a str> {
    let known = |name: &str| {
        let family = ["_bucket", "_count", "_sum"]
            .iter()
            .find_map(|end| name.strip_suffix(end));
        [Some(name), family]
            .into_iter()
            .flatten()
            .any(|name| reference.contains(&format!("| `{name}` |")))
    };
    let mut named = words(text, "naru_", is_name);
    named.extend(words(text, "process_", is_name));
    named.into_iter().filter(|name| !known(name)).collect()
}

/// Settings that a text names, as `section.key` between backticks or as a variable, and the reference does not.
fn unknown_settings(text: &str, reference: &str) -> Vec<String> {
    let sections = ["server", "storage", "limits", "http", "log"];
    let code = text.split('`').skip(1).step_by(2);
    let keys = code.filter(|word| {
        let section = word.split_once('.').map(|(section, _)| section);
        section.is_some_and(|section| sections.contains(&section))
            && word.chars().all(|c| is_name(c) || c == '.')
    });
    let variables = words(text, "NARU_", is_name);
    let variables = variables.into_iter().filter_map(|name| {
        let key = name.strip_prefix("NARU_").filter(|key| key.contains("__"))?;
        Some(key.to_lowercase().replace("__", "."))
    });
    keys.map(str::to_owned)
        .chain(variables)
        .filter(|key| !reference.contains(&format!("| `{key}` |")))
        .collect()
}

/// First cells of the table below a heading.
fn first_cells<'a>(document: &'a str, heading: &str) -> Vec<&'a str> {
    let mut lines = document.lines().skip_while(|line| *line != heading);
    let heading = lines.next();
    assert!(heading.is_some(), "the heading is there");
    let section = lines.take_while(|line| !line.starts_with('#'));
    let rows = section.filter_map(|line| line.strip_prefix("| ")).skip(1);
    rows.filter_map(|row| row.split(" |").next()).collect()
}

#[test]
fn image_configures_the_broker_by_variables_that_exist_and_asks_before_it_is_open() {
    let dockerfile = instructions(&read(DOCKERFILE));
    let mut environment = pairs(last(&dockerfile, "ENV"));
    assert!(!environment.is_empty(), "{DOCKERFILE} has variables");
    let refused = loaded(&environment).unwrap_err();
    assert!(refused.hint().contains("--insecure-no-auth"), "{refused}");
    let compose = read(COMPOSE);
    let added = compose.lines().filter_map(|line| line.trim().split_once(": "));
    let added = added.filter(|(name, _)| name.starts_with("NARU_") && name.contains("__"));
    environment.extend(added.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())));
    let settings = loaded(&environment).unwrap().settings;
    let data_dir = settings.data_dir.to_string_lossy().into_owned();
    assert_eq!(listed(last(&dockerfile, "VOLUME")), [data_dir.as_str()]);
    assert!(
        compose.contains(&format!(":{data_dir}\n")),
        "{COMPOSE} mounts {data_dir}"
    );
    let ports = [settings.listen.port(), settings.http.listen.port()];
    let defaults = Settings::default();
    assert_eq!(ports, [defaults.listen.port(), defaults.http.listen.port()]);
    assert_eq!(last(&dockerfile, "EXPOSE"), format!("{} {}", ports[0], ports[1]));
    for port in ports {
        let published = format!("\"127.0.0.1:{port}:{port}\"");
        assert!(compose.contains(&published), "{COMPOSE} publishes {published}");
    }
    let published: Vec<&str> = compose.lines().filter(|l| l.trim().starts_with("- \"")).collect();
    assert!(
        published.iter().all(|line| line.contains("\"127.0.0.1:")),
        "{published:?}"
    );
}

#[test]
fn image_runs_the_binary_as_nobody_and_without_a_shell() {
    let text = read(DOCKERFILE);
    let dockerfile = instructions(&text);
    let user = last(&dockerfile, "USER");
    assert_eq!(user, "65532:65532");
    let copied = all(&dockerfile, "COPY");
    let owner = format!("--chown={user} ");
    assert!(
        copied.iter().any(|copy| copy.contains(&owner)),
        "the data directory is the user's"
    );
    assert_eq!(last(&dockerfile, "STOPSIGNAL"), "SIGTERM");
    assert_eq!(
        listed(last(&dockerfile, "CMD")),
        ["serve"],
        "a flag would win over variables"
    );
    let binary = listed(last(&dockerfile, "ENTRYPOINT"));
    let health = listed(last(&dockerfile, "HEALTHCHECK"));
    assert_eq!(health[..2], [binary[0].as_str(), "healthcheck"]);
    let compose = read(COMPOSE);
    let same = listed(yaml(&compose, "test")[0]);
    assert_eq!(same[1..], health, "{COMPOSE} has the image's health check");
    for bad in TOO_NEW {
        let used = dockerfile.iter().any(|(_, rest)| rest.contains(bad));
        assert!(!used, "{DOCKERFILE} uses {bad}, which buildah 1.28 does not know");
    }
}

#[test]
fn image_is_built_with_the_oldest_rust_that_may_be_and_from_what_is_sent_to_the_builder() {
    let dockerfile = instructions(&read(DOCKERFILE));
    let manifest = read("Cargo.toml");
    let version = pairs(&manifest.replace(" = ", "="));
    let version = version.iter().find(|(name, _)| name == "rust-version").unwrap();
    let builder = format!(
        "BUILD_BASE=docker.io/library/rust:{}-bookworm",
        version.1.trim_matches('"')
    );
    assert!(all(&dockerfile, "ARG").contains(&builder.as_str()), "{builder}");
    let ignored = read(".dockerignore");
    let sent: Vec<&str> = ignored
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
        .collect();
    let copies = all(&dockerfile, "COPY");
    for copy in copies.iter().filter(|copy| !copy.starts_with("--from")) {
        let words: Vec<&str> = copy.split(' ').collect();
        for source in &words[..words.len() - 1] {
            assert!(sent.contains(source), "{source} is in .dockerignore as !{source}");
            assert!(repository().join(source).exists(), "{source} exists");
        }
    }
}

#[test]
fn unit_starts_again_what_a_start_can_help_and_waits_for_the_drain() {
    let unit = read(UNIT);
    let prevented = unit_words(&unit, "RestartPreventExitStatus");
    let useless = [
        Exit::Usage.code(),
        Exit::Conflict.code(),
        Exit::StorageFailed.code(),
    ];
    assert_eq!(prevented, useless.map(|code| code.to_string()));
    assert_eq!(ServeError::Poisoned.exit_code(), Exit::StorageFailed.code());
    let grace = Settings::default().drain + CHECKPOINT_ROOM;
    assert!(seconds(&unit_words(&unit, "TimeoutStopSec")[0]) >= grace);
    assert!(seconds(yaml(&read(COMPOSE), "stop_grace_period")[0]) >= grace);
    assert_eq!(unit_words(&unit, "ExecReload"), ["/bin/kill", "-HUP", "$MAINPID"]);
}

#[test]
fn unit_leaves_the_configuration_to_a_file_that_is_right() {
    let unit = read(UNIT);
    let start = unit_words(&unit, "ExecStart");
    assert_eq!(
        start,
        ["/usr/bin/naru", "serve", "--config", "/etc/naru/naru.toml"]
    );
    assert!(
        unit_words(&unit, "Environment").is_empty(),
        "a variable would win over the file"
    );
    let user = unit_words(&unit, "User");
    let made = read("deploy/naru.sysusers");
    assert!(
        made.contains(&format!("\nu {} ", user[0])),
        "deploy/naru.sysusers makes {user:?}"
    );
    assert!(
        unit_words(&unit, "DynamicUser").is_empty(),
        "its data directory would be a symbolic link"
    );
    let sources = Sources {
        file: Some(repository().join(FILE)),
        ..Sources::default()
    };
    let settings = sources.load().unwrap().settings;
    let state = format!("/var/lib/{}", unit_words(&unit, "StateDirectory")[0]);
    assert_eq!(settings.data_dir.to_string_lossy(), state);
}

#[test]
fn descriptors_are_enough_for_the_connections_that_are_allowed() {
    let limit: usize = unit_words(&read(UNIT), "LimitNOFILE")[0].parse().unwrap();
    // Connections may have 60 % of them.
    assert!(
        limit / 10 * 6 >= Settings::default().net.connections_max,
        "{limit}"
    );
    for bound in ["soft", "hard"] {
        assert_eq!(yaml(&read(COMPOSE), bound), [limit.to_string()]);
    }
}

#[test]
fn alerts_and_operations_name_metrics_and_settings_that_exist() {
    let (metrics, settings) = (read("docs/metrics.md"), read("docs/configuration.md"));
    for path in [ALERTS, OPERATIONS] {
        assert_eq!(unknown_metrics(&read(path), &metrics), [""; 0], "{path}");
    }
    for path in [OPERATIONS, COMPOSE, DOCKERFILE, FILE] {
        assert_eq!(unknown_settings(&read(path), &settings), [""; 0], "{path}");
    }
}

#[test]
fn operations_say_what_to_do_about_every_alert_and_exit_code() {
    let operations = read(OPERATIONS);
    let alerts = read(ALERTS);
    let names: Vec<String> = yaml(&alerts, "- alert")
        .iter()
        .map(|name| format!("`{name}`"))
        .collect();
    assert!(!names.is_empty(), "the alerts are found");
    assert_eq!(first_cells(&operations, "### Alerts"), names);
    let promised = read("docs/guarantees.md");
    assert_eq!(
        first_cells(&operations, "## Exit codes"),
        first_cells(&promised, "## Exit codes")
    );
}

#[test]
fn what_does_not_exist_is_found() {
    let metrics = "| `naru_a` | gauge |\n| `naru_b_seconds` | histogram |";
    let text = "naru_a naru_b_seconds_bucket{x=\"naru_c\"} process_d";
    assert_eq!(unknown_metrics(text, metrics), ["naru_c", "process_d"]);
    let settings = "| `server.listen` | x |\n| `storage.data_dir` | y |";
    let text =
        "`server.listen` NARU_STORAGE__DATA_DIR NARU_SERVER `server.lissten` NARU_LOG__LEVEL `server.rs and`";
    assert_eq!(unknown_settings(text, settings), ["server.lissten", "log.level"]);
}

#[test]
fn files_are_read_as_their_programs_read_them() {
    let text = "# x\nENV A=1 \\\n    # in between\n    B=2\n\nCMD [\"a\", \"b\"]\nCMD [\"c\"]";
    let read = instructions(text);
    assert_eq!(last(&read, "ENV"), "A=1 B=2");
    assert_eq!(pairs(last(&read, "ENV")).len(), 2);
    assert_eq!(listed(last(&read, "CMD")), ["c"]);
    assert_eq!(unit_words("A=b c\nAB=d\nA=e", "A"), ["b", "c", "e"]);
    assert_eq!(yaml("a:\n  b: \"c\"\nbb: d", "b"), ["c"]);
    assert_eq!(
        first_cells("# A\n## B\n| c |\n|---|\n| d | e |\n| f |\n# G\n| h |", "## B"),
        ["d", "f"]
    );
}
