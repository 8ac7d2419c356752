"""Recipes: merged in the stated order, every mistake at once with file, line and the nearest key."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from py_authoring import recipe_toml
from py_authoring.errors import NotFoundError, RecipeError
from py_authoring.recipe import load_recipe, override_recipe, recipe_from_dict
from py_authoring.recipe_schema import key_table, recipe_schema

MakeModel = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]
MINIMAL = '[model]\nclass = "Net"\n[data]\nkind = "digits"\n'

WRONG = """\
metric = ["accuracy"]
metrics = ["accuracy", "recal"]
[model]
clas = "Classifier"

[data]
kind = "digits"
batchsize = 3
size = "28"
[training]
epochs = 0
device = "gpu"
patience = true
[optimizer]
name = "adma"
[scheduler]
name = "cosine"
[loss]
name = "mze"
[export]
image = { colour = "L" }
dynamic = { x = 3 }
[exprot]
x = 1
"""
EXPECTED = """\
1: unknown key metric; did you mean metrics?
2: metrics.1 is "recal"; expected accuracy, precision, recall, f1, confusion_matrix, mae, mse, rmse or r2; \
did you mean recall?
3: missing key model.class: name of the nn.Module class in model.py
4: unknown key model.clas; did you mean class?
8: unknown key data.batchsize; did you mean training.batch_size?
9: data.size is "28"; expected a whole number
11: training.epochs is 0; expected a number greater than or equal to 1
12: training.device is "gpu"; expected auto, cpu, cuda or cuda:N
13: training.patience is true; expected a whole number
15: optimizer.name is "adma"; expected adam, adamw, sgd, rmsprop or adadelta; did you mean adam?
16: missing key scheduler.period: epochs until the floor is reached
19: loss.name is "mze"; expected nll, cross_entropy, bce_with_logits, mse, l1, smooth_l1 or function; did you mean mse?
21: unknown key export.image.colour; did you mean color?
22: export.dynamic.x is 3; expected a table
23: unknown key exprot; did you mean export?
"""


def problems(recipe: Path, *overrides: str, **flags: object) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, overrides=overrides, flags={f"--{name}": value for name, value in flags.items()})
    assert caught.value.exit_code == 2
    return list(caught.value.problems) or [caught.value.message]


def test_all_mistakes_are_said_at_once_with_file_line_key_and_nearest_key(make_model: MakeModel) -> None:
    found = problems(make_model("bad", WRONG))
    assert found == [f"models/bad/recipe.toml:{line}" for line in EXPECTED.splitlines()]


def test_text_that_is_not_toml_names_the_line(make_model: MakeModel) -> None:
    (found,) = problems(make_model("bad", "[model]\nclass = Net\n"))
    assert found == "models/bad/recipe.toml:2: not TOML: invalid value"
    file = make_model("worse") / "recipe.toml"
    file.write_bytes(b"[model]\nclass = '\xff'\n")
    (found,) = problems(Path("models/worse"))
    assert found == "models/worse/recipe.toml: not UTF-8 text: byte 17 is 0xff"


def test_mistakes_on_the_command_line_name_the_flag(make_model: MakeModel) -> None:
    found = problems(make_model("x", MINIMAL), "trainng.epochs=2", "foo", "data.size=x", epochs=0, lr=-1.0)
    assert found == [
        "--set foo: expected key=value, as training.epochs=3",
        "--epochs: training.epochs is 0; expected a number greater than or equal to 1",
        "--lr: optimizer.lr is -1.0; expected a number greater than 0",
        '--set data.size: data.size is "x"; expected a whole number',
        "--set trainng: unknown key trainng; did you mean training?",
    ]


def test_values_that_contradict_each_other_are_said(make_model: MakeModel) -> None:
    folder = make_model("x", MINIMAL)
    found = problems(folder, 'metrics=["mae"]', "training.monitor=f2", "data.test=0.95", "loss.label_smoothing=0.1")
    assert len(found) == 3  # smoothing fits cross_entropy
    assert "metrics has mae, which does not fit loss.name cross_entropy" in found[0]
    assert 'training.monitor is "f2"; expected loss or mae' in found[1]
    assert "leave nothing to train on" in found[2]


def test_flag_goes_before_set_before_recipe_before_default(make_model: MakeModel) -> None:
    folder = make_model("x", MINIMAL + "[training]\nepochs = 2\nseed = 7\nbatch_size = 3\n")
    resolved = load_recipe(
        folder, overrides=["training.epochs=3", "training.batch_size=4"], flags={"--epochs": 5, "--lr": None}
    )
    training = resolved.recipe.training
    assert (training.epochs, training.batch_size, training.seed, training.patience) == (5, 4, 7, None)
    values = resolved.values()
    assert values["training.epochs"] == (5, "--epochs")
    assert values["training.batch_size"] == (4, "--set")
    assert values["training.seed"] == (7, "recipe.toml:7")
    assert values["training.patience"] == (None, "default")
    assert values["optimizer.lr"] == (0.001, "default")


def test_setting_another_kind_of_data_drops_what_the_recipe_said_for_the_old_one(make_model: MakeModel) -> None:
    folder = make_model("x", MINIMAL + "size = 32\nvalidation = 0.3\n")
    resolved = load_recipe(folder, overrides=["data.kind=idx", "data.path=here"])
    assert resolved.recipe.data.kind == "idx"
    assert resolved.values()["data.validation"] == (0.3, "recipe.toml:6")
    assert resolved.values()["data.path"] == (str(Path.cwd() / "here"), "--set")
    assert "data.size" not in resolved.values()
    assert problems(folder, "data.kind=idx", "data.path=here", "data.size=3")  # said now: a mistake


def test_path_in_a_recipe_is_meant_from_its_folder(make_model: MakeModel) -> None:
    folder = make_model("x", '[model]\nclass = "A"\n[data]\nkind = "npz"\npath = "a.npz"\n')
    assert load_recipe(folder).recipe.data.path == str(Path.cwd() / "models" / "x" / "a.npz")  # type: ignore[union-attr]


def test_unknown_model_names_the_nearest(make_model: MakeModel) -> None:
    make_model("mnist")
    with pytest.raises(NotFoundError, match=r"no model `mnits`: .*; did you mean mnist\?"):
        load_recipe("mnits")
    (Path("models") / "empty").mkdir()
    with pytest.raises(NotFoundError, match=r"`models/empty` has no recipe\.toml"):
        load_recipe("empty")


def test_model_is_found_by_name_and_by_path(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_model("x", MINIMAL).resolve()
    assert load_recipe("x").name == load_recipe(folder).name == load_recipe("./models/x").name == "x"
    monkeypatch.chdir(folder)
    assert load_recipe(".").name == "x"


@pytest.mark.parametrize("name", ["mnist", "some_nn_arch", "lstm", "control_flow", "diabetes"])
def test_resolved_recipe_reads_back_as_itself(name: str, make_model: MakeModel) -> None:
    resolved = load_recipe(ROOT / "models" / name)
    folder = make_model("copy", resolved.to_toml())
    assert load_recipe(folder).recipe == resolved.recipe
    assert recipe_from_dict(resolved.to_dict(), folder, resolved.sources).recipe == resolved.recipe
    assert load_recipe(folder).sha256() == resolved.sha256()


def test_stored_recipe_takes_other_values(make_model: MakeModel) -> None:
    stored = load_recipe(make_model("x", MINIMAL), overrides=["training.seed=3"])
    changed = override_recipe(
        stored, overrides=["data.kind=csv", "data.path=a", "data.target=t"], flags={"--device": "cpu"}
    )
    assert changed.recipe.data.kind == "csv" and changed.recipe.training.seed == 3
    assert changed.sources["training.device"] == "--device" and changed.sources["training.seed"] == "--set"
    assert changed.sources["model.class"] == "recipe.toml:2"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = '''\n[x]\n'''\nb = 1\n", {("a",): 1, ("b",): 4}),
        ("a = [\n  1, # ]\n  2\n]\n[b.c]\nd.e = 1\n", {("a",): 1, ("b", "c"): 5, ("b", "c", "d", "e"): 6}),
        ("# a = 1\n\"x y\" = 1\n['b'] # c\nd = '='\n", {("x y",): 2, ("b",): 3, ("b", "d"): 4}),
    ],
)
def test_lines_are_found_despite_strings_lists_and_comments(text: str, line: dict[tuple[str, ...], int]) -> None:
    found = recipe_toml.find_lines(text)
    assert {path: found[path] for path in line} == line
    assert ("x",) not in found


def test_schema_in_docs_is_fresh() -> None:
    stored = json.loads((ROOT / "docs" / "recipe.schema.json").read_text())
    assert stored == recipe_schema(), "run: py-authoring recipe schema > docs/recipe.schema.json"


def test_keys_in_docs_are_fresh() -> None:
    assert key_table() in (ROOT / "docs" / "recipe.md").read_text(), (
        "run: python -m py_authoring.recipe_schema, and paste it into docs/recipe.md"
    )
