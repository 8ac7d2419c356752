"""A model file, anyone's → what it holds: members, contract, methods, code, graph.

In: a path to TorchScript, a compiled package or ONNX. Out: `Archive` (the file, read without torch) and `View` (what
torch says about it), or one sentence about what the file is instead. It is read once: what was checked is what is
loaded.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from py_authoring.contract import CONTRACT_FILE, GOLDEN_FILE, Contract, read_contract
from py_authoring.errors import AuthoringError, InvalidContractError, NotFoundError
from py_authoring.platforms import COMPILED, MODEL_FILES, ONNX, TORCHSCRIPT
from py_authoring.tools import need_onnx

if TYPE_CHECKING:
    import torch

_EXTRA = "extra/"
_LIBRARY = "data/aotinductor/"
#: Extra file → key in the metadata of an ONNX file; golden examples are base64 there.
ONNX_KEYS = {CONTRACT_FILE: "rust_host.contract", GOLDEN_FILE: "rust_host.golden"}
_SAVE = '`torch.jit.script(model.eval()).save("model.pt")` or `py-authoring export` makes one'


class InvalidModelError(AuthoringError, ValueError):
    """A file that is no model of these kinds, or a damaged one."""

    kind = "invalid_model"
    exit_code = 2


class InvalidFileContractError(InvalidContractError):
    """A file whose contract cannot be read, contradicts itself, is of a later format, or is not there."""

    exit_code = 2


@dataclass(frozen=True)
class Archive:
    """A model file in memory; of a zip every checksum was compared.

    Attributes:
        path: where it was read from.
        data: the whole file.
        stem: the folder in the zip that everything lies in; empty for ONNX.
        members: name below that folder → size.
        extra: name of an extra file → its bytes.
        platform: the contract's word for what runs it.
    """

    path: Path
    data: bytes = field(repr=False)
    stem: str
    members: dict[str, int] = field(repr=False)
    extra: dict[str, bytes] = field(repr=False)
    platform: str = TORCHSCRIPT

    def contract(self) -> Contract | None:
        """The contract, if the file carries one.

        Raises:
            InvalidFileContractError: it breaks its own rules, or names golden examples that are not there.
        """
        if CONTRACT_FILE not in self.extra:
            return None
        try:
            contract = read_contract(self.extra[CONTRACT_FILE])
        except InvalidContractError as error:
            raise InvalidFileContractError(
                f"`{self.path}`: {error.message}", hint=error.hint, problems=error.problems
            ) from error
        if contract.golden.count and contract.golden.file not in self.extra:
            raise InvalidFileContractError(
                f"`{self.path}`: the contract names the golden examples `{contract.golden.file}`, "
                "which are not in the archive"
            )
        if contract.platform in MODEL_FILES and contract.platform != self.platform:
            raise InvalidFileContractError(
                f"`{self.path}`: the contract says `{contract.platform}`, the file is of `{self.platform}`"
            )
        return contract

    def member(self, ending: str) -> bytes | None:
        """The first member of a compiled package whose name ends so: the library, or what belongs to it."""
        name = next((name for name in self.members if name.startswith(_LIBRARY) and name.endswith(ending)), None)
        if name is None:
            return None
        with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
            return archive.read(f"{self.stem}/{name}")

    def load(self, device: torch.device | str = "cpu") -> torch.jit.ScriptModule:
        """The TorchScript module, in evaluation mode. Code of the file may run while it loads: load what you trust.

        Raises:
            InvalidModelError: torch cannot read it.
        """
        import torch

        try:
            module: torch.jit.ScriptModule = torch.jit.load(  # type: ignore[no-untyped-call]
                io.BytesIO(self.data), map_location=torch.device("cpu")
            )
            return module.to(device).eval()
        except Exception as error:  # libtorch raises RuntimeError and whatever the file's own code raises
            reason = next((line.strip(" .") for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise InvalidModelError(
                f"`{self.path}`: torch {torch.__version__} cannot load it: {reason[:1].lower()}{reason[1:300]}"
            ) from error


@dataclass(frozen=True)
class Method:
    """A method of a module: its schema, TorchScript code and graph as text."""

    name: str
    arguments: list[dict[str, str]]
    returns: str
    code: str = field(repr=False)
    graph: str = field(repr=False)

    def signature(self) -> str:
        """`forward(x: Tensor, h: Tensor) -> (Tensor, Tensor)`."""
        arguments = ", ".join(
            f"{each['name']}: {each['type']}" + (f" = {each['default']}" if "default" in each else "")
            for each in self.arguments
        )
        return f"{self.name}({arguments}) -> {self.returns}"


@dataclass(frozen=True)
class View:
    """What is known about a file.

    Attributes:
        archive: the zip.
        methods: of the top module; none of a compiled package or an ONNX file.
        parameters: how many numbers the parameters have; `parameter_bytes` and `buffer_bytes` what they take.
        contract: None for a file without one.
        facts: what else there is to say: word → text.
        graph: of an ONNX file, as text.
    """

    archive: Archive
    methods: list[Method]
    parameters: int
    parameter_bytes: int
    buffer_bytes: int
    contract: Contract | None
    facts: dict[str, str] = field(default_factory=dict)
    graph: str | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "path": str(self.archive.path),
            "size": len(self.archive.data),
            "platform": self.archive.platform,
            **self.facts,
            "methods": [
                {"name": method.name, "arguments": method.arguments, "returns": method.returns}
                for method in self.methods
            ],
            "parameters": self.parameters,
            "parameter_bytes": self.parameter_bytes,
            "buffer_bytes": self.buffer_bytes,
            "extra_files": {name: len(data) for name, data in self.archive.extra.items()},
            "contract": None if self.contract is None else self.contract.to_dict(),
        }


def read_archive(path: Path | str) -> Archive:
    """Reads a model file as the zip that it is, or as ONNX; torch is not needed.

    Raises:
        NotFoundError: there is no such file.
        InvalidModelError: it is a folder, empty, damaged, or something else; says what.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "model.pt"
        >>> _ = file.write_bytes(b"not a model")
        >>> read_archive(file)
        Traceback (most recent call last):
            ...
        py_authoring.archive_view.InvalidModelError: `...model.pt` is no TorchScript archive: it is no zip file
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"`{path}` is not there", hint=_versions_hint(path)) from error
    except IsADirectoryError as error:
        inner = next((path / name for name in MODEL_FILES.values() if (path / name).is_file()), None)
        hint = f"`{inner}` lies in it" if inner is not None else _versions_hint(path / "model.pt")
        raise InvalidModelError(f"`{path}` is a folder, expected a file", hint=hint) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidModelError(f"cannot read `{path}`: {reason}", hint=_versions_hint(path)) from error
    return parse_archive(path, data)


