"""Eager model → graph of `torch.export`: what the two graph formats, compiled and ONNX, have in common.

In: the model and real inputs. Out: for each free dimension the sizes that the graph holds, or a `RefusedError` that
names the line of model.py: a graph has no control flow, and a size may have been written into it.
"""

from __future__ import annotations

import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch._decomp.decompositions
import torch.fx.experimental.symbolic_shapes as symbolic
from torch import Tensor, nn

from py_authoring.errors import RefusedError
from py_authoring.export.cases import Cases
from py_authoring.export.graph import Place, place_at
from py_authoring.export.parity import describe
from py_authoring.export.samples import Sampler

_OWN = str(Path(__file__).parent.parent)
_LIBRARIES = (str(Path(torch.__file__).parent.parent), sysconfig.get_path("stdlib"), "<")
_FILE = re.compile(r'File "([^"\n]+)", line (\d+)')
_TARGET = re.compile(r"(?:target: |torch\.ops\.)((?:\w+\.)+\w+)")
_NO_FUNCTION = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'")
_UNBOUNDED = 1 << 40  # what torch gives as the largest size where it knows none
SCRIPT_HINT = "`--method script` keeps it"

#: Dimension → (smallest, largest size; None: none is known).
Limits = dict[str, tuple[int, int | None]]


@dataclass
class Decisions:
    """Where the model asked for a size, while it was recorded.

    Attributes:
        fixed: (size, place) for each that became a constant.
        guards: (condition, place) for each that only became a bound.
    """

    fixed: list[tuple[int, Place | None]] = field(default_factory=list)
    guards: list[tuple[str, Place | None]] = field(default_factory=list)


@contextmanager
def watch_sizes() -> Iterator[Decisions]:
    """Notes the author's line whenever torch decides something about a free size.

    torch keeps what it decided and forgets where: its own methods are the only place that still knows.
    """
    seen = Decisions()
    environment: Any = symbolic.ShapeEnv
    replace, log = environment._set_replacement, environment._log_guard

    def note_replacement(self: Any, symbol: Any, target: Any, reason: str) -> None:
        if getattr(target, "is_Integer", False):
            seen.fixed.append((int(target), _caller()))
        replace(self, symbol, target, reason)

    def note_guard(self: Any, prefix: str, condition: Any, *rest: Any, **named: Any) -> None:
        seen.guards.append((str(condition), _caller()))
        log(self, prefix, condition, *rest, **named)

    environment._set_replacement, environment._log_guard = note_replacement, note_guard
    try:
        yield seen
    finally:
        environment._set_replacement, environment._log_guard = replace, log


@contextmanager
def lstms_of_any_length() -> Iterator[None]:
    """An LSTM's number of steps stays free while it is recorded.

    torch turns oneDNN off for that time, whose layer takes any number; what is left to it is a loop, which fixes it.
    """
    decompositions: Any = torch._decomp.decompositions
    select = decompositions.select_one_layer_lstm_function

    def select_with_onednn(*given: Any) -> Any:
        with torch.backends.mkldnn.flags(enabled=True):
            return select(*given)

    decompositions.select_one_layer_lstm_function = select_with_onednn
    try:
        yield
    finally:
        decompositions.select_one_layer_lstm_function = select


def find_decisions(model: nn.Module, inputs: Mapping[str, Tensor], shapes: Mapping[str, Any]) -> Decisions:
    """The decisions of a plain recording, for those of which a recording by another library does not tell."""
    with watch_sizes() as seen, suppress(Exception):  # what is wrong, the other recording says
        torch.export.export(model, (), kwargs=dict(inputs), dynamic_shapes=dict(shapes))
    return seen


def recording_inputs(sampler: Sampler, cases: Cases, batch_sizes: Sequence[int]) -> tuple[dict[str, Tensor], set[str]]:
    """Inputs to record with, and the dimensions that can be left free.

    No size is 0 or 1, which torch would take for constants, and no two are equal where that can be had.

    Returns:
        The inputs by name; the dimensions of which eager took two sizes or more.
    """
    batch = sampler.batch
    natural = cases.cases[0].sizes
    sizes: dict[str, int] = {}
    free: set[str] = set()
    for dim in sampler.dims:
        taken = sorted(size for size, works in cases.tried[dim].items() if works and size >= 2)
        if len([size for size in cases.tried[dim] if cases.tried[dim][size]]) < 2 or not taken:
            sizes[dim] = natural[dim]
            continue
        free.add(dim)
        wanted = max(batch_sizes) if dim == batch else natural[dim]
        least = [size for size in taken if size >= wanted and size not in sizes.values()]
        sizes[dim] = least[0] if least else taken[-1]
    return sampler.draw(sizes, 0), free


