//! Words of a command line that somebody may paste into a shell.

use std::path::Path;

/// A word as a shell of POSIX takes it for itself: in quotes if there is anything in it that a shell would not leave alone.
pub fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    // Nothing means anything between single quotes but the quote that ends them.
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A file or directory as a word of a command line; never taken for a flag. What is not UTF-8 in it a shell makes again with
/// `printf`, in octal: `$'\xff'` is shorter, and not every shell knows it.
pub fn shell_path(path: &Path) -> String {
    let bytes = path.as_os_str().as_encoded_bytes();
    let flag = if bytes.starts_with(b"-") { "./" } else { "" };
    if let Ok(text) = std::str::from_utf8(bytes) {
        return shell_word(&format!("{flag}{text}"));
    }
    let mut word = flag.to_owned();
    for chunk in bytes.utf8_chunks() {
        if !chunk.valid().is_empty() {
            word.push_str(&shell_word(chunk.valid()));
        }
        if !chunk.invalid().is_empty() {
            let octal: String = chunk.invalid().iter().map(|b| format!("\\{b:03o}")).collect();
            word.push_str(&format!("\"$(printf '{octal}')\""));
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_not_leave_alone_is_shell_word() {
        for (word, as_one) in [
            ("./data", "./data"),
            ("/var/lib/naru-1_a.b", "/var/lib/naru-1_a.b"),
            ("group:7-9", "group:7-9"),
            ("", "''"),
            ("my data", "'my data'"),
            ("~/data", "'~/data'"),
            (
                "a$HOME`ls`;&|<>*?[x]\"\\#!(){}",
                "'a$HOME`ls`;&|<>*?[x]\"\\#!(){}'",
            ),
            ("it's", r"'it'\''s'"),
            ("'", r"''\'''"),
            ("zwei\nZeilen", "'zwei\nZeilen'"),
        ] {
            assert_eq!(shell_word(word), as_one);
        }
        assert_eq!(shell_path(Path::new("-x")), "./-x");
        assert_eq!(shell_path(Path::new("-x y")), "'./-x y'");
        assert_eq!(shell_path(Path::new("/d x")), "'/d x'");
    }

    #[cfg(unix)]
    #[test]
    fn paths_that_are_no_text_come_back_from_a_shell_as_they_were() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt as _;
        let paths: [&[u8]; 6] = [
            b"/srv/na\xffru",
            b"\xff",
            b"-\xfe\xff d'x",
            b"/my data/it's/\xc3\x28/\xe4 x",
            b"/new\nline\xff\n",
            "/text/\u{e4} $x".as_bytes(),
        ];
        let words = paths.map(|path| shell_path(Path::new(OsStr::from_bytes(path))));
        assert_eq!(words[0], r#"/srv/na"$(printf '\377')"ru"#);
        for shell in ["sh", "bash"] {
            let script = format!(
                "for word in {}; do printf '%s\\0' \"$word\"; done",
                words.join(" ")
            );
            let out = std::process::Command::new(shell).args(["-c", &script]).output();
            let Ok(out) = out else { continue };
            assert!(out.status.success(), "{shell}: {out:?}");
            let given: Vec<_> = out.stdout.split(|byte| *byte == 0).collect();
            let mut expected = paths.to_vec();
            expected[2] = b"./-\xfe\xff d'x";
            expected.push(b"");
            assert_eq!(given, expected, "{shell}");
        }
    }

    /// The shell is the judge.
    #[test]
    fn a_shell_gives_the_words_back() {
        let words: Vec<String> = (1..128_u8)
            .map(|byte| format!("a{}b", char::from(byte)))
            .chain(["it's", "''", "-n", "\u{e4} \u{1f980}", "$(exit 3)", "\\"].map(str::to_owned))
            .collect();
        let line: Vec<_> = words.iter().map(|word| shell_word(word)).collect();
        let script = format!(
            "for word in {}; do printf '%s\\0' \"$word\"; done",
            line.join(" ")
        );
        let out = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}");
        let given: Vec<_> = out.stdout.split(|byte| *byte == 0).collect();
        let mut expected: Vec<_> = words.iter().map(|word| word.as_bytes()).collect();
        expected.push(b"");
        assert_eq!(given, expected);
    }
}
