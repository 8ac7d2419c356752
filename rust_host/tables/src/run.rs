//! One run: opens both sides, puts the steps together, and sums up.

#[cfg(feature = "arrow")]
use crate::arrow;
#[cfg(feature = "batch")]
use crate::parquet;
use crate::{
    OnError, Settings, Source, Summary,
    columns::Layout,
    csv::{self, Parser},
    encode::{self, Text},
    file::AtomicFile,
    forward::{Calls, Forward},
    pictures,
    pipeline::{self, Sizes},
    plan::{self, Batching},
    progress::Progress,
    source::Format,
};
use rust_host_engine::{Contract, Device, Error, Model, Result, Tensor, interrupt};
use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Instant,
};

/// Bytes of pictures that make a batch on a processor, where more at a time are no faster. Above 32 MiB the allocator has
/// the kernel zero every page of a batch anew, which took as long as the decoding.
const PICTURES: usize = 12 << 20;

/// Decoded rows and pictures that wait for the model: a photograph of 12 megapixels is 144 MB.
const DECODED: usize = 256 << 20;

/// A row that cannot be read or run.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Its number in the piece.
    pub row: usize,
    pub what: String,
}

/// What goes from the input to the output as it is.
pub(crate) enum Passed {
    /// Fields of a CSV file with their quotes, row by row.
    Csv { bytes: Vec<u8>, fields: Vec<(u32, u32)>, delimiter: u8 },
    /// Paths of pictures.
    Paths(Vec<String>),
    /// Columns of record batches.
    #[cfg(feature = "arrow")]
    Arrow(arrow::Cells),
}

/// Some rows that were read: a chunk of a table, or one picture.
pub(crate) struct Piece {
    pub rows: usize,
    /// Bytes or pictures of the input, for the progress.
    pub bytes: u64,
    /// One tensor for each input, with the rows that did not fail.
    pub inputs: Vec<Tensor>,
    pub passed: Passed,
    pub failed: Vec<Failure>,
}

impl Piece {
    /// Bytes that the model gets of it.
    pub fn size(&self) -> usize {
        self.inputs.iter().map(Tensor::byte_len).sum()
    }
}

/// Rows that went through the model.
pub(crate) struct Batch {
    pub pieces: Vec<Piece>,
    /// Outputs of rows that were run together.
    pub groups: Vec<Vec<Tensor>>,
    /// Group and row in it of each row; `None` where it failed.
    pub places: Vec<Option<(u32, u32)>>,
}

/// What was read and not yet decoded.
pub(crate) enum Raw {
    Chunk(csv::Chunk),
    Picture(PathBuf),
    #[cfg(feature = "batch")]
    Record(arrow_array::RecordBatch),
}

enum Decoder<'a> {
    Csv(Box<Parser>),
    Pictures {
        contract: &'a Contract,
        input: String,
    },
    #[cfg(feature = "batch")]
    Parquet(plan::Plan),
}

/// Fields of the columns that pass through, where they are known.
#[cfg(feature = "batch")]
type Fields = Option<Vec<Arc<arrow_schema::Field>>>;

/// What is written at once.
enum Body {
    Text(Vec<u8>),
    #[cfg(feature = "batch")]
    Record(arrow_array::RecordBatch),
}

/// What workers do.
pub(crate) struct Steps<'a> {
    decoder: Decoder<'a>,
    text: Text,
    layout: Arc<OnceLock<Layout>>,
    #[cfg(feature = "batch")]
    fields: Fields,
}

/// What is to be written, with the rows and the bytes of the input that it stands for.
pub(crate) struct Encoded {
    body: Body,
    rows: u64,
    bytes: u64,
}

impl pipeline::Steps for Steps<'_> {
    type Raw = Raw;
    type Piece = Piece;
    type Batch = Batch;
    type Encoded = Encoded;

    fn decode(&self, raw: Raw) -> Result<Piece> {
        match (&self.decoder, raw) {
            (Decoder::Csv(parser), Raw::Chunk(chunk)) => parser.parse(chunk),
            (Decoder::Pictures { contract, input }, Raw::Picture(path)) => Ok(pictures::decode(&path, contract, input)),
            #[cfg(feature = "batch")]
            (Decoder::Parquet(plan), Raw::Record(batch)) => arrow::decode(plan, &batch),
            _ => Err(Error::internal("a piece came to another reader")),
        }
    }

    fn size(&self, piece: &Piece) -> usize {
        piece.size()
    }

    fn encode(&self, batch: Batch) -> Result<Encoded> {
        let layout = self.layout.get().ok_or_else(|| Error::internal("rows came before their columns"))?;
        let bytes = batch.pieces.iter().map(|p| p.bytes).sum();
        let body = match self.text {
            #[cfg(feature = "batch")]
            Text::Parquet => Body::Record(arrow::record(&batch, layout, self.fields.as_deref())?),
            text => Body::Text(encode::rows(&batch, layout, text)?),
        };
        Ok(Encoded { body, rows: batch.places.len() as u64, bytes })
    }
}

/// How the rows come in.
struct Opened<'a> {
    decoder: Decoder<'a>,
    next: Box<dyn FnMut() -> Result<Option<Raw>> + Send + 'a>,
    /// Names of the inputs that it fills.
    inputs: Vec<String>,
    /// Names of the columns that pass through.
    passed: Vec<String>,
    batching: Batching,
    notes: Vec<String>,
    delimiter: u8,
    #[cfg(feature = "batch")]
    fields: Fields,
    unit: &'static str,
    total: u64,
    /// Rows or pictures of a batch, and how many pieces may exist at a time.
    enough: usize,
    enough_bytes: usize,
    in_flight: usize,
}

/// Runs a model over every row of the input and writes the output, whole or not at all.
///
/// # Errors
/// `InvalidInput` for a table that does not fit, a bad row (named) with [`OnError::Stop`], and a path that is neither;
/// `NotFound` and `Unavailable` for what cannot be read or written; what [`Model::run`] says.
pub fn run(model: &Model, settings: &Settings) -> Result<Summary> {
    let start = Instant::now();
    let format = Format::of_output(&settings.output)?;
    if settings.batch_size == Some(0) {
        return Err(Error::invalid_input("the batch size is 0, expected at least 1"));
    }
    let contract = plan::contract(model)?;
    let workers = settings.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    let opened = open(settings, model, contract, workers)?;
    let text = match format {
        Format::Csv => Text::Separated(opened.delimiter),
        Format::Tsv => Text::Separated(b'\t'),
        Format::Jsonl => Text::Jsonl,
        #[cfg(feature = "batch")]
        Format::Parquet => Text::Parquet,
        #[cfg(not(feature = "batch"))]
        Format::Parquet => return Err(without_parquet(&settings.output)),
    };
    // After the input: a wrong path there is the likelier mistake. Before the model runs: an hour's work needs a place.
    let file = (settings.create)(&settings.output)?;
    let calls = Calls {
        inputs: opened.inputs,
        batching: opened.batching,
        enough: opened.enough,
        enough_bytes: opened.enough_bytes,
        on_error: settings.on_error,
        shown: Some(settings.input.path().display().to_string()),
        passed: opened.passed,
        top_k: settings.top_k,
    };
    let mut forward = Forward::new(model, contract, calls);
    let layout = forward.layout();
    #[cfg(feature = "batch")]
    let fields = opened.fields.clone();
    let steps = Steps {
        decoder: opened.decoder,
        text,
        layout: layout.clone(),
        #[cfg(feature = "batch")]
        fields: opened.fields,
    };
    let mut progress = Progress::new(settings.progress, opened.unit, opened.total);
    let mut sink = Sink {
        file,
        text,
        begun: false,
        #[cfg(feature = "batch")]
        parquet: None,
        #[cfg(feature = "batch")]
        fields,
        #[cfg(feature = "batch")]
        path: settings.output.clone(),
    };
    let sizes = Sizes { workers, in_flight: opened.in_flight, decoded: DECODED };
    pipeline::run(&sizes, &steps, opened.next, &mut forward, |encoded: Encoded| {
        let layout = layout.get().ok_or_else(|| Error::internal("rows came before their columns"))?;
        sink.begin(layout)?;
        sink.write(&encoded.body)?;
        progress.add(encoded.rows, encoded.bytes);
        Ok(())
    })?;
    // Without rows there is a header all the same.
    sink.begin(forward.columns())?;
    progress.finish();
    if interrupt::is_wanted() {
        return Err(interrupt::error());
    }
    sink.finish()?;
    Ok(forward.summary(opened.notes, start))
}

