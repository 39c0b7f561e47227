//! Reads Rust sources well enough for the rules: comments and literals blanked, test items removed, paths collected.
//!
//! A text scan and not a parser: what it must get right is where code ends and prose begins, and how `use` trees unfold.

use std::path::{Path, PathBuf};

/// A source file, in the forms that the rules look at. All forms have the same lines.
pub(crate) struct Source {
    /// Relative to the repository, with `/`.
    pub(crate) path: String,
    /// As it stands.
    pub(crate) text: String,
    /// Without comments and contents of literals.
    pub(crate) code: String,
    /// `code` without items that exist in tests only.
    pub(crate) product: String,
}

/// An identifier, `::`, or one other character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    pub(crate) at: usize,
    pub(crate) line: usize,
}

/// A path of at least two segments, with groups unfolded: `use a::{b, c::d}` is `a::b` and `a::c::d`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CodePath<'a> {
    pub(crate) segments: Vec<&'a str>,
    pub(crate) line: usize,
}

impl CodePath<'_> {
    /// Whether it begins with these segments, written with `::`.
    pub(crate) fn begins_with(&self, prefix: &str) -> bool {
        let wanted: Vec<&str> = prefix.split("::").collect();
        self.segments.starts_with(&wanted)
    }
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = blank_prose(text);
        let product = if is_test_file(path) {
            blank_range(&code, 0, code.len())
        } else {
            blank_test_items(&code)
        };
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
            product,
        }
    }

    /// Path below `src/`, or the whole path for other files.
    pub(crate) fn place(&self) -> &str {
        self.path.strip_prefix("src/").unwrap_or(&self.path)
    }

    /// Top-level folder or file below `src/`, without `.rs`.
    pub(crate) fn top_module(&self) -> &str {
        let first = self.place().split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }
}

/// `tests.rs` beside or below a source file holds nothing but tests.
fn is_test_file(path: &str) -> bool {
    path.starts_with("src/") && (path.ends_with("/tests.rs") || path.contains("/tests/"))
}

pub(crate) fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder of the repository whose names end so, sorted by path.
pub(crate) fn files(folder: &str, suffix: &str) -> Vec<String> {
    let mut found = Vec::new();
    walk(&repository().join(folder), folder, suffix, &mut found);
    found.sort();
    found
}

fn walk(directory: &Path, name: &str, suffix: &str, found: &mut Vec<String>) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries {
        let entry = entry.expect("a directory of the repository can be listed");
        let path = format!("{name}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            walk(&entry.path(), &path, suffix, found);
        } else if path.ends_with(suffix) {
            found.push(path);
        }
    }
}

pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path))
        .unwrap_or_else(|error| panic!("{path} cannot be read: {error}"))
}

/// All Rust sources below these folders, and `build.rs`.
pub(crate) fn sources(folders: &[&str]) -> Vec<Source> {
    let mut paths: Vec<String> = folders.iter().flat_map(|f| files(f, ".rs")).collect();
    paths.push("build.rs".to_owned());
    paths.iter().map(|path| Source::new(path, &read(path))).collect()
}

/// Replaces comments and literals by blanks; lines stay where they are.
pub(crate) fn blank_prose(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let prose = prose_end(bytes, at);
        let end = prose.unwrap_or_else(|| at + word_len(bytes, at).max(1));
        for byte in &bytes[at..end] {
            out.push(match byte {
                b'\n' => '\n',
                byte if prose.is_none() && byte.is_ascii() => char::from(*byte),
                _ => ' ',
            });
        }
        at = end;
    }
    out
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn word_len(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().take_while(|byte| is_word(**byte)).count()
}

/// Where the comment or literal that begins at `at` ends; `None` if code begins there.
fn prose_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        let len = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
        return Some(at + len);
    }
    if rest.starts_with(b"/*") {
        return Some(block_comment_end(bytes, at));
    }
    let prefix = match &rest[..word_len(bytes, at)] {
        b"" | b"r" | b"b" | b"br" | b"c" | b"cr" => word_len(bytes, at),
        _ => return None,
    };
    let raw = rest[..prefix].contains(&b'r');
    let hashes = rest[prefix..].iter().take_while(|b| **b == b'#').count();
    match rest.get(prefix + hashes) {
        Some(b'"') if raw => Some(raw_string_end(bytes, at + prefix + hashes, hashes)),
        Some(b'"') if hashes == 0 => Some(quoted_end(bytes, at + prefix, b'"')),
        Some(b'\'') if hashes == 0 && !raw && is_char(bytes, at + prefix) => {
            Some(quoted_end(bytes, at + prefix, b'\''))
        }
        _ => None,
    }
}

