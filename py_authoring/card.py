"""A contract → the model card, `README.md` beside model.pt: what a person or a hub reads. No torch here.

Front matter in Hugging Face's keys; JSON values are valid YAML, so no YAML library is needed. Empty sections are left
out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from py_authoring.platforms import COMPILED, MODEL_FILES, ONNX, TORCHSCRIPT

if TYPE_CHECKING:
    from py_authoring.contract import Contract, Input, Output

#: Platform → what a hub calls such files.
_TAGS = {TORCHSCRIPT: "torchscript", COMPILED: "aotinductor", ONNX: "onnx"}


def write_card(contract: Contract, *, procedure: Sequence[tuple[str, str]] = (), notes: Sequence[str] = ()) -> str:
    """The text of a model card.

    Args:
        contract: of the model.
        procedure: how it was trained: (what, value) pairs.
        notes: sentences that a user of the model should know.

    Example:
        >>> from pathlib import Path
        >>> from py_authoring.contract import read_contract
        >>> card = write_card(read_contract(Path("tests/contract/good/mnist.json").read_bytes()))
        >>> card.splitlines()[:4]
        ['---', 'license: "apache-2.0"', 'library_name: "pytorch"', 'pipeline_tag: "image-classification"']
    """
    sections = [
        ("Model details", _details(contract)),
        ("Uses", _uses(contract)),
        ("Training data", _data(contract)),
        ("Procedure", _procedure(contract, procedure)),
        ("Evaluation", _evaluation(contract)),
        ("Notes", "\n".join(f"- {note}" for note in notes)),
        ("How to run", _how_to_run(contract)),
    ]
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections if text)
    lead = f"\n\n{contract.description}" if contract.description else ""
    return f"{_front_matter(contract)}\n# {contract.name}{lead}\n\n{body}\n"


def _front_matter(contract: Contract) -> str:
    first = contract.outputs[0]
    keys: dict[str, Any] = {
        "license": contract.license.lower() if contract.license else None,
        "library_name": "onnx" if contract.platform == ONNX else "pytorch",
    }
    if contract.image is not None and first.labels:
        keys["pipeline_tag"] = "image-classification"
    keys["tags"] = [_TAGS.get(contract.platform, contract.platform), "rust-host", "pytorch-ignite"]
    if contract.data is not None:
        keys["datasets"] = [contract.data.name]
    names = [metric.name for metric in contract.metrics if metric.precision is None]
    if names:
        keys["metrics"] = names
        keys["model-index"] = [{"name": contract.name, "results": [_result(contract, keys.get("pipeline_tag"))]}]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in keys.items() if value]
    return "\n".join(["---", *lines, "---"])


def _result(contract: Contract, pipeline: str | None) -> dict[str, Any]:
    first = contract.metrics[0]
    dataset = first.dataset or contract.name
    return {
        "task": {"type": pipeline or "other"},
        "dataset": {"name": dataset, "type": dataset, **({"split": first.split} if first.split else {})},
        "metrics": [
            {"type": metric.name, "value": metric.value}
            for metric in contract.metrics
            if metric.value is not None and metric.precision is None
        ],
    }


def _details(contract: Contract) -> str:
    rows = [_row("input", part) for part in contract.inputs] + [_row("output", part) for part in contract.outputs]
    table = _table(["", "name", "datatype", "shape", "meaning"], rows)
    bounds = [
        f"- `{name}`: at least {limit.min}" + (f", at most {limit.max}" if limit.max is not None else "")
        for name, limit in contract.dims.items()
        if limit.min is not None
    ]
    return table + ("\n\nFree sizes:\n\n" + "\n".join(bounds) if bounds else "")


def _row(kind: str, part: Input | Output) -> list[str]:
    meaning = []
    activation = getattr(part, "activation", None)
    labels = getattr(part, "labels", None)
    if getattr(part, "description", None):
        meaning.append(str(getattr(part, "description", "")))
    if activation:
        meaning.append(f"after {activation}")
    if labels:
        shown = ", ".join(labels[:12]) + (f", … ({len(labels)})" if len(labels) > 12 else "")
        meaning.append(f"labels: {shown}")
    dims = " × ".join(str(dim) for dim in part.dims) or "one number"
    return [kind, f"`{part.name}`", part.datatype, dims, "; ".join(meaning)]


def _uses(contract: Contract) -> str:
    image = contract.image
    if image is None:
        return ""
    color = "grey" if image.color == "L" else "colour"
    size = f" of {image.size.height} × {image.size.width} pixels" if image.size else ""
    factor = f"; each byte is multiplied by {image.rescale_factor:.6g}" if image.rescale_factor is not None else ""
    return f"Takes {color} pictures{size} as `{image.input}` ({image.layout}){factor}."


def _data(contract: Contract) -> str:
    if contract.data is None:
        return ""
    count = f", {contract.data.samples:,} samples" if contract.data.samples is not None else ""
    digest = f", SHA-256 `{contract.data.sha256}`" if contract.data.sha256 else ""
    return f"`{contract.data.name}`{count}{digest}."


def _procedure(contract: Contract, procedure: Sequence[tuple[str, str]]) -> str:
    origin = contract.provenance
    rows = [list(pair) for pair in procedure]
    if origin.untrained:
        rows.insert(0, ["weights", f"untrained: the initial ones of seed {origin.seed}"])
    known = [
        ("seed", origin.seed),
        ("run", origin.run),
        ("checkpoint", origin.checkpoint),
        ("export method", origin.method),
        ("precision", origin.precision),
        ("torch", origin.torch_version),
        ("recipe SHA-256", origin.recipe_sha256),
        ("git commit", origin.git_commit),
        ("created", origin.created),
        ("command", origin.command),
    ]
    rows += [[name, f"`{value}`"] for name, value in known if value is not None]
    return _table(["", ""], rows) if rows else ""


def _evaluation(contract: Contract) -> str:
    if not contract.metrics:
        return ""
    rows = [
        [
            metric.name if metric.precision is None else f"{metric.name} ({metric.precision})",
            "not finite" if metric.value is None else f"{metric.value:.4f}",
            metric.dataset or "",
            metric.split or "",
            "" if metric.samples is None else f"{metric.samples:,}",
        ]
        for metric in contract.metrics
    ]
    return _table(["metric", "value", "dataset", "split", "samples"], rows)


def _how_to_run(contract: Contract) -> str:
    first = contract.inputs[0] if contract.inputs else None
    image = contract.image
    files = [
        f"--input {part.name}={'picture.png' if image is not None and part.name == image.input else part.name + '.npy'}"
        for part in contract.inputs
    ]
    file = MODEL_FILES.get(contract.platform, "model.pt")
    commands = [
        f"rust-host info {file}",
        f"rust-host run {file} {' '.join(files)}".rstrip(),
        f"rust-host verify {file}",
    ]
    shell = "```console\n" + "\n".join(f"$ {command}" for command in commands) + "\n```"
    arguments = ", ".join(f'"{part.name}": {part.name}' for part in contract.inputs)
    python = (
        "```python\nimport rust_host\n\n"
        f'model = rust_host.Model("{file}")\n'
        f"outputs = model.run({{{arguments}}})"
        + (f"  # {first.name}: a NumPy array, {first.datatype} {first.dims}" if first else "")
        + "\n```"
    )
    count = contract.golden.count
    return f"{shell}\n\n{python}\n\nThe file carries {count} golden examples; `verify` replays them on your machine."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )
