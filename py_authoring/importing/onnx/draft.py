"""An ONNX file → a draft of a model, with example inputs and a check against ONNX Runtime or stored outputs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from py_authoring.difference import measure
from py_authoring.errors import NotFoundError, ParityError, RefusedError, UsageError
from py_authoring.importing.draft import Draft, plain_name
from py_authoring.importing.errors import ForeignFileError
from py_authoring.importing.onnx.file import read_onnx
from py_authoring.importing.onnx.nodes import to_torch
from py_authoring.importing.onnx.translation import Translated, translate
from py_authoring.importing.onnx.values import DTYPES

#: What the backend tests of ONNX itself allow between two implementations.
RTOL = 1e-3
#: Absolute, times the largest number of the output where that is above 1.
ATOL = 1e-5
_STORED = "test_data_set_0"
#: protobuf takes no message of 2 GiB
_LARGEST = (1 << 31) - (1 << 20)


Run = Callable[[Mapping[str, Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Part:
    """An input: its name in the file and in forward, datatype, and sizes; words are free ones."""

    name: str
    argument: str
    dtype: torch.dtype
    dims: list[int | str]

    @property
    def renamed(self) -> bool:
        """Whether Python has no such name."""
        return self.name != self.argument


def draft_onnx(path: Path, sizes: Mapping[str, int], examples: Path | None) -> Draft:
    """Reads and translates an ONNX file.

    Args:
        path: the file.
        sizes: sizes of free axes in the example inputs, by their names.
        examples: inputs of the user's own; default: a folder `test_data_set_0` beside the file, or random numbers.
    """
    model = read_onnx(path)
    translated = translate(model)
    parts = _parts(model, translated, examples is not None)
    _check_sizes(sizes, parts)
    if examples is None and (path.parent / _STORED / "output_0.pb").is_file():
        examples = path.parent / _STORED
    stored: list[Tensor] | None = None
    if examples is None:
        inputs = _draw(parts, sizes, 0)
    else:
        inputs, stored = _read_examples(examples, parts)
    names = [part.argument for part in parts]
    kinds = set(translated.kinds) | set(translated.input_kinds)
    if kinds - {"Tensor"}:
        raise RefusedError("the graph takes or returns a sequence of tensors, which a contract has no word for")
    word, run = ("the stored outputs", None) if stored is not None else _oracle(model, path)
    expected = stored if run is None else run(inputs)
    parts, notes = _free_alone(parts, inputs, run)
    check = _Check(model, parts, inputs, expected or [], word, run)
    return Draft(
        source=translated.source,
        about=_about(model, path),
        inputs=names,
        outputs=list(translated.outputs.values()),
        output_names=list(translated.outputs),
        examples={part.argument: inputs[part.name] for part in parts},
        free={part.argument: {a: d for a, d in enumerate(part.dims) if isinstance(d, str)} for part in parts},
        check=check,
        notes=notes + [f"input `{each.name}` is called `{each.argument}` here" for each in parts if each.renamed],
    )


def _about(model: onnx.ModelProto, path: Path) -> str:
    producer = model.producer_name.strip()
    words = re.sub(r"[^\w .:+-]", "", producer)[:60]
    return f"The graph of {plain_name(path)}{f', written by {words}' if words else ''}"


def _parts(model: onnx.ModelProto, translated: Translated, known: bool) -> list[Part]:
    arguments = {name: argument for argument, name in translated.inputs.items()}
    parts = []
    for each in model.graph.input:
        if each.name not in arguments:
            continue
        kind = each.type.tensor_type
        if each.type.WhichOneof("value") != "tensor_type":
            raise RefusedError(f"input `{each.name}` is no tensor, which a contract has no word for")
        if kind.elem_type not in DTYPES:
            word = onnx.TensorProto.DataType.Name(kind.elem_type)
            raise RefusedError(f"input `{each.name}` is of datatype {word}, which is not supported")
        if not kind.HasField("shape") and not known:
            raise UsageError(f"input `{each.name}` has no shape in the file", hint="`--examples FILE.npz` gives one")
        dims = [_dim(each.name, axis, dim) for axis, dim in enumerate(kind.shape.dim)]
        parts.append(Part(each.name, arguments[each.name], DTYPES[kind.elem_type], dims))
    if not parts:
        raise RefusedError("the graph has no input")
    return parts


def _dim(name: str, axis: int, dim: Any) -> int | str:
    if dim.HasField("dim_value") and dim.dim_value > 0:
        return int(dim.dim_value)
    word = re.sub(r"\W+", "_", dim.dim_param).strip("_")
    if word and not word.isdecimal():
        return word
    return "batch" if axis == 0 else f"{re.sub(r'[^0-9A-Za-z_]+', '_', name)}_{axis}"


def _free(parts: Sequence[Part]) -> list[str]:
    return list(dict.fromkeys(dim for part in parts for dim in part.dims if isinstance(dim, str)))


def _check_sizes(sizes: Mapping[str, int], parts: Sequence[Part]) -> None:
    free = _free(parts)
    for name in sizes:
        if name not in free:
            raise UsageError(f"no free axis is called `{name}`; there: {', '.join(free) or 'none'}")


def _size(dim: int | str, axis: int, sizes: Mapping[str, int]) -> int:
    return dim if isinstance(dim, int) else sizes.get(dim, 2 if axis == 0 else 8)


# One axis longer by one at a time. A size that must agree with another may carry the same name in the file, or none.
def _free_alone(parts: list[Part], inputs: Mapping[str, Tensor], run: Run | None) -> tuple[list[Part], list[str]]:
    tied = []
    for dim in _free(parts) if run is not None else []:
        try:
            assert run is not None
            run(_longer(parts, inputs, [dim]))
        except RefusedError:
            tied.append(dim)
    if not tied:
        return parts, []
    fixed = [
        replace(
            part,
            dims=[
                inputs[part.name].shape[axis] if isinstance(dim, str) and dim in tied else dim
                for axis, dim in enumerate(part.dims)
            ],
        )
        for part in parts
    ]
    listed = ", ".join(f"`{dim}`" for dim in tied)
    note = f"{listed}: free in the file, but another size alone fails there; those that go together need one name each "
    return fixed, [note + "in export.dynamic, until then they are fixed"]


def _longer(parts: Sequence[Part], inputs: Mapping[str, Tensor], dims: Sequence[str]) -> dict[str, Tensor]:
    longer = {}
    for part in parts:
        value = inputs[part.name]
        for axis, dim in enumerate(part.dims):
            if dim in dims and value.shape[axis]:
                value = torch.cat([value, value.narrow(axis, 0, 1)], axis)
        longer[part.name] = value
    return longer


def _draw(parts: Sequence[Part], sizes: Mapping[str, int], seed: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    drawn = {}
    for part in parts:
        shape = [_size(dim, axis, sizes) for axis, dim in enumerate(part.dims)]
        if part.dtype.is_floating_point:
            drawn[part.name] = torch.randn(shape, generator=random).to(part.dtype)
        else:
            drawn[part.name] = torch.randint(0, 2, shape, generator=random).to(part.dtype)
    return drawn


def _read_examples(path: Path, parts: Sequence[Part]) -> tuple[dict[str, Tensor], list[Tensor] | None]:
    if path.is_dir():
        inputs = _read_tensors(path, "input", len(parts))
        given = {part.name: value for part, value in zip(parts, inputs, strict=True)}
        outputs = _read_tensors(path, "output", None)
        stored: list[Tensor] | None = outputs or None
    elif path.suffix == ".npz" and path.is_file():
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
                given, stored = {name: torch.from_numpy(found[name]) for name in found.files}, None
        except Exception as error:  # NumPy and the archive raise what they stumble over
            raise _unreadable(path, ".npz file of numbers", error) from error
    elif path.suffix == ".safetensors" and path.is_file():
        from safetensors.torch import load_file

        try:
            given, stored = load_file(path), None
        except Exception as error:  # its class has no name that can be imported in every version
            raise _unreadable(path, ".safetensors file", error) from error
    else:
        raise NotFoundError(f"`{path}` is no .npz, no .safetensors and no folder with input_0.pb")
    for part in parts:
        value = given.get(part.name, given.get(part.argument))
        if value is None:
            raise UsageError(f"`{path}` has no `{part.name}`; there: {', '.join(given)}")
        fits = value.dtype == part.dtype and (not part.dims or value.dim() == len(part.dims))
        fits = fits and all(isinstance(d, str) or d == s for d, s in zip(part.dims, value.shape, strict=False))
        if not fits:
            raise UsageError(
                f"`{part.name}` in `{path}` is {value.dtype} {list(value.shape)}, "
                f"the graph takes {part.dtype} {part.dims}"
            )
        given[part.name] = value
    return given, stored


def _unreadable(path: Path, word: str, error: Exception) -> ForeignFileError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ForeignFileError(f"`{path}` is no {word}, or is damaged: {reason[:200]}")


def _read_tensors(folder: Path, word: str, count: int | None) -> list[Tensor]:
    found: list[Tensor] = []
    while (folder / f"{word}_{len(found)}.pb").is_file() and (count is None or len(found) < count):
        file = folder / f"{word}_{len(found)}.pb"
        proto = onnx.TensorProto()
        try:
            proto.ParseFromString(file.read_bytes())
            found.append(to_torch(proto))
        except Exception as error:  # protobuf and NumPy raise what they stumble over
            raise ForeignFileError(f"`{file}` is no stored tensor") from error
    if count is not None and len(found) < count:
        raise NotFoundError(f"`{folder / f'{word}_{len(found)}.pb'}` is not there; the graph takes {count} inputs")
    return found


@dataclass
class _Check:
    """Compares a module with what the file stores, or with what another program makes of the same inputs."""

    model: onnx.ModelProto
    parts: list[Part]
    inputs: dict[str, Tensor]
    expected: list[Tensor]
    word: str
    run: Run | None

    def __call__(self, module: nn.Module) -> str:
        worst = self._compare(module, self.inputs, self.expected, self.word)
        if self.run is None:
            return "equal to the stored outputs"
        cases = 1
        leading = {str(part.dims[0]) for part in self.parts if part.dims and isinstance(part.dims[0], str)}
        grown = [[dim] for dim in _free(self.parts)]
        if len(leading) > 1:
            grown.append(sorted(leading))
        for dims in grown:
            inputs = _longer(self.parts, self.inputs, dims)
            worst = max(worst, self._compare(module, inputs, self.run(inputs), self.word))
            cases += 1
        return f"equal to {self.word} on {cases} input{'s' if cases > 1 else ''}, max |diff| {worst:.3g}"

    def _compare(self, module: nn.Module, inputs: Mapping[str, Tensor], expected: Sequence[Tensor], word: str) -> float:
        try:
            with torch.no_grad():
                returned = module(*(inputs[part.name] for part in self.parts))
        except Exception as error:  # torch and the operators raise what they stumble over
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise ParityError(f"the imported model fails where {word} has outputs: {reason[:300]}") from error
        got = [returned] if isinstance(returned, Tensor) else list(returned)
        names = [part.name for part in self.model.graph.output]
        if len(expected) != len(names):
            raise ParityError(f"there are {len(expected)} of {word}, and the graph has {len(names)} outputs")
        worst = 0.0
        for name, value, right in zip(names, got, expected, strict=True):
            rtol, atol = allowed(right)
            found = measure(value, right, rtol, atol)
            if not found.within:
                what = found.reason or f"differs by up to {found.max_abs:.3g}"
                raise ParityError(
                    f"output `{name}` of the imported model {what}, compared with {word}",
                    hint="nothing was written; please report the operator, a small file that shows it helps",
                )
            worst = max(worst, found.max_abs)
        return worst


def allowed(expected: Tensor) -> tuple[float, float]:
    """`(rtol, atol)` between two implementations of one graph; whole numbers are exact."""
    if not expected.is_floating_point():
        return 0.0, 0.0
    finite = expected[expected.isfinite()].abs()
    size = max(1.0, float(finite.max())) if finite.numel() else 1.0
    half = expected.dtype in (torch.float16, torch.bfloat16)
    return (2e-2, 1e-3 * size) if half else (RTOL, ATOL * size)


def _oracle(model: onnx.ModelProto, path: Path) -> tuple[str, Run]:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it reports to its maker otherwise
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is said in our own words
    options.intra_op_num_threads = torch.get_num_threads()
    # with the weights inside: of those in a file beside it, it reads no shapes
    whole = model.SerializeToString() if model.ByteSize() < _LARGEST else str(path)
    try:
        session = onnxruntime.InferenceSession(whole, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes have no common base of their own
        reason = str(error).splitlines()[0].split(" : ")[-1].strip(" .")[:200]
        return f"ONNX's reference evaluator (ONNX Runtime: {reason})", _reference(model, reason)

    def run(inputs: Mapping[str, Tensor]) -> list[Tensor]:
        names = {part.name for part in session.get_inputs()}
        try:
            made = session.run(None, {name: value.numpy() for name, value in inputs.items() if name in names})
        except Exception as error:
            raise _fails("ONNX Runtime", inputs, error) from error
        return [_tensor(value) for value in made]

    return "ONNX Runtime", run


def _reference(model: onnx.ModelProto, reason: str) -> Run:
    from onnx.reference import ReferenceEvaluator

    try:
        evaluator = ReferenceEvaluator(model)
    except Exception as error:
        raise RefusedError(
            f"there is nothing to compare with: ONNX Runtime cannot run the file ({reason}), nor can ONNX's own "
            "evaluator",
            hint="`--examples DIR` with input_0.pb and output_0.pb, as the model zoo has them",
        ) from error

    def run(inputs: Mapping[str, Tensor]) -> list[Tensor]:
        try:
            made = evaluator.run(None, {name: value.numpy() for name, value in inputs.items()})
        except Exception as error:
            raise _fails("ONNX's reference evaluator", inputs, error) from error
        return [_tensor(np.asarray(value)) for value in made]

    return run


def _fails(word: str, inputs: Mapping[str, Tensor], error: Exception) -> RefusedError:
    shapes = ", ".join(f"`{name}` {list(value.shape)}" for name, value in inputs.items())
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(" : ")[-1]
    return RefusedError(
        f"{word} does not run the example inputs {shapes}: {reason[:300]}",
        hint="`--size NAME=N` sets a free axis, `--examples FILE.npz` gives real inputs, a folder with output_0.pb "
        "the outputs too",
    )


def _tensor(value: Any) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.name == "bfloat16":
        return torch.from_numpy(value.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(value, copy=True))
