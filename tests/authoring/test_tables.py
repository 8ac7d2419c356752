"""Rows of CSV and Parquet files: typed columns, splits, and what the training rows teach."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from py_authoring import table_data
from py_authoring.checkpoint import load_checkpoint
from py_authoring.data import ArrayDataset, Splits, load_splits
from py_authoring.errors import DataError, RecipeError, ResumeError, UnavailableError
from py_authoring.export import export
from py_authoring.learnt import Learnt, Scale, balanced_weights, learnt_of
from py_authoring.objective import class_weights, loss
from py_authoring.preprocessing import Categories, Standardize
from py_authoring.recipe import load_recipe
from py_authoring.recipe_sections import LossSection
from py_authoring.run_evaluation import evaluate_run
from py_authoring.training import train

MakeModel = Callable[..., Path]
HEAD = '[model]\nclass = "Net"\n[data]\nkind = "csv"\npath = "a.csv"\ntarget = "kind"\n'
TYPED = HEAD + 'categories = ["colour", "code"]\nvalidation = 0.2\ntest = 0.2\n'
TRAINING = '[training]\nepochs = 2\nbatch_size = 8\ndevice = "cpu"\n'
NET = """
import torch
from torch import Tensor, nn
from py_authoring.learnt import Learnt
from py_authoring.preprocessing import Categories, standardize_columns

class Net(nn.Module):
    def __init__(self, learnt: Learnt) -> None:
        super().__init__()
        self.scale = standardize_columns(learnt)
        self.colours = Categories(learnt.categories["colour"])
        self.codes = Categories(learnt.categories["code"])
        self.embed = nn.Embedding(self.colours.size + self.codes.size, 3)
        self.out = nn.Linear(len(learnt.numbers) + 6, len(learnt.labels or []))

    def forward(self, features: Tensor, categories: Tensor) -> Tensor:
        colour, code = self.colours(categories[:, 0]), self.codes(categories[:, 1]) + self.colours.size
        return self.out(torch.cat([self.scale(features), self.embed(colour), self.embed(code)], dim=1))
"""


def rows(count: int = 40) -> str:
    lines = [f"{i},{i % 7 / 2},{['red', 'blue', 'green'][i % 3]},{10 * (i % 4)},{'ab'[i % 2]}" for i in range(count)]
    return "size,depth,colour,code,kind\n" + "\n".join(lines) + "\n"


def splits_of(folder: Path, *overrides: str, learnt: Learnt | None = None) -> Splits:
    return load_splits(load_recipe(folder, overrides=overrides), learnt)


def samples(splits: Splits, name: str) -> ArrayDataset:
    dataset = getattr(splits, name)
    assert isinstance(dataset, ArrayDataset)
    return dataset


def numbers(splits: Splits, name: str, argument: str = "features") -> torch.Tensor:
    values = samples(splits, name).inputs[argument]
    assert isinstance(values, torch.Tensor)
    return values


def test_typed_columns_are_learnt_from_the_training_rows_alone(make_model: MakeModel) -> None:
    folder = make_model("x", TYPED)
    (folder / "a.csv").write_text(rows())
    splits = splits_of(folder)
    assert splits.learnt is not None and splits.labels == ["a", "b"]
    features = numbers(splits, "train")
    assert features.shape == (24, 2) and features.dtype == torch.float32
    for column, scale in enumerate(splits.learnt.numbers.values()):
        assert scale.mean == pytest.approx(features[:, column].double().mean().item())
        assert scale.deviation == pytest.approx(features[:, column].double().std(correction=0).item())
    assert list(splits.learnt.numbers) == ["size", "depth"]
    assert splits.learnt.categories == {"colour": ["blue", "green", "red"], "code": ["0", "10", "20", "30"]}
    assert splits.learnt.class_counts == torch.bincount(samples(splits, "train").target).tolist()
    categories = numbers(splits, "train", "categories")
    assert categories.dtype == torch.int64 and set(categories[:, 1].tolist()) == {0, 10, 20, 30}
    for size, (colour, _) in zip(features[:, 0].tolist(), categories.tolist(), strict=True):
        assert ["blue", "green", "red"][colour - 1] == ["red", "blue", "green"][int(size) % 3]


def test_category_that_only_a_held_out_row_has_is_unknown(make_model: MakeModel) -> None:
    folder = make_model("x", TYPED + 'split_column = "part"\n')
    text = "size,depth,colour,code,part,kind\n"
    text += "1,1,red,5,train,a\n2,1,blue,6,train,b\n3,2,pink,7,test,a\n4,1,red,5,val,b\n"
    (folder / "a.csv").write_text(text)
    splits = splits_of(folder)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [2, 1, 1]
    assert numbers(splits, "test", "categories").tolist() == [[0, 7]]
    assert splits.learnt is not None
    assert Categories(splits.learnt.categories["code"])(torch.tensor([5, 6, 7])).tolist() == [1, 2, 0]


def test_each_column_can_be_an_argument_of_its_own(make_model: MakeModel) -> None:
    folder = make_model("x", TYPED + "separate = true\n")
    (folder / "a.csv").write_text(rows())
    inputs, _ = splits_of(folder).train[0]
    assert {name: (value.shape, value.dtype) for name, value in inputs.items()} == {
        "size": ((), torch.float32),
        "depth": ((), torch.float32),
        "colour": ((), torch.int64),
        "code": ((), torch.int64),
    }
    (folder / "a.csv").write_text(rows().replace("depth", "the depth"))
    with pytest.raises(DataError, match="column `the depth` can be no argument of forward"):
        splits_of(folder)


WRONG = "size,colour,code,kind\n1,red,1,a\n2,blue,2,b\n3,red,1,a\n4,blue,2,b\n5,red,2,a\n"


@pytest.mark.parametrize(
    ("text", "recipe", "said"),
    [
        (WRONG.replace("3,red", "nan,red"), "", r"a\.csv:4: column `size` is 'nan', expected a finite number"),
        (WRONG.replace("3,red", "1e39,red"), "", r"a\.csv:4: column `size` is '1e39', expected a finite number"),
        (WRONG.replace("3,red", ",red"), "", r"a\.csv:4: column `size` is empty, expected a number"),
        (WRONG.replace("3,red", "3,"), "", r"a\.csv:4: column `colour` is empty, expected a value"),
        (WRONG.replace("4,blue,2,b", "4,blue,2"), "", r"a\.csv:5: 3 fields, the header has 4"),
        (WRONG.replace("size,", "code,"), "", r"a\.csv` has two columns `code`"),
        (WRONG.replace("colour", "color"), "", r"a\.csv` has no column `colour`; did you mean color\?"),
        (WRONG, 'features = ["size"]\n', "data.categories has `colour`, which is not among data.features"),
        (WRONG, 'features = ["size", "colour", "code", "kind"]\n', "data.features has `kind`, which is what is pred"),
        (WRONG.replace("2,b\n5", "2,c\n5"), 'split_column = "x"\n', "has no column `x`"),
        (WRONG.replace("5,red,2,a", "5,red,2,c"), "validation = 0.0\ntest = 0.2\n", "class `.` has no sample to train"),
    ],
    ids=range(11),
)
def test_table_that_is_wrong_names_its_row_or_column(make_model: MakeModel, text: str, recipe: str, said: str) -> None:
    folder = make_model("x", HEAD + 'categories = ["colour", "code"]\n' + recipe)
    (folder / "a.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        # the seed that leaves the last row, the only one of its class, to the test split
        for seed in range(30):
            splits_of(folder, f"data.split_seed={seed}")


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ('"red', r"a\.csv:3: the row cannot be read: a quote is opened and never closed"),
        ('"re"d', r"a\.csv:3: the row cannot be read: a quote is closed in the middle of a field"),
    ],
)
def test_quote_that_would_swallow_rows_is_named_with_its_row(make_model: MakeModel, field: str, said: str) -> None:
    folder = make_model("x", TYPED)
    lines = rows().splitlines()
    lines[2] = f"1,1,{field},10,b"
    (folder / "a.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=said):
        splits_of(folder)


def test_labels_that_read_as_no_number_have_one_order() -> None:
    words = ["nan", "b", "NaN", "inf", "10", "9", "a"]
    assert table_data._distinct(words) == table_data._distinct(words[::-1]) == ["9", "10", *sorted([*words[:4], "a"])]


def test_zero_written_in_two_ways_is_two_words_and_not_one_number() -> None:
    codes = Categories(["0", "-0"])
    assert codes.encode("-0") == 2 and codes(torch.tensor([0, 1, 2])).tolist() == [0, 1, 2]


def test_word_for_a_split_that_is_none_names_its_row(make_model: MakeModel) -> None:
    folder = make_model("x", HEAD + 'split_column = "part"\n')
    (folder / "a.csv").write_text("size,part,kind\n1,train,a\n2,tset,b\n")
    with pytest.raises(DataError, match=r"a\.csv:3: column `part` is 'tset', expected .*; did you mean test\?"):
        splits_of(folder)


def test_split_by_hash_moves_no_row_when_others_are_added(make_model: MakeModel) -> None:
    folder = make_model("x", HEAD + 'split_by = "hash"\nfeatures = ["size"]\n')

    def parts() -> dict[float, str]:
        splits = splits_of(folder)
        return {size: name for name in ("train", "validation", "test") for size in numbers(splits, name)[:, 0].tolist()}

    (folder / "a.csv").write_text(rows(300))
    before = parts()
    counts = [list(before.values()).count(name) for name in ("train", "validation", "test")]
    assert sum(counts) == 300 and abs(counts[1] - 30) < 15 and abs(counts[2] - 60) < 20
    lines = rows(400).splitlines()
    (folder / "a.csv").write_text("\n".join([lines[0], *reversed(lines[50:])]) + "\n")
    after = parts()
    assert len(after) == 351 and all(after[size] == name for size, name in before.items() if size in after)


def test_rows_of_one_key_stay_in_one_split(make_model: MakeModel) -> None:
    folder = make_model("x", HEAD + 'split_by = "hash"\nsplit_key = "who"\n')
    text = "size,who,kind\n" + "".join(f"{i},p{i // 5},{'ab'[i % 2]}\n" for i in range(200))
    (folder / "a.csv").write_text(text)
    splits = splits_of(folder)
    people = [{int(size) // 5 for size in numbers(splits, name)[:, 0].tolist()} for name in ("train", "test")]
    assert not people[0] & people[1] and numbers(splits, "train").shape[1] == 1


def test_parquet_gives_the_samples_that_the_same_csv_gives(make_model: MakeModel) -> None:
    arrow, parquet = pytest.importorskip("pyarrow.csv"), pytest.importorskip("pyarrow.parquet")
    folder = make_model("x", TYPED)
    (folder / "a.csv").write_text(rows())
    parquet.write_table(arrow.read_csv(folder / "a.csv"), folder / "a.parquet")
    given = ["data.kind=parquet", f"data.path={folder / 'a.parquet'}", "data.target=kind"]
    given += ['data.categories=["colour", "code"]', "data.validation=0.2", "data.test=0.2"]
    one, two = splits_of(folder), splits_of(folder, *given)
    assert one.sha256() == two.sha256() and one.learnt == two.learnt


def test_parquet_that_is_wrong_is_refused(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = make_model("x", HEAD.replace("csv", "parquet"))
    file = folder / "a.parquet"

    def refuses(said: str) -> None:
        with pytest.raises((DataError, FileNotFoundError), match=said):
            splits_of(folder)

    refuses(r"a\.parquet` is not there")
    file.write_bytes(b"PAR1 and nothing more")
    refuses(r"a\.parquet` is no Parquet file")
    parquet.write_table(pyarrow.table({"size": [1.0, 2.0], "kid": ["a", "b"]}), file)
    refuses(r"has no column `kind`; did you mean kid\?; it has size, kid")
    parquet.write_table(pyarrow.table({"size": [1.0, None], "kind": ["a", "b"]}), file)
    refuses(r"a\.parquet`: row 2: column `size` is empty, expected a number")
    parquet.write_table(pyarrow.table({"size": [[1.0], [2.0]], "kind": ["a", "b"]}), file)
    refuses(r"a\.parquet`: row 1: column `size` is \[1.0\], expected a number")
    parquet.write_table(
        pyarrow.table({"size": pyarrow.array([], "float64"), "kind": pyarrow.array([], "string")}), file
    )
    refuses(r"a\.parquet` has no rows")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UnavailableError, match="needs pyarrow, which is not installed"):
        splits_of(folder)


def test_class_that_is_missing_in_parquet_is_empty_and_no_class(make_model: MakeModel) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = make_model("x", HEAD.replace("csv", "parquet"))
    parquet.write_table(pa.table({"size": [1.0, 2.0], "kind": [1.0, float("nan")]}), folder / "a.parquet")
    with pytest.raises(DataError, match=r"row 2: column `kind` is empty, expected a value"):
        splits_of(folder)


def test_saved_dataset_gives_the_samples_that_the_same_csv_gives(make_model: MakeModel, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    folder = make_model("x", TYPED)
    (folder / "a.csv").write_text(rows())
    lines = [line.split(",") for line in rows().splitlines()]
    columns = {name: [line[place] for line in lines[1:]] for place, name in enumerate(lines[0])}
    whole = {name: [float(value) for value in columns[name]] for name in ("size", "depth")}
    whole |= {"colour": columns["colour"], "code": [int(value) for value in columns["code"]]}
    whole["kind"] = ["ab".index(value) for value in columns["kind"]]
    saved = datasets.Dataset.from_dict(whole).cast_column("kind", datasets.ClassLabel(names=["a", "b"]))
    saved.save_to_disk("saved")
    given = ["data.kind=hf", "data.target=kind", 'data.categories=["colour", "code"]']
    given += ["data.validation=0.2", "data.test=0.2"]
    one, two = splits_of(folder), splits_of(folder, *given, "data.path=saved")
    assert one.sha256() == two.sha256() and one.learnt == two.learnt
    parts = {"train": saved.select(range(30)), "test": saved.select(range(30, 40))}
    datasets.DatasetDict(parts).save_to_disk("parts")
    splits = splits_of(folder, *given, "data.path=parts")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [24, 6, 10]
    assert numbers(splits, "test")[:, 0].tolist() == list(range(30, 40))
    whole["size"][3] = None
    datasets.Dataset.from_dict(whole).save_to_disk("gap")
    with pytest.raises(DataError, match=r"gap`: row 4: column `size` is empty, expected a number"):
        splits_of(folder, *given, "data.path=gap")
    Path("none").mkdir()
    with pytest.raises(DataError, match="none` is no folder that `save_to_disk` wrote"):
        splits_of(folder, *given, "data.path=none")


def test_what_was_learnt_is_in_checkpoint_and_file_and_is_not_learnt_anew(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model("x", TYPED + TRAINING + "[loss]\nclass_weights = 'balanced'\n", NET)
    (folder / "a.csv").write_text(rows())
    run = train(folder, say=lambda text: None)
    saved = load_checkpoint(run.path / "checkpoints" / "last.pt")
    learnt = learnt_of(saved)
    assert learnt == splits_of(folder).learnt and torch.equal(
        saved["model"]["codes.keys"], torch.tensor([0, 10, 20, 30])
    )

    def refuse(values: object) -> Scale:
        raise AssertionError("learnt anew")

    monkeypatch.setattr(table_data, "scale_of", refuse)
    assert train(folder, epochs=3, resume=True, say=lambda text: None).epochs == 3
    version = export(folder)
    assert version.contract.outputs[0].labels == ["a", "b"]
    assert export(folder, method="trace").number == 2
    described = version.contract.inputs[1].description or ""
    assert "`colour`, a category by its id: 0 unknown, 1 blue, 2 green, 3 red" in described
    module = torch.jit.load(str(version.path))
    inputs = torch.tensor([[30.0, 1.0]]), torch.tensor([[2, 20]])
    scaled = (inputs[0] - module.scale.mean) / module.scale.deviation
    assert torch.equal(module.scale(inputs[0]), scaled) and module(*inputs).shape == (1, 2)
    # other rows, in which class and category come in another order: they keep their numbers
    other = folder / "other.csv"
    other.write_text("size,depth,colour,code,kind\n1,1,violet,30,b\n2,2,red,0,b\n3,1,blue,0,b\n")
    rest = [f"data.path={other}", "data.validation=0.0", "data.test=0.0"]
    splits = splits_of(folder, *rest, learnt=learnt)
    ids = {
        (colour, size)
        for size, (colour, _) in zip(
            numbers(splits, "train")[:, 0].tolist(), numbers(splits, "train", "categories").tolist(), strict=True
        )
    }
    assert ids == {(0, 1.0), (3, 2.0), (1, 3.0)} and set(samples(splits, "train").target.tolist()) == {1}
    assert evaluate_run(folder, split="train", overrides=rest).evaluation.samples == 3
    # columns that moved are found by their names
    moved = folder / "moved.csv"
    moved.write_text("code,kind,depth,colour,size\n30,b,1,violet,7\n0,b,2,red,8\n0,b,1,blue,9\n")
    again = splits_of(folder, f"data.path={moved}", *rest[1:], learnt=learnt)
    assert {tuple(row) for row in numbers(again, "train").tolist()} == {(7, 1), (8, 2), (9, 1)}
    assert {tuple(row) for row in numbers(again, "train", "categories").tolist()} == {(0, 30), (3, 0), (1, 0)}
    for header, said in (
        ("size,deep,colour,code,kind", "column `depth` was trained on and is no feature here; did you mean deep"),
        ("size,depth,colour,code,age,kind", "column `age` is a feature that was not trained on"),
    ):
        moved.write_text(f"{header}\n{','.join(['1'] * header.count(','))},b\n")
        with pytest.raises(DataError, match=said):
            splits_of(folder, f"data.path={moved}", *rest[1:], learnt=learnt)
    other.write_text("size,depth,colour,code,kind\n1,1,red,30,b\n1,1,red,30,d\n")
    with pytest.raises(
        DataError, match=r"other\.csv:3: column `kind` is 'd', a class that was not learnt; those are a"
    ):
        evaluate_run(folder, split="train", overrides=rest)
    heard: list[str] = []
    evaluate_run(folder, say=heard.append)
    assert not any("not what this checkpoint was trained on" in line for line in heard)
    (folder / "a.csv").write_text(rows(41))
    evaluate_run(folder, say=heard.append)
    assert any("test may hold samples of the training" in line for line in heard)
    with pytest.raises(ResumeError, match="the data is not what the run began with"):
        train(folder, epochs=4, resume=True, say=lambda text: None)


def test_balanced_weights_make_classes_count_alike() -> None:
    section = LossSection(name="cross_entropy", class_weights="balanced")
    weights = class_weights(section, 2, [30, 10])
    assert weights is not None and weights.tolist() == pytest.approx(balanced_weights([30, 10])) == [2 / 3, 2.0]
    output = torch.tensor([[2.0, -1.0]] * 30 + [[0.5, 0.5]] * 10)
    target = torch.tensor([0] * 30 + [1] * 10)
    means = [loss(output[target == k], target[target == k], section).item() for k in (0, 1)]
    assert loss(output, target, section, weights).item() == pytest.approx(sum(means) / 2)
    binary = LossSection(name="bce_with_logits", class_weights="balanced")
    scores = output[:, 1:]
    means = [loss(scores[target == k], target[target == k], binary).item() for k in (0, 1)]
    assert loss(scores, target, binary, weights).item() == pytest.approx(sum(means) / 2)


@pytest.mark.parametrize(
    ("task", "loss"), [("classification", "mse"), ("classification", "l1"), ("regression", "cross_entropy")]
)
def test_loss_that_is_for_another_task_is_refused_before_training(make_model: MakeModel, task: str, loss: str) -> None:
    folder = make_model("x", TYPED + f'task = "{task}"\n[loss]\nname = "{loss}"\n', NET)
    (folder / "a.csv").write_text(rows())
    with pytest.raises(RecipeError, match=rf"^data\.task is {task}, loss\.name {loss} is for (numbers|classes)$"):
        train(folder, say=lambda text: None)
    assert not (folder / "runs").exists()


def test_class_of_weight_0_is_not_learnt(make_model: MakeModel) -> None:
    recipe = TYPED + TRAINING.replace("2", "6", 1) + "[optimizer]\nname = 'adam'\nlr = 0.1\n"
    folder = make_model("x", recipe + "[loss]\nclass_weights = [0.0, 1.0]\n", NET)
    (folder / "a.csv").write_text(rows())
    train(folder, say=lambda text: None)
    per_class = evaluate_run(folder, checkpoint="last", split="train").evaluation.per_class
    assert per_class is not None and [each.recall for each in per_class] == [0.0, 1.0]


def test_weights_that_do_not_fit_are_refused(make_model: MakeModel) -> None:
    with pytest.raises(RecipeError, match=r"loss\.class_weights has 3 numbers, the model tells 2 classes apart"):
        class_weights(LossSection(class_weights=[1.0, 1.0, 1.0]), 2, None)
    with pytest.raises(DataError, match="the data does not tell how many samples each class has"):
        class_weights(LossSection(class_weights="balanced"), 2, None)
    folder = make_model("x", HEAD + '[loss]\nname = "mse"\nclass_weights = "balanced"\n')
    with pytest.raises(RecipeError, match=r"loss\.class_weights is for nll, cross_entropy and bce_with_logits"):
        load_recipe(folder)


def test_standardized_columns_have_mean_0_and_deviation_1() -> None:
    values = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 0.1]) + 7
    layer = Standardize([table_data.scale_of(values[:, column]) for column in (0, 1)])
    scaled = layer(values)
    assert torch.allclose(scaled.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(scaled.std(0, correction=0), torch.ones(2), atol=1e-5)
    assert torch.allclose(layer.undo(scaled), values, atol=1e-4)
    assert table_data.scale_of(torch.full((5,), 3.0)) == Scale(3.0, 1.0)
