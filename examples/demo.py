"""The whole way in one go (`make demo`): train real digits, evaluate, export, verify, run natively and from Python.

Every step is a command that you could type yourself; it is printed before it runs.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
BINARY = TOP / "target/release/rust-host"
WORK = TOP / "target/demo"
BOLD, DIM, RESET = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Says what is being done, and how long it took."""
    print(f"\n{BOLD}==> {what}{RESET}", flush=True)
    start = time.perf_counter()
    yield
    print(f"{DIM}    {time.perf_counter() - start:.2f} s{RESET}", flush=True)


def run(*command: str | Path) -> None:
    """Prints a command and runs it; its failure ends the demo with its exit code."""
    words = [str(c).replace(f"{TOP}/", "") for c in command]
    print(f"{DIM}    $ {shlex.join(words)}{RESET}", flush=True)
    done = subprocess.run(words, cwd=TOP, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def is_trained() -> bool:
    """Whether the latest run finished with the recipe as it is now."""
    from py_authoring.checkpoint import find_run
    from py_authoring.errors import AuthoringError
    from py_authoring.recipe import load_recipe

    recipe = load_recipe(TOP / "models/mnist")
    try:
        latest = find_run(recipe.directory)
    except AuthoringError:
        return False
    epochs = (latest / "history.jsonl").read_text().splitlines() if (latest / "history.jsonl").exists() else []
    done = len(epochs) >= recipe.recipe.training.epochs and (latest / "metrics.json").exists()
    return done and (latest / "recipe.toml").read_text() == recipe.to_toml()


def latest_version() -> Path:
    """The newest `models/mnist/<n>/model.pt`."""
    versions = [p for p in (TOP / "models/mnist").iterdir() if p.name.isdigit() and (p / "model.pt").exists()]
    return max(versions, key=lambda p: int(p.name)) / "model.pt"


def held_out(count: int) -> list[tuple[Path, str]]:
    """Pictures that the model has never seen, as PNG files, with their labels."""
    from matplotlib.image import imsave

    from py_authoring.data import load_splits
    from py_authoring.recipe import load_recipe

    WORK.mkdir(parents=True, exist_ok=True)
    test = load_splits(load_recipe(TOP / "models/mnist")).test
    found: dict[int, Path] = {}
    for i in range(len(test)):
        inputs, target = test[i]
        if int(target) in found:
            continue
        path = WORK / f"a-{int(target)}.png"
        imsave(path, inputs["image"][0].numpy(), cmap="gray", vmin=0, vmax=1)
        found[int(target)] = path
        if len(found) == count:
            break
    return [(found[label], str(label)) for label in sorted(found)]


def from_python(model: Path, pictures: list[tuple[Path, str]]) -> None:
    """The same engine as a module: NumPy in, NumPy out, torch not imported."""
    code = f"""
import sys, time; start = time.perf_counter()
import numpy as np, rust_host
from matplotlib.image import imread
model = rust_host.Model({str(model.relative_to(TOP))!r})
labels = model.contract["outputs"][0]["labels"]
for path, label in {[(str(p.relative_to(TOP)), label) for p, label in pictures]!r}:
    image = np.ascontiguousarray(imread(path)[None, None, :, :, 0], dtype=np.float32)
    probabilities = np.exp(model(image)[0])
    print(f"    {{path}}  a {{label}} -> {{labels[probabilities.argmax()]}}  {{probabilities.max():6.1%}}")
seconds = time.perf_counter() - start
print(f"    {{model.device}}, torch imported: {{'torch' in sys.modules}}, {{seconds:.2f}} s from import to answers")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    """Runs every step and ends with what to type next."""
    start = time.perf_counter()
    if is_trained():
        print(f"\n{BOLD}==> mnist is trained already with this recipe{RESET} (rm -r models/mnist/runs to train again)")
    else:
        with step("train: 1,259 real digits, one Ignite engine"):
            run("py-authoring", "train", "mnist")
    with step("evaluate: on digits that were held out"):
        run("py-authoring", "evaluate", "mnist")
    with step("export: TorchScript with its contract and golden examples inside, compared with PyTorch first"):
        run("py-authoring", "export", "mnist")
    model = latest_version()
    with step("verify: the golden examples, in the native binary"):
        run(BINARY, "verify", model)
    pictures = held_out(4)
    with step("run: the native binary on pictures it has never seen, with no Python in its environment"):
        for path, label in pictures:
            print(f"    a {label}:")
            run("env", "-i", BINARY, "run", model, "--input", f"image={path}", "--draw", "--top-k", "2")
    with step("run: the same engine, imported from Python"):
        from_python(model, pictures)
    version = model.parent.name
    card = json.dumps(str((model.parent / "README.md").relative_to(TOP)))
    print(
        f"\n{BOLD}done in {time.perf_counter() - start:.0f} s{RESET}. Version {version} has a model card: {card}. Next:"
    )
    print(f"    {BINARY.relative_to(TOP)} info {model.relative_to(TOP)}")
    print("    py-authoring new my_model     (source .venv/bin/activate first)")


if __name__ == "__main__":
    main()