def parse_archive(path: Path, data: bytes) -> Archive:
    """The same for bytes that are in memory; `path` is for messages.

    Raises:
        InvalidModelError: as `read_archive`.
    """
    if not data:
        raise InvalidModelError(f"`{path}` is empty", hint="copy or export it anew")
    if _may_be_onnx(path, data):
        return _parse_onnx(path, data)
    if not data.startswith(b"PK\x03\x04"):
        raise _no_zip(path, data)
    members: dict[str, int] = {}
    extra: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            stems = {name.partition("/")[0] for name in archive.namelist() if "/" in name}
            if len(stems) != 1 or any("/" not in name for name in archive.namelist()):
                raise _other_zip(path, archive.namelist())
            stem = stems.pop()
            for item in archive.infolist():
                name = item.filename.removeprefix(f"{stem}/")
                content = archive.read(item)  # compares the checksum, which torch does not
                members[name] = item.file_size
                if name.startswith(_EXTRA):
                    extra[name.removeprefix(_EXTRA)] = content
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OSError, zlib.error) as error:
        if isinstance(error, InvalidModelError):
            raise
        raise InvalidModelError(
            f"`{path}` is damaged: {_plain(error)}",
            hint="it may have been cut off while copying: copy or export it anew",
        ) from error
    if any(name.startswith(_LIBRARY) and name.endswith(".so") for name in members):
        return Archive(path, data, stem, members, extra, COMPILED)
    if not any(name.startswith("code/") for name in members):
        raise _other_zip(path, [f"{stem}/{name}" for name in members])
    return Archive(path, data, stem, members, extra)


