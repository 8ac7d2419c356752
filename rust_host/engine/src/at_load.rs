//! Code that runs while an archive is loaded (`__setstate__` and what it calls): nothing can watch it there, so it may do no
//! more than what torch's own layers do in it: pack weights, look at a type, raise.

use crate::{
    Error, ErrorKind, Result,
    operators::Policy,
    scan_code::Code,
    tokens::{Token, TokenKind},
};
use std::collections::HashMap;

/// One `def` and where its tokens are.
struct Function<'a> {
    code: &'a Code<'a>,
    body: &'a [Token<'a>],
}

/// Operators that need no bound.
fn is_harmless(operator: &str) -> bool {
    operator.starts_with("quantized::")
        || matches!(
            operator,
            "prim::RaiseException"
                | "prim::dtype"
                | "prim::device"
                | "prim::unchecked_unwrap_optional"
                | "aten::eq"
                | "aten::ne"
                | "aten::gt"
                | "aten::lt"
                | "aten::ge"
                | "aten::le"
                | "aten::len"
                | "aten::dim"
                | "aten::size"
                | "aten::format"
                | "aten::__is__"
                | "aten::__isnot__"
                | "aten::__not__"
                | "aten::__contains__"
                | "aten::__getitem__"
                | "aten::append"
                | "aten::list"
                | "aten::dict"
                | "aten::detach"
                | "aten::Bool"
                | "aten::Int"
                | "aten::Float"
        )
}

/// Checks every function that could run while the archive is loaded.
///
/// # Errors
/// `Refused` with the operator or the loop, and its line.
pub(crate) fn check<'a>(codes: &'a [Code<'a>], policy: &Policy) -> Result<()> {
    let mut functions: HashMap<&str, Vec<Function<'a>>> = HashMap::new();
    for code in codes {
        for (i, t) in code.tokens.iter().enumerate() {
            let is_end = |t: &Token<'_>| t.kind == TokenKind::Ident && matches!(t.text, "def" | "class");
            if t.kind != TokenKind::Ident || t.text != "def" {
                continue;
            }
            let Some(name) = code.tokens.get(i + 1) else { continue };
            let rest = &code.tokens[i + 2..];
            let end = rest.iter().position(is_end).unwrap_or(rest.len());
            functions.entry(name.text).or_default().push(Function { code, body: &rest[..end] });
        }
    }
    let mut costs = HashMap::new();
    cost("__setstate__", &functions, policy, &mut costs).map(|_| ())
}

/// Functions that one call of `__setstate__` may come to; torch's own layers need three.
const MOST_CALLS: usize = 1_000;

/// How many calls one of `name` comes to at most, over all functions of that name: two calls of a function that makes two
/// calls, and so on, are a loop too.
fn cost<'a>(
    name: &'a str,
    functions: &HashMap<&'a str, Vec<Function<'a>>>,
    policy: &Policy,
    costs: &mut HashMap<&'a str, Option<usize>>,
) -> Result<usize> {
    let too_many = || {
        let text = "`__setstate__` makes more calls than could be followed while the file is loaded";
        Error::new(ErrorKind::Refused, text)
    };
    // `None`: it is being looked at, so this is a circle.
    if let Some(known) = costs.get(name) {
        return known.ok_or_else(too_many);
    }
    costs.insert(name, None);
    let mut most = 1usize;
    for function in functions.get(name).into_iter().flatten() {
        let called = function.check(functions, policy)?;
        // A layer's method calls that of the same name of the layer inside it: a chain, as long as it is the only call.
        if called == [name] {
            continue;
        }
        let mut sum = 1usize;
        for inner in called {
            sum = sum.saturating_add(cost(inner, functions, policy, costs)?);
        }
        most = most.max(sum);
    }
    if most > MOST_CALLS {
        return Err(too_many());
    }
    costs.insert(name, Some(most));
    Ok(most)
}

