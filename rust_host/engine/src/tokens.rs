//! TorchScript's own tokens (torch's `csrc/jit/frontend/lexer.h`), so that what is scanned is what libtorch will read.

use crate::{Error, ErrorKind, Result};

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A name or a keyword.
    Ident,
    /// A number.
    Number,
    /// A string literal with its quotes.
    Text,
    /// A single sign.
    Sign(char),
}

/// One token of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// What it is.
    pub kind: TokenKind,
    /// Its characters.
    pub text: &'a str,
    /// Line, from 1.
    pub line: usize,
    /// Bytes of its line before it.
    pub column: usize,
    /// Whether it follows the token before it without a space.
    pub joined: bool,
}

impl Token<'_> {
    /// Whether it is that sign.
    pub fn is(&self, sign: char) -> bool {
        self.kind == TokenKind::Sign(sign)
    }
}

/// Deepest nesting of brackets and of indentation: libtorch's parser recurses.
const DEEPEST: usize = 200;
/// It also recurses over what is chained without brackets: `a.b.c`, `not not a`, `1 + 1 + 1`.
const LONGEST_CHAIN: usize = 1_000;
const MOST_TOKENS_OF_A_FUNCTION: usize = 500_000;

/// All tokens of a file of serialised code.
///
/// # Errors
/// `Refused` for what serialised code never has and could be read in two ways (a comment, a backslash, letters outside
/// ASCII), for code that is nested too deep or functions that are too long, and for text that has no end.
pub fn tokens<'a>(code: &'a str, file: &str) -> Result<Vec<Token<'a>>> {
    let bytes = code.as_bytes();
    let (mut at, mut line, mut line_start, mut joined) = (0, 1, 0, false);
    let mut in_function = 0usize;
    let mut nesting = Nesting::default();
    let mut found = Vec::new();
    let refused = |line: usize, what: &str| {
        Err(Error::new(
            ErrorKind::Refused,
            format!("`{file}`, line {line}, {what}: no archive that torch wrote has that"),
        ))
    };
    while let Some(&byte) = bytes.get(at) {
        if byte.is_ascii_whitespace() || byte == 0x0b {
            line += usize::from(byte == b'\n');
            if byte == b'\n' {
                let indent = bytes[at + 1..].iter().take_while(|&&b| b == b' ').count();
                if nesting.open.is_empty() && indent > 2 * DEEPEST {
                    return refused(line + 1, "is indented more than 200 deep");
                }
            }
            if byte == b'\n' && nesting.open.is_empty() {
                nesting.chain = 0;
            }
            joined = false;
            at += 1;
            line_start = if byte == b'\n' { at } else { line_start };
            continue;
        }
        let rest = &bytes[at..];
        let (kind, length) = match byte {
            b'"' | b'\'' => match string_length(rest) {
                Some(length) => (TokenKind::Text, length),
                None => return refused(line, "has a text without an end"),
            },
            b'0'..=b'9' => (TokenKind::Number, number_length(rest)),
            b'.' if rest.get(1).is_some_and(u8::is_ascii_digit) => (TokenKind::Number, number_length(rest)),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                (TokenKind::Ident, rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count())
            }
            b'#' => return refused(line, "has a comment"),
            b'\\' => return refused(line, "has a backslash outside a text"),
            0..=0x20 | 0x7f.. => return refused(line, "has a character that is no code"),
            sign => (TokenKind::Sign(char::from(sign)), 1),
        };
        let text = &code[at..at + length];
        nesting.add(kind, text);
        if nesting.open.len() > DEEPEST {
            return refused(line, "nests brackets more than 200 deep");
        }
        if nesting.chain > LONGEST_CHAIN {
            return refused(line, "nests more than 1000 parts of an expression");
        }
        in_function = if text == "def" { 0 } else { in_function + 1 };
        if in_function > MOST_TOKENS_OF_A_FUNCTION {
            return refused(line, "has a function of more than 500000 tokens");
        }
        found.push(Token { kind, text, line, column: at - line_start, joined });
        line += text.bytes().filter(|&b| b == b'\n').count();
        line_start = text.rfind('\n').map_or(line_start, |end| at + end + 1);
        at += length;
        joined = true;
    }
    Ok(found)
}

/// How deep the parser is in an expression.
#[derive(Default)]
struct Nesting {
    /// Length of the chain outside each open bracket.
    open: Vec<usize>,
    /// Length of the chain up to here, with those outside the brackets.
    chain: usize,
}