fn block_comment_end(bytes: &[u8], at: usize) -> usize {
    let mut depth = 0_usize;
    let mut end = at;
    while end < bytes.len() {
        if bytes[end..].starts_with(b"/*") {
            depth += 1;
            end += 2;
        } else if bytes[end..].starts_with(b"*/") {
            depth -= 1;
            end += 2;
            if depth == 0 {
                return end;
            }
        } else {
            end += 1;
        }
    }
    end
}

fn raw_string_end(bytes: &[u8], quote: usize, hashes: usize) -> usize {
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    let inside = &bytes[quote + 1..];
    let len = inside.windows(close.len()).position(|w| w == close);
    len.map_or(bytes.len(), |len| quote + 1 + len + close.len())
}

fn quoted_end(bytes: &[u8], quote: usize, with: u8) -> usize {
    let mut end = quote + 1;
    while end < bytes.len() && bytes[end] != with {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    (end + 1).min(bytes.len())
}

/// Whether the quote begins a character and not a lifetime.
fn is_char(bytes: &[u8], quote: usize) -> bool {
    let Some(first) = bytes.get(quote + 1) else {
        return false;
    };
    if *first == b'\\' {
        return true;
    }
    let continuation = bytes[quote + 2..]
        .iter()
        .take_while(|b| **b & 0xC0 == 0x80)
        .count();
    bytes.get(quote + 2 + continuation) == Some(&b'\'')
}

fn blank_range(code: &str, from: usize, to: usize) -> String {
    let blanked = code[from..to].chars().map(|c| if c == '\n' { c } else { ' ' });
    code[..from]
        .chars()
        .chain(blanked)
        .chain(code[to..].chars())
        .collect()
}

/// Blanks every item behind `#[cfg(test)]` and `#[cfg(all(test, ...))]`.
fn blank_test_items(code: &str) -> String {
    let mut out = code.to_owned();
    let tokens = tokens(code);
    let mut index = 0;
    while index < tokens.len() {
        let end = if is_test_attribute(&tokens[index..]) {
            item_end(&tokens, index)
        } else {
            index
        };
        if let (true, Some(last)) = (end > index, tokens.get(end)) {
            out = blank_range(&out, tokens[index].at, last.at + last.text.len());
        }
        index = end + 1;
    }
    out
}

fn is_test_attribute(tokens: &[Token<'_>]) -> bool {
    let begins = |words: &[&str]| {
        tokens
            .iter()
            .map(|t| t.text)
            .take(words.len())
            .eq(words.iter().copied())
    };
    begins(&["#", "[", "cfg", "(", "test", ")"]) || begins(&["#", "[", "cfg", "(", "all", "(", "test", ","])
}

/// Index of the last token of the item whose attributes begin at `index`.
fn item_end(tokens: &[Token<'_>], index: usize) -> usize {
    let mut at = index;
    while tokens.get(at).is_some_and(|t| t.text == "#") {
        at = matching(tokens, at + 1) + 1;
    }
    while let Some(token) = tokens.get(at) {
        match token.text {
            "(" | "[" => at = matching(tokens, at),
            "{" => return matching(tokens, at),
            ";" => return at,
            _ => {}
        }
        at += 1;
    }
    tokens.len() - 1
}

/// Index of the bracket that closes the one at `index`, or of the last token.
pub(crate) fn matching(tokens: &[Token<'_>], index: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(index) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len() - 1
}

pub(crate) fn tokens(code: &str) -> Vec<Token<'_>> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let len = if bytes[at..].starts_with(b"::") {
            2
        } else {
            word_len(bytes, at).max(1)
        };
        if bytes[at] == b'\n' {
            line += 1;
        } else if !bytes[at].is_ascii_whitespace() {
            let text = &code[at..at + len];
            found.push(Token { text, at, line });
        }
        at += len;
    }
    found
}

pub(crate) fn is_name(token: Option<&Token<'_>>) -> bool {
    token.is_some_and(|t| t.text.bytes().all(is_word) && !t.text.as_bytes()[0].is_ascii_digit())
}

/// All paths of at least two segments.
pub(crate) fn paths<'a>(tokens: &[Token<'a>]) -> Vec<CodePath<'a>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        at = if is_name(tokens.get(at)) && begins_path(tokens, at) {
            unfold(tokens, at, &[], &mut found)
        } else {
            at + 1
        };
    }
    found.retain(|path| path.segments.len() > 1);
    found
}

