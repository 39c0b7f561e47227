//! A configuration file in TOML: from its text to values with their lines.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::KEYS;
use super::source::{Assignment, LoadError, Source};
use super::value::Raw;

/// All values of a file. Tables are flattened: names are joined by dots, quoted ones too, so that Kafka's names can be
/// written either way.
///
/// # Errors
/// The text is no TOML, or a value is given twice.
pub(super) fn assignments(path: &Path, text: &str) -> Result<Vec<Assignment>, LoadError> {
    let root = DeTable::parse(text).map_err(|error| LoadError::Entry {
        at: Source::File(
            path.to_owned(),
            line_of(text, error.span().map_or(0, |span| span.start)),
        ),
        what: format!("this is no TOML: {}", error.message()),
        hint: "`naru config init` shows how a file looks".to_owned(),
    })?;
    let mut found = Vec::new();
    flatten("", root.get_ref(), &mut found);
    found.sort_by_key(|(_, _, at)| *at);
    let mut lines = BTreeMap::new();
    let mut assignments = Vec::with_capacity(found.len());
    for (name, value, at) in found {
        let line = line_of(text, at);
        let source = Source::File(path.to_owned(), line);
        if let Some(first) = lines.insert(name.clone(), line) {
            return Err(LoadError::Entry {
                at: source,
                what: format!("{name} is given twice"),
                hint: format!("line {first} has it too"),
            });
        }
        assignments.push(Assignment { name, value, source });
    }
    Ok(assignments)
}

/// Name, value and position of all that is no table.
fn flatten(prefix: &str, table: &DeTable<'_>, found: &mut Vec<(String, Raw, usize)>) {
    for (key, value) in table {
        let name = format!("{prefix}{}", key.get_ref());
        match value.get_ref() {
            // TOML's parser bounds how deep tables are nested.
            DeValue::Table(inner) if !inner.is_empty() => flatten(&format!("{name}."), inner, found),
            // An empty section says nothing, but its name is checked.
            DeValue::Table(_) if is_section(&name) => {}
            _ => found.push((name, raw(value), key.span().start)),
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

/// The line of a position, from 1.
fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().iter().take(at);
    before.filter(|byte| **byte == b'\n').count() + 1
}
