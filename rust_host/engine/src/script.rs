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
    /// Attributes that the methods of a module assign: state that outlives a call.
    pub assigned: BTreeSet<String>,
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
        let tokens = tokens(text, file)?;
        collect_operators(&tokens, &mut self.operators);
        for (class, attribute) in assignments(&tokens) {
            self.classes.entry(format!("{module}.{class}")).or_default().assigned.insert(attribute.to_owned());
        }
        Ok(())
    }
}

/// Every `self.a.b = …` in a method of a module, as `(class, "b")`; not what is assigned to an object made in that method.
fn assignments<'a>(tokens: &[Token<'a>]) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    let mut class = None;
    let mut made_here = BTreeSet::new();
    let starts = (0..tokens.len()).filter(|&i| i == 0 || tokens[i - 1].line < tokens[i].line);
    let starts: Vec<usize> = starts.chain([tokens.len()]).collect();
    for line in starts.windows(2) {
        let [start, end] = *line else { continue };
        let statement = &tokens[start..end];
        let name = |i: usize| statement.get(i).filter(|t| t.kind == TokenKind::Ident).map(|t| t.text);
        let sign = |i: usize, sign| statement.get(i).is_some_and(|t| t.is(sign));
        match (name(0), name(1)) {
            (Some("class"), Some(class_name)) if statement[0].column == 0 => {
                class = Some(class_name).filter(|_| name(3) == Some("Module"));
            }
            (Some("def"), _) => made_here.clear(),
            (Some(first), None) => {
                let chain = (1..).step_by(2).take_while(|&i| sign(i, '.') && name(i + 1).is_some()).count();
                let assigns = sign(2 * chain + 1, '=') && !sign(2 * chain + 2, '=');
                match (class, name(2 * chain)) {
                    (Some(class), Some(attribute)) if assigns && chain > 0 && !made_here.contains(first) => {
                        found.push((class, attribute));
                    }
                    (Some(_), _) if assigns && statement.iter().any(|t| t.text == "__new__") => {
                        made_here.insert(first);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    found
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
    fn what_the_code_of_a_module_assigns_is_its_state() {
        let code = r#"class M(Module):
  _state : Tensor
  sub : __torch__.N
  def forward(self: __torch__.M,
    x: Tensor) -> Tensor:
    guard = __torch__.G.__new__(__torch__.G)
    guard.prev = True
    if torch.eq(x, x):
      self._state = x
    sub = self.sub
    sub.count = 3
    same = self._state == x
    return torch.add(x, self._state, alpha=1)
class G:
  prev : bool
  def __enter__(self: __torch__.G) -> NoneType:
    self.prev = torch.is_grad_enabled()
    return None
"#;
        let mut script = Script::default();
        script.read_file("__torch__", code, "f").unwrap();
        let assigned: Vec<_> = script.classes["__torch__.M"].assigned.iter().map(String::as_str).collect();
        assert_eq!(assigned, ["_state", "count"]);
        assert!(script.classes["__torch__.G"].assigned.is_empty());
    }

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
