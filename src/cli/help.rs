//! The grammar of the command line, its longer texts fitted to the terminal.

use clap::{Command, CommandFactory, FromArgMatches};

use super::Cli;

/// Reads the words.
///
/// # Errors
/// They make no sense, or ask for help.
pub(super) fn read(words: &[std::ffi::OsString]) -> Result<Cli, clap::Error> {
    let mut command = flowing(Cli::command());
    let mut matches = command.try_get_matches_from_mut(words)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// The texts behind the flags are wrapped where the source is; clap wraps them again where the terminal ends, which gives
/// ragged lines. So paragraphs become one line each.
fn flowing(mut command: Command) -> Command {
    if let Some(text) = command.get_after_help() {
        let text = paragraphs(&text.to_string());
        command = command.after_help(text);
    }
    let names: Vec<String> = command
        .get_subcommands()
        .map(|below| below.get_name().to_owned())
        .collect();
    for name in names {
        command = command.mut_subcommand(name, flowing);
    }
    command
}

/// Joins lines of prose. What is indented stands for itself, and so does what follows it, an empty line or a colon.
fn paragraphs(text: &str) -> String {
    let mut joined = String::new();
    let mut goes_on = false;
    for line in text.lines() {
        let prose = !line.is_empty() && !line.starts_with(' ');
        if !joined.is_empty() {
            joined.push(if goes_on && prose { ' ' } else { '\n' });
        }
        joined.push_str(line);
        goes_on = prose && !line.ends_with(':');
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_joined_and_examples_are_not() {
        let text =
            "Examples:\n  naru a\n  naru b\n\nFirst line,\nsecond line.\nThird.\n\nCodes:\n  1  x\n130  y";
        let expected =
            "Examples:\n  naru a\n  naru b\n\nFirst line, second line. Third.\n\nCodes:\n  1  x\n130  y";
        assert_eq!(paragraphs(text), expected);
    }

    #[test]
    fn help_has_no_line_that_the_source_broke() {
        let words = ["naru", "consume", "--help"].map(std::ffi::OsString::from);
        let help = read(&words).unwrap_err().to_string();
        // Between two full lines there is never a short one.
        let ragged = help.lines().zip(help.lines().skip(1)).find(|(line, next)| {
            let prose = |line: &str| !line.starts_with(' ') && !line.is_empty();
            prose(line) && prose(next) && line.len() < 60 && !line.ends_with([':', '.'])
        });
        assert_eq!(ragged, None, "{help}");
    }
}
