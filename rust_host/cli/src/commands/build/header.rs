//! A contract as a function of C.

use rust_host_engine::{
    Contract, Datatype, Error, Package, Result,
    contract::{Bounds, Dim},
};
use std::collections::HashSet;

/// What a compiler reads of a library.
#[derive(Debug)]
pub(super) struct Header {
    /// The whole file.
    pub text: String,
    /// `int digits_run(const float image[784], float probabilities[10])`
    pub prototype: String,
    /// How many arguments that function has.
    pub arguments: usize,
}

/// Words that no argument may be called in C or C++, in whichever version, and names that compilers or headers take away.
const KEYWORDS: &str = "alignas alignof and and_eq asm auto bitand bitor bool break case catch char class co_await co_return \
    co_yield compl concept const const_cast consteval constexpr constinit continue decltype default delete do double dynamic_cast \
    else enum explicit export extern false float for friend goto if inline int long mutable namespace new noexcept not not_eq \
    nullptr operator or or_eq private protected public register reinterpret_cast requires restrict return short signed sizeof \
    static static_assert static_cast struct switch template this thread_local throw true try typedef typeid typename typeof \
    typeof_unqual union unsigned using virtual void volatile wchar_t while xor xor_eq EOF I NULL errno linux stderr stdin stdout \
    unix";

/// One argument.
struct Argument {
    name: String,
    declared: String,
    described: String,
}

impl Header {
    /// # Errors
    /// `InvalidInput` if an output's size cannot be known before the call.
    pub(super) fn new(name: &str, contract: &Contract, package: &Package<'_>) -> Result<Self> {
        let axes = contract.free_axes();
        let known = |dim: &Dim| if let Dim::Named(axis) = dim { axes.contains(&axis.as_str()) } else { true };
        for output in &contract.outputs {
            if let Some(Dim::Named(axis)) = output.dims.iter().find(|dim| !known(dim)) {
                return Err(Error::invalid_input(format!(
                    "output `{}` has the free axis `{axis}`, which no input has: who calls could not know how much room it needs",
                    output.name
                ))
                .hint("without `--header` it becomes a program"));
            }
        }
        let mut names = Names::default();
        let sizes: Vec<(String, Argument)> = axes
            .iter()
            .map(|axis| {
                let name = names.of(axis);
                let described = bounds(contract.dims.get(*axis).copied().unwrap_or_default());
                ((*axis).to_owned(), Argument { declared: format!("int64_t {name}"), name, described })
            })
            .collect();
        let place = |names: &mut Names, called: &str, datatype: Datatype, dims: &[Dim], reads: bool| {
            let name = names.of(called);
            let (item, said) = c_type(datatype);
            let constant = if reads { "const " } else { "" };
            let count: Option<i64> = dims
                .iter()
                .try_fold(1i64, |all, dim| if let Dim::Fixed(size) = dim { all.checked_mul(*size) } else { None });
            let declared = match count {
                Some(count @ 1..) => format!("{constant}{item} {name}[{count}]"),
                _ => format!("{constant}{item} *{name}"),
            };
            let size = |dim: &Dim| match dim {
                Dim::Fixed(size) => format!("[{size}]"),
                Dim::Named(axis) => {
                    let argument = sizes.iter().find(|(name, _)| name == axis);
                    format!("[{}]", argument.map_or(axis.as_str(), |(_, argument)| &argument.name))
                }
            };
            let shape: String = dims.iter().map(size).collect();
            Argument {
                name,
                declared,
                described: format!("{item}{shape}{said}, {}", if reads { "read" } else { "written" }),
            }
        };
        let mut places: Vec<Argument> = Vec::new();
        for input in &contract.inputs {
            places.push(place(&mut names, &input.name, input.datatype, &input.dims, true));
        }
        for output in &contract.outputs {
            let mut argument = place(&mut names, &output.name, output.datatype, &output.dims, false);
            if let Some(labels) = &output.labels {
                argument.described.push_str(&format!(", for {}", shortened(labels)));
            }
            places.push(argument);
        }
        let arguments: Vec<Argument> = sizes.into_iter().map(|(_, argument)| argument).chain(places).collect();
        let declared: Vec<&str> = arguments.iter().map(|argument| argument.declared.as_str()).collect();
        let prototype = format!("int {name}_run({})", declared.join(", "));
        Ok(Self { text: text(name, contract, package, &arguments, &prototype), prototype, arguments: arguments.len() })
    }
}

