"""`contract.json` ↔ `Contract`: what an exported model takes and gives, where it comes from, how it proves itself.

The one source of `docs/contract.schema.json`; docs/contract.md is the page for people. The Rust reader
(`rust_host/engine/src/contract.rs`) is tested against the same samples in `tests/contract/`. No torch here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import TypeAliasType

from py_authoring.errors import InvalidContractError

#: The version of the format that this package writes, and the last one that it reads.
FORMAT_VERSION = 1
#: Names of the two extra files in the archive.
CONTRACT_FILE = "contract.json"
GOLDEN_FILE = "golden.safetensors"
_DEEPEST_RETURNS = 64

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64"
]
Activation = Literal["softmax", "log_softmax", "sigmoid"]
Name = Annotated[str, Field(min_length=1)]
Size = Annotated[int, Field(ge=0, lt=2**63)]
Tolerance = Annotated[float, Field(ge=0, allow_inf_nan=False)]
#: A name is one tensor, a list a tuple or list, an object a dict; nested at will.
Returns = TypeAliasType("Returns", "str | list[Returns] | dict[str, Returns]")


class Part(BaseModel):
    """Base of all parts: `"1"` is no number, keys of a later writer are ignored, and nothing changes once read."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class Input(Part):
    """A tensor that `forward` takes, under its argument's name."""

    name: Name
    datatype: Datatype
    shape: list[Annotated[int, Field(ge=-1, lt=2**63)]] = Field(description="-1 where the size is free")
    dims: list[Size | Name] = Field(description="shape again, with names for the free sizes")
    description: str | None = None
    optional: bool = False


class Output(Part):
    """A tensor that `forward` returns."""

    name: Name
    datatype: Datatype
    shape: list[Annotated[int, Field(ge=-1, lt=2**63)]] = Field(description="-1 where the size is free")
    dims: list[Size | Name] = Field(description="shape again, with names for the free sizes")
    labels: list[str] | None = Field(default=None, description="one for each index of the last dimension")
    activation: Activation | None = Field(default=None, description="what was applied last; null: raw numbers")
    rtol: Tolerance = Field(description="|got - golden| <= atol + rtol * |golden|")
    atol: Tolerance


class Bounds(Part):
    """Smallest and largest size of a free dimension."""

    min: Size | None = None
    max: Size | None = None


class ImageSize(Part):
    """Pixels."""

    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]


class Image(Part):
    """How a decoded picture becomes an input."""

    input: str
    color: Literal["L", "RGB"]
    layout: Literal["NCHW", "NHWC"]
    size: ImageSize | None = None
    rescale_factor: Annotated[float, Field(allow_inf_nan=False)] | None = Field(
        default=None, description="multiplied with each byte of a picture"
    )


class Metric(Part):
    """A figure that the author measured; no value where it was not finite."""

    name: Name
    value: Annotated[float, Field(allow_inf_nan=False)] | None = None
    dataset: str | None = None
    split: str | None = None
    samples: Size | None = None
    precision: str | None = Field(default=None, description="fp32: of the model before it was made smaller")


class Data(Part):
    """What the model was trained on."""

    name: str
    sha256: str | None = None
    samples: Size | None = None


class Golden(Part):
    """Where the golden examples lie in the archive, and how many there are."""

    file: Name
    count: Size


class Producer(Part):
    """What wrote the file."""

    name: str
    version: str


class Provenance(Part):
    """How the file came to be."""

    recipe_sha256: str | None = None
    git_commit: str | None = None
    torch_version: str | None = None
    seed: int | None = None
    created: str | None = Field(default=None, description="RFC 3339")
    command: str | None = None
    method: str | None = Field(default=None, description="script, trace, compiled or onnx")
    run: str | None = Field(default=None, description="the run whose weights these are; null: untrained")
    checkpoint: str | None = Field(default=None, description="best, last, or a path")
    precision: str | None = Field(default=None, description="bf16 or int8-dynamic; null: as trained")
    untrained: bool | None = Field(default=None, description="true: the weights are the initial ones of `seed`")


