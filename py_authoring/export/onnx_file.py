"""Eager model → an ordinary ONNX file, contract and golden examples in its metadata.

In: the model, real inputs. Out: the bytes of `model.onnx`, and what runs them: ONNX Runtime on the CPU.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from py_authoring.archive_view import ONNX_KEYS
from py_authoring.contract import CONTRACT_FILE, GOLDEN_FILE, Contract
from py_authoring.errors import RefusedError
from py_authoring.export import program
from py_authoring.export.cases import Cases
from py_authoring.export.samples import Sampler
from py_authoring.export.silence import silence
from py_authoring.tools import need_onnx

#: onnx.TensorProto.BFLOAT16, which is here before the package is
_BFLOAT16 = 16
#: protobuf takes no message of 2 GiB; the contract and the golden examples must fit in beside the weights.
_LARGEST = (1 << 31) - (1 << 24)


@dataclass(frozen=True)
class Graph:
    """What the exporter made.

    Attributes:
        model: an `onnx.ModelProto` with inputs and outputs named as the contract's.
        notes: what a person should know.
    """

    model: Any
    notes: list[str]


def export_model(
    model: nn.Module,
    sampler: Sampler,
    cases: Cases,
    batch_sizes: Sequence[int],
    debug: bool = False,
) -> Graph:
    """Makes the graph; drops the cases that it is not for.

    Raises:
        UnavailableError: a package is not installed.
        RefusedError: the model has control flow, a fixed size, or an operator that ONNX does not have.
    """
    need_onnx(("onnx", "onnxscript", "onnxruntime"))
    inputs, free = program.recording_inputs(sampler, cases, batch_sizes)
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    if weights > _LARGEST:
        raise RefusedError(
            f"the weights take {weights:,} bytes, and an ONNX file with its weights inside holds {_LARGEST:,}",
            hint="`--method script` has no such bound",
        )
    shapes = program.dynamic_shapes(sampler, free)
    with silence(not debug), torch.no_grad():
        try:
            made = torch.onnx.export(
                model,
                (),
                kwargs=dict(inputs),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=sampler.names,
                output_names=cases.layout.names,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # the exporter wraps whatever torch and forward raise
            seen = program.find_decisions(model, inputs, shapes)
            raise program.refused(error, seen, "an ONNX graph") from error
        assert made is not None
        recorded = made.exported_program
        seen = program.find_decisions(model, inputs, shapes)
        limits = program.limits_of(recorded, sampler, free, seen)
        notes = program.keep_within(cases, limits, sampler.batch, batch_sizes, seen)
        proto = made.model_proto
    _rename_sizes(proto, sampler)
    _forget_origin(proto)
    return Graph(proto, notes)


def to_bytes(graph: Graph, contract: Contract, golden: bytes) -> bytes:
    """The file, contract and golden examples inside."""
    import onnx

    proto = onnx.ModelProto()
    proto.CopyFrom(graph.model)
    proto.producer_name, proto.producer_version = contract.producer.name, contract.producer.version
    stored = {CONTRACT_FILE: contract.to_json(), GOLDEN_FILE: base64.b64encode(golden).decode("ascii")}
    onnx.helper.set_model_props(proto, {ONNX_KEYS[name]: text for name, text in stored.items()})
    return bytes(proto.SerializeToString())


class Session:
    """An ONNX file that ONNX Runtime has opened, on the CPU.

    Args:
        data: the whole file.
    """

    def __init__(self, data: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its classes have no common base of their own
            raise RefusedError(
                f"ONNX Runtime {onnxruntime.__version__} cannot run the graph: {_reason(error)}",
                hint="the file is valid ONNX, but this library has no code for it; `--method script` has",
            ) from error

    def run(self, names: Sequence[str], inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """One call: tensors in by name, the outputs in the graph's order out."""
        taken = {part.name for part in self._session.get_inputs()}
        feed = {name: _to_ort(inputs[name].contiguous()) for name in names if name in taken and name in inputs}
        return [_to_torch(value) for value in self._session.run_with_ort_values(None, feed)]


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0].split(" : ")[-1].strip(" .")
    return text[:1].lower() + text[1:300]


def _to_ort(value: Tensor) -> Any:
    from onnxruntime import OrtValue

    if value.dtype == torch.bfloat16:  # NumPy has no such numbers: their bits, and what they are
        return OrtValue.ortvalue_from_numpy_with_onnx_type(value.view(torch.int16).numpy(), _BFLOAT16)
    return OrtValue.ortvalue_from_numpy(value.numpy())


def _to_torch(value: Any) -> Tensor:
    if value.element_type() == _BFLOAT16:
        return torch.utils.dlpack.from_dlpack(value._ortvalue.to_dlpack(False)).clone()
    return torch.from_numpy(value.numpy())


# torch calls sizes s0, s1, …; here they get the words of the contract, wherever they are mentioned.
def _rename_sizes(proto: Any, sampler: Sampler) -> None:
    words: dict[str, str] = {}
    for part in proto.graph.input:
        free = sampler.free.get(part.name, {})
        for axis, size in enumerate(part.type.tensor_type.shape.dim):
            if size.dim_param and axis in free:
                words.setdefault(size.dim_param, free[axis])
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, words))})\b") if words else None
    for part in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for size in part.type.tensor_type.shape.dim:
            if size.dim_param and pattern is not None:
                size.dim_param = pattern.sub(lambda found: words[found.group()], size.dim_param)


# The exporter writes stack traces with this machine's paths beside every node.
def _forget_origin(proto: Any) -> None:
    graphs = [proto.graph, *proto.functions]
    for graph in graphs:
        del graph.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        for field in ("input", "output", "value_info", "initializer"):
            for part in getattr(graph, field, ()):
                if not isinstance(part, str):
                    del part.metadata_props[:]
                    part.doc_string = ""
