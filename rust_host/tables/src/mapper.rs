//! Record batches in, record batches out: what a door does that is given a table in memory instead of a file.

use crate::{
    OnError, Summary, arrow,
    forward::{Calls, Forward},
    pipeline::Stage,
    plan::{self, Plan},
};
use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema, SchemaRef};
use rust_host_engine::{Error, Model, Result, interrupt};
use std::{sync::Arc, time::Instant};

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
/// Between calls it asks [`interrupt::is_wanted`].
///
/// # Errors
/// `InvalidInput` if the model has no contract, the columns do not fit it, a batch cannot be read, or a row is bad (named)
/// with [`OnError::Stop`]; what [`Model::run`] says.
pub fn map(
    model: &Model,
    schema: &Schema,
    batches: impl IntoIterator<Item = Result<RecordBatch>>,
    on_error: OnError,
    top_k: Option<usize>,
) -> Result<Mapped> {
    let start = Instant::now();
    if top_k == Some(0) {
        return Err(Error::invalid_input("top_k is 0, expected at least 1"));
    }
    let mut batches = batches.into_iter();
    // Lists of a free length are as long as in the first row.
    let first = batches.by_ref().find(|b| b.as_ref().map_or(true, |b| b.num_rows() > 0)).transpose()?;
    let mut mapper = Mapper::new(model, schema, first.as_ref(), on_error, top_k)?;
    let mut mapped = Vec::new();
    for batch in first.into_iter().map(Ok).chain(batches) {
        let batch = batch?;
        for from in (0..batch.num_rows()).step_by(PIECE) {
            if interrupt::is_wanted() {
                return Err(interrupt::error());
            }
            mapped.push(mapper.map(&batch.slice(from, PIECE.min(batch.num_rows() - from)))?);
        }
    }
    let Mapper { plan, fields, forward } = mapper;
    let schema = arrow::schema(forward.columns(), Some(&fields));
    Ok(Mapped { schema, batches: mapped, summary: forward.summary(plan.notes, start) })
}

/// A model that maps batches of one schema, in order.
struct Mapper<'m> {
    plan: Plan,
    fields: Vec<Arc<Field>>,
    forward: Forward<'m>,
}

impl<'m> Mapper<'m> {
    fn new(
        model: &'m Model,
        schema: &Schema,
        first: Option<&RecordBatch>,
        on_error: OnError,
        top_k: Option<usize>,
    ) -> Result<Self> {
        let contract = plan::contract(model)?;
        let all: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
        let plan = plan::plan(contract, &arrow::columns(&all, first))?;
        let given = contract.inputs.iter().filter(|i| plan.inputs.iter().any(|p| p.name == i.name));
        let mut batching = plan::batching(contract, given)?;
        batching.most = batching.most.min(CALL.max(batching.least));
        let fields: Vec<Arc<Field>> = plan.passed.iter().filter_map(|&c| all.get(c).cloned()).collect();
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
        Ok(Self { plan, fields, forward: Forward::new(model, contract, calls) })
    }

    fn map(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let piece = arrow::decode(&self.plan, batch)?;
        self.forward.add(piece)?;
        let batch = self.forward.run()?.ok_or_else(|| Error::internal("a batch has no rows"))?;
        arrow::record(&batch, self.forward.columns(), Some(&self.fields))
    }
}
