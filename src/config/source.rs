//! Where values come from: a file, variables, `--set` and flags; and how they become settings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Settings;
use super::error::{LoadError, LoadErrors, Problems};
use super::file;
use super::keys::{KEYS, Key, Reload};
use super::place::{FileText, Source, Spot};
use super::value::{Raw, cut};
use crate::metadata::{self, ConfigKey, TopicDefaults};
use crate::model::nearest;

/// Read if no file is named: the first that exists.
pub const USUAL_FILES: [&str; 2] = ["/etc/naru/naru.toml", "naru.toml"];

/// Longest configuration file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the names of entries of topics begin with.
const TOPIC_DEFAULTS: &str = "topic.defaults.";

/// One value for one setting.
#[derive(Clone, Debug)]
pub(super) struct Assignment {
    pub(super) name: String,
    pub(super) value: Raw,
    pub(super) source: Source,
    /// Where it stands, if that is a file.
    pub(super) spot: Option<Spot>,
}

impl Assignment {
    /// What comes from no file.
    fn new(name: String, value: String, source: Source) -> Self {
        Self {
            name,
            value: Raw::Plain(value),
            source,
            spot: None,
        }
    }

    /// There is something wrong with its name.
    fn bad_name(&self, what: String, hint: String) -> LoadError {
        LoadError::Entry {
            at: self.source.clone(),
            what,
            hint,
            excerpt: self.spot.as_ref().map(Spot::of_name),
        }
    }

    /// There is something wrong with its value.
    fn bad_value(&self, what: String, hint: String) -> LoadError {
        let Some(spot) = &self.spot else {
            return self.bad_name(what, hint);
        };
        LoadError::Entry {
            // A value may begin on another line than its name.
            at: spot.file.source(spot.value.start),
            what,
            hint,
            excerpt: Some(spot.of_value()),
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
    /// All that is wrong, with its place.
    pub fn load(&self) -> Result<Configuration, LoadErrors> {
        let mut problems = Problems::default();
        let (assignments, file) = self.collect(&mut problems);
        // The file of the start is the file from now on: one that vanishes is a mistake, and none that appears elsewhere wins.
        let read_from = Self { file, ..self.clone() };
        let configuration = assemble(assignments, read_from, &mut problems);
        if problems.is_empty() {
            configuration.check(&mut problems);
        }
        problems.or(configuration)
    }

    /// These settings alone, the others at their defaults: for who asks about a broker that runs, and whose file may have been
    /// broken since. What cannot be read matters only if nothing else says anything.
    ///
    /// # Errors
    /// What is wrong with these, or the file.
    pub fn only(&self, keys: &[&str]) -> Result<Settings, LoadErrors> {
        let (mut unread, mut problems) = (Problems::default(), Problems::default());
        let (mut assignments, _) = self.collect(&mut unread);
        assignments.retain(|assignment| keys.contains(&assignment.name.as_str()));
        if assignments.is_empty() {
            unread.or(())?;
        }
        let configuration = assemble(assignments, self.clone(), &mut problems);
        problems.or(configuration.settings)
    }

    /// All values, the later ones over the earlier ones, and the file that was read.
    fn collect(&self, problems: &mut Problems) -> (Vec<Assignment>, Option<PathBuf>) {
        let mut assignments = Vec::new();
        let path = self.find_file();
        if let Some(path) = &path {
            match read(path) {
                Ok(text) => {
                    let file = Arc::new(FileText::new(path.clone(), text));
                    assignments.extend(file::assignments(&file, problems));
                }
                Err(why) => problems.add(|| LoadError::Unreadable {
                    path: path.clone(),
                    why,
                }),
            }
        }
        for (name, value) in &self.environment {
            assignments.extend(from_variable(name, value, problems));
        }
        for set in &self.sets {
            assignments.extend(from_set(set, problems));
        }
        let flags = self.flags.iter();
        assignments.extend(flags.map(|(name, flag, value)| {
            Assignment::new((*name).to_owned(), value.clone(), Source::Flag(flag))
        }));
        (assignments, path)
    }

    /// The file that is named, or the first usual one that is there. One that is there and cannot be looked at is there.
    fn find_file(&self) -> Option<PathBuf> {
        let usual = || {
            self.usual_files
                .iter()
                .find(|path| path.try_exists().unwrap_or(true))
        };
        self.file.as_ref().or_else(usual).cloned()
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
    /// As for [`Sources::load`]. The file that was read the last time must still be there.
    pub fn read_again(&self) -> Result<Self, LoadErrors> {
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
            reload: Reload::Hot,
        });
        keys.chain(topics).collect()
    }

    /// Takes over from `new` what can change while the broker runs; the keys that were, and those that need a restart.
    pub fn apply(&mut self, new: &Self) -> (Vec<String>, Vec<String>) {
        let (mut applied, mut waiting) = (Vec::new(), Vec::new());
        self.read_from = new.read_from.clone();
        for key in KEYS {
            let value = (key.get)(&new.settings);
            if value == (key.get)(&self.settings) {
                continue;
            }
            match key.reload {
                Reload::Hot => {
                    (key.set)(&mut self.settings, value);
                    applied.push(key.name.to_owned());
                }
                Reload::Restart => waiting.push(key.name.to_owned()),
            }
        }
        let (old, new) = (
            &mut self.settings.broker.topic_defaults,
            &new.settings.broker.topic_defaults,
        );
        applied.extend(old.changes(new).map(|name| format!("{TOPIC_DEFAULTS}{name}")));
        *old = Arc::clone(new);
        (applied, waiting)
    }
}

/// Puts values over the defaults, the later over the earlier.
fn assemble(assignments: Vec<Assignment>, read_from: Sources, problems: &mut Problems) -> Configuration {
    let mut configuration = Configuration {
        settings: Settings::default(),
        sources: BTreeMap::new(),
        topics: BTreeMap::new(),
        read_from,
    };
    let mut defaults = TopicDefaults::default();
    for assignment in assignments {
        let key = KEYS.iter().find(|key| key.name == assignment.name);
        match (key, assignment.name.strip_prefix(TOPIC_DEFAULTS)) {
            (Some(key), _) => configuration.set(key, assignment, problems),
            (None, Some(entry)) if !matches!(assignment.source, Source::Env(_)) => {
                match set_topic_default(&mut defaults, entry, &assignment) {
                    Ok(value) => {
                        let of = (value, assignment.source.clone());
                        configuration.topics.insert(entry.to_owned(), of);
                    }
                    Err(error) => problems.add(|| *error),
                }
            }
            (None, _) => problems.add(|| unknown(&assignment)),
        }
    }
    configuration.settings.file = configuration.read_from.file.clone();
    configuration.settings.broker.topic_defaults = Arc::new(defaults);
    configuration.settings.log.node = configuration.settings.broker.broker_id.0;
    configuration
}

impl Key {
    fn refusal(&self, assignment: &Assignment) -> LoadError {
        let what = format!("{} = {} is not {}", self.name, assignment.value, self.kind);
        assignment.bad_value(what, format!("{}: {}", self.name, self.about))
    }
}

impl Configuration {
    fn set(&mut self, key: &Key, assignment: Assignment, problems: &mut Problems) {
        let Some(value) = key.kind.parse(&assignment.value) else {
            return problems.add(|| key.refusal(&assignment));
        };
        (key.set)(&mut self.settings, value);
        self.sources.insert(key.name, assignment.source);
    }