impl<'a> Function<'a> {
    /// Names of the archive's own functions that this one could call.
    fn check(&self, functions: &HashMap<&'a str, Vec<Function<'a>>>, policy: &Policy) -> Result<Vec<&'a str>> {
        let file = self.code.file;
        let refused = |line: usize, what: &str| {
            let text = format!("`{file}`, line {line}, {what} in what `__setstate__` runs while the file is loaded");
            Err(Error::new(ErrorKind::Refused, text))
        };
        let mut called = Vec::new();
        for (i, t) in self.body.iter().enumerate() {
            let is = |at: usize, sign: char| self.body.get(at).is_some_and(|t| t.is(sign));
            let text = |at: usize| self.body.get(at).map(|t| t.text).unwrap_or_default();
            let after_dot = i > 0 && is(i - 1, '.');
            match t.kind {
                TokenKind::Sign('*' | '/' | '%' | '<' | '>') if text(i + 1) != ">" && !(i > 0 && is(i - 1, '-')) => {
                    return refused(t.line, &format!("`{}`", t.text));
                }
                TokenKind::Ident if !after_dot && matches!(t.text, "for" | "while" | "fork") => {
                    return refused(t.line, &format!("`{}`", t.text));
                }
                TokenKind::Ident if !after_dot && matches!(t.text, "torch" | "ops") => {
                    let operator = match t.text {
                        "torch" => format!("aten::{}", text(i + 2)),
                        _ => format!("{}::{}", text(i + 2), text(i + 4)),
                    };
                    if !is_harmless(&operator) && !policy.allowed.contains(&operator) {
                        return refused(t.line, &format!("calls `{operator}`")).map_err(|e: Error| {
                            e.hint(format!("if you trust the file: `--allow-operator {operator}`"))
                        });
                    }
                }
                TokenKind::Ident if t.text == "__torch__" && !after_dot && functions.contains_key("__init__") => {
                    called.push("__init__");
                }
                // A method: the archive's, or an operator on what stands before the dot.
                TokenKind::Ident if after_dot && is(i + 1, '(') && !functions.contains_key(t.text) => {
                    let first = self.first_of_chain(i);
                    if !matches!(first, "torch" | "ops" | "__torch__") && !is_harmless(&format!("aten::{}", t.text)) {
                        return refused(t.line, &format!("calls `aten::{}`", t.text));
                    }
                }
                _ => {}
            }
            if t.kind == TokenKind::Ident
                && let Some((name, _)) = functions.get_key_value(t.text)
            {
                called.push(name);
            }
        }
        Ok(called)
    }

    fn first_of_chain(&self, i: usize) -> &'a str {
        let mut first = i;
        while first >= 2 && self.body[first - 1].is('.') && self.body[first - 2].kind == TokenKind::Ident {
            first -= 2;
        }
        self.body[first].text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked_at(lines: &str) -> Result<()> {
        let text = format!(
            "def __setstate__(self, state: Tuple[int, int]) -> NoneType:\n{lines}def other(self):\n  for i in x:\n    torch.ones(x)\n"
        );
        check(&[Code::read(&text, "f")?], &Policy::default())
    }

    #[test]
    fn what_runs_while_a_file_is_loaded_is_bounded() {
        looked_at(
            "  self.a = (state)[0]\n  if torch.eq(self.a, 12):\n    self.b = ops.quantized.linear_prepack(a, -1)\n",
        )
        .unwrap();
        for line in [
            "  for i in x:\n    pass\n",
            "  torch.ones(9)\n",
            "  x.repeat(9)\n",
            "  x.to(-1)\n",
            "  torch.clone(x, memory_format=4)\n",
            "  (x).repeat(9)\n",
            "  x = [0] * 9\n",
            "  x = 1 << 9\n",
            "  f = fork(x)\n",
            "  self.other()\n",
            "  f = __torch__.other\n",
        ] {
            let e = looked_at(line).unwrap_err();
            assert!(e.message.contains("__setstate__"), "{e}");
        }
        let doubling: String =
            (0..40).map(|i| format!("def a{i}(self):\n  self.a{0}()\n  self.a{0}()\n", i + 1)).collect::<String>()
                + "def a40(self):\n  pass\n";
        let circle = "def a0(self):\n  self.a0()\n  self.a0()\n";
        for more in [doubling.as_str(), circle] {
            let e = looked_at(&format!("  self.a0()\n{more}")).unwrap_err();
            assert!(e.message.contains("more calls"), "{e}");
        }
        looked_at("  self.a0()\ndef a0(self):\n  self.inner.a0()\n").unwrap();
    }
}