def view(path: Path | str) -> View:
    """Reads a file and asks torch about it.

    Raises:
        NotFoundError, InvalidModelError, InvalidFileContractError: as `read_archive`, `Archive.load` and
            `Archive.contract`.
    """
    archive = read_archive(path)
    contract = archive.contract()
    if archive.platform == COMPILED:
        return View(archive, [], 0, 0, 0, contract, _compiled_facts(archive))
    if archive.platform == ONNX:
        return _onnx_view(archive, contract)
    module = archive.load()
    parameters = list(module.parameters())
    return View(
        archive=archive,
        methods=[_method(module, name) for name in module._c._method_names()],
        parameters=sum(parameter.numel() for parameter in parameters),
        parameter_bytes=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        buffer_bytes=sum(buffer.numel() * buffer.element_size() for buffer in module.buffers()),
        contract=contract,
    )


def metadata_of(archive: Archive) -> dict[str, str]:
    """What torch wrote about a compiled package: processor, vector instructions.

    Raises:
        InvalidModelError: it is not there, or no JSON object.
    """
    data = archive.member(".wrapper_metadata.json")
    try:
        metadata = json.loads(data or b"")
        return {str(key): str(value) for key, value in metadata.items()}
    except (ValueError, AttributeError) as error:
        raise InvalidModelError(f"`{archive.path}` does not say which processor it was compiled for") from error


def _compiled_facts(archive: Archive) -> dict[str, str]:
    from py_authoring import trusted
    from py_authoring.export import elf

    metadata = metadata_of(archive)
    symbols = elf.undefined_symbols(archive.member(".so") or b"", f"the library in `{archive.path}`")
    operators = elf.host_operators(symbols)
    try:
        places = " or ".join(str(file) for file in trusted.lists_for(archive.path))
        trust = "yes" if trusted.is_trusted(archive.path, archive.data) else f"not in {places}"
    except trusted.InvalidTrustError as error:
        trust = error.message
    return {
        "processor": f"{metadata.get('AOTI_MACHINE', 'unknown')} {metadata.get('AOTI_CPU_ISA', '')}".strip(),
        "libtorch": f"needed for {', '.join(operators)}" if operators else "not needed",
        "trusted": trust,
    }


def _may_be_onnx(path: Path, data: bytes) -> bool:
    # the first field of every ONNX file is the version of its format, a small number
    return (data[:1] == b"\x08" and len(data) > 1 and 0 < data[1] < 64 and data[2:3] != b"") or (
        path.suffix == ".onnx" and not data.startswith((b"PK\x03\x04", b"version https://git-lfs"))
    )


def _parse_onnx(path: Path, data: bytes) -> Archive:
    proto = _onnx_model(path, data)
    kept = {each.key: each.value for each in proto.metadata_props}
    extra = {}
    for name, key in ONNX_KEYS.items():
        if key not in kept:
            continue
        try:
            text = kept[key]
            extra[name] = text.encode() if name == CONTRACT_FILE else base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise InvalidFileContractError(f"`{path}`: metadata `{key}` is no base64") from error
    return Archive(path, data, "", {}, extra, ONNX)


def _onnx_model(path: Path, data: bytes) -> Any:
    need_onnx(("onnx",))
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise InvalidModelError(
            f"`{path}` is no ONNX file, or a damaged one: it cannot be read to its end",
            hint="it may have been cut off while copying: copy or export it anew",
        ) from error
    if not proto.HasField("graph"):
        raise InvalidModelError(f"`{path}` is no ONNX file: it has no graph", hint=_SAVE)
    return proto