    /// Checks that the settings fit together.
    fn check(&self, problems: &mut Problems) {
        for error in self.settings.problems() {
            let origins = error.keys().into_iter();
            let origins = origins.map(|key| (key, self.source_of(key)));
            problems.add(|| LoadError::Check {
                origins: origins.collect(),
                error,
            });
        }
    }

    fn source_of(&self, key: &str) -> Source {
        let topic = || {
            let (_, source) = self.topics.get(key.strip_prefix(TOPIC_DEFAULTS)?)?;
            Some(source)
        };
        let source = self.sources.get(key).or_else(topic);
        source.cloned().unwrap_or(Source::Default)
    }
}

/// Takes an entry in; returns its value as it was written.
fn set_topic_default(
    defaults: &mut TopicDefaults,
    name: &str,
    assignment: &Assignment,
) -> Result<String, Box<LoadError>> {
    let value = match &assignment.value {
        Raw::Plain(text) | Raw::Text(text) | Raw::Integer(text) => text.clone(),
        Raw::Flag(flag) => flag.to_string(),
        Raw::Other(_) => {
            let (name, value) = (cut(&assignment.name), &assignment.value);
            let what = format!("{name} = {value} is no text and no whole number");
            let hint = "write it as for `naru topic create -c`".to_owned();
            return Err(Box::new(assignment.bad_value(what, hint)));
        }
    };
    let set = defaults.set(name, &value);
    set.map_err(|error| {
        let what = format!("{TOPIC_DEFAULTS}*: {error}");
        let hint = match &error {
            metadata::ConfigError::Unknown {
                nearest: Some(near), ..
            } => {
                format!("did you mean {TOPIC_DEFAULTS}{near}?")
            }
            metadata::ConfigError::Unknown { .. } => elsewhere(name, &assignment.source),
            _ => "docs/topics.md lists what topics can be configured with".to_owned(),
        };
        Box::new(match error {
            metadata::ConfigError::Value { .. } => assignment.bad_value(what, hint),
            _ => assignment.bad_name(what, hint),
        })
    })?;
    Ok(value)
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

fn unknown(assignment: &Assignment) -> LoadError {
    let name = cut(&assignment.name);
    let meant = meant(&assignment.name);
    let (what, meant) = match &assignment.source {
        Source::Env(_) if name.starts_with(TOPIC_DEFAULTS) => {
            return assignment.bad_name(
                "a variable cannot hold the defaults of topics".to_owned(),
                "put them into the file under [topic.defaults], or use --set".to_owned(),
            );
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
    assignment.bad_name(what, hint)
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
fn from_variable(name: &OsString, value: &OsString, problems: &mut Problems) -> Option<Assignment> {
    let name = name.to_string_lossy();
    let key = name.strip_prefix("NARU_").filter(|rest| rest.contains("__"))?;
    let key = key.replace("__", ".").to_lowercase();
    let source = Source::Env(name.clone().into_owned());
    let Some(value) = value.to_str() else {
        problems.add(|| LoadError::Entry {
            at: source,
            what: "the value is not UTF-8".to_owned(),
            hint: "values are text in UTF-8".to_owned(),
            excerpt: None,
        });
        return None;
    };
    Some(Assignment::new(key, value.to_owned(), source))
}

fn from_set(set: &str, problems: &mut Problems) -> Option<Assignment> {
    let Some((name, value)) = set.split_once('=') else {
        problems.add(|| LoadError::Entry {
            at: Source::Set,
            what: format!("{:?} has no =", cut(set)),
            hint: "write --set section.key=value".to_owned(),
            excerpt: None,
        });
        return None;
    };
    let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
    Some(Assignment::new(name, value, Source::Set))
}

/// Names of all entries that `[topic.defaults]` takes.
pub(super) fn topic_entries() -> impl Iterator<Item = ConfigKey> {
    ConfigKey::all().filter(|key| {
        let value = key.default_value().to_string();
        TopicDefaults::parse([(key.name(), value.as_str())]).is_ok()
    })
}
