//! Rules about the sources that no compiler checks: who may import whom, what is pure, what is banned, what the
//! documents must keep up with.
//!
//! Each rule is a function from sources to findings; each has a test that shows that it can find something. The layers
//! are explained in `docs/architecture.md`; changing one of the tables below needs a decision record in `docs/adr/`.

#[path = "tidy/deploy.rs"]
mod deploy;
#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/group_rules.rs"]
mod group_rules;
#[path = "tidy/planted.rs"]
mod planted;
#[path = "tidy/scan.rs"]
mod scan;

use std::collections::{BTreeMap, BTreeSet};

use scan::{Source, Token, is_name, matching, paths, sources, tokens};

/// Which top-level module may import which others. Everybody may import what is in the same module.
const IMPORTS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("pb", &[]),
    ("disk", &[]),
    ("planted", &["rt"]),
    ("record", &["model"]),
    ("history", &[]),
    ("rt", &["model"]),
    ("telemetry", &["model"]),
    ("machine", &["model"]),
    ("api", &["model", "record", "rt"]),
    ("partition", &["model", "record", "pb", "planted"]),
    ("metadata", &["model", "machine", "pb", "rt"]),
    ("group", &["model", "machine", "pb", "planted"]),
    (
        "storage",
        &["model", "record", "disk", "rt", "telemetry", "planted"],
    ),
    // For unit tests alone.
    ("testing", &["disk"]),
    (
        "broker",
        &[
            "model",
            "record",
            "api",
            "machine",
            "partition",
            "group",
            "storage",
            "metadata",
            "rt",
            "telemetry",
            "planted",
        ],
    ),
    ("net", &["model", "api", "rt", "telemetry"]),
    ("wire", &["model", "record", "api", "net", "pb"]),
    ("http", &["model", "api", "rt", "telemetry"]),
    ("client", &["model", "record", "wire", "net", "pb", "rt"]),
    (
        "config",
        &[
            "model",
            "storage",
            "metadata",
            "broker",
            "net",
            "http",
            "telemetry",
        ],
    ),
    (
        "cli",
        &[
            "config",
            "client",
            "history",
            "model",
            "record",
            "disk",
            "storage",
            "telemetry",
            "rt",
        ],
    ),
    (
        "server",
        &[
            "model",
            "pb",
            "disk",
            "record",
            "rt",
            "telemetry",
            "machine",
            "api",
            "partition",
            "metadata",
            "group",
            "storage",
            "broker",
            "net",
            "wire",
            "http",
            "config",
            "planted",
        ],
    ),
    ("main", &["cli", "config", "server", "telemetry"]),
];

/// Places whose code decides and does nothing else: the same arguments give the same result, in production, in a
/// simulation and in recovery. Each is a path below `src/` or the beginning of one.
const PURE: &[&str] = &[
    "partition/",
    "partition.rs",
    "metadata/",
    "group/",
    "machine.rs",
    "record/",
    "model/",
    "api/",
    "history/",
];

/// What would let the outside world into a pure place.
const IMPURE_PATHS: &[&str] = &[
    "std::fs",
    "std::net",
    "std::thread",
    "std::env",
    "std::process",
    "tokio",
    "tracing",
];
const IMPURE_WORDS: &[&str] = &[
    "async",
    "await",
    "Instant",
    "SystemTime",
    "Mutex",
    "RwLock",
    "Condvar",
    "fastrand",
];

