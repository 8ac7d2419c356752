//! Plain text for people: aligned columns, numbers with as many digits as help, tensors that are cut where they are long.

use rust_host_engine::{Tensor, json};
use serde_json::Value as Json;

/// Rows and columns of a tensor that are shown.
const ROWS: usize = 10;
const COLUMNS: usize = 10;
/// Columns are aligned up to this width: a name in a file can be longer than any line, and `format!` pads to 65,535 at most.
pub const WIDEST: usize = 1_000;

/// Lines of aligned columns, each indented by two spaces; no line ends in spaces.
pub fn columns(rows: &[Vec<String>]) -> String {
    let width =
        |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0).min(WIDEST);
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, &w)| format!("{cell:<w$}")).collect::<Vec<_>>();
        format!("  {}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// A number with six digits, in powers of ten where it is very large or small.
pub fn number(x: f64) -> String {
    let size = x.abs();
    if !x.is_finite() || x == 0.0 || x.fract() == 0.0 && size < 1e9 {
        return format!("{x}");
    }
    if !(1e-4..1e9).contains(&size) {
        let text = format!("{x:.2e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.'));
    }
    let digits = usize::try_from(5 - size.log10().floor() as i32).unwrap_or(0);
    let text = format!("{x:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// `99.8 %`
pub fn percent(probability: f64) -> String {
    format!("{:.1} %", probability * 100.0)
}

/// `1,234,567`
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `4.8 MB`
pub fn bytes(n: u64) -> String {
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let unit = units.iter().find(|(size, _)| n as f64 >= *size);
    unit.map_or(format!("{n} bytes"), |(size, name)| format!("{:.1} {name}", n as f64 / size))
}

/// Microseconds, in the unit that suits them.
pub fn time(us: f64) -> String {
    match us {
        us if us < 1000.0 => format!("{us:.1} µs"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// The values of a tensor, one line for each row of its last dimension.
pub fn tensor(tensor: &Tensor) -> String {
    let (columns_there, outer) = match tensor.shape().split_last() {
        Some((&last, outer)) => (usize::try_from(last).unwrap_or(0), outer),
        None => (1, &[][..]),
    };
    if tensor.elements() == 0 {
        return "  no values\n".to_owned();
    }
    let rows_there = tensor.elements() / columns_there;
    let columns_shown = columns_there.min(COLUMNS);
    let cells = cells(&corner(tensor, rows_there.min(ROWS), columns_shown, columns_there));
    if tensor.shape().is_empty() {
        return format!("  {}\n", cells.concat());
    }
    let is_placed = outer.len() > 1 || outer.first().is_some_and(|&n| n > 1);
    let line = |(i, row): (usize, &[String])| {
        let mut line: Vec<String> = is_placed.then(|| place(i, outer)).into_iter().collect();
        line.extend_from_slice(row);
        if columns_there > COLUMNS {
            line.push(format!("… ({columns_there} values)"));
        }
        line
    };
    let rows: Vec<Vec<String>> = cells.chunks(columns_shown).enumerate().map(line).collect();
    columns(&rows) + &more_rows(rows_there, ROWS)
}

/// The first columns of the first rows: what is not shown is not read either, of which there may be gigabytes.
fn corner(tensor: &Tensor, rows: usize, columns: usize, columns_there: usize) -> Tensor {
    let whole = tensor.to_contiguous();
    let [rows, columns, columns_there] = [rows, columns, columns_there].map(|n| n as i64);
    let memory = whole.memory().clone();
    let part = Tensor::strided(whole.datatype(), vec![rows, columns], vec![columns_there, 1], whole.offset(), memory);
    part.unwrap_or(whole) // it lies within
}

fn cells(tensor: &Tensor) -> Vec<String> {
    if tensor.datatype().is_float() {
        return tensor.to_f64_vec().into_iter().map(number).collect();
    }
    leaves(&json::from_value(&tensor.clone().into()))
}

/// The line that says that not all rows are shown; nothing if they are.
pub fn more_rows(count: usize, shown: usize) -> String {
    if count > shown { format!("  … ({count} rows)\n") } else { String::new() }
}

/// `[1, 0]`: the place of the `i`th row in the outer dimensions.
fn place(mut i: usize, outer: &[i64]) -> String {
    let mut place: Vec<String> = Vec::new();
    for &n in outer.iter().rev() {
        let n = usize::try_from(n).unwrap_or(1).max(1);
        place.push((i % n).to_string());
        i /= n;
    }
    place.reverse();
    format!("[{}]", place.join(", "))
}

fn leaves(json: &Json) -> Vec<String> {
    match json {
        Json::Array(items) => items.iter().flat_map(leaves).collect(),
        leaf => vec![leaf.to_string()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (3.0, "3"),
            (1.0 / 3.0, "0.333333"),
            (1234.5678, "1234.57"),
            (1.5e-7, "1.5e-7"),
            (f64::NAN, "NaN"),
            (123456.789, "123457"),
            (1e12, "1e12"),
            (120000.4, "120000"),
        ];
        for (x, text) in cases {
            assert_eq!(number(x), text);
        }
        assert_eq!((grouped(999), grouped(1_199_882)), ("999".to_owned(), "1,199,882".to_owned()));
        assert_eq!((bytes(12), bytes(4_800_000)), ("12 bytes".to_owned(), "4.8 MB".to_owned()));
    }

    #[test]
    fn a_cell_of_any_length_is_written() {
        let row = |cell: &str| vec![cell.to_owned(), "b".to_owned()];
        let long = "a".repeat(70_000);
        assert_eq!(columns(&[row(&long)]), format!("  {long}  b\n"));
        assert_eq!(columns(&[row("a"), row("aaa")]), "  a    b\n  aaa  b\n");
    }

    #[test]
    fn long_tensors_are_cut_and_say_so() {
        let t = Tensor::from_elements(vec![3, 4, 12], (0..144i64).collect()).unwrap();
        let text = tensor(&t);
        assert!(text.starts_with("  [0, 0]  0 ") && text.contains("… (12 values)") && text.contains("… (12 rows)"));
        let scalar = Tensor::from_elements(vec![], vec![0.5f32]).unwrap();
        assert_eq!(tensor(&scalar), "  0.5\n");
        let wide = Tensor::from_elements(vec![1, 11], (0..11).map(|i| i as f32 / 2.0).collect()).unwrap();
        assert_eq!(tensor(&wide), "  0  0.5  1  1.5  2  2.5  3  3.5  4  4.5  … (11 values)\n");
        let turned = Tensor::strided(t.datatype(), vec![12, 12], vec![1, 12], 0, t.memory().clone()).unwrap();
        assert!(tensor(&turned).contains("  [1]  1  13  25 "), "{}", tensor(&turned));
        let none = Tensor::from_elements(vec![0, 3], Vec::<f32>::new()).unwrap();
        assert_eq!(tensor(&none), "  no values\n");
    }
}
