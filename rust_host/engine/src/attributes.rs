//! What a pickle puts into an object against what its class declares: libtorch finds attributes by their place and believes
//! the declaration, so an object of another class is read past its end.

use crate::{
    Error, Result, Type,
    pickle::{Id, Node, Pickle},
    tokens::{Token, TokenKind},
};
use std::collections::{HashMap, HashSet};

/// What one class of the code declares.
#[derive(Debug, Default)]
struct Class {
    /// `Module`, `NamedTuple`, `Enum`, an interface, or nothing.
    base: String,
    attributes: HashMap<String, Type>,
}

/// All classes of an archive by their qualified names.
#[derive(Debug, Default)]
pub(crate) struct Classes(HashMap<String, Class>);

fn damaged(what: impl std::fmt::Display) -> Error {
    Error::invalid_model(format!("the archive is damaged: {what}"))
}

impl Classes {
    /// Adds the classes of one file.
    ///
    /// # Errors
    /// `InvalidModel` if a class or an attribute is declared twice.
    pub(crate) fn add(&mut self, file: &str, tokens: &[Token<'_>]) -> Result<()> {
        let module = file.trim_start_matches("code/").trim_end_matches(".py").replace('/', ".");
        for (i, t) in tokens.iter().enumerate() {
            if t.kind != TokenKind::Ident || t.text != "class" || i > 0 && tokens[i - 1].is('.') {
                continue;
            }
            let name = tokens.get(i + 1).map(|t| t.text).unwrap_or_default();
            let base = tokens.get(i + 2).filter(|t| t.is('(')).and(tokens.get(i + 3)).map(|t| t.text);
            let body = &tokens[i + 2..];
            let start = body.iter().position(|t| t.is(':')).map_or(body.len(), |at| at + 1);
            let is_end = |t: &Token<'_>| t.kind == TokenKind::Ident && matches!(t.text, "def" | "class");
            let end = body[start..].iter().position(is_end).map_or(body.len(), |at| start + at);
            let mut class = Class { base: base.unwrap_or_default().to_owned(), ..Class::default() };
            class.read(&body[start..end])?;
            let outside = |t: &Token<'_>| is_end(t) && t.column == 0;
            let end = body[start..].iter().position(outside).map_or(body.len(), |at| start + at);
            check_hooks(&body[start..end])?;
            if self.0.insert(format!("{module}.{name}"), class).is_some() {
                return Err(damaged(format!("`{file}` has two classes `{name}`")));
            }
        }
        Ok(())
    }

    /// Compares every object of a pickle with its class.
    ///
    /// # Errors
    /// `InvalidModel` that names class and attribute.
    pub(crate) fn check(&self, pickle: &Pickle) -> Result<()> {
        let mut fits = Fits { classes: self, pickle, seen: HashSet::new() };
        for (class, state) in pickle.objects() {
            let name = pickle.text(class).unwrap_or_default();
            if name.starts_with("__torch__.torch.classes.") {
                continue;
            }
            let class = self.0.get(name).ok_or_else(|| damaged(format!("its code has no class `{name}`")))?;
            let Some(Node::Dict(pairs)) = state.map(|s| pickle.node(s)) else { continue };
            for &(key, value) in pairs {
                let key = pickle.text(key).unwrap_or_default();
                let kind = class.attributes.get(key);
                let kind =
                    kind.ok_or_else(|| damaged(format!("`{name}` has a value `{key}` that it does not declare")))?;
                if !fits.fits(kind, value) {
                    return Err(damaged(format!("`{name}.{key}` is no `{kind}`")));
                }
            }
        }
        for (function, arguments) in pickle.calls() {
            let function = pickle.text(function).unwrap_or_default();
            if function.starts_with("__torch__.") && self.0.get(function).is_none_or(|c| c.base != "Enum") {
                return Err(damaged(format!("a pickle calls `{function}`")));
            }
            if function == "torch.jit._pickle.restore_type_tag" {
                let parts = pickle.items(arguments).unwrap_or_default();
                let kind = parts.get(1).and_then(|&t| pickle.text(t)).ok_or_else(|| damaged("a list has no type"))?;
                if !fits.once(&Type::parse(kind), parts[0]) {
                    return Err(damaged(format!("a value of a pickle is no `{kind}`")));
                }
            }
        }
        Ok(())
    }
}

impl Class {
    /// Reads `name : Type` and `__annotations__["0"] = Type`, one a line; what looks otherwise declares nothing.
    fn read(&mut self, tokens: &[Token<'_>]) -> Result<()> {
        let mut at = 0;
        while at < tokens.len() {
            let line = &tokens[at..at + line_length(&tokens[at..])];
            at += line.len();
            let (name, kind) = match line {
                [name, colon, kind @ ..] if name.kind == TokenKind::Ident && colon.is(':') => (name.text, kind),
                [list, open, name, close, equals, kind @ ..]
                    if list.text == "__annotations__" && open.is('[') && close.is(']') && equals.is('=') =>
                {
                    (name.text.trim_matches('"'), kind)
                }
                _ => continue,
            };
            let kind: String = kind.iter().take_while(|t| !t.is('=')).map(|t| t.text).collect();
            if self.attributes.insert(name.to_owned(), Type::parse(&kind)).is_some() {
                return Err(damaged(format!("a class declares `{name}` twice")));
            }
        }
        Ok(())
    }
}

/// libtorch reaches for the methods that a class names as its hooks without asking whether they are there.
fn check_hooks(body: &[Token<'_>]) -> Result<()> {
    let methods: HashSet<&str> = body.windows(2).filter(|w| w[0].text == "def").map(|w| w[1].text).collect();
    for (i, t) in body.iter().enumerate() {
        if !matches!(t.text, "__forward_hooks__" | "__forward_pre_hooks__") {
            continue;
        }
        let names = body[i + 1..].iter().take_while(|t| !t.is(']')).filter(|t| t.kind == TokenKind::Text);
        for name in names.map(|t| t.text.trim_matches('"')) {
            if !methods.contains(name) {
                return Err(damaged(format!("a class names the hook `{name}`, which it does not have")));
            }
        }
    }
    Ok(())
}

/// Number of tokens up to a new line outside brackets.
fn line_length(tokens: &[Token<'_>]) -> usize {
    let mut depth = 0usize;
    for (i, t) in tokens.iter().enumerate() {
        if i > 0 && depth == 0 && t.line != tokens[i - 1].line {
            return i;
        }
        match t.kind {
            TokenKind::Sign('(' | '[' | '{') => depth += 1,
            TokenKind::Sign(')' | ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    tokens.len()
}

struct Fits<'a> {
    classes: &'a Classes,
    pickle: &'a Pickle,
    /// Shared values are looked at once for a type of the code.
    seen: HashSet<(*const Type, Id)>,
}

impl Fits<'_> {
    /// For a type that does not live on: its address says nothing later.
    fn once(&mut self, kind: &Type, value: Id) -> bool {
        self.seen.clear();
        let fits = self.fits(kind, value);
        self.seen.clear();
        fits
    }

    /// Whether no object in the value is of another class than the type says. Numbers, texts and lists are compared by
    /// libtorch itself when they are used.
    fn fits(&mut self, kind: &Type, value: Id) -> bool {
        if !names_class(kind) || !self.seen.insert((std::ptr::from_ref(kind), value)) {
            return true;
        }
        let pickle = self.pickle;
        match (kind, pickle.node(value)) {
            (_, Node::None) => true,
            (Type::Optional(inner), _) => self.fits(inner, value),
            (_, Node::Call(function, arguments))
                if pickle.text(*function) == Some("torch.jit._pickle.restore_type_tag") =>
            {
                pickle.items(*arguments).and_then(|a| a.first().copied()).is_some_and(|inner| self.fits(kind, inner))
            }
            (Type::List(item), Node::List(items) | Node::Tuple(items)) => items.iter().all(|&i| self.fits(item, i)),
            (Type::Tuple(kinds), Node::Tuple(items)) => {
                kinds.len() == items.len() && kinds.iter().zip(items).all(|(k, &i)| self.fits(k, i))
            }
            (Type::Dict(key, item), Node::Dict(pairs)) => {
                pairs.iter().all(|&(k, v)| self.fits(key, k) && self.fits(item, v))
            }
            (Type::Other(name), node) => self.is_a(name, node),
            _ => false,
        }
    }

    fn is_a(&self, name: &str, node: &Node) -> bool {
        let class = match node {
            Node::Object(class, _) | Node::Call(class, _) => self.pickle.text(*class).unwrap_or_default(),
            // A named tuple is a plain one in the pickle.
            Node::Tuple(_) => return self.classes.0.get(name).is_some_and(|c| c.base == "NamedTuple"),
            _ => "",
        };
        // What implements an interface is found by the names of its methods.
        let interface = self.classes.0.get(name).is_some_and(|c| c.base.ends_with("Interface"));
        class == name || interface && matches!(node, Node::Object(..))
    }
}

fn names_class(kind: &Type) -> bool {
    match kind {
        Type::Optional(t) | Type::List(t) => names_class(t),
        Type::Tuple(kinds) => kinds.iter().any(names_class),
        Type::Dict(k, v) => names_class(k) || names_class(v),
        Type::Other(name) => name.contains("__torch__"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::tokens;

    const CODE: &str = "class A(Module):\n  __parameters__ = []\n  b : __torch__.B\n  more : List[Optional[__torch__.B]]\n  i : __torch__.I\n  __annotations__[\"0\"] = __torch__.B\n  n : int\n  def f(self):\n    c : __torch__.B = x\nclass B(Module):\n  n : int\nclass C(Module):\n  n : int\nclass I(ModuleInterface):\n  def f(self):\n    pass\nclass E(Enum):\n  X : int = 1\n";

    fn check(state: &[u8]) -> Result<()> {
        let mut classes = Classes::default();
        classes.add("code/__torch__.py", &tokens(CODE, "f")?)?;
        let bytes = [b"\x80\x02c__torch__\nA\n)\x81}(", state, b"ub."].concat();
        classes.check(&Pickle::read(&bytes)?)
    }

    fn entry(key: &str, value: &[u8]) -> Vec<u8> {
        [b"X", &(key.len() as u32).to_le_bytes()[..], key.as_bytes(), value].concat()
    }

    const B: &[u8] = b"c__torch__\nB\n)\x81}b";
    const C: &[u8] = b"c__torch__\nC\n)\x81}b";

    #[test]
    fn objects_are_of_the_class_that_is_declared() {
        for (key, prefix, suffix) in
            [("b", &b""[..], &b""[..]), ("more", b"]", b"a"), ("more", b"](N", b"e"), ("0", b"", b"")]
        {
            check(&entry(key, &[prefix, B, suffix].concat())).unwrap();
            let e = check(&entry(key, &[prefix, C, suffix].concat())).unwrap_err();
            assert!(e.message.contains(&format!("A.{key}` is no")), "{e}");
        }
        check(&entry("i", C)).unwrap();
        assert!(check(&entry("b", b"K\x01")).is_err() && check(&entry("i", b"K\x01")).is_err());
        assert!(check(&entry("b", b"c__torch__\nB\n}R")).is_err());
        assert!(check(&entry("c", B)).unwrap_err().message.contains("does not declare"));
        assert!(check(&entry("n", b"c__torch__\nZ\n)\x81}b")).unwrap_err().message.contains("no class"));
        check(&entry("n", b"c__torch__\nE\nK\x01\x85R")).unwrap();
    }

    #[test]
    fn the_type_of_a_list_is_that_of_its_items() {
        let tagged = |item: &[u8]| {
            entry(
                "n",
                &[b"ctorch.jit._pickle\nrestore_type_tag\n](", item, b"eX\x11\x00\x00\x00List[__torch__.B]\x86R"]
                    .concat(),
            )
        };
        check(&tagged(B)).unwrap();
        assert!(check(&tagged(C)).is_err());
    }

    #[test]
    fn hooks_are_methods_of_their_class() {
        let code = |name: &str, indent: &str| {
            format!(
                "class A(Module):\n  __forward_hooks__ = [\"{name}\", ]\n  def f(self):\n    pass\n{indent}def g(self):\n    pass\n"
            )
        };
        let check = |code: &str| Classes::default().add("code/__torch__.py", &tokens(code, "f").unwrap());
        check(&code("f", "")).unwrap();
        check(&code("g", "  ")).unwrap();
        assert!(check(&code("g", "")).is_err() && check(&code("h", "")).is_err());
    }

    #[test]
    fn nothing_is_declared_twice() {
        for code in ["class A(Module):\n  b : int\n  b : str\n", "class A:\n  b : int\nclass A:\n  c : int\n"] {
            assert!(Classes::default().add("code/__torch__.py", &tokens(code, "f").unwrap()).is_err());
        }
    }
}
