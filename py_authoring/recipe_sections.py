"""What a recipe may say: its sections, keys, types and defaults, as pydantic models.

The one source for validation, for `docs/recipe.schema.json` and for the table in `docs/recipe.md`. No torch here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

Metric = Literal["accuracy", "precision", "recall", "f1", "confusion_matrix", "mae", "mse", "rmse", "r2"]
CLASSIFICATION_METRICS: tuple[str, ...] = ("accuracy", "precision", "recall", "f1", "confusion_matrix")
REGRESSION_METRICS: tuple[str, ...] = ("mae", "mse", "rmse", "r2")


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, `"5"` is no number, and a recipe does not change once read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


class SizeSection(Section):
    """Height and width in pixels."""

    height: Count = Field(description="pixels")
    width: Count = Field(description="pixels")


class ModelSection(Section):
    """The class in model.py, and what it is called with."""

    class_name: str = Field(alias="class", min_length=1, description="name of the nn.Module class in model.py")
    arguments: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the class")
    weights: str | None = Field(
        default=None,
        min_length=1,
        description="a state dict to start from, .safetensors, .pth or .pt; relative to the recipe, or to where the "
        "command runs",
    )
    fresh: list[str] = Field(
        default=[], description='parts that `weights` does not give, as `["fc"]` for other classes; `*` stands for any'
    )
    freeze: list[str] = Field(
        default=[], description='parts that training leaves as they are, as `["conv1", "layer1"]`; `*` stands for any'
    )


class SplitSection(Section):
    """How samples are divided."""

    validation: Fraction = Field(default=0.1, description="share of the samples that choose the best checkpoint")
    test: Fraction = Field(default=0.2, description="share of the samples that only `evaluate` sees")
    split_seed: Annotated[int, Field(ge=0)] = Field(
        default=0, description="seed of the split; the same seed, the same split"
    )
    split_by: Literal["seed", "hash"] = Field(
        default="seed",
        description="seed draws from all samples together; hash looks at each alone, so that new ones move no other",
    )


class DigitsData(SplitSection):
    """scikit-learn's bundled 1,797 handwritten digits, enlarged to `size` × `size`, values in [0, 1]."""

    kind: Literal["digits"]
    input: str = Field(default="image", description="the forward argument that takes the pictures")
    size: Annotated[int, Field(ge=8, le=512)] = Field(default=28, description="height and width in pixels")


class IdxData(SplitSection):
    """A folder with MNIST's IDX files, gzipped or not; its t10k files, if there, are the test split."""

    kind: Literal["idx"]
    path: str = Field(min_length=1, description="the folder; relative to the recipe, or to where the command runs")
    input: str = Field(default="image", description="the forward argument that takes the pictures")


class FolderData(SplitSection):
    """Pictures in a folder for each class, `path/cat/1.png`; or such folders below `train`, `validation` and `test`."""

    kind: Literal["folder"]
    path: str = Field(min_length=1, description="the folder; relative to the recipe, or to where the command runs")
    input: str = Field(default="image", description="the forward argument that takes the pictures")
    color: Literal["L", "RGB"] = Field(default="RGB", description="L is grey")
    size: SizeSection | None = Field(
        default=None, description="pictures are resized to it, as a host does; default: all have one size"
    )


class _RowSplit(SplitSection):
    split_column: str | None = Field(
        default=None, description="the column that says train, validation or test for each row; then no share counts"
    )
    split_key: str | None = Field(
        default=None, description="for split_by hash: rows with the same value here stay together; default: the row"
    )


class _Columns(_RowSplit):
    path: str = Field(min_length=1, description="the file; relative to the recipe, or to where the command runs")
    target: str = Field(min_length=1, description="the column to predict")
    features: list[str] | None = Field(default=None, description="the columns to predict from; default: all others")
    categories: list[str] = Field(
        default=[], description="those of them that hold categories, whole numbers or words; the others hold numbers"
    )
    input: str = Field(default="features", description="the forward argument that takes the numbers")
    category_input: str = Field(default="categories", description="the forward argument that takes the categories")
    separate: bool = Field(
        default=False, description="each column is a forward argument of its own, under the column's name"
    )
    task: Literal["classification", "regression"] = Field(default="classification", description="what the target is")


class CsvData(_Columns):
    """A CSV file with a header line."""

    kind: Literal["csv"]
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = Field(default=",", description="one character")


class ParquetData(_Columns):
    """A Parquet file; needs the extra `tables` (pyarrow)."""

    kind: Literal["parquet"]


class HfData(_Columns):
    """A folder that the `datasets` library saved with `save_to_disk`; needs the extra `hf`.

    Its splits train, validation and test are taken as they are; what is lacking of them is split from train.
    """

    kind: Literal["hf"]


