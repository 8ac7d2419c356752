//! Pieces → a batch through the model. Rows that fail are found by halving, so that one bad row costs no other its answer.

use crate::{
    OnError, Summary,
    columns::{self, Layout},
    pipeline::{Stage, Steps},
    plan::Batching,
    run::{Batch, Failure, Passed, Piece},
};
use rust_host_engine::{Contract, Error, Model, Result, Tensor, Value, error::ErrorKind};
use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

/// How rows are called.
pub(crate) struct Calls {
    /// Names of the inputs, as pieces have their tensors.
    pub inputs: Vec<String>,
    pub batching: Batching,
    /// Rows that make a batch, or bytes of their inputs that do.
    pub enough: usize,
    pub enough_bytes: usize,
    pub on_error: OnError,
    /// The file's path, for messages; `None` for a table in memory.
    pub shown: Option<String>,
    /// Names of the columns that pass through.
    pub passed: Vec<String>,
    /// Labels, where a number was asked for.
    pub top_k: Option<usize>,
}

/// The model's thread: collects pieces and runs them.
pub(crate) struct Forward<'m> {
    model: &'m Model,
    contract: &'m Contract,
    calls: Calls,
    layout: Arc<OnceLock<Layout>>,
    collected: Vec<Piece>,
    collected_rows: usize,
    collected_bytes: usize,
    rows: u64,
    failed: u64,
    /// The first row without outputs, and why.
    first_failure: Option<(u64, String)>,
}

/// Pieces whose rows have the same sizes.
struct Together<'p> {
    shape: Vec<&'p [i64]>,
    tensors: Vec<Vec<&'p Tensor>>,
    /// Their places in the batch.
    rows: Vec<usize>,
}

/// Outputs of rows that were run together.
type Group = Vec<Tensor>;

impl<S: Steps<Piece = Piece, Batch = Batch>> Stage<S> for Forward<'_> {
    fn add(&mut self, piece: Piece) -> Result<bool> {
        self.collected_rows += piece.rows;
        self.collected_bytes += piece.size();
        let first = self.rows + (self.collected_rows - piece.rows) as u64;
        let failure = piece.failed.first().filter(|_| self.calls.on_error == OnError::Stop);
        let failure = failure.map(|f| self.named(first + f.row as u64, f, &piece.passed));
        self.collected.push(piece);
        if let Some(e) = failure {
            // The model may refuse a row before it, which is then the first.
            Stage::<S>::run(self)?;
            return Err(e);
        }
        Ok(self.collected_rows >= self.calls.enough || self.collected_bytes >= self.calls.enough_bytes)
    }

    fn run(&mut self) -> Result<Option<Batch>> {
        let mut pieces = std::mem::take(&mut self.collected);
        let count = std::mem::take(&mut self.collected_rows);
        self.collected_bytes = 0;
        let mut batch = Batch { places: vec![None; count], groups: Vec::new(), pieces: Vec::new() };
        // Pictures of one size are run together, whatever lies between them.
        let mut sizes: Vec<Together> = Vec::new();
        let mut row = 0;
        for piece in &pieces {
            let mut failed = piece.failed.iter().peekable();
            let mut good = Vec::with_capacity(piece.rows);
            for i in 0..piece.rows {
                match failed.next_if(|f| f.row == i) {
                    Some(failure) => self.fail(row + i, failure, &piece.passed),
                    None => good.push(row + i),
                }
            }
            row += piece.rows;
            if good.is_empty() {
                continue;
            }
            let shape: Vec<&[i64]> = piece.inputs.iter().map(|t| t.shape().get(1..).unwrap_or_default()).collect();
            let tensors: Vec<&Tensor> = piece.inputs.iter().collect();
            match sizes.iter_mut().find(|s| s.shape == shape) {
                Some(same) => {
                    same.tensors.push(tensors);
                    same.rows.extend(good);
                }
                None => sizes.push(Together { shape, tensors: vec![tensors], rows: good }),
            }
        }
        for Together { tensors, rows, .. } in sizes {
            let tensors = (0..self.calls.inputs.len())
                .map(|i| joined(&tensors.iter().filter_map(|t| t.get(i).copied()).collect::<Vec<_>>()))
                .collect::<Result<Vec<_>>>()?;
            let mut from = 0;
            while from < rows.len() {
                let to = rows.len().min(from.saturating_add(self.calls.batching.most));
                self.call(&tensors, &rows, from, to, &pieces, &mut batch)?;
                from = to;
            }
        }
        self.rows += count as u64;
        // A batch of pictures is large, and what is left of it waits for the writer.
        pieces.iter_mut().for_each(|p| p.inputs = Vec::new());
        batch.pieces = pieces;
        self.columns();
        Ok(Some(batch))
    }
}

