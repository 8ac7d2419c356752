"""The command line: instant where no work is asked for, one sentence where something is wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from py_authoring.cli import COMMANDS
from py_authoring.run_evaluation import evaluate_run
from py_authoring.scaffold import new_model
from py_authoring.training import train

Run = Callable[..., subprocess.CompletedProcess[str]]
MakeModel = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]

# Runs many command lines in one process in which the named modules cannot be imported.
WITHOUT = """
import contextlib, io, json, os, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in banned:
            raise ImportError(f"{name} was imported")

banned, cases = json.loads(sys.argv[1]), json.loads(sys.argv[2])
sys.meta_path.insert(0, Refuse())
from py_authoring.cli import main

answers = []
for arguments, variables in cases:
    os.environ.update(variables)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as ended:
            code = ended.code
    for name in variables:
        del os.environ[name]
    answers.append([code, out.buffer.getvalue().decode(), err.buffer.getvalue().decode()])
print(json.dumps(answers))
"""
HEAVY = ["torch", "ignite", "numpy", "sklearn", "matplotlib"]


def run_without(banned: list[str], cases: list[tuple[list[str], dict[str, str]]]) -> list[tuple[int, str, str]]:
    command = [sys.executable, "-c", WITHOUT, json.dumps(banned), json.dumps(cases)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert result.returncode == 0, result.stderr
    return [tuple(answer) for answer in json.loads(result.stdout)]


def test_help_and_wrong_arguments_import_nothing_heavy_and_no_pydantic() -> None:
    names = [*COMMANDS]
    cases = [([], {}), (["--help"], {}), (["--version"], {})]
    cases += [([name, "--help"], {}) for name in names] + [(["recipe", "show", "--help"], {})]
    wrong: list[tuple[list[str], dict[str, str]]] = [
        (["trian", "x"], {}),
        (["train"], {}),
        (["train", "x", "--epochs", "two"], {}),
        (["train", "x", "--bogus"], {}),
        (["new", "x", "--template", "clasifier"], {}),
        (["evaluate", "x", "--split", "all"], {}),
        (["completion", "tcsh"], {}),
        (["recipe", "shwo"], {}),
    ]
    answers = run_without([*HEAVY, "pydantic"], cases + wrong)
    for (arguments, _), (code, out, err) in zip(cases[1:], answers[1 : len(cases)], strict=True):
        assert code == 0 and out and "was imported" not in out + err, (arguments, code, out, err)
    for (arguments, _), (code, out, err) in zip(wrong, answers[len(cases) :], strict=True):
        assert code == 2 and not out, (arguments, code, out, err)
        assert err.startswith("error: ") and "\nhint: `py-authoring" in err and "Traceback" not in err
    helps = dict(zip(names, answers[3:], strict=False))
    for name, (_, out, _) in helps.items():
        assert "xample" in out and "py-authoring" in out, f"{name} --help shows no example"


def test_every_command_is_in_the_help() -> None:
    ((_, out, _),) = run_without([*HEAVY, "pydantic"], [(["--help"], {})])
    for name in COMMANDS:
        assert f"\n  {name} " in out


def test_similar_names_are_suggested() -> None:
    command, option = run_without(HEAVY, [(["trian"], {}), (["train", "x", "--epoch", "1"], {})])
    assert "did you mean 'train'?" in command[2].lower()
    assert "--epochs" in option[2]


def test_recipe_errors_and_unknown_models_need_no_torch(make_model: MakeModel) -> None:
    make_model("bad", '[model]\nclass = "A"\n[data]\nkind = "digit"\n')
    commands = [
        ["train", "bad"],
        ["recipe", "show", "bad"],
        ["train", "good"],
        ["evaluate", "good"],
        ["train", "bad", "--json"],
        ["predict", "good", "x.npy"],
    ]
    answers = run_without(HEAVY, [(command, {}) for command in commands])
    place = 'models/bad/recipe.toml:4: data.kind is "digit"'
    assert [code for code, _, _ in answers] == [2] * 6
    assert all(err.startswith(f"error: {place}") for _, _, err in answers[:2])
    assert all(err.startswith("error: no model `good`") for _, _, err in answers[2:4])
    assert answers[5][2].startswith("error: no model `good`")
    error = json.loads(answers[4][1])["error"]
    assert error["kind"] == "invalid_input" and error["message"].startswith(place) and error["hint"]


def test_recipe_show_says_where_each_value_came_from_without_torch(make_model: MakeModel) -> None:
    make_model("x", '[model]\nclass = "A"\n[data]\nkind = "digits"\n')
    arguments = ["recipe", "show", "x", "--epochs", "3", "--set", "training.seed=4"]
    text, document = run_without(HEAVY, [(arguments, {}), ([*arguments, "--json"], {})])
    rows = {line.split()[0]: line.split()[1:] for line in text[1].splitlines()}
    assert rows["model.class"] == ['"A"', "recipe.toml:2"]
    assert rows["training.epochs"] == ["3", "--epochs"]
    assert rows["training.seed"] == ["4", "--set"]
    assert rows["optimizer.lr"] == ["0.001", "default"]
    assert json.loads(document[1])["training.seed"] == {"value": 4, "source": "--set"}


def test_completion_offers_commands_options_and_models(make_model: MakeModel) -> None:
    make_model("one")
    make_model("other")
    (last := Path("models/one/runs/20261129-101500/checkpoints/last.pt")).parent.mkdir(parents=True)
    last.touch()

    def ask(line: str, word: int) -> tuple[list[str], dict[str, str]]:
        variables = {"_PY_AUTHORING_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(word)}
        return [], variables

    asked = [ask("py-authoring tr", 1), ask("py-authoring train o", 2), ask("py-authoring train one --re", 3)]
    asked += [ask("py-authoring compare one/2", 2), ask("py-authoring runs o", 2)]
    answers = run_without([*HEAVY, "pydantic"], asked)
    assert [answer[1].split() for answer in answers] == [
        ["plain,train"],
        ["plain,one", "plain,other"],
        ["plain,--resume"],
        ["plain,one/20261129-101500"],
        ["plain,one", "plain,other"],
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_completion_script_is_printed_and_installed(shell: str, run_command: Run, tmp_path: Path) -> None:
    printed = run_command("completion", shell)
    assert printed.returncode == 0 and "_PY_AUTHORING_COMPLETE" in printed.stdout, printed.stderr
    home = {"HOME": str(tmp_path), "XDG_DATA_HOME": "", "XDG_CONFIG_HOME": ""}
    installed = run_command("completion", shell, "--install", env=home)
    assert installed.returncode == 0 and "wrote" in installed.stderr
    (file,) = [path for path in tmp_path.rglob("*py-authoring*") if path.is_file()]
    assert file.read_text().strip() == printed.stdout.strip()


def test_new_model_trains_at_once_and_is_evaluated(run_command: Run) -> None:
    made = run_command("new", "fresh")
    assert made.returncode == 0 and made.stderr.endswith("next: py-authoring train fresh\n")
    first = Path("models/fresh/recipe.toml").read_text().splitlines()[0]
    assert first == "#:schema ../recipe.schema.json" and Path("models/recipe.schema.json").is_file()
    trained = run_command("train", "fresh", "--epochs", "2")
    assert trained.returncode == 0 and not trained.stdout, trained.stderr
    assert trained.stderr.endswith("next: py-authoring evaluate fresh\n")
    assert "\r" not in trained.stderr
    evaluated = run_command("evaluate", "fresh", "--json")
    assert evaluated.returncode == 0, evaluated.stderr
    document = json.loads(evaluated.stdout)
    assert document["split"] == "test" and document["metrics"]["accuracy"] > 0.5
    assert not list(Path("models").rglob("__pycache__"))


@pytest.mark.parametrize(
    ("template", "metric", "best", "worst"), [("regressor", "r2", 1, 0.3), ("recurrent", "accuracy", 1, 0.9)]
)
def test_every_template_learns_something(template: str, metric: str, best: float, worst: float) -> None:
    folder = new_model("fresh", template)
    train(folder, say=lambda text: None)
    assert worst <= evaluate_run("fresh").evaluation.metrics[metric] <= best


def test_new_refuses_a_name_that_is_taken_or_cannot_be_one(run_command: Run, make_model: MakeModel) -> None:
    make_model("there")
    for name, said in (
        ("there", "is there already"),
        ("a b", "cannot be a model's name"),
        ("7", "cannot be a model's"),
    ):
        result = run_command("new", name)
        assert result.returncode == 2 and said in result.stderr, result.stderr


def test_closed_pipe_is_no_error(make_model: MakeModel) -> None:
    make_model("x")
    command = f"{sys.executable} -m py_authoring recipe show x | true; echo ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, timeout=60)
    assert result.stdout == "0\n" and result.stderr == ""


def test_debug_shows_the_traceback_and_nothing_else_does(make_model: MakeModel, run_command: Run) -> None:
    make_model("x", '[model]\nclass = "A"\n[data]\nkind = "digit"\n')
    assert "Traceback" not in run_command("train", "x").stderr
    assert "Traceback" in run_command("train", "x", "--debug").stderr


BOTH_TERMINALS = """
import os
from py_authoring.cli import main
for term in ("xterm", "dumb"):
    os.environ["TERM"] = term
    try:
        main(["train", "x"])
    except SystemExit as ended:
        assert ended.code == 0
    print("=====")
"""


def test_bar_is_drawn_in_a_terminal_and_not_in_a_dumb_one(make_model: MakeModel) -> None:
    make_model("x")
    clever, dumb, _ = in_terminal(BOTH_TERMINALS).replace("\r\n", "\n").split("=====")
    assert "\r" in clever and "epoch 3/3" in clever
    assert "\r" not in dumb and "epoch 3/3" in dumb


def in_terminal(script: str) -> str:
    import fcntl
    import pty
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script]
    process = subprocess.Popen(command, stdout=follower, stderr=follower, stdin=follower, env=environment)
    os.close(follower)
    said = b""
    while True:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # Linux says EIO when the other end is closed
            break
        if not piece:
            break
        said += piece
    os.close(leader)
    assert process.wait(60) == 0, said.decode()
    return said.decode()