class TextData(_RowSplit):
    """A CSV file with a column of text and one of classes; the words of the training texts become ids from 2 on."""

    kind: Literal["text"]
    path: str = Field(min_length=1, description="the file; relative to the recipe, or to where the command runs")
    text: str = Field(default="text", min_length=1, description="the column of the text")
    target: str = Field(min_length=1, description="the column to predict")
    input: str = Field(default="tokens", description="the forward argument that takes the ids, padded with 0")
    vocabulary: Count = Field(default=20000, description="words that get an id: the most frequent; 1 is any other")
    max_length: Count = Field(default=256, description="words of a text that are read")
    task: Literal["classification", "regression"] = Field(default="classification", description="what the target is")
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = Field(default=",", description="one character")


class NpzData(SplitSection):
    """A .npz file of arrays with one row a sample; their names are forward's arguments, and `target`."""

    kind: Literal["npz"]
    path: str = Field(min_length=1, description="the file; relative to the recipe, or to where the command runs")
    target: str = Field(default="target", min_length=1, description="the array to predict")
    inputs: list[str] | None = Field(default=None, description="the arrays to predict from; default: all others")


class FunctionData(SplitSection):
    """A function in model.py that returns (inputs by name, target), or three such pairs: train, validation, test."""

    kind: Literal["function"]
    function: str = Field(default="load_data", min_length=1, description="name of the function in model.py")
    arguments: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the function")


class NoData(Section):
    """No data: the model is exported with its initial weights; model.py has `example_inputs(batch_size)`."""

    kind: Literal["none"]


DataSection = Annotated[
    DigitsData | FolderData | IdxData | CsvData | ParquetData | HfData | TextData | NpzData | FunctionData | NoData,
    Field(discriminator="kind"),
]


class TrainingSection(Section):
    """How long, how large, where."""

    epochs: Count = Field(default=10, description="passes over the training data")
    batch_size: Count = Field(default=64, description="samples in one step")
    accumulate: Count = Field(
        default=1, description="micro-batches that a batch is computed in, one after the other, to save memory"
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="bf16 computes forward and backward in bfloat16; weights stay float32"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        default=0, description="seeds weights, dropout, order of the data"
    )
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = Field(
        default="auto", description="auto, cpu, cuda or cuda:N; `cuda` never falls back to the CPU"
    )
    patience: Count | None = Field(
        default=None, description="stop after so many epochs without a better training.monitor"
    )
    min_delta: NotNegative = Field(
        default=0.0, description="how much better, absolute, an epoch must be to count for that"
    )
    monitor: str = Field(default="loss", description="the validation metric that chooses the best checkpoint")
    keep: Count | None = Field(
        default=None, description="so many of the best epochs keep a checkpoint of their own, besides the best alone"
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="decay of a moving average of the weights, as 0.999, which then is validated and exported",
    )
    clip_norm: Positive | None = Field(default=None, description="largest norm of the gradient")
    clip_value: Positive | None = Field(default=None, description="largest absolute value in the gradient")
    checkpoint_every: Count | None = Field(
        default=None, description="iterations between checkpoints; default: every minute"
    )
    workers: Annotated[int, Field(ge=0, le=256)] = Field(
        default=0, description="processes that read samples ahead; 0: this one reads them"
    )
    loggers: list[Literal["tensorboard", "mlflow"]] = Field(
        default=[], description="where else losses and metrics go; history.csv and history.jsonl are always written"
    )

    @property
    def micro_batch_size(self) -> int:
        """The most samples that are computed at once."""
        return -(-self.batch_size // self.accumulate)


class Adam(Section):
    """torch.optim.Adam."""

    name: Literal["adam"]
    lr: Positive = Field(default=1e-3, description="learning rate")
    betas: Annotated[tuple[Fraction, Fraction], Field(strict=False)] = Field(
        default=(0.9, 0.999), description="decay rates"
    )
    weight_decay: NotNegative = Field(default=0.0, description="L2 penalty")


class AdamW(Section):
    """torch.optim.AdamW."""

    name: Literal["adamw"]
    lr: Positive = Field(default=1e-3, description="learning rate")
    betas: Annotated[tuple[Fraction, Fraction], Field(strict=False)] = Field(
        default=(0.9, 0.999), description="decay rates"
    )
    weight_decay: NotNegative = Field(default=0.01, description="decoupled weight decay")


class Sgd(Section):
    """torch.optim.SGD."""

    name: Literal["sgd"]
    lr: Positive = Field(default=1e-2, description="learning rate")
    momentum: Fraction = Field(default=0.0, description="momentum")
    nesterov: bool = Field(default=False, description="Nesterov's momentum")
    weight_decay: NotNegative = Field(default=0.0, description="L2 penalty")


class RmsProp(Section):
    """torch.optim.RMSprop."""

    name: Literal["rmsprop"]
    lr: Positive = Field(default=1e-2, description="learning rate")
    momentum: Fraction = Field(default=0.0, description="momentum")
    weight_decay: NotNegative = Field(default=0.0, description="L2 penalty")


class Adadelta(Section):
    """torch.optim.Adadelta."""

    name: Literal["adadelta"]
    lr: Positive = Field(default=1.0, description="learning rate")
    rho: Fraction = Field(default=0.9, description="decay rate of the squared gradients")
    weight_decay: NotNegative = Field(default=0.0, description="L2 penalty")


OptimizerSection = Annotated[Adam | AdamW | Sgd | RmsProp | Adadelta, Field(discriminator="name")]


class _WithWarmup(Section):
    warmup: NotNegative = Field(
        default=0.0,
        description="epochs, or a part of one, over which the learning rate first rises from near 0, by iteration",
    )
    warmup_iterations: Count | None = Field(default=None, description="the same in iterations")


class ConstantSchedule(_WithWarmup):
    """The learning rate stays as it is."""

    name: Literal["constant"]


class StepSchedule(_WithWarmup):
    """The learning rate is multiplied by `gamma` after every `step_size` epochs."""

    name: Literal["step"]
    step_size: Count = Field(default=1, description="epochs between two changes")
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(default=0.1, description="factor")


class ExponentialSchedule(_WithWarmup):
    """The learning rate is multiplied by `gamma` after every epoch."""

    name: Literal["exponential"]
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(default=0.95, description="factor")


class CosineSchedule(_WithWarmup):
    """The learning rate falls to `floor` × lr along a cosine over `period` epochs, and stays there.

    `period` is a number of its own, not `training.epochs`: so a longer training is the continuation of a shorter one.
    """

    name: Literal["cosine"]
    period: Count = Field(description="epochs until the floor is reached")
    floor: Fraction = Field(default=0.0, description="the last learning rate as a share of the first")


class PlateauSchedule(_WithWarmup):
    """The learning rate is multiplied by `gamma` when `training.monitor` has not got better for more than `patience`
    epochs.
    """

    name: Literal["plateau"]
    patience: Annotated[int, Field(ge=0)] = Field(default=5, description="epochs that are waited for")
    gamma: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.1, description="factor")
    floor: Fraction = Field(default=0.0, description="the least learning rate as a share of the first")


