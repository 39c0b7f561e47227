//! Where values come from: a file, variables, `--set` and flags; and how they become settings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file;
use super::keys::{KEYS, Key, Reload};
use super::value::Raw;
use super::{ConfigError, Settings};
use crate::metadata::{self, ConfigKey, TopicDefaults};
use crate::model::nearest;

/// Read if no file is named: the first that exists.
pub const USUAL_FILES: [&str; 2] = ["/etc/naru/naru.toml", "naru.toml"];

/// Longest configuration file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the names of entries of topics begin with.
const TOPIC_DEFAULTS: &str = "topic.defaults.";

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Built in.
    Default,
    /// A line of a file, from 1.
    File(PathBuf, usize),
    /// A variable of the environment.
    Env(String),
    /// `--set`.
    Set,
    /// A flag, with its dashes.
    Flag(&'static str),
}

impl Source {
    /// The place itself, as an error begins.
    fn place(&self) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::File(path, line) => format!("{}:{line}", path.display()),
            Self::Env(name) => name.clone(),
            Self::Set => "--set".to_owned(),
            Self::Flag(name) => (*name).to_owned(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Default | Self::Set => "",
            Self::File(..) => "file ",
            Self::Env(_) => "env ",
            Self::Flag(_) => "flag ",
        };
        write!(f, "{kind}{}", self.place())
    }
}

/// One value for one setting.
#[derive(Clone, Debug)]
pub(super) struct Assignment {
    pub(super) name: String,
    pub(super) value: Raw,
    pub(super) source: Source,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// One entry is wrong.
    #[error("{}: {what}", at.place())]
    Entry {
        /// Where it stands.
        at: Source,
        /// What is wrong.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// The settings do not fit together.
    #[error(transparent)]
    Check(#[from] ConfigError),
}

impl LoadError {
    /// What to do about it.
    pub fn hint(&self) -> &str {
        match self {
            Self::Unreadable { .. } => "`naru config init FILE` writes a file with all defaults",
            Self::Entry { hint, .. } => hint,
            Self::Check(error) => error.hint(),
        }
    }
}

/// What is to be read, as often as it takes.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A file that must be there.
    pub file: Option<PathBuf>,
    /// Otherwise the first of these that is there.
    pub usual_files: Vec<PathBuf>,
    /// Variables; those with `NARU_` and two underscores count.
    pub environment: Vec<(OsString, OsString)>,
    /// `section.key=value`, the last wins.
    pub sets: Vec<String>,
    /// Key, flag and value.
    pub flags: Vec<(&'static str, &'static str, String)>,
}

/// One line of `naru config show`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The key.
    pub key: String,
    /// The value in force.
    pub value: String,
    /// Where it comes from.
    pub source: Source,
    /// When a change takes effect.
    pub reload: Reload,
}

/// Settings with their sources.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The settings.
    pub settings: Settings,
    sources: BTreeMap<&'static str, Source>,
    topics: BTreeMap<String, (String, Source)>,
    read_from: Sources,
}

impl Sources {
    /// Reads everything and checks it.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn load(&self) -> Result<Configuration, LoadError> {
        let mut assignments = Vec::new();
        if let Some((path, text)) = self.read_file()? {
            assignments.extend(file::assignments(&path, &text)?);
        }
        for (name, value) in &self.environment {
            assignments.extend(from_variable(name, value)?);
        }
        for set in &self.sets {
            assignments.push(from_set(set)?);
        }
        assignments.extend(self.flags.iter().map(|(name, flag, value)| Assignment {
            name: (*name).to_owned(),
            value: Raw::Plain(value.clone()),
            source: Source::Flag(flag),
        }));
        let configuration = assemble(assignments, self)?;
        configuration.settings.check()?;
        Ok(configuration)
    }

    fn read_file(&self) -> Result<Option<(PathBuf, String)>, LoadError> {
        let usual = || self.usual_files.iter().find(|path| path.exists());
        let Some(path) = self.file.as_ref().or_else(usual) else {
            return Ok(None);
        };
        let text = read(path).map_err(|why| LoadError::Unreadable {
            path: path.clone(),
            why,
        })?;
        Ok(Some((path.clone(), text)))
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let length = File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if length as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!(
            "it is longer than {FILE_BYTES_MAX} bytes"
        )));
    }
    Ok(text)
}