class Contract(Part):
    """The signature of an exported model, and its proof.

    Example:
        >>> from pathlib import Path
        >>> contract = read_contract(Path("tests/contract/good/mnist.json").read_bytes())
        >>> contract.name, contract.inputs[0].shape, contract.outputs[0].activation
        ('mnist', [-1, 1, 28, 28], 'log_softmax')
    """

    format_version: Literal[1]
    name: Name
    description: str | None = None
    license: str | None = None
    platform: Name = Field(description="pytorch_torchscript, torch_aoti or onnxruntime_onnx")
    inputs: list[Input]
    outputs: list[Output] = Field(min_length=1)
    returns: Returns
    dims: dict[str, Bounds] = Field(default_factory=dict, description="bounds of the named dimensions")
    image: Image | None = None
    metrics: list[Metric] = Field(default_factory=list)
    data: Data | None = None
    golden: Golden
    producer: Producer
    provenance: Provenance = Field(default_factory=Provenance)

    def to_dict(self) -> dict[str, Any]:
        """As plain values; what is absent is left out."""
        document = self.model_dump(mode="json", exclude_none=True)
        for part in document["inputs"]:
            if not part["optional"]:
                del part["optional"]
        return document

    def to_json(self) -> str:
        """The text of `contract.json`."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    def contradictions(self) -> Iterator[str]:
        """What the fields say against one another, a sentence each; nothing for a sound contract."""
        yield from _tensor_contradictions("inputs", self.inputs)
        yield from _tensor_contradictions("outputs", self.outputs)
        for output in self.outputs:
            last = output.shape[-1] if output.shape else 1
            if output.labels is not None and output.shape and last >= 0 and len(output.labels) != last:
                yield f"`outputs`: `{output.name}` has {len(output.labels)} labels for a last dimension of {last}"
        for name, bounds in self.dims.items():
            if bounds.min is not None and bounds.max is not None and bounds.min > bounds.max:
                yield f"`dims`: `{name}` has min {bounds.min} above max {bounds.max}"
        yield from self._returns_contradictions()
        if self.image is not None:
            taker = next((tensor for tensor in self.inputs if tensor.name == self.image.input), None)
            if taker is None:
                yield f"`image.input` is `{self.image.input}`, which is no input"
            elif len(taker.shape) != 4:
                yield f"`image.input` `{taker.name}` has {len(taker.shape)} dimensions, expected 4"
        if "/" in self.golden.file:
            yield f"`golden.file` is `{self.golden.file}`, expected a file name"

    def _returns_contradictions(self) -> Iterator[str]:
        expected = [output.name for output in self.outputs]
        named = list(returned_names(self.returns))
        unknown = [name for name in named if name not in expected]
        if unknown:
            yield f"`returns` names `{unknown[0]}`, which is no output"
        elif named != expected:
            yield f"`returns` names {named}, expected every output once, in order: {expected}"


def returned_names(returns: Any) -> Iterator[str]:
    """The output names in a `returns` tree, in order.

    Example:
        >>> list(returned_names({"b": "y", "a": ["z", "w"]}))
        ['y', 'z', 'w']
    """
    if isinstance(returns, str):
        yield returns
    else:
        for inner in returns.values() if isinstance(returns, dict) else returns:
            yield from returned_names(inner)


def read_contract(data: bytes) -> Contract:
    """Reads and checks the bytes of `contract.json`.

    Raises:
        InvalidContractError: no JSON, a later format, missing or wrong fields, contradictions; all of them at once.

    Example:
        >>> read_contract(b'{"format_version": 2}')
        Traceback (most recent call last):
            ...
        py_authoring.errors.InvalidContractError: the contract has `format_version` 2, this version reads up to 1
    """
    document = _parse(data)
    version = document.get("format_version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        shown = "missing" if version is None else f"{json.dumps(version)[:40]}"
        raise InvalidContractError(f"the contract's `format_version` is {shown}, expected {FORMAT_VERSION}")
    if version > FORMAT_VERSION:  # before anything else: a later format may have changed any other field
        raise InvalidContractError(
            f"the contract has `format_version` {version}, this version reads up to {FORMAT_VERSION}",
            hint="a newer py-authoring reads this file",
        )
    if _depth(document.get("returns")) > _DEEPEST_RETURNS:
        raise InvalidContractError(f"the contract's `returns` is nested more than {_DEEPEST_RETURNS} deep")
    try:
        contract = Contract.model_validate(document)
    except ValidationError as error:
        raise _wrong(_describe(error)) from error
    problems = list(contract.contradictions())
    if problems:
        raise _wrong(problems)
    return contract


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `contract.json`; docs/contract.schema.json is its text."""
    schema = Contract.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "contract.json of an exported model, format 1",
        "description": (Contract.__doc__ or "").partition("\n")[0],
    }