class OneCycleSchedule(Section):
    """The learning rate rises to lr along a cosine and falls again, by iteration; momentum stays as it is."""

    name: Literal["one_cycle"]
    period: Count = Field(description="epochs of the cycle; after it the rate stays at the floor")
    rise: Fraction = Field(default=0.3, description="share of the period in which the rate rises")
    start: Annotated[float, Field(gt=0, le=1)] = Field(default=0.04, description="the first rate as a share of lr")
    floor: Fraction = Field(default=4e-6, description="the last rate as a share of lr")


SchedulerSection = Annotated[
    ConstantSchedule | StepSchedule | ExponentialSchedule | CosineSchedule | PlateauSchedule | OneCycleSchedule,
    Field(discriminator="name"),
]


class LossSection(Section):
    """The number that training makes small."""

    name: Literal["nll", "cross_entropy", "bce_with_logits", "mse", "l1", "smooth_l1", "function"] = Field(
        default="cross_entropy",
        description="nll takes log-probabilities, cross_entropy raw scores, as torch.nn.functional; function: yours",
    )
    function: str = Field(
        default="loss",
        min_length=1,
        description="for function: its name in model.py; takes (model, inputs, target), gives the mean of the batch",
    )
    output: int | str = Field(
        default=0, description="which of the model's outputs, by place or key, if it returns several"
    )
    label_smoothing: Fraction = Field(default=0.0, description="only for cross_entropy")
    class_weights: Literal["balanced"] | list[NotNegative] | None = Field(
        default=None,
        description="balanced, or one for each class, in training; for nll, cross_entropy and bce_with_logits",
    )


class ImageSection(Section):
    """How a picture file becomes the input; means and deviations belong inside the graph."""

    input: str | None = Field(default=None, description="the input that takes the picture; default: the first")
    color: Literal["L", "RGB"] = Field(default="L", description="L is grey")
    layout: Literal["NCHW", "NHWC"] = Field(default="NCHW", description="order of the axes")
    size: SizeSection | None = Field(default=None, description="pictures are resized to it")
    rescale_factor: float | None = Field(default=1 / 255, description="multiplied with each byte")