def dynamic_shapes(sampler: Sampler, free: set[str]) -> dict[str, dict[int, Any]]:
    """What `torch.export` is told about the axes: it finds the bounds of those that are free by itself."""
    return {
        name: {axis: torch.export.Dim.AUTO for axis, dim in sampler.free[name].items() if dim in free}
        for name in sampler.names
    }


def refuse_writes(program: Any) -> None:
    """A host calls a graph with the caller's own arrays, from many threads: it must write neither there nor to itself.

    Raises:
        RefusedError: forward writes into an input, or keeps a state between calls.
    """
    signature = program.run_decompositions({}).graph_signature  # as recorded, writes are operators like others
    for name in signature.user_inputs_to_mutate.values():
        raise RefusedError(
            f"forward writes into its input `{name}`, and a compiled model would write into its caller's array",
            hint=f"compute with a copy: `{name} = {name}.clone()`; {SCRIPT_HINT}",
        )
    for name in signature.buffers_to_mutate.values():
        raise RefusedError(
            f"forward changes `{name}`, and a compiled model would share that state among all who call it",
            hint=f"take the state as an input and return it; {SCRIPT_HINT}",
        )


def limits_of(program: Any, sampler: Sampler, free: set[str], seen: Decisions) -> Limits:
    """For each free dimension the sizes that the graph was made for.

    Raises:
        RefusedError: the model wrote a size into the graph.
    """
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    limits: Limits = {}
    for name, node_name in zip(sampler.names, program.graph_signature.user_inputs, strict=True):
        shape = nodes[node_name].meta["val"].shape
        for axis, dim in sampler.free[name].items():
            if dim not in free:
                continue
            size = shape[axis]
            # a symbol that was found to be one number still is a symbol
            fixed = not isinstance(size, torch.SymInt) or size.node.expr.is_number
            low, high = (int(size), int(size)) if fixed else _range(program, size)
            if low == high:
                raise _baked(dim, low, name, axis, seen)
            # torch never says less than 2 here: 0 and 1 are for the comparison to find out
            before = limits.get(dim, (1, None))
            highest = [each for each in (before[1], high) if each is not None]
            limits[dim] = (max(before[0], 1 if low <= 2 else low), min(highest) if highest else None)
    return limits


def keep_within(cases: Cases, limits: Limits, batch: str | None, required: Sequence[int], seen: Decisions) -> list[str]:
    """Drops what the graph was not made for from the cases and the bounds; gives a sentence for each lost size.

    Raises:
        RefusedError: one of the sizes that the recipe asks for, or that the inputs have by themselves, is lost.
    """
    notes = []
    natural = cases.cases[0].sizes
    for dim, (low, high) in limits.items():
        asked = required if dim == batch else [natural[dim]]
        whose = "in export.batch_sizes" if dim == batch else "that the inputs have"
        lost = [size for size in asked if size < low or (high is not None and size > high)]
        if lost:
            bound = high if high is not None and lost[0] > high else low
            raise RefusedError(
                f"the graph for {describe({dim: bound})} is another than for {describe({dim: lost[0]})}"
                + _at(_guard_place(seen, bound)),
                hint=f"one graph must serve every size {whose}; {SCRIPT_HINT}",
            )
        for size in cases.tried[dim]:
            if size < low or (high is not None and size > high):
                cases.tried[dim][size] = False
        worked = [size for size, works in cases.tried[dim].items() if works]
        refused = [size for size, works in cases.tried[dim].items() if not works]
        # where eager itself refuses earlier, its bound stays
        if high is not None and not any(max(worked) < size <= high for size in refused):
            cases.tried[dim][high] = True
            cases.tried[dim][high + 1] = False
            notes.append(f"`{dim}` is at most {high} in the graph{_at(_guard_place(seen, high))}")
        if low > 1 and not any(low <= size < min(worked) for size in refused):
            cases.tried[dim][low] = True
            notes.append(f"`{dim}` is at least {low} in the graph{_at(_guard_place(seen, low))}")

    def fits(sizes: Mapping[str, int]) -> bool:
        return all(sizes[dim] >= low and (high is None or sizes[dim] <= high) for dim, (low, high) in limits.items())

    cases.cases[:] = [case for case in cases.cases if fits(case.sizes)]
    return notes


