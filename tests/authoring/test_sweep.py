"""Sweeps: what may be varied, which values come, what becomes of each trial, and how a sweep goes on."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from py_authoring import run_state, runs
from py_authoring.errors import DataError, NotFoundError, RefusedError, TrainingError, UnavailableError, UsageError
from py_authoring.sweeping import (
    Sweep,
    _cores,
    _look,
    _next,
    _refuse_if_all_fail_alike,
    _result,
    _start,
    _Stop,
    search,
    sweep,
)
from py_authoring.sweeping.process import _parse
from py_authoring.sweeping.record import Record, RecordError, Trial, read_record
from py_authoring.sweeping.space import SpaceError, as_overrides, check_space, parse_form, read_space
from py_authoring.training import train

MakeModel = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]


def a_record(folder: Path, sampler: Any = "tpe", seed: int = 0, **forms: str) -> Record:
    space = [parse_form(key.replace("__", "."), form) for key, form in forms.items()]
    return Record(folder, space, sampler, seed, False, 100, [], "loss", {})


def play(record: Record, count: int, score: Callable[[dict[str, Any]], float]) -> list[dict[str, Any]]:
    """Proposes values, and gives each trial a score without training it."""
    while len(record.trials) < count:
        values = search.propose(record)
        number = len(record.trials)
        record.trials.append(Trial(number, values, f"run-{number}", "finished", score(values)))
    return [trial.values for trial in record.trials]


def slow_down(folder: Path) -> None:
    """Lets each step of a training take 10 ms, so that there is time to stop it."""
    code = (folder / "model.py").read_text()
    assert "            calls += 1\n" in code
    code = code.replace("            calls += 1\n", "            calls += 1\n            time.sleep(0.01)\n")
    (folder / "model.py").write_text("import time\n" + code)


def test_each_form_gives_values_from_end_to_end() -> None:
    source = random.Random(0)
    for form, low, high, whole in [
        ("uniform(0, 0.5)", 0, 0.5, False),
        ("log(1e-4, 1e-1)", 1e-4, 1e-1, False),
        ("int(2, 5)", 2, 5, True),
        ("logint(1, 8)", 1, 8, True),
    ]:
        dimension = parse_form("a.b", form)
        drawn = [dimension.draw(source) for _ in range(2000)]
        assert all(low <= value <= high and isinstance(value, int) == whole for value in drawn), form
        assert min(drawn) < low + (high - low) / 4 and max(drawn) > high - (high - low) / 4
        if whole:
            assert set(drawn) == set(range(low, high + 1))  # type: ignore[call-overload]
        assert parse_form("a.b", dimension.form) == dimension
    logarithmic = parse_form("a.b", "log(1e-4, 1)")
    assert 800 < sum(logarithmic.draw(source) < 1e-2 for _ in range(2000)) < 1200
    assert parse_form("a.b", "[16, 32]").choices == (16, 32)
    assert parse_form("a.b", '["sgd", "adam"]').choices == parse_form("a.b", "[sgd, adam]").choices == ("sgd", "adam")
    assert parse_form("a.b", [[0.9, 0.99], [0.8, 0.9]]).choices == ([0.9, 0.99], [0.8, 0.9])


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("log(0, 1)", "begins at 0.0; a range over powers begins above 0"),
        ("log(1, 1)", "expected the smaller end first"),
        ("uniform(2, 1)", "goes from 2.0 to 1.0"),
        ("uniform(0, inf)", "expected a finite number"),
        ("int(1.5, 3)", "`1.5` is no end of int(a, b); expected a whole number"),
        ("logint(0, 3)", "begins at 0"),
        ("unifrom(0, 1)", "did you mean uniform?"),
        ("log(1)", "is no form of values; expected [a, b, …], uniform(a, b)"),
        ("0.1", "is no form of values"),
        ("", "is no form of values"),
        ("[1]", "has 1 value; expected two or more"),
        ("[]", "has 0 values"),
        ("[1, 2, 1]", "has 1 twice"),
        ("[1.0, inf]", "has inf; expected texts, finite numbers"),
        ("[2026-01-01, 2026-01-02]", "has 2026-01-01; expected texts, finite numbers"),
        ("[[1, nan], [1, 2]]", "has [1, nan]; expected"),
        ("['a,b', c]", "is no list; expected each text in quotes"),
    ],
)
def test_a_wrong_form_is_a_sentence(form: str, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        parse_form("optimizer.lr", form)
    assert said in str(error.value)


def test_all_mistakes_are_told_at_once_with_the_nearest_key(make_model: MakeModel) -> None:
    folder = make_model()
    _, mistakes = read_space(folder, ["optimizer.lr=lg(1, 2)", "training.epochs", "a=[1]", "a=[1, 2]", "a=[1, 2]"])
    assert [mistake.partition(": ")[0] for mistake in mistakes] == [
        "--vary training.epochs",
        "--vary a",
        "--vary a",
        "--vary optimizer.lr",
        "--vary a",
    ]
    forms = {
        "training.batchsize": "[16, 32]",
        "training.batch_size": "uniform(1, 8)",
        "optimizer.lr": "[0.1, -1.0]",
        "optimizer.name": "[sgd, adamm]",
        "export.golden_count": "[1, 2]",
        "training.monitor": "[loss, accuracy]",
        "data.validation": "[0.1, 0.2]",
        "loss.label_smoothing": "[0.0, 0.1]",
        "training.seed": "[1, 2]",
        "data.split_column": "[a, b]",
    }
    space = [parse_form(key, form) for key, form in forms.items()]
    with pytest.raises(SpaceError) as caught:
        check_space(folder, space, ["training.seed=3"], mistakes)
    problems = "\n".join(caught.value.problems)
    assert set(mistakes) < set(caught.value.problems)
    for said in [
        "--vary training.batchsize: unknown key training.batchsize; did you mean batch_size?",
        "--vary training.batch_size: training.batch_size is 1.0; expected a whole number",
        "--vary optimizer.lr: optimizer.lr is -1.0",
        "did you mean adam?",
        "--vary export.golden_count: changes no training",
        "--vary training.monitor: decides what trials are measured by",
        "--vary data.validation: decides what trials are measured by",
        "--vary loss.label_smoothing: changes the loss, and training.monitor is loss",
        "--vary data.split_column: decides what trials are measured by",
        "--vary training.seed: given by --set too",
    ]:
        assert said in problems, problems
    assert not list(folder.glob("sweeps")) and not list(folder.glob("runs"))


@pytest.mark.parametrize(
    ("key", "form", "said"),
    [
        ("data", '[{ kind = "none" }, { kind = "function" }]', "decides what trials are measured by"),
        ("training", '[{ monitor = "loss" }, { monitor = "accuracy" }]', "decides what trials are measured by"),
        ("loss", '[{ name = "cross_entropy" }, { name = "mse" }]', "changes the loss, and training.monitor is loss"),
    ],
)
def test_a_whole_table_that_holds_a_measure_is_not_varied(
    make_model: MakeModel, key: str, form: str, said: str
) -> None:
    with pytest.raises(SpaceError) as caught:
        check_space(make_model(), [parse_form(key, form)], [])
    assert f"--vary {key}: {said}" in "\n".join(caught.value.problems or [str(caught.value)])


def test_the_file_of_a_model_says_what_to_vary_and_the_command_line_goes_before_it(make_model: MakeModel) -> None:
    folder = make_model()
    with pytest.raises(SpaceError, match=r"nothing to vary: no `--vary`, and no `models/tiny/sweep.toml`"):
        read_space(folder, [])
    (folder / "sweep.toml").write_text('[vary]\noptimizer.lr = "log(1e-3, 1e-1)"\n"training.batch_size" = [4, 8]\n')
    dimensions, mistakes = read_space(folder, ["optimizer.lr=[0.1, 0.2]"])
    assert not mistakes and {each.key: each.form for each in dimensions} == {
        "optimizer.lr": "[0.1, 0.2]",
        "training.batch_size": "[4, 8]",
    }
    (folder / "sweep.toml").write_text("trials = 3\nvary = 3\n")
    _, (unknown, no_table) = read_space(folder, [])
    assert "sweep.toml: unknown key trials; expected one table [vary]" in unknown and "vary is 3" in no_table
    (folder / "sweep.toml").write_text("[vary\n")
    _, (mistake,) = read_space(folder, [])
    assert "sweep.toml: not TOML" in mistake


def test_a_grid_takes_each_point_once(tmp_path: Path) -> None:
    record = a_record(tmp_path, "grid", optimizer__lr="[0.1, 0.2]", training__batch_size="int(1, 3)")
    points = play(record, search.size_of(record.space), lambda values: 0)
    assert points[:4] == [
        {"optimizer.lr": lr, "training.batch_size": size} for lr, size in [(0.1, 1), (0.1, 2), (0.1, 3), (0.2, 1)]
    ]
    assert len({tuple(point.values()) for point in points}) == 6


def test_a_long_range_takes_no_memory_and_a_grid_of_it_is_refused(make_model: MakeModel, tmp_path: Path) -> None:
    record = a_record(tmp_path, "grid", training__seed="int(0, 1_000_000_000_000_000_000_000)")
    assert search.choose_sampler(record.space, "random", False) == "random"
    assert search.size_of(record.space) == 10**21 + 1 and search.propose(record) == {"training.seed": 0}
    folder = make_model()
    with pytest.raises(SpaceError, match=r"the grid has 2,147,483,648 points, and a sweep has at most 10,000 trials"):
        sweep("tiny", vary=["training.seed=int(0, 2147483647)"], sampler="grid")
    assert not (folder / "sweeps").exists()


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_what_is_proposed_depends_on_seed_number_and_earlier_trials_alone(tmp_path: Path, sampler: str) -> None:
    forms = {"a__x": "uniform(-1, 1)", "a__n": "logint(1, 64)", "a__c": '["red", "green", [1, 2]]'}

    def score(values: dict[str, Any]) -> float:
        return -((values["a.x"] - 0.3) ** 2) - (values["a.c"] != "green") - abs(values["a.n"] - 8) / 64

    whole = play(a_record(tmp_path, sampler, **forms), 30, score)
    assert whole == play(a_record(tmp_path, sampler, **forms), 30, score)
    assert len({values["a.x"] for values in whole[:10]}) == 10
    assert whole[:3] != play(a_record(tmp_path, sampler, 1, **forms), 3, score)
    cut = a_record(tmp_path, sampler, **forms)
    play(cut, 17, score)
    cut.save()
    assert play(read_record(tmp_path), 30, score) == whole
    if sampler == "tpe":  # it learns: the later trials are better than the first ones, which are drawn at random
        early, late = (sorted(map(score, part))[5] for part in (whole[:10], whole[20:]))
        assert late > early


def test_the_keys_that_matter_are_told(tmp_path: Path) -> None:
    record = a_record(tmp_path, "random", a__x="uniform(-1, 1)", a__y="uniform(-1, 1)")
    play(record, 7, lambda values: values["a.x"])
    assert search.importance(record) is None
    play(record, 20, lambda values: values["a.x"])
    found = search.importance(record)
    assert found is not None and list(found) == ["a.x", "a.y"] and found["a.x"] > 0.8


def test_a_trial_with_the_values_of_a_finished_one_has_its_result(tmp_path: Path) -> None:
    record = a_record(tmp_path, "random", a__x="[1, 2]")
    record.planned = 8
    lines: list[str] = []
    begun = []
    while (trial := _next(record, tmp_path, lines.append)) is not None:
        trial.state, trial.score, trial.value = "finished", -1.0, 1.0
        begun.append(trial)
    assert len(begun) == 2 and len(record.trials) == 8
    assert all(trial.state == "finished" and trial.run in {each.run for each in begun} for trial in record.trials)
    assert "as trial 0" in " ".join(lines)


def test_without_optuna_a_grid_works_and_the_rest_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "find_spec", lambda name: None)
    lists = [parse_form("training.batch_size", "[1, 2]")]
    assert search.choose_sampler(lists, None, False) == "grid"
    ranges = [parse_form("optimizer.lr", "log(1e-3, 1)")]
    assert search.choose_sampler(ranges, "random", False) == "random"
    for space, prune in [(ranges, False), (lists, True)]:
        with pytest.raises(UnavailableError, match="needs the Python package `optuna`") as caught:
            search.choose_sampler(space, None, prune)
        assert "rust-host[authoring,sweep]" in str(caught.value.hint)
    with pytest.raises(SpaceError, match="has no end of values, and a grid takes each"):
        search.choose_sampler(ranges, "grid", False)


def test_trials_are_ordinary_runs_and_a_failed_one_does_not_end_the_sweep(make_model: MakeModel) -> None:
    folder = make_model()
    lines: list[str] = []
    done = sweep("tiny", vary=["optimizer.lr=[0.01, 1e30]"], jobs=2, overrides=["training.epochs=2"], say=lines.append)
    best, failed = done.trials
    assert (best.values, best.state, failed.state) == ({"optimizer.lr": 0.01}, "finished", "failed")
    assert "not finite" in str(failed.message) and best.run != failed.run
    record = read_record(done.path)
    assert all(trial.run.endswith(f"-{done.path.name}-{trial.number}") for trial in record.trials)
    assert record.threads == max(1, _cores() // 2)  # a trial that goes on has them too, whatever --jobs is then
    assert done.command == "py-authoring train tiny --set training.epochs=2 --set optimizer.lr=0.01"
    assert [run.state for run in runs.summarize_runs(["tiny"])] == ["finished", "failed"]
    alone = train("tiny", overrides=["training.epochs=2", *as_overrides(best.values)], say=lines.append)
    row = runs.best_row(alone.history, "loss")
    assert row is not None and (best.value, best.epoch) == (row["val_loss"], row["epoch"])
    assert "trial 1  failed: " in "\n".join(lines)
    # its end is written down: nothing is trained again
    again = sweep("tiny", resume=True)
    assert again == done and len(runs.list_runs(folder)) == 3
    with pytest.raises(UsageError, match="keeps what it began with"):
        sweep("tiny", resume=True, seed=3)
    recipe = (folder / "recipe.toml").read_text()
    (folder / "recipe.toml").write_text(recipe.replace("lr = 0.01", "lr = 0.05") + "[export]\ngolden_count = 2\n")
    assert sweep("tiny", resume=True) == done
    (folder / "recipe.toml").write_text(recipe.replace("batch_size = 6", "batch_size = 5"))
    with pytest.raises(RefusedError, match=r"could not be compared: training.batch_size is 5, was 6"):
        sweep("tiny", resume=True)
    (folder / "recipe.toml").write_text(recipe)
    (folder / "model.py").write_text((folder / "model.py").read_text() + "\n")
    with pytest.raises(RefusedError, match=r"could not be compared: model.py is "):
        sweep("tiny", resume=True)


def test_a_trial_that_lags_behind_is_stopped(tmp_path: Path) -> None:
    class Process:
        stopped = gone = False

        def ended(self) -> bool:
            return self.gone

        def stop(self) -> None:
            self.stopped = True

        def message(self) -> str:
            return "interrupted"

    def validate(losses: list[float]) -> None:
        rows = [{"epoch": epoch, "val_loss": loss, "loss": 0.0} for epoch, loss in enumerate(losses, 1)]
        (tmp_path / "runs/r").mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs/r/history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    record = a_record(tmp_path, "random", a__x="[1, 2, 3, 4, 5]")
    record.prune = True
    for number in range(4):
        record.trials.append(Trial(number, {"a.x": 1}, "", "finished", -1.0, scores=[-3.0, -2.0, -1.0]))
    trial, process = Trial(4, {"a.x": 5}, "r"), Process()
    record.trials.append(trial)
    running: Any = {4: process}
    validate([3.5])  # as bad as it is, the next trial is not better by then
    record.trials[2].scores = record.trials[3].scores = [-4.0, -2.0, -1.0]
    _look(record, tmp_path, running, print)
    assert not process.stopped
    validate([3.5, 2.5, 2.4, 0.1])  # the fourth epoch came too late
    _look(record, tmp_path, running, print)
    assert process.stopped and trial.state == "pruned" and trial.scores == [-3.5, -2.5]
    process.gone = True
    _look(record, tmp_path, running, print)
    assert not running and (trial.state, trial.value, trial.epoch) == ("pruned", 2.5, 2)
    assert read_record(tmp_path).trials[4] == trial


def start(*words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "py_authoring", "sweep", "tiny", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_sweep_that_was_killed_and_then_interrupted_goes_on_within_its_trial(make_model: MakeModel) -> None:
    folder = make_model()
    slow_down(folder)
    epochs = 40
    words = ["--vary", "optimizer.lr=[0.01, 0.02]", "--trials", "1", "--set", f"training.epochs={epochs}"]

    def done() -> int:
        return sum(len(runs.read_history(run)) for run in runs.list_runs(folder))

    killed = start(*words, "--name", "night")
    wait_for(lambda: done() > 2)
    killed.kill()
    killed.communicate()
    (run,) = runs.list_runs(folder)
    wait_for(lambda: run_state.read_state(run).state != "running")
    assert run_state.read_state(run).state == "interrupted"  # with a checkpoint: the kernel told it
    before = done()
    assert before < epochs

    interrupted = start("--resume")
    wait_for(lambda: done() > before + 2)
    with pytest.raises(RefusedError, match="is running in another process"):
        sweep("tiny", resume=True)
    interrupted.send_signal(signal.SIGINT)
    _, said = interrupted.communicate()
    assert interrupted.returncode == 130, said
    assert "0 of 1 trials done" in said and "sweep tiny --resume --name night` goes on" in said
    assert read_record(folder / "sweeps/night").trials[0].state == "interrupted" and done() < epochs

    best = sweep("tiny", resume=True, name="night").best
    alone = train("tiny", overrides=[f"training.epochs={epochs}", "optimizer.lr=0.01"], say=lambda text: None)
    row = runs.best_row(alone.history, "loss")
    assert row is not None and (best.value, best.epoch) == (row["val_loss"], row["epoch"])
    assert [each["val_loss"] for each in runs.read_history(run)] == [each["val_loss"] for each in alone.history]


def test_trials_that_all_fail_alike_end_the_sweep(tmp_path: Path) -> None:
    record = a_record(tmp_path, "grid", a__x="[1, 2, 3, 4]")
    for number in range(3):
        _refuse_if_all_fail_alike(record)
        record.trials.append(Trial(number, {"a.x": number}, "r", "failed", message="`model.py` raises"))
    with pytest.raises(TrainingError, match=r"the first 3 trials failed alike: `model.py` raises") as caught:
        _refuse_if_all_fail_alike(record)
    assert "trial-0.log" in str(caught.value.hint)
    record.trials[2].message = "its process was ended by SIGKILL"
    _refuse_if_all_fail_alike(record)
    with pytest.raises(TrainingError, match="none of 3 trials has a result"):
        _result(record, tmp_path / "models/x")


def test_a_run_can_be_given_a_name_and_gone_on_with_by_it(make_model: MakeModel) -> None:
    folder = make_model()
    for name in ("first", "second"):
        assert train("tiny", epochs=1, run=name, say=print).path == folder / "runs" / name
    assert train("tiny", epochs=2, resume=True, run="first", say=print).path.name == "first"
    assert [len(runs.read_history(folder / "runs" / name)) for name in ("first", "second")] == [2, 1]
    with pytest.raises(UsageError, match="is there already") as caught:
        train("tiny", run="first", say=print)
    assert "--resume --run first" in str(caught.value.hint)
    with pytest.raises(UsageError, match="can be no name"):
        train("tiny", run="a/b", say=print)


def test_what_a_trial_prints_hides_no_error_and_all_of_it_is_in_the_log(make_model: MakeModel) -> None:
    folder = make_model()
    code = (folder / "model.py").read_text()
    code = code.replace("    x = torch.randn(", '    raise ValueError("no such samples")\n    x = torch.randn(', 1)
    (folder / "model.py").write_text('print("hello {", end="")\n' + code)
    with pytest.raises(TrainingError, match="no such samples"):
        sweep("tiny", vary=["optimizer.lr=[0.01, 0.02]"], trials=1, name="told")
    log = (folder / "sweeps/told/trial-0.log").read_text()
    assert "hello {\n" in log and "error: " in log and "no such samples" in log
    assert _parse('{"error": {"message": "x"}}\n') == ('{"error": {"message": "x"}}', {})  # of model.py, not ours
    assert _parse('a\n{\n  "error": {\n    "message": "m",\n    "hint": null\n  }\n}\nb\n') == (
        "a\n\nb",
        {"message": "m", "hint": None},
    )


def test_a_trial_that_still_trains_elsewhere_is_not_trained_twice(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_model() / "runs/r"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/last.pt").touch()
    record = a_record(run, "random", a__x="[1, 2]")
    stop: Any = _Stop(print)
    with run_state.hold(run):
        monkeypatch.setattr("py_authoring.sweeping._SECONDS_TO_SAVE", 0.2)
        with pytest.raises(RefusedError, match="trial 3 still trains in another process"):
            _start(record, run.parents[1], Trial(3, {"a.x": 1}, "r"), stop, print)
        monkeypatch.setattr("py_authoring.sweeping._SECONDS_TO_SAVE", 60)
        stop.received = signal.SIGINT
        assert _start(record, run.parents[1], Trial(3, {"a.x": 1}, "r"), stop, print) is None


def test_what_cannot_be_begun_or_gone_on_with_is_a_sentence(make_model: MakeModel) -> None:
    folder = make_model()
    with pytest.raises(NotFoundError, match="has no sweep to go on with"):
        sweep("tiny", resume=True)
    with pytest.raises(DataError, match="has no data to train on"):
        sweep("tiny", vary=["optimizer.lr=[0.1, 0.2]"], overrides=["data.kind=none"])
    with pytest.raises(UsageError, match="can be no name"):
        sweep("tiny", vary=["training.batch_size=[4, 5]"], name="../x")
    with pytest.raises(UsageError, match="has 71 characters; expected at most 70"):
        sweep("tiny", vary=["training.batch_size=[4, 5]"], name="x" * 71)
    (folder / "sweeps/old").mkdir(parents=True)
    with pytest.raises(UsageError, match="is there already"):
        sweep("tiny", vary=["training.batch_size=[4, 5]"], name="old")
    with pytest.raises(NotFoundError, match="has no sweep `new`"):
        sweep("tiny", resume=True, name="new")
    for text, said in [("{", "cannot be read"), ('{"format": 2}', "has format 2"), ('{"format": 1}', "cannot be read")]:
        (folder / "sweeps/old/sweep.json").write_text(text)
        with pytest.raises(RecordError, match=said):
            sweep("tiny", resume=True)


def test_a_sweep_shows_itself_as_plain_values_and_in_a_notebook() -> None:
    trial = Trial(0, {"a.b": 1}, "r", "finished", -1.0, 1.0, 2)
    done = Sweep(Path("models/x/sweeps/s"), "x", "loss", [trial], None, "py-authoring train x --set a.b=1", ["x/r"])
    assert json.loads(json.dumps(done.to_dict()))["best"]["values"] == {"a.b": 1}
    page = done._repr_html_()
    assert page is not None and "Trials, best first" in page and "a.b" in page and done.command in page