def _onnx_view(archive: Archive, contract: Contract | None) -> View:
    import onnx

    proto = _onnx_model(archive.path, archive.data)
    weights = list(proto.graph.initializer)
    try:
        sizes = [onnx.helper.tensor_dtype_to_np_dtype(each.data_type).itemsize for each in weights]
        graph = onnx.printer.to_text(_without_weights(proto))
    except Exception as error:  # KeyError for a datatype that onnx does not know; the printer raises its own
        what = f"{type(error).__name__}: {_plain(error)}"
        raise InvalidModelError(
            f"`{archive.path}` holds what onnx {onnx.__version__} does not know: {what}",
            hint="a newer onnx may: `pip install -U onnx`",
        ) from error
    counts = [_product(each.dims) for each in weights]
    used = Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in proto.graph.node)
    facts = {
        "opset": ", ".join(f"{each.domain or 'ai.onnx'} {each.version}" for each in proto.opset_import),
        "operators": ", ".join(f"{name} × {count}" if count > 1 else name for name, count in used.most_common()),
        "inputs": ", ".join(_onnx_part(part) for part in proto.graph.input),
        "outputs": ", ".join(_onnx_part(part) for part in proto.graph.output),
        "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
    }
    stored = sum(count * size for count, size in zip(counts, sizes, strict=True))
    return View(archive, [], sum(counts), stored, 0, contract, facts, graph)


def _without_weights(proto: Any) -> Any:
    import onnx

    light = onnx.ModelProto()
    light.CopyFrom(proto)
    del light.metadata_props[:]
    for tensor in light.graph.initializer:
        tensor.ClearField("raw_data")
    return light


def _onnx_part(part: Any) -> str:
    sizes = [size.dim_param or str(size.dim_value) for size in part.type.tensor_type.shape.dim]
    return f"{part.name} [{', '.join(sizes)}]"


def _product(sizes: Any) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count


def _method(module: Any, name: str) -> Method:
    method = module._c._get_method(name)
    arguments = []
    for argument in method.schema.arguments[1:]:  # the first is self
        described = {"name": argument.name, "type": argument.type.annotation_str}
        if argument.has_default_value():
            described["default"] = repr(argument.default_value)
        arguments.append(described)
    returns = [value.type.annotation_str for value in method.schema.returns]
    return Method(
        name=name,
        arguments=arguments,
        returns=returns[0] if len(returns) == 1 else f"({', '.join(returns)})",
        code=method.code,
        graph=str(method.graph),
    )


def _no_zip(path: Path, data: bytes) -> InvalidModelError:
    kind, hint = "it is no zip file", _SAVE
    if data[4:8] == b"PTMF":
        kind = "it is a flatbuffer for mobile devices"
    elif data.startswith(b"\x80"):
        kind, hint = "it is a pickle: weights, or a model saved by an old torch", f"load it in Python; {_SAVE}"
    elif len(data) > 9 and data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        kind, hint = "it is a safetensors file: weights without a model", f"load them into a model; {_SAVE}"
    elif data.startswith(b"version https://git-lfs"):
        kind, hint = "it is a Git LFS pointer, not the file itself", "`git lfs pull` fetches it"
    return InvalidModelError(f"`{path}` is no TorchScript archive: {kind}", hint=hint)


def _other_zip(path: Path, names: list[str]) -> InvalidModelError:
    kind, hint = "it is a zip file with other contents", _SAVE
    if any(name.endswith("/archive_format") or name.endswith("serialized_exported_program.json") for name in names):
        kind = "it is a package of torch.export"
    elif any(name.partition("/")[2] == "data.pkl" for name in names):
        kind, hint = "it was written by torch.save, and holds weights without code", f"load them into a model; {_SAVE}"
    return InvalidModelError(f"`{path}` is no TorchScript archive: {kind}", hint=hint)


def _plain(error: Exception) -> str:
    text = (str(error).strip() or "it ends too early").splitlines()[0].rstrip(".")
    return (
        "it is cut off, or its table of contents is gone" if "not a zip file" in text else text[:1].lower() + text[1:]
    )


def _versions_hint(path: Path) -> str:
    for folder in (path.parent, path.parent.parent):
        files = (file for name in MODEL_FILES.values() for file in folder.glob(f"*/{name}"))
        found = sorted(files, key=lambda file: (len(file.parent.name), file.parent.name))
        if found:
            return f"there is `{found[-1]}`"
    return "`py-authoring export NAME` writes models/NAME/<version>/model.pt"
