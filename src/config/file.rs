//! A configuration file in TOML: from its text to values with their places.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{LoadError, Problems};
use super::keys::KEYS;
use super::place::{FileText, Spot};
use super::source::Assignment;
use super::value::{Raw, cut};

/// Name, value and places of an entry.
struct Found {
    name: String,
    value: Raw,
    name_at: Range<usize>,
    value_at: Range<usize>,
}

/// All values of a file, in their order. Tables are flattened: names are joined by dots, quoted ones too, so that Kafka's
/// names can be written either way. What is no TOML has no values; what is given twice counts once.
pub(super) fn assignments(file: &Arc<FileText>, problems: &mut Problems) -> Vec<Assignment> {
    let (root, errors) = DeTable::parse_recoverable(&file.text);
    if !errors.is_empty() {
        no_toml(file, &errors, problems);
        return Vec::new();
    }
    let mut found = Vec::new();
    flatten("", root.get_ref(), &mut found);
    found.sort_by_key(|entry| entry.name_at.start);
    let mut lines = BTreeMap::new();
    let mut assignments = Vec::with_capacity(found.len());
    for entry in found {
        let source = file.source(entry.name_at.start);
        let line = file.line(entry.name_at.start);
        if let Some(first) = lines.insert(entry.name.clone(), line) {
            problems.add(|| LoadError::Entry {
                at: source,
                what: format!("{} is given twice", cut(&entry.name)),
                hint: format!("line {first} has it too"),
                excerpt: Some(file.excerpt(entry.name_at)),
            });
            continue;
        }
        assignments.push(Assignment {
            name: entry.name,
            value: entry.value,
            source,
            spot: Some(Spot {
                file: Arc::clone(file),
                name: entry.name_at,
                value: entry.value_at,
            }),
        });
    }
    assignments
}

/// What the parser says, once per line: more about the same line mostly follows from the first.
fn no_toml(file: &FileText, errors: &[toml::de::Error], problems: &mut Problems) {
    let mut lines = BTreeSet::new();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        if lines.insert(file.line(span.start)) {
            problems.add(|| LoadError::Entry {
                at: file.source(span.start),
                what: format!("this is no TOML: {}", error.message()),
                hint: "`naru config init` shows how a file looks".to_owned(),
                excerpt: Some(file.excerpt(span)),
            });
        }
    }
}

/// All that is no table.
fn flatten(prefix: &str, table: &DeTable<'_>, found: &mut Vec<Found>) {
    for (key, value) in table {
        let name = format!("{prefix}{}", key.get_ref());
        match value.get_ref() {
            // TOML's parser bounds how deep tables are nested.
            DeValue::Table(inner) if !inner.is_empty() => flatten(&format!("{name}."), inner, found),
            // An empty section says nothing, but its name is checked.
            DeValue::Table(_) if is_section(&name) => {}
            _ => found.push(Found {
                name,
                value: raw(value),
                name_at: key.span(),
                value_at: value.span(),
            }),
        }
    }
}

fn raw(value: &Spanned<DeValue<'_>>) -> Raw {
    match value.get_ref() {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Boolean(flag) => Raw::Flag(*flag),
        DeValue::Integer(number) if number.radix() == 10 => Raw::Integer(number.as_str().to_owned()),
        DeValue::Integer(_) => Raw::Other("a number that is not decimal"),
        DeValue::Float(_) => Raw::Other("a number with a fraction"),
        DeValue::Datetime(_) => Raw::Other("a time"),
        DeValue::Array(_) => Raw::Other("an array"),
        DeValue::Table(_) => Raw::Other("an empty table"),
    }
}

fn is_section(name: &str) -> bool {
    let below = |key: &str| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    KEYS.iter().any(|key| below(key.name))
}