impl Configuration {
    /// Reads the same sources again.
    ///
    /// # Errors
    /// As for [`Sources::load`].
    pub fn read_again(&self) -> Result<Self, LoadError> {
        self.read_from.load()
    }

    /// All settings with their values in force; defaults of topics only as far as they are set.
    pub fn shown(&self) -> Vec<Shown> {
        let keys = KEYS.iter().map(|key| Shown {
            key: key.name.to_owned(),
            value: key.shown(&self.settings),
            source: self.sources.get(key.name).cloned().unwrap_or(Source::Default),
            reload: key.reload,
        });
        let topics = self.topics.iter().map(|(name, (value, source))| Shown {
            key: format!("{TOPIC_DEFAULTS}{name}"),
            value: value.clone(),
            source: source.clone(),
            reload: Reload::Restart,
        });
        keys.chain(topics).collect()
    }

    /// Takes over from `new` what can change while the broker runs; the keys that were, and those that need a restart.
    pub fn apply(&mut self, new: &Self) -> (Vec<&'static str>, Vec<&'static str>) {
        let (mut applied, mut waiting) = (Vec::new(), Vec::new());
        for key in KEYS {
            let value = (key.get)(&new.settings);
            if value == (key.get)(&self.settings) {
                continue;
            }
            match key.reload {
                Reload::Hot => {
                    (key.set)(&mut self.settings, value);
                    applied.push(key.name);
                }
                Reload::Restart => waiting.push(key.name),
            }
        }
        if new.settings.broker.topic_defaults != self.settings.broker.topic_defaults {
            waiting.push("topic.defaults");
        }
        (applied, waiting)
    }
}

/// Puts values over the defaults, the later over the earlier.
fn assemble(assignments: Vec<Assignment>, read_from: &Sources) -> Result<Configuration, LoadError> {
    let mut configuration = Configuration {
        settings: Settings::default(),
        sources: BTreeMap::new(),
        topics: BTreeMap::new(),
        read_from: read_from.clone(),
    };
    for assignment in assignments {
        let key = KEYS.iter().find(|key| key.name == assignment.name);
        match (key, assignment.name.strip_prefix(TOPIC_DEFAULTS)) {
            (Some(key), _) => configuration.set(key, assignment)?,
            (None, Some(entry)) if !matches!(assignment.source, Source::Env(_)) => {
                configuration.set_topic_default(entry, &assignment)?;
            }
            (None, _) => return Err(unknown(assignment)),
        }
    }
    let entries = configuration.topics.iter();
    let entries = entries.map(|(name, (value, _))| (name.as_str(), value.as_str()));
    // Each was checked with its place, and a map has none twice.
    if let Ok(defaults) = TopicDefaults::parse(entries) {
        configuration.settings.broker.topic_defaults = Arc::new(defaults);
    }
    configuration.settings.log.node = configuration.settings.broker.broker_id.0;
    Ok(configuration)
}

impl Configuration {
    fn set(&mut self, key: &Key, assignment: Assignment) -> Result<(), LoadError> {
        let Some(value) = key.kind.parse(&assignment.value) else {
            return Err(LoadError::Entry {
                what: format!("{} = {} is not {}", key.name, assignment.value, key.kind),
                hint: key.about.to_owned(),
                at: assignment.source,
            });
        };
        (key.set)(&mut self.settings, value);
        self.sources.insert(key.name, assignment.source);
        Ok(())
    }

    fn set_topic_default(&mut self, name: &str, assignment: &Assignment) -> Result<(), LoadError> {
        let entry = |what: String, hint: String| LoadError::Entry {
            at: assignment.source.clone(),
            what,
            hint,
        };
        let value = match &assignment.value {
            Raw::Plain(text) | Raw::Text(text) | Raw::Integer(text) => text.clone(),
            Raw::Flag(flag) => flag.to_string(),
            Raw::Other(_) => {
                let what = format!(
                    "{} = {} is no text and no whole number",
                    assignment.name, assignment.value
                );
                return Err(entry(what, "write it as for `naru topic create -c`".to_owned()));
            }
        };
        TopicDefaults::parse([(name, value.as_str())]).map_err(|error| {
            let hint = match &error {
                metadata::ConfigError::Unknown {
                    nearest: Some(near), ..
                } => {
                    format!("did you mean {TOPIC_DEFAULTS}{near}?")
                }
                metadata::ConfigError::Unknown { .. } => elsewhere(name, &assignment.source),
                _ => "docs/topics.md lists what topics can be configured with".to_owned(),
            };
            entry(format!("{TOPIC_DEFAULTS}*: {error}"), hint)
        })?;
        self.topics
            .insert(name.to_owned(), (value, assignment.source.clone()));
        Ok(())
    }
}