impl Nesting {
    fn add(&mut self, kind: TokenKind, text: &str) {
        match kind {
            TokenKind::Sign('(' | '[' | '{') => {
                self.open.push(self.chain);
                self.chain += 1;
            }
            // What was called or indexed may be called or indexed again: `a[0][0]`.
            TokenKind::Sign(')' | ']' | '}') => self.chain = self.open.pop().map_or(0, |outside| outside + 1),
            TokenKind::Sign(',' | ':' | ';') => self.chain = self.open.last().map_or(0, |outside| outside + 1),
            TokenKind::Sign(_) => self.chain += 1,
            TokenKind::Ident if matches!(text, "not" | "and" | "or" | "if" | "else" | "in" | "is" | "lambda") => {
                self.chain += 1;
            }
            _ => {}
        }
    }
}

/// One or three quotes; a backslash takes the next byte with it.
fn string_length(bytes: &[u8]) -> Option<usize> {
    let quote = *bytes.first()?;
    let quotes = if bytes.get(..3).is_some_and(|q| q.iter().all(|&b| b == quote)) { 3 } else { 1 };
    let mut at = quotes;
    loop {
        let end = bytes.get(at..at + quotes)?;
        if end.iter().all(|&b| b == quote) {
            return Some(at + quotes);
        }
        match bytes[at] {
            b'\n' if quotes == 1 => return None,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// As C's `strtod` reads it, with a `j` behind it for complex numbers.
fn number_length(bytes: &[u8]) -> usize {
    let digits =
        |from: usize, is: fn(&u8) -> bool| bytes.get(from..).unwrap_or_default().iter().take_while(|b| is(b)).count();
    let is_at = |at: usize, any: &[u8]| bytes.get(at).is_some_and(|b| any.contains(b));
    let first = if is_at(2, b".") { 3 } else { 2 };
    let hex = is_at(0, b"0") && is_at(1, b"xX") && bytes.get(first).is_some_and(u8::is_ascii_hexdigit);
    let (mut at, is, exponent): (usize, fn(&u8) -> bool, &[u8]) =
        if hex { (2, u8::is_ascii_hexdigit, b"pP") } else { (0, u8::is_ascii_digit, b"eE") };
    at += digits(at, is);
    if is_at(at, b".") {
        at += 1 + digits(at + 1, is);
    }
    if is_at(at, exponent) {
        let sign = usize::from(is_at(at + 1, b"+-"));
        let more = digits(at + 1 + sign, u8::is_ascii_digit);
        if more > 0 {
            at += 1 + sign + more;
        }
    }
    at + usize::from(is_at(at, b"j"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(code: &str) -> Vec<&str> {
        tokens(code, "f").unwrap().into_iter().map(|t| t.text).collect()
    }

    #[test]
    fn texts_end_where_libtorch_ends_them() {
        assert_eq!(texts(r#"a "b\"c" d"#), ["a", r#""b\"c""#, "d"]);
        assert_eq!(texts(r#"""" a" b""" c"#), [r#"""" a" b""""#, "c"]);
        assert_eq!(texts("'' x"), ["''", "x"]);
        assert!(tokens("\"a\nb\"", "f").is_err());
        assert!(tokens("'''a", "f").is_err());
    }

    #[test]
    fn numbers_end_where_strtod_ends_them() {
        assert_eq!(
            texts("1.5e-3+2j 0x1fg 1e .5 3.torch 0x.8p1torch"),
            ["1.5e-3", "+", "2j", "0x1f", "g", "1", "e", ".5", "3.", "torch", "0x.8p1", "torch"]
        );
    }

    #[test]
    fn long_lists_and_many_statements_are_no_nesting() {
        let list = format!("x = [{}]\n", "-1, ".repeat(10_000));
        let statements = "x = torch.add(x, -1)\n".repeat(10_000);
        assert!(tokens(&list, "f").is_ok() && tokens(&statements, "f").is_ok());
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for code in [
            "a # b",
            "a \\\n b",
            "tørch",
            "a\0b",
            &"(".repeat(300),
            &format!("x\n{}y", " ".repeat(500)),
            &"-".repeat(2000),
            &"not ".repeat(2000),
            &"1+".repeat(2000),
            &format!("x{}", "[0]".repeat(2000)),
            &format!("x{}", ".T".repeat(2000)),
        ] {
            assert!(tokens(code, "f").is_err(), "{code:?}");
        }
    }
}