def refused(error: Exception, seen: Decisions, form: str) -> RefusedError:
    """Why a model has no graph, in its own terms: the line, and the operator, value or type that is in the way.

    Args:
        error: what torch raised.
        seen: what it decided before.
        form: what cannot be made, for the sentence.
    """
    chain = list(_chain(error))
    kinds = {type(each).__name__ for each in chain}
    text = next((str(each) for each in reversed(chain) if str(each).strip()), type(error).__name__)
    places = [*map(_place_in, chain), *(place_of_text(str(each)) for each in chain), *map(_place_of_node, chain)]
    place = next((found for found in places if found is not None), None)
    if "GuardOnDataDependentSymNode" in kinds or "UserErrorType.CONSTRAINT" in text:
        return RefusedError(
            f"a value decides what is computed{_at(place)}, and {form} has one road for every input",
            hint=f"{SCRIPT_HINT}; or write it without Python's if, for and int(): torch.where, torch.cond",
        )
    if seen.fixed and ("ConstraintViolationError" in kinds or "Constraints violated" in text):
        size, place = seen.fixed[0]
        return RefusedError(f"the model writes the size {size} into the graph{_at(place)}", hint=SCRIPT_HINT)
    missing = next((found.group(1) for each in chain if (found := _NO_FUNCTION.search(str(each)))), None)
    if missing is not None:
        return RefusedError(
            f"{form} cannot hold what the model does{_at(place)}: ONNX has no operator for `{missing}`",
            hint="`--method script` has every operator of torch",
        )
    operators = [found.group(1) for each in chain for found in _TARGET.finditer(str(each))]
    what = f"operator `{operators[0]}`: " if operators else ""
    return RefusedError(
        f"{form} cannot hold what the model does{_at(place)}: {what}{_sentence(text)}",
        hint=f"{SCRIPT_HINT}; `--debug` shows the whole text",
    )


def _baked(dim: str, size: int, name: str, axis: int, seen: Decisions) -> RefusedError:
    place = next((place for fixed, place in seen.fixed if fixed == size and place is not None), None)
    remedy = ""
    if axis:  # axis 0 that nobody names is the batch
        remedy = f"; or leave axis {axis} of `{name}` out of export.dynamic, so that it is always {size}"
    return RefusedError(
        f"the model writes {describe({dim: size})} into the graph{_at(place)}",
        hint=f"take sizes from tensors, as `x.shape[0]`, without a loop over them{remedy}; {SCRIPT_HINT}",
    )


def _range(program: Any, size: torch.SymInt) -> tuple[int, int | None]:
    bounds = program.range_constraints.get(size.node.expr)
    if bounds is None:  # a multiple of another size: what does not divide, eager refuses as well
        return 2, None
    high = int(bounds.upper) if bounds.upper.is_Integer and int(bounds.upper) < _UNBOUNDED else None
    return int(bounds.lower), high


# torch asks for bounds of its own accord too; those have no line of the author's.
def _guard_place(seen: Decisions, bound: int) -> Place | None:
    numbers = {str(bound - 1), str(bound), str(bound + 1)}  # `> 64` and `<= 64` are one question
    own = [(condition, place) for condition, place in seen.guards if place is not None and set("<>") & set(condition)]
    return next((place for condition, place in own if numbers & set(re.findall(r"\d+", condition))), None)


def _at(place: Place | None) -> str:
    return "" if place is None else f" at {place}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    seen: set[int] = set()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


# The author's innermost line: what lies further out than this package's own frames belongs to who called the export.
def _innermost(frames: Iterable[tuple[str, int]]) -> Place | None:
    for file, line in frames:
        if file == __file__:
            continue
        if file.startswith(_OWN):  # asked first: an installed package lies among the libraries
            return None
        if not file.startswith(_LIBRARIES):
            return place_at(file, line)
    return None


def _place_in(error: BaseException) -> Place | None:
    frames = traceback.extract_tb(error.__traceback__)
    return _innermost((frame.filename, frame.lineno or 0) for frame in reversed(frames))


def place_of_text(text: str) -> Place | None:
    """The author's innermost line among those that a stack trace names."""
    return _innermost((file, int(line)) for file, line in reversed(_FILE.findall(text)))


# A converter that fails at a node of the graph does not tell its line; the frame in which it failed still has the node.
def _place_of_node(error: BaseException) -> Place | None:
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for value in frame.f_locals.values():
            if isinstance(value, torch.fx.Node):
                place = place_of_text(value.meta.get("stack_trace") or "")
                if place is not None:
                    return place
    return None


def _caller() -> Place | None:
    return _innermost((frame.f_code.co_filename, line) for frame, line in traceback.walk_stack(sys._getframe(1)))


def _sentence(text: str) -> str:
    lines = [line.strip().rstrip(":.") for line in text.splitlines()]
    useful = [line for line in lines if line and not line.startswith(("File ", "Traceback", "For more", "Set TORCH"))]
    line = useful[0] if useful else "no reason given"
    return (line[:1].lower() + line[1:])[:300]
