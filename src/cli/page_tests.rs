//! `docs/cli.md` and the command line say the same.

use std::path::Path;

use clap::{Command, CommandFactory};

use super::Cli;
use super::failure::EXIT_CODES_HELP;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    std::fs::read_to_string(path).unwrap()
}

/// All commands that do something, with the words that call them: `topic create`.
fn commands() -> Vec<(String, Command)> {
    fn below(words: &str, command: &Command, found: &mut Vec<(String, Command)>) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let words = format!("{words} {}", sub.get_name()).trim_start().to_owned();
            if sub.has_subcommands() {
                below(&words, sub, found);
            } else {
                found.push((words, sub.clone()));
            }
        }
    }
    let mut found = Vec::new();
    below("", &Cli::command(), &mut found);
    found
}

fn flags(command: &Command) -> Vec<String> {
    let args = command.get_arguments().filter(|arg| !arg.is_global_set());
    let long = args.filter_map(|arg| arg.get_long_and_visible_aliases());
    let names = long.flatten().filter(|name| !["help", "version"].contains(name));
    names.map(|name| format!("--{name}")).collect()
}

/// Heading and text of each section, code fences left in.
fn sections(page: &str) -> Vec<(String, String)> {
    let mut sections = Vec::new();
    let mut in_code = false;
    for line in page.lines() {
        in_code ^= line.starts_with("```");
        if line.starts_with('#') && !in_code {
            let heading = line.trim_start_matches('#').trim();
            sections.push((heading.to_owned(), String::new()));
        } else if let Some((_, text)) = sections.last_mut() {
            text.push_str(line);
            text.push('\n');
        }
    }
    sections
}

/// What is wrong with a page for these commands.
fn complaints(page: &str, commands: &[(String, Command)]) -> Vec<String> {
    let sections = sections(page);
    let mut complaints = Vec::new();
    for (words, command) in commands {
        let heading = format!("naru {words}");
        let Some((_, text)) = sections.iter().find(|(name, _)| *name == heading) else {
            complaints.push(format!("there is no section `{heading}`"));
            continue;
        };
        for flag in flags(command) {
            if !named_flags(text).contains(&flag) {
                complaints.push(format!("the section `{heading}` does not name {flag}"));
            }
        }
    }
    for (heading, _) in &sections {
        if let Some(words) = heading.strip_prefix("naru ")
            && !commands.iter().any(|(known, _)| known == words)
        {
            complaints.push(format!("there is no command for the section `{heading}`"));
        }
    }
    let mut known: Vec<String> = commands.iter().flat_map(|(_, command)| flags(command)).collect();
    let root = Cli::command();
    let global = root.get_arguments().filter_map(|arg| arg.get_long());
    known.extend(global.map(|name| format!("--{name}")));
    known.extend(["--help", "--version"].map(str::to_owned));
    let ours = page
        .lines()
        .filter(|line| !line.starts_with("$ ") || line.contains("naru "));
    for flag in ours.flat_map(named_flags) {
        if !known.contains(&flag) {
            complaints.push(format!("no command has the flag {flag}"));
        }
    }
    complaints
}

/// Everything like `--flag`.
fn named_flags(text: &str) -> Vec<String> {
    let starts = text.match_indices("--").map(|(at, _)| at);
    let flags = starts.filter(|at| !text[..*at].ends_with(|c: char| c == '-' || c.is_alphanumeric()));
    let flags = flags.map(|at| {
        let name = text[at + 2..].chars();
        let name = name.take_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-');
        format!("--{}", name.collect::<String>())
    });
    // Rules of tables have dashes, too.
    flags
        .filter(|flag| flag[2..].starts_with(|c: char| c.is_ascii_lowercase()))
        .collect()
}

/// The words of each call of `naru` on a line that somebody types; quotes as in a shell.
fn calls(line: &str) -> Vec<Vec<String>> {
    let mut calls = vec![vec![]];
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '|' | ';') => {
                calls.last_mut().unwrap().extend(word.take());
                calls.push(vec![]);
            }
            (None, ' ') => calls.last_mut().unwrap().extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    calls.last_mut().unwrap().extend(word);
    for call in &mut calls {
        // Redirections are the shell's.
        let end = call
            .iter()
            .position(|word| word.starts_with(['<', '>', '&']) || word.starts_with("2>"));
        call.truncate(end.unwrap_or(call.len()));
        let assigned = call.iter().take_while(|word| word.contains('=')).count();
        call.drain(..assigned);
    }
    calls.retain(|call| call.first().is_some_and(|word| word == "naru"));
    calls
}

#[test]
fn the_page_has_every_command_with_its_flags_and_nothing_else() {
    assert_eq!(complaints(&page(), &commands()), Vec::<String>::new());
}

#[test]
fn what_the_page_types_is_understood() {
    let page = page();
    let typed: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    assert!(
        typed.len() > commands().len(),
        "there is an example of most commands"
    );
    // What shows its exit code may be there to be refused.
    let to_work = typed
        .iter()
        .filter(|line| !line.ends_with("echo \"exit code $?\""));
    for call in to_work.flat_map(|line| calls(line)) {
        if let Err(error) = Cli::command().try_get_matches_from(&call) {
            assert!(!error.use_stderr(), "{call:?}: {error}");
        }
    }
}

#[test]
fn every_exit_code_is_on_the_page() {
    let page = page();
    for line in EXIT_CODES_HELP.lines().skip(1) {
        let code = line.split_whitespace().next().unwrap();
        assert!(page.contains(&format!("\n| {code} | ")), "{code}");
    }
}

#[test]
fn a_command_without_a_section_or_a_flag_that_is_not_named_is_found() {
    let added = Command::new("find").arg(clap::Arg::new("deep").long("deep"));
    let commands = vec![("topic find".to_owned(), added)];
    assert_eq!(
        complaints("# The command line\n", &commands),
        ["there is no section `naru topic find`"]
    );
    let without_flag = "### naru topic find\n\n--wide\n\n### naru topic lose\n";
    assert_eq!(
        complaints(without_flag, &commands),
        [
            "the section `naru topic find` does not name --deep",
            "there is no command for the section `naru topic lose`",
            "no command has the flag --wide"
        ]
    );
}

#[test]
fn calls_are_cut_as_a_shell_does() {
    let words = |line: &str| {
        calls(line)
            .into_iter()
            .map(|call| call.join("|"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        words("printf 'a b' | NARU_FORMAT=json naru produce t -k 'x y' > /dev/null; naru version 2>&1"),
        ["naru|produce|t|-k|x y", "naru|version"]
    );
}
