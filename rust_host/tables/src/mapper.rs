//! Record batches in, record batches out: what a door does that is given a table in memory instead of a file.

use crate::{
    OnError,
    columns::{self, Layout},
    forward::Forward,
    parquet,
    pipeline::Stage,
    plan::{self, Plan},
};
use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema, SchemaRef};
use rust_host_engine::{Error, Model, Result};
use std::sync::{Arc, OnceLock};

/// A model that maps batches of one schema, in order: columns meet inputs as in a Parquet file, the others pass through.
pub struct Mapper<'m> {
    plan: Plan,
    fields: Vec<Arc<Field>>,
    forward: Forward<'m>,
    layout: Arc<OnceLock<Layout>>,
}

impl<'m> Mapper<'m> {
    /// Matches the columns of a schema with the model's inputs. List columns of a free length are known by their first
    /// rows, so the first batch is given where there is one.
    ///
    /// # Errors
    /// `InvalidInput` if the model has no contract or the columns do not fit it.
    pub fn new(
        model: &'m Model,
        schema: &Schema,
        first: Option<&RecordBatch>,
        on_error: OnError,
        top_k: Option<usize>,
    ) -> Result<Self> {
        let contract = plan::contract(model)?;
        let all: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
        let plan = plan::plan(contract, &parquet::columns(&all, first))?;
        let given = contract.inputs.iter().filter(|i| plan.inputs.iter().any(|p| p.name == i.name));
        let batching = plan::batching(contract, given)?;
        let fields: Vec<Arc<Field>> = plan.passed.iter().filter_map(|&c| all.get(c).cloned()).collect();
        let names: Vec<String> = fields.iter().map(|f| f.name().clone()).collect();
        let layout = Arc::new(OnceLock::new());
        let forward = Forward {
            model,
            inputs: plan.inputs.iter().map(|i| i.name.clone()).collect(),
            batching,
            enough: 1,
            on_error,
            shown: "the table".to_owned(),
            make_layout: Box::new(move |widths| Ok(columns::layout(contract, names.clone(), widths, top_k))),
            layout: layout.clone(),
            collected: Vec::new(),
            collected_rows: 0,
            rows: 0,
            failed: 0,
            first_failure: None,
        };
        Ok(Self { plan, fields, forward, layout })
    }

    /// As many rows as came in: the columns that pass through, then those of the outputs.
    ///
    /// # Errors
    /// As [`crate::run`].
    pub fn map(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let piece = parquet::decode(&self.plan, batch)?;
        self.forward.add(piece)?;
        let batch = self.forward.run()?.ok_or_else(|| Error::internal("a batch has no rows"))?;
        let layout = self.layout.get().ok_or_else(|| Error::internal("rows came before their columns"))?;
        parquet::record(&batch, layout, Some(&self.fields))
    }

    /// The schema of what [`Mapper::map`] gives, where no batch was mapped.
    ///
    /// # Errors
    /// As [`Mapper::new`].
    pub fn schema(&self) -> Result<SchemaRef> {
        if self.layout.get().is_none() {
            let _set = self.layout.set((self.forward.make_layout)(&[])?);
        }
        let layout = self.layout.get().ok_or_else(|| Error::internal("there are no columns"))?;
        Ok(parquet::schema(layout, Some(&self.fields)))
    }
}
