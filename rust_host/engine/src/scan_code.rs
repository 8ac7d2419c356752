//! The gate's look at an archive's code: which operators it names, and that it names them only as torch writes them.

use crate::{
    Error, ErrorKind, Result,
    operators::{Policy, is_internal, refusal},
    scan::refused,
    tokens::{Token, TokenKind, tokens},
};
use std::collections::HashSet;

/// What all code of an archive declares, in whatever file.
#[derive(Debug, Default)]
pub(crate) struct Declared<'a> {
    /// Methods, functions, attributes: what may stand behind a dot without being libtorch's.
    names: HashSet<&'a str>,
    /// Whether code runs while the archive is loaded, before libtorch could be asked what it calls.
    at_load: bool,
}

impl<'a> Declared<'a> {
    /// Adds what one file declares.
    pub(crate) fn add(&mut self, tokens: &[Token<'a>]) {
        for (i, t) in tokens.iter().enumerate() {
            let next = tokens.get(i + 1);
            if t.kind == TokenKind::Ident
                && t.text == "def"
                && let Some(name) = next
            {
                self.names.insert(name.text);
                self.at_load |= name.text == "__setstate__";
            } else if t.kind == TokenKind::Ident && next.is_some_and(|n| n.is(':')) {
                self.names.insert(t.text);
            }
        }
    }

    /// Whether `.name` is surely the archive's own, or can wait until libtorch says after loading what it is.
    fn owns(&self, name: &str) -> bool {
        self.names.contains(name) && !(self.at_load && (!name.starts_with('_') || is_internal(name)))
    }
}

/// One file of code and its tokens.
pub(crate) struct Code<'a> {
    pub(crate) file: &'a str,
    pub(crate) tokens: Vec<Token<'a>>,
}

impl<'a> Code<'a> {
    /// Cuts a file into its tokens.
    ///
    /// # Errors
    /// What [`tokens`] says.
    pub(crate) fn read(text: &'a str, file: &'a str) -> Result<Self> {
        Ok(Self { file, tokens: tokens(text, file)? })
    }

    fn is(&self, i: usize, sign: char) -> bool {
        self.tokens.get(i).is_some_and(|t| t.is(sign))
    }

    fn joined(&self, i: usize, sign: char) -> bool {
        self.tokens.get(i).is_some_and(|t| t.is(sign) && t.joined)
    }

