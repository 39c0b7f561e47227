//! Rules about the documents: they lead somewhere, and they keep up with what they describe.

use std::path::{Component, Path, PathBuf};

use crc_fast::{CrcAlgorithm, checksum};
use naru::model::ErrorCode;

use super::scan::{files, read, repository};

/// Where the documents write the hash of what they describe.
const PROTOCOL: &str = "docs/protocol.md";
const STORAGE_FORMAT: &str = "docs/storage-format.md";
/// Where each dependency has a line.
const DEPENDENCIES: &str = "docs/adr/0005-dependencies.md";
const HASH_MARK: &str = "<!-- hash: ";

fn documents() -> Vec<String> {
    let mut found = files("docs", ".md");
    found.extend(["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"].map(str::to_owned));
    found
}

/// A fingerprint of names and contents, in the order given.
fn hash(described: &[(String, String)]) -> String {
    let mut bytes = Vec::new();
    for (path, text) in described {
        bytes.extend_from_slice(path.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
    }
    format!("{:016x}", checksum(CrcAlgorithm::Crc64Nvme, &bytes))
}

/// The hash that a document carries.
fn written_hash(document: &str) -> Option<&str> {
    let (_, behind) = document.split_once(HASH_MARK)?;
    behind.split_once(" -->").map(|(hash, _)| hash)
}

/// What is wrong if the document does not carry this hash.
fn hash_complaint(path: &str, document: &str, hash: &str) -> Option<String> {
    let written = written_hash(document);
    (written != Some(hash)).then(|| {
        format!(
            "{path} describes an older version (hash {written:?}). Review the document; when it is right again, \
             write into it: {HASH_MARK}{hash} -->"
        )
    })
}

/// The code of a source file: what stands before its tests.
fn before_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\n").next().unwrap_or(text)
}

/// The sources that decide how bytes lie on disk.
fn format_files() -> Vec<String> {
    let mut found = files("src/storage/local/format", ".rs");
    if repository().join("src/storage/local/format.rs").exists() {
        found.push("src/storage/local/format.rs".to_owned());
    }
    found.retain(|path| !path.ends_with("/tests.rs"));
    found
}

/// Link targets of a Markdown text outside of code, with their lines: `[text](target)`, `src="target"`.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        // Every second part stands between backticks.
        for part in line.split('`').step_by(2) {
            for (open, close) in [("](", ')'), ("src=\"", '"'), ("srcset=\"", '"')] {
                let targets = part
                    .split(open)
                    .skip(1)
                    .filter_map(|rest| rest.split(close).next());
                found.extend(targets.map(|target| (index + 1, target.to_owned())));
            }
        }
    }
    found
}

/// Anchors of the headings of a Markdown text, as forges make them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// Why a link of the document at `path` leads nowhere, if it does.
fn dead_link(path: &str, text: &str, target: &str) -> Option<String> {
    if ["https://", "http://", "mailto:"]
        .iter()
        .any(|scheme| target.starts_with(scheme))
    {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    if file.is_empty() {
        return missing_anchor(path, text, anchor);
    }
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let resolved = normal(&folder.join(file)).to_string_lossy().into_owned();
    if !repository().join(&resolved).exists() {
        return Some(format!("{resolved} does not exist"));
    }
    if resolved.ends_with(".md") {
        return missing_anchor(&resolved, &read(&resolved), anchor);
    }
    None
}

fn missing_anchor(path: &str, text: &str, anchor: &str) -> Option<String> {
    let known = anchor.is_empty() || anchors(text).iter().any(|a| a == anchor);
    (!known).then(|| format!("{path} has no heading #{anchor}"))
}

/// The path without `.` and `..`, so that a message shows where it leads.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            _ => out.push(part),
        }
    }
    out
}

/// The row of the error table for a code.
fn error_row(code: ErrorCode) -> String {
    let class = code.class().name();
    let definite = if code.is_definite() { "yes" } else { "no" };
    format!("| {} | `{}` | {class} | {definite} |", code.number(), code.name())
}

/// Codes that a text has no row for: what `naru errors show` says stands there, too.
fn missing_rows(text: &str) -> Vec<String> {
    let has_row = |code: &ErrorCode| {
        let (row, cause) = (error_row(*code), format!("| {} |", code.cause()));
        text.lines()
            .any(|line| line.starts_with(row.as_str()) && line.ends_with(cause.as_str()))
    };
    let missing = ErrorCode::ALL.iter().filter(|code| !has_row(code));
    missing
        .map(|code| format!("{} ... | {} |", error_row(*code), code.cause()))
        .collect()
}

/// Packages of a manifest that no row of a table names in its first column.
fn unexplained_dependencies(manifest: &str, document: &str) -> Vec<String> {
    let mut named = Vec::new();
    for row in document.lines().filter_map(|line| line.strip_prefix("| ")) {
        let first = row.split('|').next().unwrap_or_default();
        named.extend(first.split(',').map(str::trim));
    }
    let mut in_dependencies = false;
    let mut unexplained = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.ends_with("dependencies]");
        }
        let name = line
            .split_once(" =")
            .map(|(name, _)| name)
            .filter(|_| in_dependencies);
        unexplained.extend(name.filter(|name| !named.contains(name)).map(str::to_owned));
    }
    unexplained
}