/// Which outside package, or module of the standard library, may appear where: beginnings of paths below `src/`.
const PACKAGES: &[(&str, &[&str])] = &[
    (
        "tokio",
        &[
            "rt/",
            "storage/",
            "broker/",
            "net/",
            "http/",
            "client/",
            "server.rs",
            "server/",
            "main.rs",
            "cli/",
        ],
    ),
    (
        "tokio_util",
        &[
            "rt/",
            "storage/",
            "broker/",
            "net/",
            "http/",
            "client/",
            "server.rs",
            "server/",
            "main.rs",
            "cli/",
        ],
    ),
    ("tokio::fs", &[]),
    (
        "prost",
        &["pb/", "wire/", "client/", "metadata/", "group/", "partition/"],
    ),
    ("dashmap", &["broker/mod.rs"]),
    ("clap", &["cli/"]),
    ("axum", &["http/", "server.rs", "server/"]),
    ("anyhow", &["cli/", "main.rs"]),
    ("hyper", &["http/"]),
    ("hyper_util", &["http/"]),
    ("comfy_table", &["cli/"]),
    ("indicatif", &["cli/"]),
    ("mimalloc", &["main.rs"]),
    ("tracing_subscriber", &["telemetry/"]),
    // Everything else that is done to files goes through the trait `disk::Disk`, so that a simulation sees it.
    // What is listed below it has files of its own: the lock and the port file of a process, what the system tells of it,
    // configurations, and the files of whoever calls a command.
    (
        "std::fs",
        &[
            "disk/gate.rs",
            "disk/lossy.rs",
            "disk/real.rs",
            "server/lock.rs",
            "server/port_file.rs",
            "server/process.rs",
            "config/source.rs",
            "cli/",
        ],
    ),
    (
        "std::os::unix::fs",
        &["disk/lossy.rs", "disk/real.rs", "server/lock.rs", "cli/doctor/"],
    ),
    (
        "rustix::fs",
        &["disk/lossy.rs", "disk/real.rs", "server/metrics.rs"],
    ),
    ("rustix::io", &["disk/"]),
    // Ids and chance come from `rt::IdSource` where a simulation must draw the same again.
    ("fastrand", &["cli/", "client/", "history/"]),
];

/// A file is split by duty before it grows past this, tests not counted.
const FILE_LINES_MAX: usize = 800;

/// Files that are longer, and why.
const LONG_FILES: &[(&str, &str)] = &[];

/// Words that a comment may not carry into the repository; in two parts, or this file would find itself.
const BANNED_WORDS: &[(&str, &str)] = &[
    (concat!("FIX", "ME"), "fix it now or write an issue"),
    (concat!("XX", "X"), "fix it now or write an issue"),
    (concat!("TO", "DO:"), "do it now or write an issue"),
    (concat!("(to ", "come)"), "write it"),
];

const BANNED_FILES: &[&str] = &["utils.rs", "util.rs", "helpers.rs", "helper.rs", "misc.rs"];

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    line: usize,
    what: String,
}

fn finding(source: &Source, line: usize, what: impl Into<String>) -> Finding {
    Finding {
        path: source.path.clone(),
        line,
        what: what.into(),
    }
}

/// Runs a rule over every source and fails with all that it finds.
fn enforce(sources: &[Source], rule: impl Fn(&Source) -> Vec<Finding>) {
    report(&sources.iter().flat_map(rule).collect::<Vec<_>>());
}