def schema_text() -> str:
    """What docs/contract.schema.json must hold; `python -m py_authoring.contract` prints it."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _parse(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InvalidContractError(f"the contract is not JSON: byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise InvalidContractError("the contract is not JSON that can be read: it is nested too deep") from error
    except ValueError as error:
        raise InvalidContractError(f"the contract is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidContractError(f"the contract is a {_kind(document)}, expected an object with `format_version`")
    return document


# Python's parser takes NaN and Infinity, which are no JSON; the Rust reader refuses them too.
def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _kind(value: Any) -> str:
    names = {list: "list", str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _depth(returns: Any) -> int:
    depth, level = 0, [returns]
    while level and depth <= _DEEPEST_RETURNS:
        inner = [tree for tree in level if isinstance(tree, list | dict)]
        level = [below for tree in inner for below in (tree.values() if isinstance(tree, dict) else tree)]
        depth += 1
    return depth


def _tensor_contradictions(place: str, tensors: list[Input] | list[Output]) -> Iterator[str]:
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name in seen:
            yield f"`{place}` has two tensors of the duplicate name `{tensor.name}`"
        seen.add(tensor.name)
        agree = len(tensor.shape) == len(tensor.dims) and all(
            size == -1 if isinstance(dim, str) else size == dim
            for size, dim in zip(tensor.shape, tensor.dims, strict=True)
        )
        if not agree:
            yield (
                f"`{place}`: `{tensor.name}` has `shape` {tensor.shape}, "
                f"which does not agree with its `dims` {json.dumps(tensor.dims, ensure_ascii=False)}"
            )


def _describe(error: ValidationError) -> list[str]:
    problems: dict[str, str] = {}
    for item in error.errors(include_url=False, include_context=False):
        # pydantic reports each branch of a union, and `returns` is one at every level: one line a place is enough
        place = _place(item["loc"])
        message = "field is missing" if item["type"] == "missing" else item["msg"]
        got = item["input"]
        shown = "" if item["type"] == "missing" or isinstance(got, list | dict) else f", got {json.dumps(got)[:60]}"
        problems.setdefault(place, f"`{place}`: {message[:1].lower()}{message[1:]}{shown}")
    return list(problems.values())


def _place(location: tuple[int | str, ...]) -> str:
    path = ""
    for position, part in enumerate(location):
        if isinstance(part, int):
            path += f"[{part}]"
        elif position and location[0] == "returns":
            break  # what follows are names of union branches, not of keys
        elif position and location[position - 1] != part and part in ("int", "constrained-int", "constrained-str"):
            break
        else:
            path += f".{part}" if path else part
    return path


def _wrong(problems: list[str]) -> InvalidContractError:
    if len(problems) == 1:
        return InvalidContractError(f"the contract is wrong: {problems[0]}")
    shown = problems[:20] + ([f"… and {len(problems) - 20} more"] if len(problems) > 20 else [])
    return InvalidContractError(f"the contract is wrong in {len(problems)} places:", problems=shown)


if __name__ == "__main__":
    print(schema_text(), end="")
