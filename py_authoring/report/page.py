"""A `RunRecord` → the HTML of its report: one file that fetches nothing, runs nothing and needs no colour to be read.

What is shown is settled here, how it looks in templates/. Every text from a user passes Jinja's escaping.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import py_authoring
from py_authoring import runs
from py_authoring.report import charts
from py_authoring.report.charts import number
from py_authoring.report.collect import RunRecord, SplitRecord
from py_authoring.report.drawing import Chart, Table, name_width, plain

_MOST_CLASSES, _MOST_INPUTS = 100, 16
_ENVIRONMENT = {
    "command": "command",
    "created": "begun",
    "device": "device",
    "device_name": "device name",
    "threads": "threads",
    "processors": "processors",
    "platform": "platform",
    "python": "Python",
    "torch": "torch",
    "ignite": "Ignite",
    "numpy": "NumPy",
    "cuda": "CUDA",
    "py_authoring": "py_authoring",
    "seed": "seed",
}


def render(template: str, **values: Any) -> str:
    """A page from one of the templates; a name that a template misses is an error, not an empty place."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["marked"] = _marked
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%-d %B %Y, %H:%M UTC")
    text = environment.get_template(template).render(version=py_authoring.__version__, now=now, **values)
    return text.encode("utf-8", "replace").decode("utf-8")


def render_report(run: RunRecord) -> str:
    """The whole page of one run."""
    training = charts.training_charts(run.history, run.best, weighted="loss.class_weights" in run.recipe)
    splits = [_split(run, split) for split in run.splits]
    data, model = _data(run), _model(run.parameters)
    contracts = [_contract(run, path, contract) for path, contract in run.contracts]
    sections = [("training", "Training")] if training else []
    sections += [(split["id"], split["title"]) for split in splits] or [("evaluation", "Evaluation")]
    sections += [("data", "Data")] if data else []
    sections += [("model", "Model")] if model else []
    sections += [(f"contract-{place}", "Contract") for place in range(1, len(contracts) + 1)]
    sections += [("recipe", "Recipe"), ("environment", "Environment")]
    directory = run.folder.parent.parent
    return render(
        "report.html",
        run=run,
        started=when(run.summary.started),
        lead=_lead(run),
        facts=_facts(run),
        sections=sections,
        training=training,
        splits=splits,
        data=data,
        model=model,
        contracts=contracts,
        evaluate_command=f"py-authoring evaluate {runs.command_name(directory)} --checkpoint {run.folder}",
        recipe_text=plain(run.recipe_text) or "recipe.toml cannot be read",
        environment=_environment(run.environment),
    )


def word(metric: str) -> str:
    """A metric's name as a heading has it: `val_f1` is `validation F1`."""
    validation = metric.startswith("val_")
    name = metric.removeprefix("val_")
    return ("validation " if validation else "") + charts.WORDS.get(name, name.replace("_", " "))


def when(time: str | None, *, short: bool = False) -> str:
    """An RFC 3339 time for a person: `29 November 2026, 17:46 UTC`; as it is where it is none."""
    if time is None:
        return ""
    try:
        moment = datetime.datetime.fromisoformat(time)
    except ValueError:
        return plain(time, 40)
    zone = "UTC" if moment.utcoffset() == datetime.timedelta(0) else (moment.strftime("UTC%z"))
    return moment.strftime(f"%-d {'%b' if short else '%B'} %Y, %H:%M ") + zone


def duration(seconds: float) -> str:
    """Seconds for a person.

    Example:
        >>> duration(0.31), duration(12.4), duration(754), duration(7500)
        ('0.31 s', '12 s', '12 min 34 s', '2 h 5 min')
    """
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


# Our sentences put names and values in backticks.
def _marked(text: str) -> Any:
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(plain(text)))))


def _lead(run: RunRecord) -> str:
    done, planned = run.summary.epochs, run.summary.planned
    if not done:
        return "No epoch was completed."
    epochs = f"{done} of {planned} epochs" if planned and planned != done else _count(done, "epoch")
    sentence = f"{epochs} in {duration(run.summary.seconds)}."
    if planned and done < planned and run.state.state == "finished":
        sentence += f" It stopped early: {word(_monitored(run))} had not improved for a while."
    if run.best is not None and done > 1:
        sentence += f" The best by {word(_monitored(run))} is epoch {run.best['epoch']}."
    return sentence


def _monitored(run: RunRecord) -> str:
    key = f"val_{run.monitor}"
    return key if run.best is not None and key in run.best else "loss"