fn report(findings: &[Finding]) {
    let lines: Vec<String> = findings
        .iter()
        .map(|f| format!("{}:{}: {}", f.path, f.line, f.what))
        .collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

fn product() -> Vec<Source> {
    let found = sources(&["src"]);
    assert!(found.len() > 20, "the sources are found");
    found
}

fn everything() -> Vec<Source> {
    sources(&["src", "tests", "examples", "benches"])
}

fn lies_in(source: &Source, places: &[&str]) -> bool {
    places.iter().any(|place| source.place().starts_with(place))
}

// Rules.

fn unlisted_imports(source: &Source) -> Vec<Finding> {
    let own = source.top_module();
    if !source.path.starts_with("src/") || own == "lib" {
        return Vec::new();
    }
    let Some((_, allowed)) = IMPORTS.iter().find(|(module, _)| *module == own) else {
        return vec![finding(
            source,
            1,
            format!("module {own} has no row in the import table of tests/tidy.rs"),
        )];
    };
    let tokens = tokens(&source.product);
    let mut findings = Vec::new();
    for path in paths(&tokens) {
        let inside = path.segments[0] == "crate" || (own == "main" && path.segments[0] == "naru");
        let target = path.segments[1];
        if inside && target != own && !allowed.contains(&target) {
            let what = format!(
                "{own} imports {target}: ask whether the layer is right before adding the edge; an ADR is needed"
            );
            findings.push(finding(source, path.line, what));
        }
    }
    findings
}

/// `super::super::`, and `super::` that leaves a top-level module: edges that the import table would not see.
fn escapes_by_super(source: &Source) -> Vec<Finding> {
    let tokens = tokens(&source.product);
    let mut findings = Vec::new();
    for path in paths(&tokens).iter().filter(|path| path.segments[0] == "super") {
        if path.segments[1] == "super" {
            findings.push(finding(
                source,
                path.line,
                "super::super:: hides where it leads: use crate::",
            ));
        } else if is_top_of_module(source) && !is_in_inline_module(&tokens, path.line) {
            findings.push(finding(
                source,
                path.line,
                "super:: leaves the module: use crate::",
            ));
        }
    }
    findings
}

fn is_top_of_module(source: &Source) -> bool {
    !source.place().contains('/') || source.place() == format!("{}/mod.rs", source.top_module())
}

fn is_in_inline_module(tokens: &[Token<'_>], line: usize) -> bool {
    tokens.windows(3).enumerate().any(|(index, window)| {
        let inline = window[0].text == "mod" && is_name(window.get(1)) && window[2].text == "{";
        inline && window[2].line <= line && line <= tokens[matching(tokens, index + 2)].line
    })
}

fn impurities(source: &Source) -> Vec<Finding> {
    if !lies_in(source, PURE) {
        return Vec::new();
    }
    let tokens = tokens(&source.product);
    let paths = paths(&tokens);
    let by_path = paths.iter().flat_map(|path| {
        let hit = IMPURE_PATHS.iter().find(|bad| path.begins_with(bad));
        hit.map(|bad| (path.line, *bad))
    });
    let by_word = tokens
        .iter()
        .filter(|t| IMPURE_WORDS.contains(&t.text))
        .map(|t| (t.line, t.text));
    by_path
        .chain(by_word)
        .map(|(line, bad)| {
            finding(
                source,
                line,
                format!("{bad} in a pure place: take it as an argument"),
            )
        })
        .collect()
}

fn misplaced_packages(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let tokens = tokens(&source.product);
    for path in paths(&tokens).iter().filter(|_| source.path.starts_with("src/")) {
        for (package, places) in PACKAGES {
            if path.begins_with(package) && !lies_in(source, places) {
                let what = format!("{package} is allowed only in: {}", places.join(" "));
                findings.push(finding(source, path.line, what));
            }
        }
    }
    findings
}

fn too_long(source: &Source) -> Vec<Finding> {
    let lines = source.product.trim_end().lines().count();
    let excused = LONG_FILES.iter().any(|(path, _)| *path == source.path);
    if lines <= FILE_LINES_MAX || excused {
        return Vec::new();
    }
    let what = format!("{lines} lines before the tests, at most {FILE_LINES_MAX}: split it by duty");
    vec![finding(source, lines, what)]
}

fn banned_words(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let name = source.path.rsplit('/').next().unwrap_or_default();
    if BANNED_FILES.contains(&name) {
        findings.push(finding(source, 1, "name the file by what is in it"));
    }
    for (index, line) in source.text.lines().enumerate() {
        for (word, instead) in BANNED_WORDS.iter().filter(|(word, _)| line.contains(word)) {
            findings.push(finding(source, index + 1, format!("{word}: {instead}")));
        }
    }
    findings
}

/// Code that pretends: tests that never run, assertions that nobody looks at, functions that are not there.
fn banned_code(source: &Source) -> Vec<Finding> {
    let tokens = tokens(&source.code);
    let mut findings = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let what = match token.text {
            "ignore" if follows(&tokens, index, &["#", "["]) => "an ignored test: make it run or remove it",
            "todo" | "unimplemented" if next_is(&tokens, index, "!") => "code that is not there yet",
            "matches" if is_bare_statement(&tokens, index) => {
                "the result of matches! is dropped: use assert!"
            }
            "path" if follows(&tokens, index, &["#", "["]) && source.path.starts_with("src/") => {
                "#[path] hides files from this test"
            }
            _ => continue,
        };
        findings.push(finding(source, token.line, what));
    }
    findings
}

fn follows(tokens: &[Token<'_>], index: usize, before: &[&str]) -> bool {
    let Some(start) = index.checked_sub(before.len()) else {
        return false;
    };
    tokens[start..index]
        .iter()
        .map(|t| t.text)
        .eq(before.iter().copied())
}

fn next_is(tokens: &[Token<'_>], index: usize, text: &str) -> bool {
    tokens.get(index + 1).is_some_and(|t| t.text == text)
}

fn is_bare_statement(tokens: &[Token<'_>], index: usize) -> bool {
    let starts = index == 0 || ["{", "}", ";"].contains(&tokens[index - 1].text);
    starts && next_is(tokens, index, "!") && next_is(tokens, matching(tokens, index + 2), ";")
}

fn missing_header(source: &Source) -> Vec<Finding> {
    if source.text.starts_with("//!") {
        return Vec::new();
    }
    vec![finding(
        source,
        1,
        "a file begins with //!: its purpose, and what it must not know",
    )]
}

fn not_ascii(source: &Source) -> Vec<Finding> {
    let bad = source
        .text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.is_ascii());
    bad.map(|(index, _)| finding(source, index + 1, "sources are ASCII: write \\u{...} or a word"))
        .collect()
}

/// Files below `src/` that no `mod` leads to: nothing compiles them, so nothing checks them.
fn unreachable_files(sources: &[Source]) -> Vec<Finding> {
    let by_path: BTreeMap<&str, &Source> = sources.iter().map(|s| (s.path.as_str(), s)).collect();
    let mut open = vec!["src/lib.rs".to_owned(), "src/main.rs".to_owned()];
    let mut reached = BTreeSet::new();
    while let Some(path) = open.pop() {
        if let Some(source) = by_path.get(path.as_str()) {
            open.extend(children(source));
            reached.insert(path);
        }
    }
    let lost = by_path
        .values()
        .filter(|s| s.path.starts_with("src/") && !reached.contains(&s.path));
    lost.map(|s| finding(s, 1, "no mod leads to this file")).collect()
}

/// Where the modules that a file declares may lie.
fn children(source: &Source) -> Vec<String> {
    let (folder, name) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let base = match name {
        "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
        _ => format!("{folder}/{}", name.trim_end_matches(".rs")),
    };
    let tokens = tokens(&source.code);
    let declared = tokens
        .windows(3)
        .filter(|w| w[0].text == "mod" && is_name(w.get(1)) && w[2].text == ";");
    declared
        .flat_map(|w| {
            [
                format!("{base}/{}.rs", w[1].text),
                format!("{base}/{}/mod.rs", w[1].text),
            ]
        })
        .collect()
}

// The rules hold.

#[test]
fn modules_import_only_what_the_table_lists() {
    enforce(&product(), unlisted_imports);
}

#[test]
fn super_stays_inside_of_its_module() {
    enforce(&product(), escapes_by_super);
}

#[test]
fn pure_places_know_no_time_no_files_and_no_locks() {
    enforce(&product(), impurities);
}

#[test]
fn packages_appear_only_where_they_belong() {
    enforce(&product(), misplaced_packages);
}

#[test]
fn files_are_not_too_long() {
    enforce(&everything(), too_long);
}

#[test]
fn nothing_banned_is_left() {
    enforce(&everything(), banned_words);
    enforce(&everything(), banned_code);
}

#[test]
fn every_file_says_what_it_is_for() {
    enforce(&everything(), missing_header);
}

#[test]
fn sources_are_ascii() {
    enforce(&everything(), not_ascii);
    let protos = scan::files("proto", ".proto");
    assert!(protos.len() > 5, "the protocol files are found");
    let protos: Vec<Source> = protos
        .iter()
        .map(|path| Source::new(path, &scan::read(path)))
        .collect();
    enforce(&protos, not_ascii);
}

#[test]
fn every_file_is_compiled() {
    report(&unreachable_files(&product()));
}

#[test]
fn import_table_has_no_cycle_and_no_unknown_name() {
    let mut left: BTreeMap<&str, &[&str]> = IMPORTS.iter().copied().collect();
    assert_eq!(left.len(), IMPORTS.len(), "one row per module");
    for target in IMPORTS.iter().flat_map(|(_, targets)| *targets) {
        assert!(left.contains_key(target), "{target} has no row");
    }
    while !left.is_empty() {
        let names: BTreeSet<&str> = left.keys().copied().collect();
        left.retain(|_, targets| targets.iter().any(|target| names.contains(target)));
        assert!(left.len() < names.len(), "a cycle among {names:?}");
    }
}

// The rules can fail.

/// What a rule finds in a snippet that claims to lie at `path`: lines and texts.
fn found(rule: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<(usize, String)> {
    let findings = rule(&Source::new(path, text));
    findings.into_iter().map(|f| (f.line, f.what)).collect()
}

/// Lines at which a rule finds something in a snippet.
fn lines(rule: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<usize> {
    found(rule, path, text)
        .into_iter()
        .map(|(line, _)| line)
        .collect()
}

#[test]
fn an_unlisted_import_is_found_with_file_line_and_advice() {
    let text = "//! x\nuse crate::model::Offset;\nuse crate::{record::Record, storage::Lsn};\nfn f() { crate::net::g() }";
    assert_eq!(
        found(unlisted_imports, "src/partition/a.rs", text),
        [(3, "storage"), (4, "net")].map(|(line, target)| (
            line,
            format!(
                "partition imports {target}: ask whether the layer is right before adding the edge; an ADR is needed"
            )
        ))
    );
    let quiet = "// crate::net\nuse crate::partition::b;\n#[cfg(test)]\nmod tests { use crate::net::x; }";
    assert_eq!(lines(unlisted_imports, "src/partition/a.rs", quiet), [0_usize; 0]);
    assert_eq!(
        lines(unlisted_imports, "src/main.rs", "use naru::{cli, broker::x};"),
        [1]
    );
    assert_eq!(lines(unlisted_imports, "src/model/a.rs", "use crate::*;"), [1]);
    assert_eq!(lines(unlisted_imports, "src/unheard_of.rs", ""), [1]);
}

#[test]
fn an_escape_by_super_is_found() {
    assert_eq!(
        lines(escapes_by_super, "src/broker/a/b.rs", "use super::super::c;"),
        [1]
    );
    assert_eq!(
        lines(escapes_by_super, "src/broker/mod.rs", "\nuse super::net;"),
        [2]
    );
    assert_eq!(lines(escapes_by_super, "src/config.rs", "use super::net;"), [1]);
    assert_eq!(
        lines(escapes_by_super, "src/broker/a.rs", "use super::b;"),
        [0_usize; 0]
    );
    assert_eq!(
        lines(escapes_by_super, "src/config.rs", "mod a {\nuse super::b;\n}"),
        [0_usize; 0]
    );
}

#[test]
fn an_impurity_is_found() {
    for text in [
        "async fn f() {}",
        "use tokio::sync::watch;",
        "use std::{fmt, fs};",
        "use std::net::IpAddr;",
        "fn f(now: std::time::Instant) {}",
        "use std::time::{Duration, SystemTime};",
        "struct S(std::sync::Mutex<u8>);",
        "fn f() { tracing::info!(1) }",
    ] {
        assert_eq!(lines(impurities, "src/partition/a.rs", text), [1], "{text}");
        assert_eq!(lines(impurities, "src/metadata/machine.rs", text), [1], "{text}");
        assert_eq!(lines(impurities, "src/broker/a.rs", text), [0_usize; 0], "{text}");
    }
    assert_eq!(
        lines(impurities, "src/api/a.rs", "use std::sync::Arc;"),
        [0_usize; 0]
    );
}

#[test]
fn a_misplaced_package_is_found() {
    for (path, text) in [
        ("src/wire/a.rs", "use tokio::sync::mpsc;"),
        ("src/storage/a.rs", "#[derive(prost::Message)] struct S;"),
        ("src/broker/a.rs", "use dashmap::DashMap;"),
        ("src/server.rs", "use clap::Parser;"),
        ("src/net/a.rs", "use axum::Router;"),
        ("src/storage/local/mod.rs", "use std::{fs::File, io};"),
        ("src/cli/a.rs", "fn f() { tokio::fs::read(p); }"),
        ("src/server/a.rs", "fn f() { std::fs::read(p); }"),
        ("src/storage/b.rs", "use std::os::unix::fs::FileExt;"),
        ("src/storage/c.rs", "fn f() { rustix::fs::fdatasync(f); }"),
        ("src/broker/b.rs", "fn f() { fastrand::u64(..); }"),
    ] {
        assert_eq!(lines(misplaced_packages, path, text), [1], "{path}");
    }
    assert_eq!(
        lines(misplaced_packages, "src/broker/mod.rs", "use dashmap::DashMap;"),
        [0_usize; 0]
    );
    assert_eq!(
        lines(misplaced_packages, "src/disk/real.rs", "use std::fs::File;"),
        [0_usize; 0]
    );
}

#[test]
fn a_long_file_is_found_and_its_tests_do_not_count() {
    let code = "fn f() {}\n".repeat(FILE_LINES_MAX);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{code}}}\n");
    assert_eq!(
        lines(too_long, "src/net/a.rs", &format!("{code}{tests}")),
        [0_usize; 0]
    );
    assert_eq!(
        lines(too_long, "src/net/a.rs", &format!("{code}fn g() {{}}\n{tests}")),
        [801]
    );
}

#[test]
fn a_banned_word_is_found() {
    for (word, _) in BANNED_WORDS {
        assert_eq!(
            lines(banned_words, "src/net/a.rs", &format!("\n// {word} later")),
            [2]
        );
    }
    assert_eq!(lines(banned_words, "src/net/utils.rs", ""), [1]);
    for text in [
        "#[ignore] fn f() {}",
        "#[ignore = \"slow\"] fn f() {}",
        "fn f() { todo!() }",
        "fn f() { unimplemented!(\"x\") }",
        "fn f() { matches!(a, Some(_)); }",
    ] {
        assert_eq!(lines(banned_code, "tests/it/a.rs", text), [1], "{text}");
    }
    assert_eq!(
        lines(banned_code, "src/net/a.rs", "#[path = \"x.rs\"] mod x;"),
        [1]
    );
    let quiet = "fn f() -> bool { assert!(matches!(a, b)); /* todo!() */ matches!(a, b) }";
    assert_eq!(lines(banned_code, "src/net/a.rs", quiet), [0_usize; 0]);
}

#[test]
fn a_missing_header_and_a_foreign_character_are_found() {
    assert_eq!(lines(missing_header, "src/net/a.rs", "use a::b;"), [1]);
    assert_eq!(lines(missing_header, "src/net/a.rs", "//! Frames."), [0_usize; 0]);
    assert_eq!(lines(not_ascii, "src/net/a.rs", "// a\n// \u{2192}"), [2]);
}

#[test]
fn a_file_without_a_mod_is_found() {
    let files = [
        ("src/lib.rs", "pub mod net; mod wire;"),
        ("src/net/mod.rs", "mod frame; // mod lost;"),
        ("src/net/frame.rs", "#[cfg(test)] mod tests;"),
        ("src/net/frame/tests.rs", ""),
        ("src/net/lost.rs", ""),
        ("src/wire.rs", ""),
    ];
    let sources = files.map(|(path, text)| Source::new(path, text));
    let lost: Vec<String> = unreachable_files(&sources).into_iter().map(|f| f.path).collect();
    assert_eq!(lost, ["src/net/lost.rs"]);
}
