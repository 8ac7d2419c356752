//! Record batches in, record batches out: what a door does that is given a table in memory instead of a file.

use crate::{
    OnError, Summary, arrow,
    columns::Layout,
    forward::{Calls, Forward},
    pipeline::{self, Sizes, Stage, Steps},
    plan::{self, Plan},
    run::{Batch, Piece},
};
use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema, SchemaRef};
use rust_host_engine::{Contract, Error, Model, Result, interrupt};
use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

/// Rows of a call, as for Parquet: what a layer gives for them stays in the processor's cache.
const CALL: usize = 4096;

/// Rows of a batch that is given out. Those of one that comes in are copied for the model, so a table that is a single
/// batch would be in memory twice.
const PIECE: usize = 1 << 16;

/// What became of a table.
#[derive(Debug)]
pub struct Mapped {
    /// The columns that passed through, then those of the outputs.
    pub schema: SchemaRef,
    /// As many rows as came in, in the same order; columns that passed through share their memory.
    pub batches: Vec<RecordBatch>,
    /// How many rows, which failed, what a user should know.
    pub summary: Summary,
}

/// Runs a model over every row of a table in memory. Columns meet inputs as in a Parquet file, the others pass through.
/// Between calls it asks [`interrupt::is_wanted`]. `workers` threads prepare rows for the model meanwhile; with none, this
/// thread does that too, which is better where the model's own operators use every core.
///
/// # Errors
/// `InvalidInput` if the model has no contract, the columns do not fit it, a batch cannot be read, or a row is bad (named)
/// with [`OnError::Stop`]; what [`Model::run`] says.
pub fn map(
    model: &Model,
    schema: &Schema,
    batches: impl IntoIterator<Item = Result<RecordBatch>, IntoIter: Send>,
    on_error: OnError,
    top_k: Option<usize>,
    workers: usize,
) -> Result<Mapped> {
    let start = Instant::now();
    if top_k == Some(0) {
        return Err(Error::invalid_input("top_k is 0, expected at least 1"));
    }
    let contract = plan::contract(model)?;
    let mut pieces = batches.into_iter().flat_map(cut);
    // Lists of a free length are as long as in the first row.
    let first = pieces.next().transpose()?;
    let all: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
    let plan = plan::plan(contract, &arrow::columns(&all, first.as_ref()))?;
    let fields: Vec<Arc<Field>> = plan.passed.iter().filter_map(|&c| all.get(c).cloned()).collect();
    let mut forward = forward(model, contract, &plan, &fields, on_error, top_k)?;
    let steps = InMemory { plan: &plan, fields: &fields, layout: forward.layout() };
    let mut mapped = Vec::new();
    let mut alone = |piece: RecordBatch, forward: &mut Forward| {
        if interrupt::is_wanted() {
            return Err(interrupt::error());
        }
        Stage::<InMemory>::add(forward, steps.decode(piece)?)?;
        let batch = Stage::<InMemory>::run(forward)?.ok_or_else(|| Error::internal("a batch has no rows"))?;
        mapped.push(steps.encode(batch)?);
        Ok(())
    };
    // A small table is not worth a thread.
    first.map_or(Ok(()), |piece| alone(piece, &mut forward))?;
    match pieces.next() {
        Some(second) if workers > 0 => {
            let mut rest = std::iter::once(second).chain(pieces);
            let sizes = Sizes { workers, in_flight: 2 * workers + 2, decoded: usize::MAX };
            pipeline::run(
                &sizes,
                &steps,
                || rest.next().transpose(),
                &mut forward,
                |batch| {
                    mapped.push(batch);
                    Ok(())
                },
            )?;
        }
        Some(second) => std::iter::once(second).chain(pieces).try_for_each(|piece| alone(piece?, &mut forward))?,
        None => {}
    }
    let schema = arrow::schema(forward.columns(), Some(&fields));
    let notes = plan.notes.clone();
    Ok(Mapped { schema, batches: mapped, summary: forward.summary(notes, start) })
}

/// Pieces of a batch, which share its memory.
fn cut(batch: Result<RecordBatch>) -> impl Iterator<Item = Result<RecordBatch>> {
    let (batch, error) = match batch {
        Ok(batch) => (Some(batch), None),
        Err(e) => (None, Some(Err(e))),
    };
    let pieces = batch.into_iter().flat_map(|batch| {
        let rows = batch.num_rows();
        (0..rows).step_by(PIECE).map(move |from| Ok(batch.slice(from, PIECE.min(rows - from))))
    });
    error.into_iter().chain(pieces)
}

fn forward<'m>(
    model: &'m Model,
    contract: &'m Contract,
    plan: &Plan,
    fields: &[Arc<Field>],
    on_error: OnError,
    top_k: Option<usize>,
) -> Result<Forward<'m>> {
    let given = contract.inputs.iter().filter(|i| plan.inputs.iter().any(|p| p.name == i.name));
    let mut batching = plan::batching(contract, given)?;
    batching.most = batching.most.min(CALL.max(batching.least));
    let calls = Calls {
        inputs: plan.inputs.iter().map(|i| i.name.clone()).collect(),
        batching,
        enough: 1,
        enough_bytes: usize::MAX,
        on_error,
        shown: None,
        passed: fields.iter().map(|f| f.name().clone()).collect(),
        top_k,
    };
    Ok(Forward::new(model, contract, calls))
}

/// What is done before and after the model.
struct InMemory<'p> {
    plan: &'p Plan,
    fields: &'p [Arc<Field>],
    layout: Arc<OnceLock<Layout>>,
}

impl Steps for InMemory<'_> {
    type Raw = RecordBatch;
    type Piece = Piece;
    type Batch = Batch;
    type Encoded = RecordBatch;

    fn decode(&self, raw: RecordBatch) -> Result<Piece> {
        arrow::decode(self.plan, &raw)
    }

    fn size(&self, piece: &Piece) -> usize {
        piece.size()
    }

    fn encode(&self, batch: Batch) -> Result<RecordBatch> {
        let layout = self.layout.get().ok_or_else(|| Error::internal("rows came before their columns"))?;
        arrow::record(&batch, layout, Some(self.fields))
    }
}