    fn name(&self, i: usize) -> Option<&'a str> {
        self.tokens.get(i).filter(|t| t.kind == TokenKind::Ident && t.joined).map(|t| t.text)
    }

    fn odd(&self, t: &Token<'_>) -> Error {
        Error::new(
            ErrorKind::Refused,
            format!(
                "`{}`, line {}, uses `{}` in a way that torch never writes and that could hide an operator",
                self.file, t.line, t.text
            ),
        )
    }

    /// Checks every operator that the code could call.
    ///
    /// # Errors
    /// `Refused` with the operator and its line.
    pub(crate) fn check(&self, declared: &Declared<'_>, policy: &Policy) -> Result<()> {
        let check = |operator: &str, line: usize| match refusal(operator).filter(|_| !policy.allowed.contains(operator))
        {
            Some(why) => Err(refused(operator, why, &format!("`{}`, line {line}", self.file))),
            None => Ok(()),
        };
        for (i, t) in self.tokens.iter().enumerate().filter(|(_, t)| t.kind == TokenKind::Ident) {
            let after_dot = i > 0 && self.is(i - 1, '.');
            match t.text {
                // Inside a qualified name (`__torch__.torch.nn`) these are folders.
                "torch" | "ops" if !after_dot => match self.operator(i) {
                    Some(operator) => check(&operator, t.line)?,
                    None => return Err(self.odd(t)),
                },
                "__torch__" if !after_dot => self.check_class(i)?,
                // torch writes `getattr(self, "0")` for names that could not stand behind a dot.
                "getattr" if !after_dot => {
                    let name = self.name_of_getattr(i).ok_or_else(|| self.odd(t))?;
                    if refusal(&format!("aten::{name}")).is_some() {
                        check(&format!("aten::{name}"), t.line)?;
                    }
                }
                // `x.save`: an operator if `x` is a tensor, whatever methods the archive's classes have.
                name if after_dot && !self.begins_with_library(i, declared) && !declared.owns(name) => {
                    check(&format!("aten::{name}"), t.line)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// `torch.NAME(` → `aten::NAME`, `ops.SPACE.NAME(` → `SPACE::NAME`; `None` for any other use of the two words.
    fn operator(&self, i: usize) -> Option<String> {
        let torch = self.tokens[i].text == "torch";
        // `torch.autograd.grad` is how torch writes `aten::grad`, and reads any `torch.autograd.NAME` as `aten::NAME`.
        let deep = !torch || self.name(i + 2) == Some("autograd");
        let dot = if deep { i + 3 } else { i + 1 };
        let space = if torch { "aten" } else { self.name(i + 2)? };
        let whole = self.joined(i + 1, '.') && self.joined(dot, '.') && self.joined(dot + 2, '(');
        self.name(dot + 1).filter(|_| whole).map(|name| format!("{space}::{name}"))
    }

    /// Of libtorch's own classes only those that hold packed weights.
    fn check_class(&self, i: usize) -> Result<()> {
        let part = |n: usize| self.tokens.get(i + 2 * n).map(|t| t.text);
        if part(1) == Some("torch") && part(2) == Some("classes") {
            let space = part(3).unwrap_or_default();
            if !is_packed_weight(space) {
                return Err(refused(
                    &format!("torch.classes.{space}"),
                    "is a class of libtorch that no model needs",
                    &format!("`{}`, line {}", self.file, self.tokens[i].line),
                ));
            }
        }
        Ok(())
    }

    /// The name in `getattr(EXPRESSION, "NAME")`, if it is written like that and without an escape.
    fn name_of_getattr(&self, i: usize) -> Option<&'a str> {
        if !self.joined(i + 1, '(') {
            return None;
        }
        let mut depth = 0usize;
        let close = (i + 1..self.tokens.len()).find(|&at| {
            match self.tokens[at].kind {
                TokenKind::Sign('(' | '[' | '{') => depth += 1,
                TokenKind::Sign(')' | ']' | '}') => depth -= 1,
                _ => {}
            }
            depth == 0
        })?;
        let literal = self.tokens.get(close.checked_sub(1)?)?;
        let name = literal.text.strip_prefix('"')?.strip_suffix('"')?;
        let plain = literal.kind == TokenKind::Text && self.is(close - 2, ',') && !name.contains(['"', '\\']);
        // The comma must be getattr's own, and its only one: one bracket deep.
        let mut depth = 0usize;
        let commas = (i + 1..close).filter(|&at| {
            match self.tokens[at].kind {
                TokenKind::Sign('(' | '[' | '{') => depth += 1,
                TokenKind::Sign(')' | ']' | '}') => depth -= 1,
                _ => {}
            }
            depth == 1 && self.is(at, ',')
        });
        Some(name).filter(|_| plain && commas.count() == 1)
    }

    /// Whether `tokens[i]` ends a chain `a.b.c` that begins with `torch` or `ops`, whose operators are told by their first
    /// word, or with `__torch__`: a class or function of the archive, or what libtorch tells after loading.
    fn begins_with_library(&self, i: usize, declared: &Declared<'_>) -> bool {
        let mut first = i;
        while first >= 2 && self.is(first - 1, '.') && self.tokens[first - 2].kind == TokenKind::Ident {
            first -= 2;
        }
        let behind_bracket = first > 0 && self.is(first - 1, '.');
        match self.tokens[first].text {
            "torch" | "ops" => !behind_bracket,
            "__torch__" => !behind_bracket && (!declared.at_load || !is_internal(self.tokens[i].text)),
            _ => false,
        }
    }
}

/// Namespaces of `torch.classes` that quantised layers keep their weights in.
pub(crate) fn is_packed_weight(space: &str) -> bool {
    matches!(space, "quantized" | "rnn")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: &str) -> Result<()> {
        let code = Code::read(code, "f")?;
        let mut declared = Declared::default();
        declared.add(&code.tokens);
        code.check(&declared, &Policy::default())
    }

    #[test]
    fn operators_are_seen_however_they_are_reached() {
        for code in [
            "torch.save(x)",
            "torch.autograd.save(x)",
            "torch.autograd.autograd.save(x)",
            "t = torch",
            "torch . add(x)",
            "f = torch.add",
            "x.resize_([9])",
            "f = x.resize_",
            "x.adaptive_max_pool2d_backward(x)",
            "getattr(x, \"resize_\")([9])",
            "getattr(x, \"res\" \"ize_\")([9])",
            "getattr(x, \"\\162esize_\")([9])",
            "getattr(x, 'resize_')([9])",
            "g = getattr",
            "getattr(x, y, \"0\")",
            "__torch__.torch.classes.profiler._RecordFunction()",
            "def _reshape_alias(self):\n  pass\ndef __setstate__(self):\n  x._reshape_alias()",
        ] {
            assert!(check(code).is_err(), "{code}");
        }
    }

    #[test]
    fn what_torch_writes_is_let_through() {
        for code in [
            "torch.add(x, 1)",
            "ops.prim.RaiseException(x)",
            "torch.autograd.grad(x)",
            "getattr(getattr(self.a, \"0\"), \"1.b\").forward(x, y, )",
            "def _scale(self):\n  pass\ndef __setstate__(self):\n  self._scale()",
            "class A:\n  resize : int\n  def save(self):\n    return self.resize\n  def b(self):\n    return (self).save()",
            "__torch__.torch.nn._private.set.A(x)",
            "a : __torch__.torch.classes.quantized.LinearPackedParamsBase",
        ] {
            check(code).unwrap();
        }
    }
}
