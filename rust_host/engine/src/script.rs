//! Reads TorchScript's serialised code (`code/__torch__.py`, …) as text: which methods there are, with which types, and
//! which operators they call. That is what `info` says without loading libtorch.

use crate::{
    Archive, Error, Method, Result,
    tokens::{Token, TokenKind, tokens},
    value::{outside_quotes, split_top_level},
};
use std::collections::{BTreeMap, BTreeSet};

/// A class in the serialised code.
#[derive(Debug, Default)]
pub struct Class {
    /// Methods in the order of the code.
    pub methods: Vec<Method>,
    /// Attributes that are parameters (weights).
    pub parameters: BTreeSet<String>,
}

/// All code of an archive.
#[derive(Debug, Default)]
pub struct Script {
    /// Qualified name (`__torch__.Net`) → class.
    pub classes: BTreeMap<String, Class>,
    /// Operators that the code calls: `aten::conv2d`, `torchvision::nms`.
    pub operators: BTreeSet<String>,
}

impl Script {
    /// Reads every code file of the archive.
    ///
    /// # Errors
    /// `InvalidModel` if a file is damaged or no UTF-8.
    pub fn read(archive: &Archive) -> Result<Self> {
        let mut script = Self::default();
        let names: Vec<String> = archive
            .members()
            .filter(|(n, _)| n.starts_with("code/") && n.ends_with(".py"))
            .map(|(n, _)| n.to_owned())
            .collect();
        for name in names {
            let Some(bytes) = archive.member(&name)? else { continue };
            let text = std::str::from_utf8(&bytes)
                .map_err(|_| Error::invalid_model(format!("the archive is damaged: `{name}` is not UTF-8")))?;
            let module = name["code/".len()..name.len() - ".py".len()].replace('/', ".");
            script.read_file(&module, text, &name)?;
        }
        Ok(script)
    }

    fn read_file(&mut self, module: &str, text: &str, file: &str) -> Result<()> {
        let mut class: Option<String> = None;
        let mut header: Option<String> = None;
        for line in text.lines() {
            if let Some(open) = &mut header {
                open.push(' ');
                open.push_str(line.trim());
            } else if let Some(name) = line.strip_prefix("class ") {
                let name = name.split(['(', ':']).next().unwrap_or_default();
                class = Some(format!("{module}.{name}"));
                self.classes.entry(format!("{module}.{name}")).or_default();
            } else if let Some(definition) = line.strip_prefix("  def ") {
                header = Some(definition.trim().to_owned());
            } else if let Some(list) = line.strip_prefix("  __parameters__ = [").and_then(|l| l.strip_suffix(']')) {
                let names = split_top_level(list).into_iter().map(|n| n.trim_matches('"').to_owned());
                if let Some(c) = class.as_ref().and_then(|c| self.classes.get_mut(c)) {
                    c.parameters.extend(names);
                }
            }
            if let Some(text) = header.as_deref().and_then(|h| h.strip_suffix(':')).filter(|h| balanced(h)) {
                if let (Some(c), Some(m)) = (class.as_ref().and_then(|c| self.classes.get_mut(c)), Method::parse(text))
                {
                    c.methods.push(m);
                }
                header = None;
            }
        }
        collect_operators(&tokens(text, file)?, &mut self.operators);
        Ok(())
    }
}

/// Whether all brackets outside quotes are closed.
fn balanced(text: &str) -> bool {
    let mut depth = 0i32;
    for (_, c) in outside_quotes(text) {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            _ => {}
        }
    }
    depth == 0
}

/// `torch.NAME(` is `aten::NAME`, `ops.NAMESPACE.NAME(` is `NAMESPACE::NAME`.
fn collect_operators(tokens: &[Token<'_>], operators: &mut BTreeSet<String>) {
    let name = |i: usize| tokens.get(i).filter(|t| t.kind == TokenKind::Ident).map(|t| t.text);
    let sign = |i: usize, sign| tokens.get(i).is_some_and(|t| t.is(sign));
    for (i, token) in tokens.iter().enumerate() {
        if i > 0 && sign(i - 1, '.') {
            continue;
        }
        match (token.text, name(i + 2), name(i + 4)) {
            ("torch", Some(operator), _) if sign(i + 1, '.') && sign(i + 3, '(') => {
                operators.insert(format!("aten::{operator}"));
            }
            ("torch", Some("autograd"), Some(operator)) if sign(i + 1, '.') && sign(i + 3, '.') && sign(i + 5, '(') => {
                operators.insert(format!("aten::{operator}"));
            }
            ("ops", Some(space), Some(operator)) if sign(i + 1, '.') && sign(i + 3, '.') && sign(i + 5, '(') => {
                operators.insert(format!("{space}::{operator}"));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_parameters_and_operators_are_read_from_code() {
        let code = r#"class M(Module):
  __parameters__ = ["w", "b", ]
  __buffers__ = []
  w : Tensor
  def forward(self: __torch__.M,
    x: Tensor,
    mode: str="a):, [\"",
    o: Optional[Tensor]=None) -> Tuple[Tensor, int]:
    if bool(torch.gt(torch.sum(x), 0)):
      _0 = ops.torchvision.nms(x, x, 0.5)
    raise Exception("torch.save(x)")
    return (torch.list(x), 3)
  def other(self: __torch__.M) -> None:
    return None
"#;
        let mut script = Script::default();
        script.read_file("__torch__", code, "f").unwrap();
        let class = &script.classes["__torch__.M"];
        assert_eq!(class.methods.len(), 2);
        assert_eq!(
            class.methods[0].to_string(),
            r#"forward(x: Tensor, mode: str = "a):, [\"", o: Optional[Tensor] = None) -> Tuple[Tensor, int]"#
        );
        assert_eq!(class.methods[1].to_string(), "other() -> None");
        assert!(class.parameters.contains("w") && class.parameters.contains("b"));
        let operators: Vec<_> = script.operators.iter().map(String::as_str).collect();
        assert_eq!(operators, ["aten::gt", "aten::list", "aten::sum", "torchvision::nms"]);
    }
}