/// What is no entry of topics may be a setting that came to stand below their section, which is the last of the file.
fn elsewhere(name: &str, source: &Source) -> String {
    match (meant(name), source) {
        (Some(key), Source::File(..)) if !key.name.starts_with(TOPIC_DEFAULTS) => {
            let (section, own) = key.name.rsplit_once('.').unwrap_or_default();
            format!(
                "did you mean {}? Write it above [topic.defaults], as {own} under [{section}]",
                key.name
            )
        }
        (Some(key), _) => format!("did you mean {}?", key.name),
        (None, _) => "docs/topics.md lists what topics can be configured with".to_owned(),
    }
}

fn unknown(assignment: Assignment) -> LoadError {
    let name: String = assignment.name.chars().take(64).collect();
    let meant = meant(&assignment.name);
    let (what, meant) = match &assignment.source {
        Source::Env(_) if name.starts_with(TOPIC_DEFAULTS) => {
            return LoadError::Entry {
                at: assignment.source,
                what: "a variable cannot hold the defaults of topics".to_owned(),
                hint: "put them into the file under [topic.defaults], or use --set".to_owned(),
            };
        }
        Source::Env(_) => (
            "no setting has this variable".to_owned(),
            meant.map(Key::variable),
        ),
        _ => (
            format!("there is no setting {name}"),
            meant.map(|key| key.name.to_owned()),
        ),
    };
    let hint = match meant {
        Some(meant) => format!("did you mean {meant}?"),
        None => "`naru config docs` lists all settings".to_owned(),
    };
    LoadError::Entry {
        at: assignment.source,
        what,
        hint,
    }
}

/// The key that was probably meant: one spelt alike, or of the same name in another section.
fn meant(name: &str) -> Option<&'static Key> {
    let last = |name: &'static str| name.rsplit('.').next().unwrap_or(name);
    let near = nearest(name, KEYS.iter().map(|key| key.name));
    let in_other_section = || {
        let (_, own) = name.rsplit_once('.').unwrap_or(("", name));
        KEYS.iter().find(|key| last(key.name) == own)
    };
    KEYS.iter()
        .find(|key| Some(key.name) == near)
        .or_else(in_other_section)
}

/// A variable that is meant for the broker, as a value.
fn from_variable(name: &OsString, value: &OsString) -> Result<Option<Assignment>, LoadError> {
    let name = name.to_string_lossy();
    let Some(key) = name.strip_prefix("NARU_").filter(|rest| rest.contains("__")) else {
        return Ok(None);
    };
    let source = Source::Env(name.clone().into_owned());
    let Some(value) = value.to_str() else {
        return Err(LoadError::Entry {
            at: source,
            what: "the value is not UTF-8".to_owned(),
            hint: "values are text in UTF-8".to_owned(),
        });
    };
    Ok(Some(Assignment {
        name: key.replace("__", ".").to_lowercase(),
        value: Raw::Plain(value.to_owned()),
        source,
    }))
}

fn from_set(set: &str) -> Result<Assignment, LoadError> {
    let Some((name, value)) = set.split_once('=') else {
        return Err(LoadError::Entry {
            at: Source::Set,
            what: format!("{:?} has no =", set.chars().take(64).collect::<String>()),
            hint: "write --set section.key=value".to_owned(),
        });
    };
    Ok(Assignment {
        name: name.trim().to_owned(),
        value: Raw::Plain(value.trim().to_owned()),
        source: Source::Set,
    })
}

/// Names of all entries that `[topic.defaults]` takes.
pub(super) fn topic_entries() -> impl Iterator<Item = ConfigKey> {
    ConfigKey::all().filter(|key| {
        let value = key.default_value().to_string();
        TopicDefaults::parse([(key.name(), value.as_str())]).is_ok()
    })
}
