//! `docs/groups-tests.md` has a row for every rule and every known mistake, and the tests that it names exist.

use std::collections::BTreeSet;
use std::path::Path;

use super::scan::{Source, sources};

const PAGE: &str = "docs/groups-tests.md";

/// Prefixes of rules and their numbers.
const RULES: &[(&str, &[u32])] = &[
    ("EP", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
    ("LE", &[1, 2, 3, 8]),
    ("ST", &[1, 2, 3, 4, 5, 6, 7, 8]),
    ("TM", &[1, 2, 3, 4, 5, 6]),
    ("OF", &[1, 2, 3, 4, 5, 6]),
    ("CS", &[4, 5, 6, 7]),
];

const BUGS: u32 = 33;

/// The first and the last cell of each row.
fn rows(page: &str) -> Vec<(&str, &str)> {
    let lines = page.lines().filter_map(|line| line.strip_prefix("| "));
    lines
        .filter_map(|line| {
            let mut cells = line.trim_end_matches('|').split(" | ");
            Some((cells.next()?.trim(), cells.last()?.trim()))
        })
        .collect()
}

/// What stands between backticks and is a name of a test.
fn named(cell: &str) -> Vec<&str> {
    let quoted = cell.split('`').skip(1).step_by(2);
    let is_name = |text: &&str| {
        text.chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    quoted.filter(is_name).collect()
}

/// What is wrong with a page, where these functions exist.
fn complaints(page: &str, functions: &BTreeSet<String>) -> Vec<String> {
    let rules = RULES
        .iter()
        .flat_map(|(prefix, numbers)| numbers.iter().map(move |number| format!("{prefix}{number}")));
    let bugs = (1..=BUGS).map(|number| format!("bug {number}"));
    let rows = rows(page);
    let mut complaints = Vec::new();
    for wanted in rules.chain(bugs) {
        match rows.iter().filter(|(rule, _)| *rule == wanted).count() {
            1 => {}
            count => complaints.push(format!("there are {count} rows for {wanted}")),
        }
    }
    for (rule, last) in rows {
        let has_reason = last
            .strip_prefix("none: ")
            .is_some_and(|reason| reason.len() > 20);
        if named(last).is_empty() && !has_reason && rule.ends_with(|c: char| c.is_ascii_digit()) {
            complaints.push(format!("{rule} has neither a test nor a reason"));
        }
        let missing = named(last).into_iter().filter(|name| !functions.contains(*name));
        complaints.extend(missing.map(|name| format!("{rule} names {name}, which does not exist")));
    }
    complaints
}

/// Names of all functions that are marked as tests, in `src` and `tests`.
fn tests_of(sources: &[Source]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for source in sources {
        let mut is_test = false;
        for line in source.text.lines().map(str::trim) {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            let Some((_, rest)) = line.split_once("fn ") else {
                continue;
            };
            if std::mem::take(&mut is_test) {
                let name = rest
                    .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                    .next();
                found.extend(name.map(str::to_owned));
            }
        }
    }
    found
}

#[test]
fn every_rule_and_every_known_mistake_has_its_test_or_a_reason() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE)).unwrap();
    let functions = tests_of(&sources(&["src", "tests"]));
    assert!(functions.len() > 500, "the tests are found: {}", functions.len());
    assert_eq!(complaints(&page, &functions), Vec::<String>::new());
}

#[test]
fn a_row_that_is_missing_double_empty_or_names_what_is_not_there_is_found() {
    let all = RULES
        .iter()
        .flat_map(|(prefix, numbers)| numbers.iter().map(move |n| format!("{prefix}{n}")));
    let all = all.chain((1..=BUGS).map(|number| format!("bug {number}")));
    let row = |rule: String| match rule.as_str() {
        "EP1" => String::new(),
        "EP2" => "| EP2 | x | `it_works` |\n| EP2 | x | `it_works` |\n".to_owned(),
        "bug 3" => "| bug 3 | there | x | none: no |\n".to_owned(),
        "bug 4" => "| bug 4 | there | x | `it_fails` |\n".to_owned(),
        "TM5" => "| TM5 | x | none: there is no such request here |\n".to_owned(),
        _ => format!("| {rule} | x | see `GroupHeartbeat`, `it_works` |\n"),
    };
    let page: String = all.map(row).collect();
    let source = "#[test]\nfn it_works() {}\nfn it_fails() {}\n#[tokio::test(start_paused = true)]\nasync fn later() {}\n";
    let functions = tests_of(&[Source::new("src/x.rs", source)]);
    assert_eq!(functions, ["it_works", "later"].map(str::to_owned).into());
    assert_eq!(
        complaints(&page, &functions),
        [
            "there are 0 rows for EP1",
            "there are 2 rows for EP2",
            "bug 3 has neither a test nor a reason",
            "bug 4 names it_fails, which does not exist",
        ]
    );
}