def _facts(run: RunRecord) -> list[tuple[str, str, str]]:
    facts: list[tuple[str, str, str]] = []
    summary = run.summary
    if summary.metric is not None:
        facts.append((word(summary.metric), number(summary.value), f"epoch {summary.best_epoch}"))
    if run.best is not None and summary.metric != (key := _monitored(run)):
        facts.append((word(key), number(run.best.get(key)), f"epoch {run.best['epoch']}"))
    test = run.split("test")
    if test is not None and test.metrics:
        name = next((name for name in ("accuracy", "f1", "r2", "mae", "rmse") if name in test.metrics), "loss")
        facts.append((f"test {word(name)}", number(test.metrics.get(name)), _count(test.samples, "sample")))
    of = f"of {summary.planned}" if summary.planned and summary.planned != summary.epochs else ""
    facts.append(("epochs", f"{summary.epochs}", of))
    each = f"{duration(summary.seconds / summary.epochs)} an epoch" if summary.epochs else ""
    facts.append(("time", duration(summary.seconds), each))
    if run.parameters.get("parameters") is not None:
        facts.append(("parameters", _short(run.parameters["parameters"]), ""))
    samples = (run.dataset.get("splits") or {}).get("train", {}).get("samples")
    if samples is not None:
        facts.append(("training samples", _short(samples), plain(run.dataset.get("name", ""), 40)))
    return facts


def _split(run: RunRecord, split: SplitRecord) -> dict[str, Any]:
    drawn: list[Chart | None] = [charts.confusion_chart(split), charts.calibration_chart(split)]
    drawn += charts.points_charts(split)
    mistakes = split.evidence.get("mistakes") or []
    checkpoint = split.evidence.get("checkpoint")
    of = f" with {plain(checkpoint)}" if checkpoint else ""
    broken = split.evidence.get("broken")
    data = split.evidence.get("data")
    named = f" ({plain(data, 80)})" if data and data != run.dataset.get("name", data) else ""
    lead = f"{_count(split.samples, 'sample')} of the {split.name} data{named}{of}."
    if split.after is not None and split.after < run.summary.epochs:  # went on, and ended before it was measured again
        lead += f" Measured after {_count(split.after, 'epoch')}."
    if broken:
        lead += f" Mistakes and calibration are missing: {plain(broken)}."
    return {
        "id": f"evaluation-{split.name}",
        "name": split.name,
        "title": {"validation": "Validation", "test": "Test"}.get(split.name, "Training data, evaluated"),
        "lead": lead,
        "metrics": Table(
            f"Metrics on the {split.name} data",
            ["split", *(word(name) for name in split.metrics)],
            [[split.name, *(number(value) for value in split.metrics.values())]],
        ),
        "charts": [each for each in drawn if each is not None],
        "classes": _classes(split),
        "mistakes": [_mistake(split, each) for each in mistakes],
        "mistakes_lead": _mistakes_lead(split, len(mistakes)),
        "pictures": any("picture" in part for each in mistakes for part in each["inputs"]),
    }


def _classes(split: SplitRecord) -> dict[str, Any] | None:
    if not split.classes:
        return None
    order = sorted(split.classes, key=lambda each: not each["samples"])  # of which nothing can be said stand last
    caption = "Each class; F1 is the harmonic mean of the two"
    if len(order) > _MOST_CLASSES:
        order = sorted(order, key=lambda each: (not each["samples"], each["f1"], -each["samples"]))[:_MOST_CLASSES]
        caption = f"The {_MOST_CLASSES} of {len(split.classes):,} classes with the smallest F1; metrics.json has all"
    rows = [
        {
            "label": plain(each["label"], 120),
            "shares": [
                (f"{each[key]:.3f}", text) for key, text in zip(charts.SHARES, charts.shares(each), strict=True)
            ],
            "samples": f"{each['samples']:,}",
        }
        for each in order
    ]
    return {"caption": caption, "rows": rows, "name_width": name_width(str(row["label"]) for row in rows)}


def _mistake(split: SplitRecord, mistake: Mapping[str, Any]) -> dict[str, Any]:
    if split.classes:
        said = f"{plain(split.label(mistake['true']), 60)}, taken for {plain(split.label(mistake['predicted']), 60)}"
        sure = "not" if mistake["confidence"] is None else f"{mistake['confidence']:.0%}"
        more = f"{sure} sure; sample {mistake['index']}"
    else:
        said = f"{number(mistake['true'])}, predicted {number(mistake['predicted'])}"
        more = f"off by {number(mistake['badness'], 3)}; sample {mistake['index']}"
    inputs = [
        {
            "name": plain(part["name"], 60),
            "picture": part.get("picture"),
            "photo": str(part.get("picture")).startswith("data:image/jpeg"),
            "text": plain(part.get("text", ""), 200),
        }
        for part in mistake["inputs"]
    ]
    words = [each for each in inputs if not each["picture"]]
    return {
        "index": mistake["index"],
        "said": said,
        "more": more,
        "inputs": inputs,
        "words": words[:_MOST_INPUTS],
        "words_left_out": len(words) > _MOST_INPUTS,
    }