/// Words that a path can follow but not begin with.
const KEYWORDS: &[&str] = &[
    "as", "break", "dyn", "else", "for", "if", "impl", "in", "let", "match", "move", "mut", "ref", "return",
    "use", "where", "while", "yield",
];

/// A name behind `::` goes on with the path before it, but for a leading `::`.
fn begins_path(tokens: &[Token<'_>], at: usize) -> bool {
    if KEYWORDS.contains(&tokens[at].text) {
        return false;
    }
    if at == 0 || tokens[at - 1].text != "::" {
        return true;
    }
    let before = at.checked_sub(2).and_then(|index| tokens.get(index));
    before.is_none_or(|t| KEYWORDS.contains(&t.text) || !(is_name(Some(t)) || t.text == ">"))
}

/// Collects the path or use tree that begins at `at`; returns the index behind it.
fn unfold<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    prefix: &[&'a str],
    found: &mut Vec<CodePath<'a>>,
) -> usize {
    let mut segments = prefix.to_vec();
    let line = tokens[at].line;
    segments.push(tokens[at].text);
    at += 1;
    while tokens.get(at).is_some_and(|t| t.text == "::") {
        match tokens.get(at + 1) {
            Some(token) if is_name(Some(token)) || token.text == "*" => segments.push(token.text),
            Some(token) if token.text == "{" => return unfold_group(tokens, at + 1, &segments, found),
            _ => break,
        }
        at += 2;
    }
    found.push(CodePath { segments, line });
    at
}

fn unfold_group<'a>(
    tokens: &[Token<'a>],
    open: usize,
    prefix: &[&'a str],
    found: &mut Vec<CodePath<'a>>,
) -> usize {
    let close = matching(tokens, open);
    let mut at = open + 1;
    while at < close {
        at = match tokens[at].text {
            "as" => at + 2,
            "*" => unfold(tokens, at, prefix, found),
            _ if is_name(tokens.get(at)) => unfold(tokens, at, prefix, found),
            _ => at + 1,
        };
    }
    close + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths_of(code: &str) -> Vec<String> {
        let blanked = blank_prose(code);
        paths(&tokens(&blanked))
            .iter()
            .map(|path| path.segments.join("::"))
            .collect()
    }

    #[test]
    fn comments_and_literals_are_blanked_and_code_is_not() {
        let text = "a /* b /* c */ d */ e // f\n\"g \\\" h\" i r#\"j \" k\"# l b'm' n '\\'' o 'p q: &'r str";
        let words: Vec<String> = blank_prose(text).split_whitespace().map(str::to_owned).collect();
        assert_eq!(words, ["a", "e", "i", "l", "n", "o", "'p", "q:", "&'r", "str"]);
        assert_eq!(blank_prose(text).lines().count(), text.lines().count());
        assert_eq!(
            blank_prose("r#type 'x' '\u{e9}' y").split_whitespace().last(),
            Some("y")
        );
    }

    #[test]
    fn items_of_tests_are_not_product_code() {
        let source = Source::new(
            "src/model/a.rs",
            "use a::b;\n#[cfg(test)]\n#[derive(Debug)]\nmod tests { use c::d; fn f() { } }\nuse e::f;\n#[cfg(test)]\nuse g::h;\nuse i::j;",
        );
        let found: Vec<String> = paths(&tokens(&source.product))
            .iter()
            .map(|p| p.segments.join("::"))
            .collect();
        assert_eq!(found, ["a::b", "e::f", "i::j"]);
        let whole = Source::new("src/model/a/tests.rs", "use a::b;");
        assert_eq!(whole.product.trim(), "");
    }

    #[test]
    fn use_trees_unfold() {
        assert_eq!(
            paths_of("use crate::{a, b::{c, d as e}, f::*};\nlet x = crate::g::H::<crate::i::J>::new(y);"),
            [
                "crate::a",
                "crate::b::c",
                "crate::b::d",
                "crate::f::*",
                "crate::g::H",
                "crate::i::J"
            ]
        );
        assert_eq!(
            paths_of("use ::std::fs; x(::tokio::spawn)"),
            ["std::fs", "tokio::spawn"]
        );
    }
}