fn text(name: &str, contract: &Contract, package: &Package<'_>, arguments: &[Argument], prototype: &str) -> String {
    let guard = format!("{}_H", name.to_uppercase());
    let width = arguments.iter().map(|argument| argument.name.len()).max().unwrap_or_default();
    let rows: String = arguments
        .iter()
        .map(|argument| format!("   {:width$}  {}\n", argument.name, in_comment(&argument.described)))
        .collect();
    let about = contract.description.as_ref().map(|text| format!("   {}\n", in_comment(text))).unwrap_or_default();
    format!(
        "/* {model}, in lib{name}.a; written by `rust-host build --header` {version}.\n{about}\
         \n   Every function may be called by several threads at once. The first call opens the model; do that before a fork.\n   \
         Runs on Linux with glibc 2.34 or newer, libgcc_s and /proc, on {machine} processors with {isa}. */\n\
         #ifndef {guard}\n#define {guard}\n\n#include <stdbool.h>\n#include <stdint.h>\n\n\
         #ifdef __cplusplus\nextern \"C\" {{\n#endif\n\n\
         /* Runs the model. Tensors are row-major.\n\n{rows}\n   Returns 0; or 1, where nothing was written and {name}_error() says why. */\n\
         {prototype};\n\n\
         /* Replays the golden examples: 0 if the model reproduces them on this machine, else 1, and {name}_error() says why. */\n\
         int {name}_verify(void);\n\n\
         /* A sentence about what went wrong last on this thread, until something does again; \"\" if nothing has. */\n\
         const char *{name}_error(void);\n\n\
         #ifdef __cplusplus\n}}\n#endif\n\n#endif\n",
        model = in_comment(&contract.name),
        version = env!("CARGO_PKG_VERSION"),
        machine = package.built_for.machine,
        isa = package.built_for.isa,
    )
}

/// Other people's words, which must not end the comment.
fn in_comment(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.replace("*/", "* /").replace("/*", "/ *").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn shortened(labels: &[String]) -> String {
    const MOST: usize = 10;
    let first: Vec<&str> = labels.iter().take(MOST).map(String::as_str).collect();
    match labels.len().checked_sub(MOST) {
        None | Some(0) => first.join(" "),
        Some(more) => format!("{} and {more} more", first.join(" ")),
    }
}

fn bounds(bounds: Bounds) -> String {
    match (bounds.min, bounds.max) {
        (None, None) => "any size".to_owned(),
        (Some(min), None) => format!("{min} or more"),
        (None, Some(max)) => format!("at most {max}"),
        (Some(min), Some(max)) => format!("{min} to {max}"),
    }
}

/// The type of an element, and what to say about it.
fn c_type(datatype: Datatype) -> (&'static str, &'static str) {
    match datatype {
        Datatype::Bool => ("bool", ""),
        Datatype::Uint8 => ("uint8_t", ""),
        Datatype::Uint16 => ("uint16_t", ""),
        Datatype::Uint32 => ("uint32_t", ""),
        Datatype::Uint64 => ("uint64_t", ""),
        Datatype::Int8 => ("int8_t", ""),
        Datatype::Int16 => ("int16_t", ""),
        Datatype::Int32 => ("int32_t", ""),
        Datatype::Int64 => ("int64_t", ""),
        Datatype::Fp16 => ("uint16_t", " (the bits of IEEE 754 half precision)"),
        Datatype::Bf16 => ("uint16_t", " (the upper bits of a float)"),
        Datatype::Fp32 => ("float", ""),
        Datatype::Fp64 => ("double", ""),
    }
}

/// Names of arguments, each given once.
#[derive(Default)]
struct Names(HashSet<String>);

impl Names {
    fn of(&mut self, text: &str) -> String {
        let mut name: String =
            text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            name.insert_str(0, "x_");
        }
        // One that ends in `_t` could be a type of the system.
        while KEYWORDS.split_whitespace().any(|word| word == name) || name.ends_with("_t") || self.0.contains(&name) {
            name.push('_');
        }
        self.0.insert(name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_one_of_c_and_given_once() {
        let mut names = Names::default();
        let given = ["image", "image", "class", "0.weight", "größe", "", "size_t"].map(|text| names.of(text));
        assert_eq!(given, ["image", "image_", "class_", "x_0_weight", "gr__e", "x_", "size_t_"]);
    }

    #[test]
    fn words_of_others_do_not_end_a_comment() {
        assert_eq!(in_comment("a */ int\n  x; data/*.png"), "a * / int x; data/ *.png");
        assert_eq!(shortened(&(0..12).map(|n| n.to_string()).collect::<Vec<_>>()), "0 1 2 3 4 5 6 7 8 9 and 2 more");
    }
}
