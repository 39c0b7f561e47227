//! Rules about the bugs that are planted on purpose: each is really somewhere, some test looks for it, and the document
//! says which.

use super::scan::{Source, read};

const BUGS: &str = "src/planted.rs";
const DOCUMENT: &str = "docs/testing.md";

/// The bugs: as the code calls them, and as the document does.
fn bugs(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter_map(|line| line.trim().split_once(" = \""));
    let named = lines.filter_map(|(bug, name)| Some((bug, name.strip_suffix("\",")?)));
    named
        .filter(|(bug, _)| bug.starts_with(char::is_uppercase) && bug.chars().all(char::is_alphanumeric))
        .map(|(bug, name)| (bug.to_owned(), name.to_owned()))
        .collect()
}

fn complaints(bugs: &[(String, String)], sources: &[Source], document: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (bug, name) in bugs {
        let plant = format!("Bug::{bug})");
        if !sources.iter().any(|source| source.product.contains(&plant)) {
            found.push(format!("{BUGS}: {bug} is planted nowhere"));
        }
        let hunted = format!(": {bug} by ");
        if !sources.iter().any(|source| source.code.contains(&hunted)) {
            found.push(format!("{BUGS}: no test looks for {bug}"));
        }
        if !document.contains(&format!("\n| `{name}` |")) {
            found.push(format!(
                "{DOCUMENT}: the table of planted bugs has no row for `{name}`"
            ));
        }
    }
    found
}

#[test]
fn every_bug_is_planted_looked_for_and_in_the_document() {
    let bugs = bugs(&read(BUGS));
    assert!(bugs.len() >= 18, "{} bugs", bugs.len());
    let found = complaints(&bugs, &super::product(), &read(DOCUMENT));
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn a_bug_that_is_missing_somewhere_is_found() {
    let bugs = bugs("    /// What it does.\n    AckEarly = \"ack-early\",\n");
    assert_eq!(bugs, [("AckEarly".to_owned(), "ack-early".to_owned())]);
    assert_eq!(complaints(&bugs, &[], "").len(), 3);
    let there = [
        Source::new("src/a.rs", "fn f() { if planted::is(Bug::AckEarly) {} }"),
        Source::new("src/a/tests.rs", "found! { ack_is_found: AckEarly by F; }"),
    ];
    assert_eq!(complaints(&bugs, &there, "\n| `ack-early` | x |"), [""; 0]);
}