class ExportSection(Section):
    """What the exported file says about itself."""

    method: Literal["script", "trace", "compiled", "onnx"] = Field(
        default="script",
        description="TorchScript by compiling or recording, machine code, or ONNX; all but script are refused where "
        "they lose control flow",
    )
    precision: Literal["fp32", "bf16", "int8-dynamic"] = Field(
        default="fp32",
        description="numbers inside the file, float32 goes in and out; bf16 for script, trace, compiled; "
        "int8-dynamic for Linear and LSTM in script, trace",
    )
    max_metric_drop: NotNegative = Field(
        default=0.01, description="how much worse than in fp32 a metric may be, absolute"
    )
    input_names: list[str] | None = Field(default=None, description="default: the arguments of forward")
    output_names: list[str] | None = Field(default=None, description="default: output, or output_0, output_1, …")
    labels: list[str] | None = Field(default=None, description="one name for each class of the first output")
    activation: Literal["softmax", "log_softmax", "sigmoid"] | None = Field(
        default=None, description="what the first output went through, so that a host can show probabilities"
    )
    dynamic: dict[str, dict[str, str]] | None = Field(
        default=None, description='free axes: {input = {"0" = "batch", "1" = "time"}}; default: axis 0 of every input'
    )
    image: ImageSection | None = Field(default=None, description="how a picture file becomes an input")
    rtol: NotNegative | None = Field(default=None, description="largest relative difference; default: torch.testing's")
    atol: NotNegative | None = Field(default=None, description="largest absolute difference; default: torch.testing's")
    golden_count: Annotated[int, Field(ge=1, le=64)] = Field(default=4, description="examples stored in the file")
    batch_sizes: list[Count] = Field(
        default=[1, 2, 5], min_length=1, description="sizes at which both models are compared"
    )
    cpu: Literal["native", "x86-64-v3", "x86-64-v4", "x86-64-v3+v4"] = Field(
        default="native",
        description="what a compiled model is for: this very processor, any with AVX2 (v3), AVX-512 (v4), or both",
    )
    without_libtorch: bool = Field(
        default=False, description="a compiled model that needs libtorch for an operator is refused, with its line"
    )
    description: str | None = Field(default=None, description="one sentence for the contract and the model card")
    license: str | None = Field(default=None, description="SPDX identifier")


class Recipe(Section):
    """A whole recipe: one file, no inheritance, no interpolation."""

    metrics: list[Metric] | None = Field(
        default=None, description="what is measured besides the loss; default: all that fit the loss"
    )
    metric_functions: list[str] = Field(
        default=[],
        description="functions in model.py, each of which gives an Ignite Metric; monitored, higher is better",
    )
    model: ModelSection = Field(description="the class in model.py")
    data: DataSection = Field(description="what is learnt from")
    training: TrainingSection = Field(
        default_factory=lambda: TrainingSection(), description="how long, how large, where"
    )
    optimizer: OptimizerSection = Field(default_factory=lambda: Adam(name="adam"), description="default: adam")
    scheduler: SchedulerSection = Field(
        default_factory=lambda: ConstantSchedule(name="constant"), description="default: constant"
    )
    loss: LossSection = Field(default_factory=lambda: LossSection(), description="default: cross_entropy")
    export: ExportSection = Field(
        default_factory=lambda: ExportSection(), description="what the exported file says of itself"
    )

    @property
    def task(self) -> Literal["classification", "regression", "other"]:
        """What the loss makes of it; a function of one's own may mean anything."""
        if self.loss.name == "function":
            return "other"
        classification = self.loss.name in ("nll", "cross_entropy", "bce_with_logits")
        return "classification" if classification else "regression"

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics that are measured besides the loss, defaults filled in."""
        if self.metrics is not None:
            return tuple(self.metrics)
        return {"classification": CLASSIFICATION_METRICS, "regression": ("mae", "rmse", "r2"), "other": ()}[self.task]


#: Sections of which one key chooses the variant: section → (that key, its default).
TAGS: dict[str, tuple[str, str | None]] = {
    "data": ("kind", None),
    "optimizer": ("name", "adam"),
    "scheduler": ("name", "constant"),
}
#: Section → value of its tag → the model.
VARIANTS: dict[str, dict[str, type[Section]]] = {
    "data": {
        "digits": DigitsData,
        "folder": FolderData,
        "idx": IdxData,
        "csv": CsvData,
        "parquet": ParquetData,
        "hf": HfData,
        "text": TextData,
        "npz": NpzData,
        "function": FunctionData,
        "none": NoData,
    },
    "optimizer": {"adam": Adam, "adamw": AdamW, "sgd": Sgd, "rmsprop": RmsProp, "adadelta": Adadelta},
    "scheduler": {
        "constant": ConstantSchedule,
        "step": StepSchedule,
        "exponential": ExponentialSchedule,
        "cosine": CosineSchedule,
        "plateau": PlateauSchedule,
        "one_cycle": OneCycleSchedule,
    },
}
