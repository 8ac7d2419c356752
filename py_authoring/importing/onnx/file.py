"""A path → a checked ModelProto with all its weights; whatever is wrong with the file is a sentence."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.checker
from google.protobuf.message import DecodeError
from onnx import external_data_helper

from py_authoring.errors import NotFoundError, RefusedError
from py_authoring.importing.errors import ForeignFileError


def read_onnx(path: Path) -> onnx.ModelProto:
    """Reads an ONNX file and what lies beside it.

    Raises:
        NotFoundError: the file, or one with its weights, is not there.
        ForeignFileError: it is damaged, or no ONNX.
        RefusedError: it is of a newer version than the `onnx` package here knows.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ForeignFileError(f"`{path}` is no ONNX file, or is cut off: its protobuf message does not end") from error
    except OSError as error:
        raise NotFoundError(f"cannot read `{path}`: {(error.strerror or str(error)).lower()}") from error
    if not model.ir_version or not model.HasField("graph"):
        raise ForeignFileError(f"`{path}` is no ONNX file: it has no graph")
    _check_versions(path, model)
    _load_external(path, model)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:  # the latter where a name is no text
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ForeignFileError(f"`{path}` is not valid ONNX: {reason[:1].lower()}{reason[1:300]}") from error
    return model


def _check_versions(path: Path, model: onnx.ModelProto) -> None:
    if model.ir_version > onnx.IR_VERSION:
        raise RefusedError(
            f"`{path}` has IR version {model.ir_version}, the `onnx` package here knows up to {onnx.IR_VERSION}",
            hint="`pip install --upgrade onnx`, or write the file with an older IR version",
        )
    newest = onnx.defs.onnx_opset_version()
    for each in model.opset_import:
        if each.domain in ("", "ai.onnx") and each.version > newest:
            raise RefusedError(
                f"`{path}` uses opset {each.version}, the `onnx` package here knows up to {newest}",
                hint="`pip install --upgrade onnx`, or `onnx.version_converter` on the machine that wrote it",
            )


def _load_external(path: Path, model: onnx.ModelProto) -> None:
    names = {}
    for tensor in _tensors(model):
        if external_data_helper.uses_external_data(tensor):
            places = [entry.value for entry in tensor.external_data if entry.key == "location"]
            names[places[0] if places else ""] = tensor
    for name, tensor in names.items():
        file = path.parent / name
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ForeignFileError(
                f"`{path}` keeps weights in `{name}`, which is not beside it", hint="only files in its folder are read"
            )
        if not file.is_file():
            raise NotFoundError(
                f"`{path}` keeps weights in `{file}`, which is not there (tensor `{tensor.name}`)",
                hint="copy that file beside it too",
            )
    if names:
        try:
            external_data_helper.load_external_data_for_model(model, str(path.parent))
        except Exception as error:  # the package raises what its checks stumble over
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ForeignFileError(f"the weights beside `{path}` cannot be read: {reason[:300]}") from error


def _tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    found: list[onnx.TensorProto] = []
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        found.extend(graph.initializer)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    found.append(attribute.t)
                found.extend(attribute.tensors)
                if attribute.HasField("g"):
                    waiting.append(attribute.g)
                waiting.extend(attribute.graphs)
    return found