/// Lines that wait to be written.
fn unwritten(text: &str) -> Vec<usize> {
    let marks = text
        .lines()
        .enumerate()
        .filter(|(_, line)| line.contains(concat!("TO", "DO-")));
    marks.map(|(index, _)| index + 1).collect()
}

/// The files with what counts of their contents.
fn contents(paths: Vec<String>) -> Vec<(String, String)> {
    let with_text = |path: String| {
        let text = read(&path);
        (path, before_tests(&text).to_owned())
    };
    paths.into_iter().map(with_text).collect()
}

#[test]
fn protocol_document_describes_the_protocol_files() {
    let described = contents(files("proto/naru/v1", ".proto"));
    assert!(described.len() > 5, "the protocol files are found");
    let complaint = hash_complaint(PROTOCOL, &read(PROTOCOL), &hash(&described));
    assert_eq!(complaint, None);
}

#[test]
fn storage_format_document_describes_the_format_code() {
    let mut described = format_files();
    if described.is_empty() {
        assert_eq!(
            files("src/storage/local", ".rs"),
            ["src/storage/local/mod.rs"],
            "the byte layouts belong into src/storage/local/format.rs or format/, which {STORAGE_FORMAT} describes"
        );
    }
    described.extend(files("proto/naru/internal", ".proto"));
    let complaint = hash_complaint(STORAGE_FORMAT, &read(STORAGE_FORMAT), &hash(&contents(described)));
    assert_eq!(complaint, None);
}

#[test]
fn every_dependency_has_its_reason() {
    let unexplained = unexplained_dependencies(&read("Cargo.toml"), &read(DEPENDENCIES));
    assert!(
        unexplained.is_empty(),
        "{DEPENDENCIES} has no line for {unexplained:?}"
    );
}

#[test]
fn protocol_document_lists_every_error_code() {
    let missing = missing_rows(&read(PROTOCOL));
    assert!(
        missing.is_empty(),
        "{PROTOCOL} lacks these rows:\n{}",
        missing.join("\n")
    );
}

#[test]
fn links_lead_somewhere() {
    let mut dead = Vec::new();
    for path in documents() {
        let text = read(&path);
        for (line, target) in links(&text) {
            dead.extend(
                dead_link(&path, &text, &target).map(|why| format!("{path}:{line}: {target}: {why}")),
            );
        }
    }
    assert!(dead.is_empty(), "\n{}\n", dead.join("\n"));
}

#[test]
fn documents_are_finished() {
    for path in documents() {
        let lines = unwritten(&read(&path));
        assert!(lines.is_empty(), "{path}: still to be written: lines {lines:?}");
    }
}

#[test]
fn a_changed_file_changes_the_hash_and_the_complaint_names_it() {
    let old = [("a".to_owned(), "x".to_owned()), ("b".to_owned(), String::new())];
    let moved = [("a".to_owned(), String::new()), ("b".to_owned(), "x".to_owned())];
    assert_ne!(hash(&old), hash(&moved));
    let document = format!("text {HASH_MARK}{} --> text", hash(&old));
    assert_eq!(hash_complaint("d.md", &document, &hash(&old)), None);
    let complaint = hash_complaint("d.md", &document, &hash(&moved)).unwrap_or_default();
    assert!(
        complaint.contains(&hash(&moved)) && complaint.contains("Review"),
        "{complaint}"
    );
    assert!(hash_complaint("d.md", "no mark", "0").is_some());
    assert_eq!(before_tests("a\n#[cfg(test)]\nmod tests {}"), "a");
}

#[test]
fn a_dead_link_is_found() {
    let text = "# A (b)\n[x](docs/nowhere.md)\n`[y](docs/neither.md)`\n```\n[z](docs/nor.md)\n```\n<img src=\"n.svg\">";
    assert_eq!(
        links(text),
        [(2, "docs/nowhere.md".to_owned()), (7, "n.svg".to_owned())]
    );
    assert!(dead_link("README.md", text, "docs/nowhere.md").is_some());
    assert!(dead_link("docs/adr/x.md", text, "../../Cargo.toml").is_none());
    assert!(dead_link("README.md", text, "#a-b").is_none());
    assert!(dead_link("README.md", text, "#c").is_some());
    assert!(dead_link("README.md", text, "https://example.org/x").is_none());
    assert_eq!(anchors(text), ["a-b"]);
}

#[test]
fn a_missing_row_and_an_unwritten_line_are_found() {
    let all: Vec<String> = ErrorCode::ALL
        .iter()
        .map(|code| format!("{} text | {} |", error_row(*code), code.cause()))
        .collect();
    assert_eq!(missing_rows(&all.join("\n")), Vec::<String>::new());
    let missing = missing_rows(&all[1..].join("\n"));
    assert_eq!(missing.len(), 1);
    assert!(missing[0].starts_with(&error_row(ErrorCode::ALL[0])));
    let other_cause = all
        .join("\n")
        .replace(ErrorCode::ALL[0].cause(), "Something else.");
    assert_eq!(missing_rows(&other_cause).len(), 1);
    let manifest = "[package]\nname = \"x\"\n[dependencies]\na = \"1\"\nb = { version = \"1\" }\n[dev-dependencies]\nc = \"1\"";
    assert_eq!(
        unexplained_dependencies(manifest, "| crate | what |\n| a, b | d |"),
        ["c"]
    );
    assert_eq!(unwritten(&format!("a\n{}LAYOUT", concat!("TO", "DO-"))), [2]);
}
