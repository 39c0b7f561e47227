//! The commented default and the reference, made from the table.

use std::fmt::Write as _;

use super::Settings;
use super::keys::{KEYS, Key, Reload};
use super::source::topic_entries;

const HEAD: &str = "\
# Configuration

<!-- Made by `naru config docs`; a test compares them. Change the table in src/config/keys.rs instead. -->

The broker needs no configuration. What is to be different can be said in four places; the first that says anything wins:

1. flags of `naru serve`, and `--set section.key=value`, as often as you like; a flag wins over `--set`, a later `--set` over an earlier one;
2. variables `NARU_SECTION__KEY`, with two underscores: `NARU_STORAGE__DATA_DIR=/var/lib/naru`;
3. a file in TOML: `--config FILE`, otherwise `/etc/naru/naru.toml` or, if that is not there, `naru.toml` in the current directory;
4. the defaults.

What is misspelt is refused, with its place and the nearest name; so are settings that do not fit each other, with the names of both. All mistakes are told at once. Variables without two
underscores (`NARU_SERVER`, `NARU_TIMEOUT`) belong to the command line. `--config /dev/null` reads no file at all; `naru dev` and `naru demo` start their brokers so, and without the
variables: what they show does not depend on where they run.

```toml
[server]
listen = \"127.0.0.1:9640\"

[storage]
data_dir = \"/var/lib/naru\"

[topic.defaults]
partitions = 3
\"retention.ms\" = \"30d\"
segment.bytes = \"256MiB\"
```

Durations have a unit, `500ms`, `10s`, `30m`, `12h`, `7d`, `1w`; a plain number is milliseconds. Sizes too: `64KiB`, `256MiB`, `1GiB`, `1MB` = 1,000,000; a plain number is bytes.

| command | what it does |
|---|---|
| `naru config show` | every value in force, and where it comes from; takes the flags of `serve` |
| `naru config check [FILE]` | checks without starting anything: all mistakes, each with its line; exit code 8 if there are any |
| `naru config init [FILE]` | writes a file with all defaults, commented out |
| `naru config docs` | prints this page |

**SIGHUP** makes a running broker read everything again. What is marked *hot* below takes effect at once; the log says what does (`config_reloaded`), and what waits for a restart, at every
`log.level`. If anything is wrong nothing changes: the log says what (`config_reload_failed`), and the metric `naru_config_last_reload_successful` is 0 until a reload succeeds. The file is the one that the
start has found: if it is gone, the reload fails. Flags and variables of a process never change: what they set, the file cannot change while it runs. `NARU_LOG` and `--log-level` set `log.level`.

Hot: ";

const TOPICS: &str = "
Every entry that a topic can have, under Kafka's name, may have a default here; a topic's own value wins. Names with dots can be quoted or not. They come from the file or from `--set`, never from a
variable, and change with SIGHUP, also for topics that exist. What they mean: [Topics](topics.md).
";

/// The reference: `docs/configuration.md`.
pub fn reference() -> String {
    let defaults = Settings::default();
    let hot = KEYS.iter().filter(|key| key.reload == Reload::Hot);
    let hot: Vec<String> = hot.map(|key| format!("`{}`", key.name)).collect();
    let mut text = format!("{HEAD}{}, and every other default of topics.\n", hot.join(", "));
    for (section, keys) in sections() {
        let _ = write!(
            text,
            "\n## {section}\n\n| key | default | what it takes | reload | what it does |\n|---|---|---|---|---|\n"
        );
        for key in keys {
            let default = match key.shown(&defaults) {
                empty if empty.is_empty() => String::new(),
                shown => format!("`{shown}`"),
            };
            let (name, kind, reload, about) = (key.name, key.kind, key.reload.word(), key.about);
            let _ = writeln!(text, "| `{name}` | {default} | {kind} | {reload} | {about} |");
        }
    }
    text + TOPICS
}

/// A file that changes nothing: all settings with their defaults, commented out.
pub fn commented_default() -> String {
    let defaults = Settings::default();
    let mut text =
        "# Configuration of the broker Naru. A line counts once its # is removed; all show the default.\n"
            .to_owned();
    for (section, keys) in sections() {
        let _ = write!(text, "\n[{section}]\n");
        for key in keys {
            let own = key.name.rsplit('.').next().unwrap_or(key.name);
            let value = key.kind.toml(&(key.get)(&defaults));
            let (about, kind, reload) = (key.about, key.kind, key.reload.word());
            let _ = write!(text, "# {about}\n# {kind} ({reload})\n#{own} = {value}\n");
        }
    }
    for entry in topic_entries().filter(|entry| entry.has_effect()) {
        let value = toml::Value::String(entry.default_value().to_string());
        let _ = write!(
            text,
            "# {}\n# {}\n#\"{}\" = {value}\n",
            one_line(entry.about()),
            entry.expected(),
            entry.name()
        );
    }
    text
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The keys by section, in the order of the table.
fn sections() -> Vec<(&'static str, Vec<&'static Key>)> {
    let mut sections: Vec<(&'static str, Vec<&'static Key>)> = Vec::new();
    for key in KEYS {
        let section = key.name.rsplit_once('.').map_or("", |(section, _)| section);
        match sections.last_mut() {
            Some((last, keys)) if *last == section => keys.push(key),
            _ => sections.push((section, vec![key])),
        }
    }
    sections
}
