"""A Torch7 file → a draft of a model, checked against the outputs that its modules stored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from py_authoring.difference import measure
from py_authoring.errors import AuthoringError, ParityError, RefusedError, UsageError
from py_authoring.importing.draft import Draft
from py_authoring.importing.draft import plain_name as plain_file_name
from py_authoring.importing.torch7.containers import children_of
from py_authoring.importing.torch7.reader import Function, Object, Table, read_t7
from py_authoring.importing.torch7.writing import Node, Writer, check_modules, modules_in, plain_name

#: Between what Torch7 stored and what torch computes.
RTOL, ATOL = 1e-3, 1e-4
#: A file's tensors may share memory; together they come to no more than so many times its length.
_SHARED = 8
_IN_TRAINING = {"Dropout", "SpatialDropout", "VolumetricDropout", "RReLU", "WhiteNoise"}
_IN_TRAINING |= {"BatchNormalization", "SpatialBatchNormalization", "VolumetricBatchNormalization"}
_PASSED = {"Sequential", "Identity", "Copy", "MulConstant", "AddConstant", "Dropout", "gModule", "Contiguous"}


def draft_torch7(path: Path, shape: str | None) -> Draft:
    """Reads a network and writes its modules.

    Args:
        path: the file.
        shape: `2x3x32x32`, several inputs with commas; default: what the first layer says of itself.

    Raises:
        ForeignFileError: the file is damaged, or holds no network.
        RefusedError: modules are not supported; all are named.
        UsageError: the shape is not known.
    """
    network = _network(read_t7(path), path)
    counts = check_modules(network)
    dtype = _dtype(network)
    shapes = [(_parse(part), dtype) for part in shape.split(",")] if shape else [_first_shape(network, dtype)]
    largest = _SHARED * path.stat().st_size
    writer, names, result = _write(network, shapes, largest)
    outputs = list(_flat(writer, result))
    free = _free_axes(network, shapes, largest, writer, outputs)
    single = len(outputs) == 1
    skipped = sum(isinstance(value, Function) for each in modules_in(network) for value in each.fields.values())
    notes = [f"{skipped} Lua functions of the file were skipped: none is ever run"] if skipped else []
    modules = sum(counts.values())
    return Draft(
        source=writer.source,
        about=f"The {modules} modules of {plain_file_name(path)}, written by Torch7",
        inputs=names,
        outputs=[node.text for node in outputs],
        output_names=["output"] if single else [f"output_{number}" for number in range(len(outputs))],
        examples={name: _example(network, *each) for name, each in zip(names, shapes, strict=True)},
        free={name: {0: "batch"} if free else {} for name in names},
        check=lambda module: _check(network, module, names, shapes),
        notes=notes,
    )


def _network(found: Any, path: Path) -> Object:
    if isinstance(found, Object) and _is_module(found):
        return found
    if isinstance(found, Table):
        inside = {key: value for key, value in found.items() if isinstance(value, Object) and _is_module(value)}
        if len(inside) == 1:
            return next(iter(inside.values()))
        if inside:
            keys = ", ".join(f"`{key}`" for key in inside)
            raise RefusedError(f"`{path}` holds {len(inside)} networks: {keys}; a model is made of one")
    words = {Table: "a table", Tensor: "a tensor", Function: "a function, which is never run", str: "a text"}
    what = next((word for kind, word in words.items() if isinstance(found, kind)), None)
    if isinstance(found, Object):
        what = f"an object of class {found.name}"
    raise RefusedError(f"`{path}` holds {what or 'a number'}, and no network of nn modules")


def _is_module(found: Object) -> bool:
    return found.name.startswith(("nn.", "cudnn.")) or found.name == "nngraph.gModule"


def _dtype(network: Object) -> torch.dtype:
    for each in modules_in(network):
        weight = each.get("weight")
        if isinstance(weight, Tensor) and weight.is_floating_point():
            return weight.dtype
    return torch.float32


def _parse(text: str) -> list[int]:
    if not re.fullmatch(r"[1-9]\d{0,6}(x[1-9]\d{0,6})*", text.strip()):
        raise UsageError(f"--shape {text}: expected sizes as 2x3x32x32, several inputs with commas")
    return [int(part) for part in text.strip().split("x")]


def _first_shape(network: Object, dtype: torch.dtype) -> tuple[list[int], torch.dtype]:
    for each in modules_in(network):
        name, weight = plain_name(each), each.get("weight")
        if name in ("Linear", "LinearNoBias") and isinstance(weight, Tensor) and weight.dim() == 2:
            return [2, weight.shape[1]], dtype
        if name == "LookupTable":
            return [2, 4], torch.int64
        if name == "BatchNormalization" and isinstance(each.get("running_mean"), Tensor):
            return [2, each.get("running_mean").numel()], dtype
        if name == "TemporalConvolution":
            return [2, int(each.get("kW")) + 3, int(each.get("inputFrameSize"))], dtype
        if name not in _PASSED or (name == "gModule" and each.get("nInputs", 1) != 1):
            break
    raise UsageError(
        "the file does not say what shape its input has", hint="`--shape 2x3x32x32`, several inputs with commas"
    )


# Numbers of a LookupTable count from 1, and 1 is in every table.
def _example(network: Object, shape: list[int], dtype: torch.dtype) -> Tensor:
    if any(plain_name(each) == "LookupTable" for each in modules_in(network)) and dtype == torch.int64:
        return torch.ones(shape, dtype=dtype)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def _write(network: Object, shapes: list[tuple[list[int], torch.dtype]], largest: int) -> tuple[Writer, list[str], Any]:
    writer = Writer(largest)
    words = ["input"] if len(shapes) == 1 else [f"input_{number + 1}" for number in range(len(shapes))]
    names = [writer.source.name(word) for word in words]
    nodes = [
        Node(name, torch.empty(shape, dtype=dtype, device="meta"))
        for name, (shape, dtype) in zip(names, shapes, strict=True)
    ]
    return writer, names, writer(network, nodes[0] if len(nodes) == 1 else nodes)


def _flat(writer: Writer, value: Any) -> Iterator[Node]:
    writer.step()
    if isinstance(value, Node):
        yield value
    else:
        for each in value:
            yield from _flat(writer, each)


# The same lines for one sample more, and results that are longer by it.
def _free_axes(
    network: Object,
    shapes: list[tuple[list[int], torch.dtype]],
    largest: int,
    writer: Writer,
    outputs: list[Node],
) -> bool:
    more = [([shape[0] + 1, *shape[1:]], dtype) for shape, dtype in shapes]
    try:
        other, _, result = _write(network, more, largest)
    except AuthoringError:
        return False
    sizes = [(one.example.shape, two.example.shape) for one, two in zip(outputs, _flat(other, result), strict=True)]
    grows = all(one and two[0] == one[0] + 1 and two[1:] == one[1:] for one, two in sizes)
    return grows and other.source.lines == writer.source.lines


def _check(network: Object, module: nn.Module, names: list[str], shapes: list[tuple[list[int], torch.dtype]]) -> str:
    inputs = [_example(network, *each) for each in shapes]
    try:
        with torch.no_grad():
            module(*inputs)
    except Exception as error:  # torch raises what it stumbles over
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise ParityError(f"the imported model does not run on {[list(x.shape) for x in inputs]}: {reason}") from error
    right, stale = 0, 0
    for each, given, expected in _stored(network, None):
        writer = Writer()
        got = writer(each, Node(writer.source.name("x"), given))
        if not isinstance(got, Node):
            continue
        size = max(1.0, float(expected.abs().max()))
        found = measure(got.example, expected, RTOL, ATOL * size)
        if found.within:
            right += 1
        elif isinstance(each.get("weight"), Tensor):
            stale += 1  # a training step after the last forward pass changes the weights, and not the output
        else:
            what = found.reason or f"differs by up to {found.max_abs:.3g}"
            raise ParityError(f"what module {each.name} makes of its stored input {what}, compared with its output")
    text = f"on an input of shape {', '.join(str(shape) for shape, _ in shapes)}"
    if not right and not stale:
        return f"by a run {text}; the file stores no outputs to compare with"
    more = f", {stale} are of other weights than the file's" if stale else ""
    return f"by a run {text}; {right} of {right + stale} stored outputs of modules reproduced{more}"


# Modules whose input another module stored as its output.
def _stored(each: Object, given: Tensor | None) -> Iterator[tuple[Object, Tensor, Tensor]]:
    name = plain_name(each)
    if name == "Sequential":
        inside = children_of(each)
        for position, child in enumerate(inside):
            overwritten = position + 1 < len(inside) and bool(inside[position + 1].get("inplace"))
            if not overwritten:
                yield from _stored(child, given)
            given = _output_of(child)
        return
    if name in ("Concat", "ConcatTable"):
        for child in children_of(each):
            yield from _stored(child, given)
        return
    trained = name in _IN_TRAINING and each.fields.get("train") is not False
    expected = _output_of(each)
    if given is None or expected is None or each.get("inplace") or trained or each.get("modules"):
        return
    if given.is_floating_point() and expected.is_floating_point():
        yield each, given, expected


def _output_of(each: Object) -> Tensor | None:
    output = each.get("output")
    return output if isinstance(output, Tensor) and output.numel() else None
