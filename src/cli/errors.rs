//! `naru errors list|show`: what the broker's error codes mean, from the table that the protocol uses.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Context;
use super::failure::{Exit, Failure, Outcome};
use super::output::{facts, line};
use crate::model::{ErrorCode, nearest};

/// What to say about error codes.
#[derive(Debug, Subcommand)]
pub(crate) enum ErrorsCommand {
    /// List all codes with their meaning.
    List,
    /// Explain one code: cause, cure, whether a retry helps, and how the command line ends with it.
    Show(ShowArgs),
}

/// Arguments of `errors show`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  naru errors show UNKNOWN_TOPIC_OR_PARTITION\n  naru errors show 40")]
pub(crate) struct ShowArgs {
    /// Name or number of the code.
    code: String,
}

pub(crate) fn run(command: &ErrorsCommand, context: &Context) -> Outcome {
    match command {
        ErrorsCommand::List => list(context),
        ErrorsCommand::Show(args) => show(find(&args.code)?, context),
    }
}

fn list(context: &Context) -> Outcome {
    let row = |code: &ErrorCode| {
        vec![
            code.number().to_string(),
            code.name().to_owned(),
            code.class().name().to_owned(),
            code.cause().to_owned(),
        ]
    };
    context.output.list(
        &["CODE", "NAME", "CLASS", "CAUSE"],
        &[0],
        ErrorCode::ALL.iter().map(|code| (row(code), to_json(*code))),
    )?;
    Ok(())
}

fn show(code: ErrorCode, context: &Context) -> Outcome {
    if !context.output.is_table() {
        context.output.json(&to_json(code))?;
        return Ok(());
    }
    let definite = if code.is_definite() {
        "yes: the request surely had no effect"
    } else {
        "no: the request may have had its effect"
    };
    let retriable = if code.class().is_retriable() { "yes" } else { "no" };
    line(&facts(&[
        ("code", format!("{} ({})", code.name(), code.number())),
        ("cause", code.cause().to_owned()),
        ("cure", code.cure().to_owned()),
        ("class", code.class().name().to_owned()),
        ("definite", definite.to_owned()),
        ("retriable", retriable.to_owned()),
        ("exit code", Exit::of(code).code().to_string()),
    ]))?;
    Ok(())
}

fn to_json(code: ErrorCode) -> Value {
    json!({
        "code": code.number(), "name": code.name(), "class": code.class().name(), "definite": code.is_definite(),
        "retriable": code.class().is_retriable(), "cause": code.cause(), "cure": code.cure(),
        "exit_code": Exit::of(code).code(),
    })
}

/// The code of this name or number, as people type it.
fn find(text: &str) -> Result<ErrorCode, Failure> {
    let name = text.to_ascii_uppercase().replace(['-', ' '], "_");
    let all = ErrorCode::ALL.iter();
    let by_number = text.parse().ok().and_then(ErrorCode::from_number);
    if let Some(code) = by_number.or_else(|| all.clone().find(|code| code.name() == name).copied()) {
        return Ok(code);
    }
    let message = format!("there is no error code '{text}'");
    let failure = Failure::new(Exit::NotFound, "UNKNOWN_CODE", message);
    Err(match nearest(&name, all.map(|code| code.name())) {
        Some(nearest) => failure.hint(format!("did you mean '{nearest}'?")),
        None => failure.hint("'naru errors list' shows all"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_by_name_and_number_as_people_type_them() {
        for text in ["STORAGE_FULL", "storage-full", "Storage full", "3"] {
            assert_eq!(find(text), Ok(ErrorCode::StorageFull), "{text}");
        }
    }

    #[test]
    fn a_misspelt_code_is_answered_with_the_nearest() {
        let failure = find("UNKNOWN_TOPIC_OR_PARTITON").unwrap_err();
        assert_eq!(failure.exit.code(), 3);
        assert_eq!(
            failure.hint.as_deref(),
            Some("did you mean 'UNKNOWN_TOPIC_OR_PARTITION'?")
        );
        assert!(
            find("9999")
                .unwrap_err()
                .hint
                .is_some_and(|hint| hint.contains("errors list"))
        );
    }
}