impl<'m> Forward<'m> {
    pub(crate) fn new(model: &'m Model, contract: &'m Contract, calls: Calls) -> Self {
        Self {
            model,
            contract,
            calls,
            layout: Arc::default(),
            collected: Vec::new(),
            collected_rows: 0,
            collected_bytes: 0,
            rows: 0,
            failed: 0,
            first_failure: None,
        }
    }

    /// Where the columns are told as soon as the first outputs are there.
    pub(crate) fn layout(&self) -> Arc<OnceLock<Layout>> {
        self.layout.clone()
    }

    /// All columns. Where no row could be run, the contract's own sizes have to do.
    pub(crate) fn columns(&self) -> &Layout {
        self.layout.get_or_init(|| self.columns_of(&[]))
    }

    fn columns_of(&self, widths: &[usize]) -> Layout {
        columns::layout(self.contract, self.calls.passed.clone(), widths, self.calls.top_k)
    }

    /// What was done since `start`, after the last row.
    pub(crate) fn summary(&self, mut notes: Vec<String>, start: Instant) -> Summary {
        let layout = self.columns();
        notes.extend(layout.notes.iter().cloned());
        Summary {
            rows: self.rows,
            failed: self.failed,
            first_failure: self.first_failure.as_ref().map(|(_, what)| what.clone()),
            columns: layout.names.clone(),
            notes,
            seconds: start.elapsed().as_secs_f64(),
        }
    }

    /// Runs the rows `from..to` of joined tensors; `rows` are their places in the batch.
    fn call(
        &mut self,
        tensors: &[Tensor],
        rows: &[usize],
        from: usize,
        to: usize,
        pieces: &[Piece],
        batch: &mut Batch,
    ) -> Result<()> {
        let least = self.calls.batching.least;
        let part = |t: &Tensor| padded(&rows_of(t, from, to)?, least);
        let values = tensors.iter().zip(&self.calls.inputs).map(|(t, n)| Ok((n.clone(), Value::Tensor(part(t)?))));
        let values = values.collect::<Result<Vec<_>>>()?;
        match self.model.run(values).and_then(|outputs| self.check(outputs, (to - from).max(least))) {
            Ok(group) => {
                let number = batch.groups.len() as u32;
                for (i, &row) in rows.get(from..to).unwrap_or_default().iter().enumerate() {
                    if let Some(place) = batch.places.get_mut(row) {
                        *place = Some((number, i as u32));
                    }
                }
                batch.groups.push(group);
                Ok(())
            }
            // One row may be what the model cannot take; a machine without memory is not.
            Err(e) if !matches!(e.kind, ErrorKind::Failed | ErrorKind::InvalidInput) => Err(e),
            Err(_) if to - from > 1 => {
                let middle = from + (to - from) / 2;
                self.call(tensors, rows, from, middle, pieces, batch)?;
                self.call(tensors, rows, middle, to, pieces, batch)
            }
            Err(e) => {
                let row = rows.get(from).copied().unwrap_or_default();
                let (piece, before) = piece_of(pieces, row);
                let Some(piece) = piece else { return Err(e) };
                let failure = Failure { row: row - before, what: e.message.clone() };
                if self.calls.on_error == OnError::Stop {
                    let named = self.named(self.rows + row as u64, &failure, &piece.passed);
                    return Err(Error { kind: e.kind, source: e.source, ..named });
                }
                self.fail(row, &failure, &piece.passed);
                Ok(())
            }
        }
    }