/// What a run reads: the table, or the folder and every picture that is a link out of it, or the list and its pictures. What
/// is not there is for [`run`] to tell.
///
/// # Errors
/// `Unavailable`, `NotFound` and `InvalidInput` for a folder or list that cannot be read.
pub fn reads(input: &Source) -> Result<Vec<PathBuf>> {
    let mut paths = vec![input.path().to_owned()];
    match input {
        Source::Csv(_) | Source::Parquet(_) => {}
        Source::List(file) => paths.extend(pictures::list(file)?.paths),
        Source::Folder(folder) => {
            paths.extend(pictures::folder(folder)?.paths.into_iter().filter(|p| p.is_symlink()));
        }
    }
    Ok(paths)
}

/// Where rows go.
struct Sink {
    file: AtomicFile,
    text: Text,
    begun: bool,
    #[cfg(feature = "batch")]
    parquet: Option<parquet::Writer>,
    #[cfg(feature = "batch")]
    fields: Fields,
    #[cfg(feature = "batch")]
    path: PathBuf,
}

impl Sink {
    /// Writes the names of the columns, the first time.
    fn begin(&mut self, layout: &Layout) -> Result<()> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        #[cfg(feature = "batch")]
        if self.text == Text::Parquet {
            let schema = arrow::schema(layout, self.fields.as_deref());
            self.parquet = Some(parquet::Writer::new(&self.file, &self.path, schema)?);
        }
        self.file.write(&encode::header(layout, self.text))
    }

    fn write(&mut self, body: &Body) -> Result<()> {
        match body {
            Body::Text(text) => self.file.write(text),
            #[cfg(feature = "batch")]
            Body::Record(batch) => match &mut self.parquet {
                Some(writer) => writer.write(batch),
                None => Err(Error::internal("rows came before their columns")),
            },
        }
    }

    fn finish(self) -> Result<()> {
        #[cfg(feature = "batch")]
        if let Some(writer) = self.parquet {
            writer.finish()?;
        }
        self.file.finish()
    }
}

