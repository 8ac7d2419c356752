"""TensorBoard and MLflow: what their own readers find, over a stop too; and what never ends a training."""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from py_authoring import checkpoint, loggers
from py_authoring.errors import InterruptedRunError, UnavailableError
from py_authoring.training import train

MakeModel = Callable[..., Path]
BOTH = ['training.loggers=["tensorboard", "mlflow"]']


def silent(text: str) -> None:
    pass


@pytest.fixture(autouse=True)
def every_third_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "_ITERATIONS_BETWEEN_LOSSES", 3)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulators.EventAccumulator(str(run / "tensorboard")).Reload()
    return {tag: [(each.step, each.value) for each in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_tensorboard_and_mlflow_read_back_what_the_history_holds_and_resuming_goes_on_in_the_same_log(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    folder = make_model()
    monkeypatch.setenv("STOP_AT", "8")
    with pytest.raises(InterruptedRunError):
        train(folder, overrides=BOTH, say=silent)
    last = checkpoint.find_checkpoint(folder, which="last")
    before_a_kill = last.read_bytes()
    monkeypatch.setenv("STOP_AT", "3")
    with pytest.raises(InterruptedRunError):
        train(folder, resume=True, say=silent)
    last.write_bytes(before_a_kill)  # so that iteration 9 is logged once more
    place = json.loads((checkpoint.find_run(folder) / "mlflow.json").read_text())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient(place["tracking_uri"])
    assert client.get_run(place["run_id"]).info.status == "KILLED"
    monkeypatch.delenv("STOP_AT")
    run = train(folder, epochs=4, resume=True, say=silent)

    rows = {(row["iteration"]): row for row in run.history}
    found = scalars(run.path)
    assert [step for step, _ in found["training/batch_loss"]] == [3, 6, 9, *range(12, 28, 3)]
    for tag, key in (("training/loss", "loss"), ("training/lr", "lr"), ("validation/accuracy", "val_accuracy")):
        assert [step for step, _ in found[tag]] == [7, 14, 21, 28]
        assert [value for _, value in found[tag]] == pytest.approx([row[key] for row in rows.values()], rel=1e-6)

    logged = client.get_run(place["run_id"])
    assert logged.info.status == "FINISHED" and logged.info.run_name == run.path.name
    assert logged.data.params["optimizer.lr"] == "0.01"
    history = client.get_metric_history(place["run_id"], "validation loss")
    assert [each.step for each in history] == [7, 14, 21, 28]
    assert [each.value for each in history] == pytest.approx([row["val_loss"] for row in rows.values()])
    assert client.get_experiment(logged.info.experiment_id).name == "tiny"
    assert len(client.search_runs([logged.info.experiment_id])) == 1
    assert (folder.parent.parent / "mlruns").is_dir()
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_logger_that_is_not_installed_is_told_before_a_run_begins(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "mlflow" else find(name, *rest)
    )
    folder = make_model()
    with pytest.raises(UnavailableError, match="package mlflow is not installed") as caught:
        train(folder, overrides=BOTH, say=silent)
    assert caught.value.hint == "`pip install 'rust-host[mlflow]'`"
    assert not (folder / "runs").exists()


def test_logger_that_fails_is_left_out_with_one_note_and_the_training_goes_on(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens there
    record_writer = pytest.importorskip("tensorboard.summary.writer.record_writer")
    write, written = record_writer.RecordWriter.write, []

    def full(self: object, data: bytes) -> None:
        written.append(data)
        if len(written) > 4:
            raise OSError(28, "No space left on device")
        write(self, data)

    monkeypatch.setattr(record_writer.RecordWriter, "write", full)
    lines: list[str] = []
    run = train(make_model(), overrides=BOTH, say=lines.append)
    assert run.epochs == 3 and run.best_epoch is not None
    notes = [line for line in lines if line.startswith("note:")]
    assert len(notes) == 2, notes
    assert any(note.startswith("note: mlflow logs no more of this training: ") for note in notes)
    assert "note: tensorboard logs no more of this training: [Errno 28] No space left on device" in notes
    assert "Traceback" not in capfd.readouterr().err