    /// Outputs that have a value for each row, and as many as the batches before.
    fn check(&self, outputs: Vec<(String, Value)>, rows: usize) -> Result<Group> {
        let mut group = Vec::with_capacity(outputs.len());
        let mut widths = Vec::with_capacity(outputs.len());
        let mismatch = |text: String| Error::new(ErrorKind::Mismatch, text);
        for (name, value) in outputs {
            let Value::Tensor(tensor) = value else {
                return Err(mismatch(format!(
                    "output `{name}` is {}, expected a tensor with a value a row",
                    value.kind()
                )));
            };
            if tensor.shape().first().copied() != i64::try_from(rows).ok() {
                return Err(mismatch(format!(
                    "output `{name}` has the shape {:?} for {rows} rows, expected its first dimension to be the rows",
                    tensor.shape()
                )));
            }
            widths.push(tensor.shape().iter().skip(1).product::<i64>() as usize);
            group.push(tensor.to_contiguous());
        }
        match self.layout.get() {
            Some(layout) if layout.widths == widths => {}
            Some(layout) => {
                return Err(mismatch(format!(
                    "outputs have {widths:?} values a row, and {:?} in rows before: columns cannot hold that",
                    layout.widths
                )));
            }
            None => {
                let _set = self.layout.set(self.columns_of(&widths));
            }
        }
        Ok(group)
    }

    /// Counts a row of the batch that has no outputs. Within a batch they do not come in order: rows that cannot be read
    /// are known before others are run.
    fn fail(&mut self, row: usize, failure: &Failure, passed: &Passed) {
        self.failed += 1;
        let row = self.rows + row as u64;
        if self.first_failure.as_ref().is_none_or(|(first, _)| row < *first) {
            self.first_failure = Some((row, self.named(row, failure, passed).message));
        }
    }

    fn named(&self, row: u64, failure: &Failure, passed: &Passed) -> Error {
        let at = match (passed, &self.calls.shown) {
            (Passed::Paths(paths), _) => format!("`{}`", paths.get(failure.row).map_or("", String::as_str)),
            (_, Some(path)) => format!("`{path}`: row {}", row + 1),
            (_, None) => format!("row {}", row + 1),
        };
        // The engine's own sentence about a picture begins with its path already.
        let message =
            if failure.what.starts_with(&at) { failure.what.clone() } else { format!("{at}: {}", failure.what) };
        let option = if self.calls.shown.is_some() { "--on-error null" } else { "on_error=\"null\"" };
        Error::invalid_input(message).hint(format!("`{option}` goes on and leaves the outputs of such rows empty"))
    }
}

fn piece_of(pieces: &[Piece], row: usize) -> (Option<&Piece>, usize) {
    let mut before = 0;
    for piece in pieces {
        if row < before + piece.rows {
            return (Some(piece), before);
        }
        before += piece.rows;
    }
    (None, before)
}

/// Tensors one below the other.
fn joined(tensors: &[&Tensor]) -> Result<Tensor> {
    let Some(first) = tensors.first() else { return Err(Error::internal("no tensors to join")) };
    if tensors.len() == 1 {
        return Ok((*first).clone());
    }
    let mut bytes = Vec::with_capacity(tensors.iter().map(|t| t.byte_len()).sum());
    let mut rows = 0;
    for tensor in tensors {
        rows += tensor.shape().first().copied().unwrap_or_default();
        bytes.extend_from_slice(tensor.to_contiguous().contiguous_bytes().unwrap_or_default());
    }
    let shape = std::iter::once(rows).chain(first.shape().iter().skip(1).copied()).collect();
    Tensor::new(first.datatype(), shape, Arc::new(bytes))
}

/// A view of some rows.
fn rows_of(tensor: &Tensor, from: usize, to: usize) -> Result<Tensor> {
    if from == 0 && Some(to as i64) == tensor.shape().first().copied() {
        return Ok(tensor.clone());
    }
    let row: i64 = tensor.shape().iter().skip(1).product();
    let shape: Vec<i64> = std::iter::once((to - from) as i64).chain(tensor.shape().iter().skip(1).copied()).collect();
    let mut strides = vec![1; shape.len()];
    for i in (0..shape.len().saturating_sub(1)).rev() {
        strides[i] = strides[i + 1] * shape[i + 1];
    }
    let offset = from * row as usize * tensor.datatype().size() + tensor.offset();
    Tensor::strided(tensor.datatype(), shape, strides, offset, tensor.memory().clone())
}

/// The last row again until there are as many as the contract asks for.
fn padded(tensor: &Tensor, least: usize) -> Result<Tensor> {
    let rows = tensor.shape().first().copied().unwrap_or_default() as usize;
    if rows >= least || rows == 0 {
        return Ok(tensor.clone());
    }
    let last = rows_of(tensor, rows - 1, rows)?;
    let all: Vec<&Tensor> = std::iter::once(tensor).chain(std::iter::repeat_n(&last, least - rows)).collect();
    joined(&all)
}