fn open<'a>(settings: &Settings, model: &'a Model, contract: &'a Contract, workers: usize) -> Result<Opened<'a>> {
    match &settings.input {
        Source::Csv(path) => {
            let rows = settings.batch_size;
            let mut table = csv::Table::open(path, rows)?;
            let at = |e: Error| Error { message: format!("`{}`: {}", path.display(), e.message), ..e };
            let mut plan = plan::plan(contract, &table.columns).map_err(at)?;
            let given = contract.inputs.iter().filter(|i| plan.inputs.iter().any(|p| p.name == i.name));
            let batching = plan::batching(contract, given)?;
            let names: Vec<String> = table.columns.iter().map(|c| c.name.clone()).collect();
            let (delimiter, size) = (table.delimiter, table.size);
            Ok(Opened {
                inputs: plan.inputs.iter().map(|i| i.name.clone()).collect(),
                passed: plan.passed.iter().filter_map(|&c| names.get(c).cloned()).collect(),
                notes: std::mem::take(&mut plan.notes),
                batching,
                delimiter,
                #[cfg(feature = "batch")]
                fields: None,
                unit: "rows",
                total: size,
                enough: rows.unwrap_or(1),
                enough_bytes: usize::MAX,
                in_flight: 3 * workers + 4,
                decoder: Decoder::Csv(Box::new(Parser {
                    plan,
                    names,
                    delimiter,
                    stop: settings.on_error == OnError::Stop,
                })),
                next: Box::new(move || Ok(table.next()?.map(Raw::Chunk))),
            })
        }
        Source::Folder(_) | Source::List(_) => {
            let image = contract.image.as_ref().ok_or_else(|| {
                Error::invalid_input(format!("model `{}` takes no pictures, by its contract", contract.name))
                    .hint("export the model with an `image` section in its recipe")
            })?;
            let given = contract.inputs.iter().filter(|i| i.name == image.input);
            let batching = plan::batching(contract, given)?;
            if let Some(other) = contract.inputs.iter().find(|i| i.name != image.input && !i.optional) {
                return Err(Error::invalid_input(format!(
                    "model `{}` takes `{}` beside the picture, which a folder cannot give",
                    contract.name, other.name
                )));
            }
            let listing = match &settings.input {
                Source::List(file) => pictures::list(file)?,
                other => pictures::folder(other.path())?,
            };
            let enough = settings.batch_size.unwrap_or(32).min(batching.most);
            let total = listing.paths.len() as u64;
            let mut paths = listing.paths.into_iter();
            let notes = match listing.others {
                0 => Vec::new(),
                1 => vec!["1 other file in the folder was left out".to_owned()],
                n => vec![format!("{n} other files in the folder were left out")],
            };
            Ok(Opened {
                inputs: vec![image.input.clone()],
                passed: vec!["path".to_owned()],
                notes,
                batching,
                delimiter: b',',
                #[cfg(feature = "batch")]
                fields: None,
                unit: "pictures",
                total,
                enough,
                enough_bytes: match settings.batch_size {
                    None if model.device() == Device::Cpu => PICTURES,
                    _ => usize::MAX,
                },
                in_flight: 2 * enough + 2 * workers,
                decoder: Decoder::Pictures { contract, input: image.input.clone() },
                next: Box::new(move || Ok(paths.next().map(Raw::Picture))),
            })
        }
        #[cfg(not(feature = "batch"))]
        Source::Parquet(path) => Err(without_parquet(path)),
        #[cfg(feature = "batch")]
        Source::Parquet(path) => {
            let rows = settings.batch_size.unwrap_or(4096);
            let mut table = parquet::Table::open(path, rows)?;
            let at = |e: Error| Error { message: format!("`{}`: {}", path.display(), e.message), ..e };
            let mut plan = plan::plan(contract, &table.columns).map_err(at)?;
            let given = contract.inputs.iter().filter(|i| plan.inputs.iter().any(|p| p.name == i.name));
            let fields: Vec<_> = plan.passed.iter().filter_map(|&c| table.fields.get(c).cloned()).collect();
            Ok(Opened {
                inputs: plan.inputs.iter().map(|i| i.name.clone()).collect(),
                passed: fields.iter().map(|f| f.name().clone()).collect(),
                notes: std::mem::take(&mut plan.notes),
                batching: plan::batching(contract, given)?,
                delimiter: b',',
                fields: Some(fields),
                unit: "rows",
                total: table.rows,
                // A batch is one piece, so that its columns pass as they are.
                enough: 1,
                enough_bytes: usize::MAX,
                in_flight: 3 * workers + 4,
                decoder: Decoder::Parquet(plan),
                next: Box::new(move || Ok(table.next()?.map(Raw::Record))),
            })
        }
    }
}

#[cfg(not(feature = "batch"))]
fn without_parquet(path: &std::path::Path) -> Error {
    Error::unavailable(format!("`{}`: this build reads and writes no Parquet", path.display()))
        .hint("build it with `--features batch`, or use a .csv")
}
