"""Run → version: the order of steps from a checkpoint to a checked `models/NAME/<version>/model.pt`, .pt2 or .onnx.

weights → samples → eager cases → script, trace, compile or ONNX → contract and golden examples → the final bytes →
parity and golden replay on those bytes → one atomic write. Whatever fails, fails before the write.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import py_authoring
from py_authoring import atomic, trusted
from py_authoring.card import write_card
from py_authoring.contract import GOLDEN_FILE, Bounds, Contract, Golden, Image, Metric, Producer, read_contract
from py_authoring.data import Splits, load_splits
from py_authoring.difference import Difference
from py_authoring.errors import ModelFileError, RecipeError
from py_authoring.export import archive, golden, picture, signature
from py_authoring.export.cases import EXTRA_BATCH_SIZES, GRAPH_BATCH_SIZES, Cases, golden_cases, run_cases
from py_authoring.export.parity import Report, Runner, compare, farthest, run
from py_authoring.export.precision import (
    check_metrics,
    describe_change,
    own_tolerance,
    reduce,
    run_reduced,
    tolerances,
)
from py_authoring.export.provenance import describe_data, describe_provenance, measure_metrics
from py_authoring.export.returns import Layout
from py_authoring.export.samples import Sampler, Source, from_data, make_sampler
from py_authoring.export.script import find_device_suspicions, script
from py_authoring.export.sibling import find_sibling
from py_authoring.export.trace import trace
from py_authoring.export.weights import Weights, load_weights
from py_authoring.learnt import learnt_of
from py_authoring.lightning import is_lightning
from py_authoring.lightning.exporting import exporting
from py_authoring.model_file import MODEL_FILE, example_inputs
from py_authoring.platforms import COMPILED, MODEL_FILES, PLATFORMS, TORCHSCRIPT
from py_authoring.recipe import ResolvedRecipe, load_recipe
from py_authoring.recipe_sections import ExportSection
from py_authoring.tools import check_tools

__all__ = ["Version", "export"]


@dataclass(frozen=True)
class Version:
    """An exported model.

    Attributes:
        path: `models/NAME/<number>/model.pt`, .pt2 or .onnx.
        name: the model's name.
        number: of the version.
        contract: what the file says about itself.
        differences: output → largest difference between eager and exported model.
        cases: how many inputs were compared.
        notes: what a person should know, a sentence each.
        size: bytes of the file.
        seconds: how long the export took.
    """

    path: Path
    name: str
    number: int
    contract: Contract
    differences: dict[str, Difference]
    cases: int
    notes: list[str] = field(default_factory=list)
    size: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "path": str(self.path),
            "name": self.name,
            "version": self.number,
            "method": self.contract.provenance.method,
            "untrained": bool(self.contract.provenance.untrained),
            "run": self.contract.provenance.run,
            "checkpoint": self.contract.provenance.checkpoint,
            "cases": self.cases,
            "differences": {
                name: {"max_abs": difference.max_abs, "max_rel": difference.max_rel}
                for name, difference in self.differences.items()
            },
            "golden": self.contract.golden.count,
            "notes": self.notes,
            "size": self.size,
            "seconds": self.seconds,
        }

    def _repr_html_(self) -> str | None:
        from py_authoring.report import notebook

        return notebook.show_version(self)


@dataclass(frozen=True)
class Exported:
    """The bytes of a model file that passed every check, and what was seen on the way."""

    data: bytes
    contract: Contract
    examples: list[golden.Example]
    report: Report
    notes: list[str]


@dataclass(frozen=True)
class Form:
    """The model as it will be written.

    Attributes:
        notes: what a person should know.
        write: contract and golden examples → the file's bytes.
        load: the file's bytes → what runs them; for each kind of processor that it has code for.
    """

    notes: list[str]
    write: Callable[[Contract, bytes], bytes]
    load: Callable[[bytes], list[Runner]]


def export(
    model: str | Path,
    *,
    method: str | None = None,
    precision: str | None = None,
    cpu: str | None = None,
    checkpoint: str | Path | None = None,
    untrained: bool = False,
    overrides: Sequence[str] = (),
    command: str | None = None,
    debug: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Version:
    """Exports a model as the next version in its folder, if the exported file computes what the eager model does.

    A compiled or ONNX file joins the newest version, if that holds the same weights.

    Args:
        model: a name in ./models, or a path to a model's folder.
        method: `script`, `trace`, `compiled` or `onnx`; default: the recipe's.
        precision: `fp32`, `bf16` or `int8-dynamic`; default: the recipe's.
        cpu: `native`, `x86-64-v3`, `x86-64-v4` or `x86-64-v3+v4`, of a compiled model; default: the recipe's.
        checkpoint: `best` or `last` of the latest run, a run's folder, or a file; default: best.
        untrained: export the initial weights; a recipe without data has no others.
        overrides: `key=value` texts, as `export.golden_count=8`.
        command: what is written into the file as the command that made it.
        debug: let compilers print.
        say: gets a line for each step.

    Raises:
        NotFoundError: no such model, run or checkpoint.
        RecipeError: the export section does not fit the model.
        RefusedError: the model cannot be scripted, or a trace or graph would lose something; names the source line.
        UnavailableError: a compiler or a package that the method needs is not here.
        ParityError: the exported model differs from the eager one.
        WriteError: the disk is full. In every case nothing is written.

    Example:
        >>> import shutil, tempfile
        >>> folder = shutil.copytree("models/some_nn_arch", tempfile.mkdtemp() + "/some_nn_arch")
        >>> version = export(folder)
        >>> version.number, [output.name for output in version.contract.outputs]
        (1, ['output', 'new_h'])
    """
    started = time.perf_counter()
    flags = {"--method": method, "--precision": precision, "--cpu": cpu}
    asked = load_recipe(model, overrides=overrides, flags=flags).recipe.export
    check_tools(asked.method, asked.precision)
    weights = load_weights(
        model,
        checkpoint=checkpoint,
        untrained=untrained,
        method=method,
        precision=precision,
        cpu=cpu,
        overrides=overrides,
    )
    resolved = weights.resolved
    say(f"export  {resolved.name}  {_origin(weights)}, {resolved.recipe.export.method}")
    splits = None if resolved.recipe.data.kind == "none" else load_splits(resolved, learnt_of(weights.saved))
    exported = build(weights, splits, command, debug)
    path = _write(weights, exported)
    return Version(
        path=path,
        name=resolved.name,
        number=int(path.parent.name),
        contract=exported.contract,
        differences=exported.report.differences,
        cases=exported.report.cases,
        notes=exported.notes,
        size=len(exported.data),
        seconds=time.perf_counter() - started,
    )


def build(weights: Weights, splits: Splits | None = None, command: str | None = None, debug: bool = False) -> Exported:
    """Everything but the write: the checked bytes of a model file.

    Args:
        weights: the eager model and its recipe.
        splits: the data, if there is any: for example inputs, labels, metrics and the digest.
        command: for the provenance.
        debug: let compilers print.
    """
    resolved, model = weights.resolved, weights.model.eval()
    section = resolved.recipe.export
    sampler = _sampler(weights, splits)
    extra = EXTRA_BATCH_SIZES if PLATFORMS[section.method] == TORCHSCRIPT else GRAPH_BATCH_SIZES
    file = resolved.directory / MODEL_FILE
    cases = run_cases(model, sampler, section.batch_sizes, section.output_names, file, extra)
    target = model
    if section.precision != "fp32":
        target = reduce(model, section.precision, sampler.names, cases.layout, cases.cases[0])
    with exporting(target):
        form = _form(target, sampler, cases, section, debug)
    notes = form.notes
    if weights.imported is not None:
        notes.insert(0, weights.imported[:1].lower() + weights.imported[1:].rstrip("."))
    elif weights.checkpoint is None:
        notes.insert(0, f"untrained: the weights are the initial ones of seed {resolved.recipe.training.seed}")
    contract = _contract(weights, target, sampler, cases, splits, command)
    if target is not model:
        before = [metric for metric in contract.metrics if metric.precision]
        after = [metric for metric in contract.metrics if not metric.precision]
        check_metrics(before, after, section.max_metric_drop, section.precision)
        notes.append(describe_change(before, after, section.precision))
    pictures: dict[str, bytes] = {}
    through_file = partial(_through_a_file, contract.image, pictures)
    examples = golden_cases(
        model, sampler, cases.layout, section.golden_count, section.batch_sizes, change_first=through_file
    )
    if contract.image is not None and examples and not pictures:
        notes.append(
            f"golden examples have no picture: no file becomes such values of `{contract.image.input}` by export.image"
        )
    kept = [golden.Example(case.inputs, case.outputs, {} if n else pictures) for n, case in enumerate(examples)]
    stored = golden.to_bytes(kept)
    compared = [*cases.cases, *examples]
    allowed = None
    if target is not model:
        small = run_reduced(target, sampler.names, cases.layout, compared, section.precision)
        allowed = tolerances(compared, small, section.rtol, section.atol)
        contract = _with_tolerances(contract, allowed)
    data = form.write(contract, stored)
    reports = []
    for exported in form.load(data):
        if target is not model:
            compare(exported, small, *own_tolerance(section.precision))  # what the wide tolerance below lets through
        reports.append(compare(exported, compared, section.rtol, section.atol, allowed))
    golden.from_bytes(stored, contract)
    return Exported(data, contract, kept, farthest(reports), notes)


def _with_tolerances(contract: Contract, allowed: Mapping[str, tuple[float, float]]) -> Contract:
    outputs = [
        part.model_copy(update={"rtol": allowed[part.name][0], "atol": allowed[part.name][1]})
        for part in contract.outputs
    ]
    return contract.model_copy(update={"outputs": outputs})


def _write(weights: Weights, exported: Exported) -> Path:
    directory, contract = weights.resolved.directory, exported.contract
    if contract.platform == COMPILED:
        trusted.check(directory / trusted.TRUSTED_FILE)
    # TorchScript is what a version begins with: it never joins one
    beside = None if contract.platform == TORCHSCRIPT else find_sibling(directory, contract, exported.examples)
    if beside is not None:
        path = beside / MODEL_FILES[contract.platform]
        atomic.write_bytes(path, exported.data)
    else:
        card = write_card(contract, procedure=_procedure(weights), notes=exported.notes)
        path = archive.write_version(directory, exported.data, contract, card)
    if contract.platform == COMPILED:
        try:
            trusted.add(path, exported.data, str(contract.provenance.created))
        except BaseException:  # a package that no host may open is half an export
            archive.remove_version(path, alone=beside is None)
            raise
    return path


def _through_a_file(image: Image | None, pictures: dict[str, bytes], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Makes the first picture of a batch what its PNG becomes, so that file and input are equal to the last bit."""
    data = None if image is None else picture.encode(inputs[image.input], image)
    if image is None or data is None:
        return inputs
    pictures[image.input] = data
    batch = inputs[image.input].clone()
    batch[:1] = picture.decode(data, image, batch.dtype)
    return {**inputs, image.input: batch}


