//! What to say when a file is not JSON.

use jsonc_parser::ParseStringErrorKind;
use jsonc_parser::errors::{ParseError, ParseErrorKind};

use super::problem::Problems;
use super::source::{At, Span};

pub(super) fn report(error: &ParseError, problems: &mut Problems) {
    use ParseErrorKind as Kind;
    let range = error.range();
    let mut span = Span::new(range.start, range.end);
    let text = problems.text.text();
    let found = found(text, &span);
    let (message, help) = match error.kind() {
        Kind::ExpectedComma => (
            "expected a comma after this value, before the next one".to_owned(),
            "add a comma, or remove what follows",
        ),
        Kind::ExpectedColonAfterObjectKey => {
            (format!("found {found}, expected `:` after the key"), "an entry is written \"key\": value")
        }
        Kind::ExpectedObjectValue => {
            ("expected a value after `key:`, found the end of the file".to_owned(), "the file looks cut off")
        }
        Kind::ExpectedStringObjectProperty => {
            (format!("found {found}, expected a key in double quotes"), "put the key into double quotes")
        }
        Kind::ExpectedDigit
        | Kind::ExpectedDigitFollowingNegativeSign
        | Kind::ExpectedPlusMinusOrDigitInNumberLiteral
        | Kind::BareDecimalPointNumbersNotAllowed
        | Kind::HexadecimalNumbersNotAllowed
        | Kind::NonFiniteNumbersNotAllowed
        | Kind::UnaryPlusNumbersNotAllowed => (
            format!("found {found}, expected a number in decimal digits"),
            "write numbers like 2200, anything else in double quotes",
        ),
        Kind::MultipleRootJsonValues => (
            format!("found {found} after the end of the config, expected nothing more"),
            "remove it, or a bracket before it that closes too early",
        ),
        Kind::SingleQuotedStringsNotAllowed => {
            (format!("found {found}, expected a string in double quotes"), "replace ' by \" on both sides")
        }
        Kind::String(ParseStringErrorKind::UnterminatedStringLiteral) => {
            span.end = text[span.start..].find('\n').map_or(text.len(), |at| span.start + at);
            ("this string has no closing quote".to_owned(), "add the missing \"")
        }
        Kind::String(_) => {
            ("this string has an escape that JSON does not know".to_owned(), "write a backslash as \\\\")
        }
        Kind::UnexpectedCloseBrace
        | Kind::UnexpectedCloseBracket
        | Kind::UnexpectedColon
        | Kind::UnexpectedComma
        | Kind::UnexpectedToken
        | Kind::UnexpectedWord => (
            format!("found {found}, expected a value"),
            "a value is a string in double quotes, a number, `true`, `false`, an object or an array",
        ),
        Kind::UnexpectedTokenInObject if found == "`,`" => {
            (format!("found {found}, expected a key in double quotes"), "remove this comma")
        }
        Kind::UnexpectedTokenInObject => {
            (format!("found {found}, expected a key in double quotes or `}}`"), "is a bracket misplaced?")
        }
        Kind::UnterminatedArray => {
            span.end = span.start + 1;
            ("this `[` is never closed".to_owned(), "add the missing `]`, or the file is cut off")
        }
        Kind::UnterminatedObject => {
            span.end = span.start + 1;
            ("this `{` is never closed".to_owned(), "add the missing `}`, or the file is cut off")
        }
        Kind::UnterminatedCommentBlock => {
            span.end = span.start + 2;
            ("this comment is never closed".to_owned(), "add the missing */")
        }
        Kind::NestingDepthExceeded => {
            ("brackets within brackets, too deep".to_owned(), "a config needs no more than ten levels")
        }
        // The options allow comments and trailing commas, so these two do not come up.
        Kind::CommentsNotAllowed | Kind::TrailingCommasNotAllowed => {
            (format!("found {found}, which is not JSON"), "remove it")
        }
    };
    problems.error_help(&At { span, path: String::new() }, message, help);
}

/// The first character of the refused part. Never more: it may be a piece of the key.
fn found(text: &str, span: &Span) -> String {
    match text.get(span.start..).and_then(|rest| rest.chars().next()) {
        None => "the end of the file".into(),
        Some(c) if c.is_control() => "a control character".into(),
        Some(c) => format!("`{c}`"),
    }
}