def _mistakes_lead(split: SplitRecord, shown: int) -> str:
    if not split.classes:
        return f"The {shown} largest errors, largest first. Samples are counted from 0 in the {split.name} data."
    wrong = int(split.evidence.get("wrong") or shown)
    which = f"The {shown} of {wrong:,}" if wrong > shown else f"All {shown}" if shown > 1 else "The only one"
    return (
        f"{which}, by how little the model believed in the right class. "
        f"Samples are counted from 0 in the {split.name} data."
    )


def _data(run: RunRecord) -> dict[str, Any] | None:
    dataset = run.dataset
    if not dataset.get("splits"):
        return None
    rows = []
    for name, about in dataset["splits"].items():
        classes = about.get("classes")
        target = about.get("target") or {}
        said = f"{sum(1 for each in classes if each):,}" if classes else _range(target)
        rows.append([name, f"{about['samples']:,}", said])
    header = ["split", "samples", "classes" if any("classes" in a for a in dataset["splits"].values()) else "target"]
    inputs = [
        [
            plain(each["name"], 60),
            each["datatype"],
            " × ".join("any" if size is None else str(size) for size in each["shape"]) or "one number",
            _range(each),
        ]
        for each in dataset.get("inputs") or []
    ]
    return {
        "splits": Table(f"Data: {plain(dataset.get('name', ''), 80)}", header, rows),
        "inputs": Table("Of a few training samples", ["input", "datatype", "shape", "values"], inputs, left=4)
        if inputs
        else None,
        "chart": charts.classes_chart(dataset, run.recipe.get("export.labels") or ()),
        "sha256": dataset.get("sha256", ""),
    }


def _model(about: Mapping[str, Any]) -> dict[str, Any] | None:
    if not about:
        return None
    frozen = about["parameters"] - about["trainable"]
    lead = f"{plain(about['class'], 80)}: {about['parameters']:,} parameters"
    lead += f", {frozen:,} of them frozen" if frozen else ""
    lead += f"; {about['bytes']:,} bytes with its buffers."
    parts = [[plain(part["name"], 60), plain(part["class"], 60), f"{part['parameters']:,}"] for part in about["parts"]]
    left = f"; {about['parts_left_out']:,} more are left out" if about.get("parts_left_out") else ""
    table = Table(f"Parts of the model{left}", ["part", "class", "parameters"], parts, left=2) if parts else None
    return {"lead": lead, "parts": table}


def _contract(run: RunRecord, path: Path, contract: Mapping[str, Any]) -> dict[str, Any]:
    provenance, count = contract.get("provenance") or {}, (contract.get("golden") or {}).get("count", 0)
    lead = f"{plain(contract['description'], 400)}. " if contract.get("description") else ""
    lead += f"Exported by {provenance.get('method') or 'an unknown method'}"
    lead += f" in {provenance['precision']}" if provenance.get("precision") else ""
    lead += f" from the {plain(provenance['checkpoint'], 80)} checkpoint" if provenance.get("checkpoint") else ""
    lead += f", with {_count(count, 'golden example')}."
    rows = []
    for kind in ("inputs", "outputs"):
        for part in contract.get(kind) or []:
            dims = " × ".join(plain(each, 30) for each in part["dims"]) or "one number"
            labels = f"{len(part['labels']):,} labels" if part.get("labels") else ""
            meaning = ", ".join(each for each in (part.get("activation") or "", labels) if each)
            rows.append([f"{kind[:-1]} {plain(part['name'], 60)}", part["datatype"], dims, meaning])
    tensors = Table("What it takes and gives", ["tensor", "datatype", "shape", "meaning"], rows, left=4)
    return {"title": f"version {path.parent.name}, {path.name}", "lead": lead, "tensors": tensors}


def _environment(environment: Mapping[str, Any]) -> Table:
    known = [
        [name, when(str(environment[key])) if key == "created" else plain(environment[key], 2000)]
        for key, name in _ENVIRONMENT.items()
        if environment.get(key) is not None
    ]
    others = [
        [plain(key, 60), plain(value, 400)]
        for key, value in environment.items()
        if key not in _ENVIRONMENT and value is not None
    ]
    return Table("What the numbers may depend on besides the recipe", ["", ""], known + others, left=2)


def _range(about: Mapping[str, Any]) -> str:
    if "min" not in about:
        return "–"
    return f"{number(about['min'], 3)} … {number(about['max'], 3)}, mean {number(about['mean'], 3)}"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _short(value: int) -> str:
    for size, letter in ((1_000_000_000, "G"), (1_000_000, "M")):
        if value >= 10 * size:
            return f"{value / size:.0f} {letter}"
        if value >= size:
            return f"{value / size:.2f} {letter}"
    return f"{value:,}"