def _form(model: nn.Module, sampler: Sampler, cases: Cases, section: ExportSection, debug: bool) -> Form:
    names, layout = sampler.names, cases.layout
    # torch.export is half a second that TorchScript does not need
    if section.method == "compiled":
        from py_authoring.export import compiled
        from py_authoring.export.operators import refuse_needs

        library = compiled.compile_model(model, sampler, cases, section.batch_sizes, debug, section.cpu)
        if section.without_libtorch:
            refuse_needs(library.needs)
        return Form(
            library.notes,
            partial(compiled.to_bytes, library),
            lambda data: [_flat_runner(compiled.Package(data, code).run, names, layout) for code in library.codes],
        )
    if section.method == "onnx":
        from py_authoring.export import onnx_file

        graph = onnx_file.export_model(model, sampler, cases, section.batch_sizes, debug)
        return Form(
            graph.notes,
            partial(onnx_file.to_bytes, graph),
            lambda data: [_flat_runner(onnx_file.Session(data).run, names, layout)],
        )
    if section.method == "script":
        module = script(model)
        notes = find_device_suspicions(module)
    else:
        first, others = cases.cases[0], [case for case in cases.cases[1:] if all(case.sizes.values())]
        # other values of the same sizes, then every other size: only what changes with the input can tell itself apart
        same = sampler.draw(first.sizes, 77)
        module = trace(model, names, first.inputs, [same, *(case.inputs for case in others[:8])])
        notes = []
    return Form(
        notes, partial(archive.to_bytes, module), lambda data: [_runner(archive.from_bytes(data), names, layout)]
    )


def _runner(module: torch.jit.ScriptModule, names: Sequence[str], layout: Layout) -> Runner:
    return lambda inputs: layout.flatten(run(module, names, inputs))


def _flat_runner(
    call: Callable[[Sequence[str], Mapping[str, Tensor]], list[Tensor]], names: Sequence[str], layout: Layout
) -> Runner:
    return lambda inputs: dict(zip(layout.names, call(names, inputs), strict=True))


def _sampler(weights: Weights, splits: Splits | None) -> Sampler:
    resolved = weights.resolved
    section = resolved.recipe.export
    parameters = _parameters(weights.model)
    variable = [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if variable:
        raise ModelFileError(
            f"forward of `{resolved.recipe.model.class_name}` takes `*{variable[0].name}`; "
            "a contract needs every input by name"
        )
    names = [parameter.name for parameter in parameters]
    required = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    if splits is not None:
        sampler = make_sampler(names, required, from_data(splits), section.dynamic)
    else:
        # example_inputs is cut along axis 0, which counts layers in a recurrent state: ask for enough of them
        sampler = make_sampler(names, required, _from_model_file(resolved), section.dynamic, least=16)
    if section.input_names is not None and section.input_names != sampler.names:
        raise RecipeError(
            f"export.input_names is {section.input_names}, forward takes {sampler.names}",
            hint="a host passes inputs under the names of forward's arguments: leave the key out, or rename them there",
        )
    return sampler


def _contract(
    weights: Weights,
    target: nn.Module,
    sampler: Sampler,
    cases: Cases,
    splits: Splits | None,
    command: str | None,
) -> Contract:
    resolved = weights.resolved
    section = resolved.recipe.export
    labels = splits.labels if splits is not None and resolved.recipe.task == "classification" else None
    # a recording or graph knows no defaults, nor does what stands around a bfloat16 model: there every input is needed
    plain = section.method == "script" and section.precision != "bf16"
    optional = _with_default(weights.model) if plain else []
    described = {} if splits is None else splits.descriptions
    inputs = signature.describe_inputs(sampler, cases.cases, optional, described)
    outputs = signature.describe_outputs(cases.layout.names, cases.cases, section, labels)
    dims = signature.bounds_of({dim: sizes for dim, sizes in cases.tried.items() if sizes})
    contract = Contract(
        format_version=1,
        name=resolved.name,
        description=section.description,
        license=section.license,
        platform=PLATFORMS[section.method],
        inputs=inputs,
        outputs=outputs,
        returns=cases.layout.tree,
        dims={
            **dims,
            **{name: Bounds() for part in outputs for name in part.dims if str(name) == name and name not in dims},
        },
        image=signature.describe_image(section.image or (splits.image if splits is not None else None), inputs),
        metrics=[] if splits is None else _metrics(weights, target, splits),
        data=None if splits is None else describe_data(splits),
        golden=Golden(file=GOLDEN_FILE, count=section.golden_count),
        producer=Producer(name="py_authoring", version=py_authoring.__version__),
        provenance=describe_provenance(weights, command),
    )
    return read_contract(contract.to_json().encode())


# Those of the file first; beside them, where it holds smaller numbers, those that the model had before.
def _metrics(weights: Weights, target: nn.Module, splits: Splits) -> list[Metric]:
    own = measure_metrics(replace(weights, model=target), splits)
    return own if target is weights.model else own + measure_metrics(weights, splits, precision="fp32")


def _from_model_file(resolved: ResolvedRecipe) -> Source:
    def source(count: int, seed: int) -> dict[str, Tensor]:
        return example_inputs(resolved, count, seed)

    return source


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    return [p for name, p in inspect.signature(type(model).forward).parameters.items() if name != "self"]


def _with_default(model: nn.Module) -> list[str]:
    return [parameter.name for parameter in _parameters(model) if parameter.default is not parameter.empty]


def _origin(weights: Weights) -> str:
    if weights.checkpoint is None:
        return "untrained weights" if weights.imported is None else "imported weights"
    return f"{weights.checkpoint.stem} checkpoint of run {weights.run}" if weights.run else str(weights.checkpoint)


def _procedure(weights: Weights) -> list[tuple[str, str]]:
    if weights.checkpoint is None:
        return []
    recipe = weights.resolved.recipe
    if is_lightning(weights.model):
        own = f"those of the LightningModule `{recipe.model.class_name}`"
        learning = [("optimizer, schedule and loss", own)]
    else:
        learning = [
            ("optimizer", _named(recipe.optimizer)),
            ("scheduler", _named(recipe.scheduler)),
            ("loss", _named(recipe.loss)),
        ]
    return [
        ("epochs", str(weights.saved.get("epoch", "unknown"))),
        ("batch size", str(recipe.training.batch_size)),
        *learning,
        ("model", _call(weights.resolved)),
    ]


def _named(section: Any) -> str:
    values = section.model_dump(exclude_none=True)
    arguments = ", ".join(f"{key} {value}" for key, value in values.items() if key != "name")
    return f"{values['name']} ({arguments})" if arguments else str(values["name"])


def _call(resolved: ResolvedRecipe) -> str:
    arguments = ", ".join(f"{key}={value!r}" for key, value in resolved.recipe.model.arguments.items())
    return f"`{resolved.recipe.model.class_name}({arguments})`"
