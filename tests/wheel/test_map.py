"""`Model.map`: tables of polars, duckdb, pyarrow and pandas in, the same rows with the model's outputs out."""

import datetime
import decimal
import gc
import json
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

import rust_host


class Net(nn.Module):
    """[batch, 3] → `y` [batch, 2] and `n` [batch]; 13 is a number it cannot take."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if bool((x == 13).any()):
            raise ValueError("13 is not allowed")
        return torch.tanh(self.linear(x)), x.to(torch.int64).sum(1)


class Whole(nn.Module):
    def forward(self, count: Tensor) -> Tensor:
        return count * 2


class Slow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(20_000):
            x = torch.tanh(x)
        return x


class Labelled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(1)


def tensor(name: str, datatype: str, dims: list[str | int], **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "datatype": datatype,
        "shape": [d if isinstance(d, int) else -1 for d in dims],
        "dims": dims,
        **more,
    }


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(module: nn.Module, inputs: list[dict[str, Any]], *outputs: dict[str, Any]) -> rust_host.Model:
        torch.manual_seed(0)
        names = [o["name"] for o in outputs]
        contract = {
            "format_version": 1,
            "name": "rows",
            "platform": "pytorch_torchscript",
            "inputs": inputs,
            "outputs": [{"rtol": 0, "atol": 0, **o} for o in outputs],
            "returns": names if len(names) > 1 else names[0],
            "dims": {"batch": {"min": 0}},
            "golden": {"file": "golden.safetensors", "count": 0},
            "producer": {"name": "a test", "version": "1"},
        }
        path = tmp_path / "model.pt"
        script = torch.jit.script(module.eval())
        script.save(str(path), _extra_files={"contract.json": json.dumps(contract)})
        return rust_host.Model(path, "cpu")

    return write


@pytest.fixture
def model(write: Any) -> rust_host.Model:
    outputs = tensor("y", "FP32", ["batch", 2]), tensor("n", "INT64", ["batch"])
    return write(Net(), [tensor("x", "FP32", ["batch", 3])], *outputs)


@pytest.fixture
def whole(write: Any) -> rust_host.Model:
    return write(Whole(), [tensor("count", "INT64", ["batch"])], tensor("double", "INT64", ["batch"]))


ROWS = 1000
X = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32) * 10
COLUMNS = {"name": [f"row {i}" for i in range(ROWS)], **{f"x.{i}": X[:, i] for i in range(3)}}


def of_polars() -> Any:
    return pl.DataFrame(COLUMNS)


def of_pyarrow() -> Any:
    return pa.table(COLUMNS)


def of_pandas() -> Any:
    return pd.DataFrame(COLUMNS)


def of_duckdb() -> Any:
    columns = of_pyarrow()  # noqa: F841 (DuckDB finds it by its name)
    return duckdb.sql("select * from columns")


def batches() -> Iterator[pa.RecordBatch]:
    yield from of_pyarrow().to_batches(max_chunksize=170)


def of_a_reader() -> Any:
    return pa.RecordBatchReader.from_batches(of_pyarrow().schema, batches())


def of_a_batch() -> Any:
    return of_pyarrow().to_batches()[0]


SOURCES = [of_polars, of_pyarrow, of_pandas, of_duckdb, of_a_reader, of_a_batch]


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.__name__.removeprefix("of_"))
def test_every_library_gets_the_numbers_of_run_on_the_same_rows(model: rust_host.Model, source: Any) -> None:
    expected = model.run({"x": X})
    mapped = model.map(source())
    assert len(mapped) == ROWS
    assert (mapped.failed, mapped.first_failure, mapped.notes) == (0, None, [])
    table = pa.table(mapped)
    assert table.column_names == mapped.columns == ["name", "y.0", "y.1", "n"]
    assert table["name"].to_pylist() == COLUMNS["name"]
    for i in range(2):
        assert np.array_equal(table[f"y.{i}"].to_numpy(), expected["y"][:, i])
    assert np.array_equal(table["n"].to_numpy(), expected["n"])
    assert table.schema.field("n").type == pa.int64() and table.schema.field("y.0").type == pa.float32()


def test_every_library_reads_what_comes_out_and_as_often_as_it_likes(model: rust_host.Model) -> None:
    mapped = model.map(of_pyarrow())
    expected = pa.table(mapped).to_pylist()
    assert pl.DataFrame(mapped).to_dicts() == expected
    assert pd.DataFrame.from_arrow(mapped).to_dict("records") == expected
    assert duckdb.sql("select count(*), sum(n) from mapped").fetchall() == [(ROWS, sum(r["n"] for r in expected))]
    assert pa.schema(mapped) == pa.table(mapped).schema
    assert repr(mapped) == "<rust_host.Mapped 1000 rows: name, y.0, y.1, n>"
    # A mapped table is a table.
    again = model.map(pa.table(mapped).append_column("x", pa.array([[0, 0, 0]] * ROWS)))
    assert again.columns == ["name", "y.0", "y.1", "n", "y.y.0", "y.y.1", "n.n"]
    assert again.notes[0] == "the table has a column `y.0`, the model's is written as `y.y.0`"


def test_gaps_and_rows_that_the_model_refuses_are_named_or_left_empty(model: rust_host.Model) -> None:
    table = pl.DataFrame({"x.0": [1.0, 2.0, None, 4.0], "x.1": [0, 13, 0, 0], "x.2": [True, False, True, None]})
    with pytest.raises(rust_host.Error, match=r"^row 2: .*13 is not allowed\nhint: `on_error=\"null\"` goes on"):
        model.map(table)
    mapped = model.map(table, on_error="null")
    assert pl.DataFrame(mapped)["n"].to_list() == [2, None, None, None]
    assert mapped.failed == 3 and "13 is not allowed" in mapped.first_failure
    assert repr(mapped) == "<rust_host.Mapped 4 rows, 3 without outputs: y.0, y.1, n>"
    with pytest.raises(rust_host.InvalidInputError, match=r"^row 1: column `x\.0`: the value is missing"):
        model.map(table[2:])
    with pytest.raises(rust_host.InvalidInputError, match=r"^row 2: column `x\.2`: the value is missing"):
        model.map(table[3:].vstack(table[3:]).with_columns(pl.Series("x.2", [True, None])))


def test_a_wrong_value_is_named_by_column_and_row_and_a_wrong_type_by_column(
    model: rust_host.Model, whole: rust_host.Model
) -> None:
    with pytest.raises(rust_host.InvalidInputError, match=r"^row 3: column `count`: `1\.5` does not fit INT64"):
        whole.map(pl.DataFrame({"count": [1.0, 2.0, 1.5]}))
    with pytest.raises(rust_host.InvalidInputError, match=r"^row 2: column `count`: `two` does not fit INT64"):
        whole.map(pa.table({"count": ["1", "two"]}))
    with pytest.raises(
        rust_host.InvalidInputError, match="column `count` has values of the type Date32, the input `count`"
    ):
        whole.map(pl.DataFrame({"count": [datetime.date(2026, 1, 1)]}))
    with pytest.raises(rust_host.InvalidInputError, match=r"no column fits the input `x`.* the table has `a`, `b`"):
        model.map(pl.DataFrame({"a": [1.0], "b": ["c"]}))
    with pytest.raises(rust_host.InvalidInputError, match="column `x` has lists of 2 values"):
        model.map(pl.DataFrame({"x": [[1.0, 2.0]]}))
    with pytest.raises(rust_host.InvalidInputError, match="row 2: column `x`: it has 2 values, expected 3"):
        model.map(pl.DataFrame({"x": [[1.0, 2.0, 3.0], [1.0, 2.0]]}))


def test_numbers_of_every_type_fill_an_input(whole: rust_host.Model) -> None:
    three = [
        pa.array([3], t)
        for t in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
    ]
    three += [
        pa.array([np.float16(3)]),
        pa.array(["3"]),
        pa.array(["3"], "large_string"),
        pa.array(["3"], pa.string_view()),
    ]
    three += [
        pa.array([decimal.Decimal("3.00")]),
        pa.array(["3"]).dictionary_encode(),
        pa.array([3]).dictionary_encode(),
    ]
    for array in three:
        assert pa.table(whole.map(pa.table({"count": array})))["double"].to_pylist() == [6], array.type
    assert pa.table(whole.map(pa.table({"count": pa.array([True])})))["double"].to_pylist() == [2]
    sums = duckdb.sql("select sum(i) as count from range(4) t(i)")  # a 128-bit integer
    assert pl.DataFrame(whole.map(sums))["double"].to_list() == [12]


def test_every_other_column_passes_through_with_its_type(whole: rust_host.Model) -> None:
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, datetime.timezone.utc)
    table = pa.table(
        {
            "count": pa.array([1, 2, 3]),
            "dictionary": pa.array(["a", None, "a"]).dictionary_encode(),
            "decimal": pa.array([decimal.Decimal("1.25"), None, decimal.Decimal("-7.00")]),
            "large": pa.array([decimal.Decimal("1.25"), None, None], pa.decimal256(60, 2)),
            "timestamp": pa.array([moment, None, moment], pa.timestamp("ns", "Europe/Berlin")),
            "date": pa.array([moment.date(), None, moment.date()]),
            "duration": pa.array([datetime.timedelta(1), None, None]),
            "large_string": pa.array(["x", None, "ü"], pa.large_string()),
            "view": pa.array(["x" * 40, None, "ü"], pa.string_view()),
            "bytes": pa.array([b"\0", None, b""]),
            "flag": pa.array([True, None, False]),
            "lists": pa.array([[1, 2], None, []]),
            "fixed": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int16(), 2)),
            "struct": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": ""}]),
            "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int8())),
            "nothing": pa.nulls(3),
            "runs": pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(["a", "b"])),
            "uuid": pa.array([b"0" * 16, None, b"1" * 16], pa.uuid()),
        }
    )
    for given in (
        table,
        table.slice(1, 2),
        pa.concat_tables([table.slice(2), table, table.slice(0, 1)]),
        table.slice(3),
    ):
        out = pa.table(whole.map(given))
        passed = given.drop_columns(["count"])
        assert out.drop_columns(["double"]).schema == passed.schema
        assert out.drop_columns(["double"]).combine_chunks().to_pylist() == passed.combine_chunks().to_pylist()
        assert out["double"].to_pylist() == [2 * c for c in given["count"].to_pylist()]
        out.validate(full=True)


def test_polars_categories_and_slices_pass_through(whole: rust_host.Model) -> None:
    table = pl.DataFrame(
        {"count": range(100), "category": pl.Series(["a", "b"] * 50, dtype=pl.Categorical), "text": ["t" * 20] * 100}
    )
    part = table.vstack(table)[13:170:3]
    out = pl.DataFrame(whole.map(part))
    assert out.columns == ["category", "text", "double"]
    assert out["category"].cast(pl.String).to_list() == part["category"].cast(pl.String).to_list()
    assert out["double"].to_list() == (part["count"] * 2).to_list()


def test_columns_that_pass_through_share_the_memory_of_the_table(whole: rust_host.Model) -> None:
    table = pa.table({"count": pa.array(range(1000)), "other": pa.array(range(1000))})
    out = pa.table(whole.map(table))
    assert out["other"].chunk(0).buffers()[1].address == table["other"].chunk(0).buffers()[1].address


def test_the_index_of_pandas_is_no_number_and_stays(model: rust_host.Model) -> None:
    table = pd.DataFrame(X[:4], columns=list("abc"), index=list("pqrs"))
    mapped = model.map(table)
    assert mapped.notes == ["input `x` takes the columns `a`, `b`, `c` in this order"]
    back = pa.table(mapped).to_pandas()
    assert np.array_equal(back["n"], model.run({"x": X[:4]})["n"])
    assert "".join(back["__index_level_0__"]) == "pqrs"


def test_labels_are_columns_and_top_k_says_how_many(write: Any) -> None:
    labels = tensor("p", "FP32", ["batch", 3], labels=["a", "b", "c"], activation="softmax")
    model = write(Labelled(), [tensor("x", "FP32", ["batch", 3])], labels)
    table = pl.DataFrame({"id": [7, 8], "x": [[0.0, 9.0, 1.0], [5.0, 0.0, 1.0]]})
    out = pl.DataFrame(model.map(table))
    assert out.columns == ["id", "label", "score", "p.a", "p.b", "p.c"]
    assert out["label"].to_list() == ["b", "a"] and out["score"].to_list() == [out["p.b"][0], out["p.a"][1]]
    two = model.map(table, top_k=2)
    assert two.columns == ["id", "label_1", "score_1", "label_2", "score_2"]
    assert pl.DataFrame(two)["label_2"].to_list() == ["c", "c"]
    with pytest.raises(rust_host.InvalidInputError, match="top_k is 0, expected at least 1"):
        model.map(table, top_k=0)


def test_one_row_no_rows_and_no_columns(model: rust_host.Model) -> None:
    table = of_pyarrow()
    assert len(model.map(table.slice(0, 1))) == 1
    for source in (table.slice(0, 0), pa.table({n: table[n].slice(0, 0) for n in table.column_names}), of_polars()[:0]):
        none = model.map(source)
        assert (len(none), none.columns) == (0, ["name", "y.0", "y.1", "n"])
        assert pa.table(none).num_rows == 0 and pl.DataFrame(none).columns == none.columns
    for nothing in (pa.table({}), pl.DataFrame(), table.select([]), table.select([]).to_batches()[0]):
        with pytest.raises(rust_host.InvalidInputError, match=r"no column fits the input `x` .*the table has none"):
            model.map(nothing)


class Once:
    """Gives one capsule, whatever is asked of it."""

    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.capsule


class Pair:
    """A record batch as two capsules, the second time the same two."""

    def __init__(self, batch: Any) -> None:
        self.capsules = batch.__arrow_c_array__()

    def __arrow_c_array__(self, requested_schema: Any = None) -> Any:
        return self.capsules


def test_a_capsule_is_read_once(model: rust_host.Model) -> None:
    for once in (Once(of_pyarrow().__arrow_c_stream__()), Pair(of_a_batch())):
        assert len(model.map(once)) == ROWS
        with pytest.raises(rust_host.InvalidInputError, match=r"the table cannot be read: input .* already released"):
            model.map(once)
    reader = of_a_reader()
    assert len(model.map(reader)) == ROWS
    assert len(model.map(reader)) == 0  # pyarrow's own: what was read is gone


def test_what_is_no_table_is_refused_in_a_sentence(model: rust_host.Model) -> None:
    for wrong in (3, {"x": [1.0]}, X, [X]):
        with pytest.raises(rust_host.InvalidInputError, match="expected anything with `__arrow_c_stream__`"):
            model.map(wrong)  # type: ignore[arg-type]
    with pytest.raises(rust_host.InvalidInputError, match="expected a capsule `arrow_array_stream`"):
        model.map(Once(3))
    with pytest.raises(rust_host.InvalidInputError, match="expected a capsule `arrow_array_stream`"):
        model.map(Once(of_pyarrow().schema.__arrow_c_schema__()))
    with pytest.raises(
        rust_host.InvalidInputError, match="cannot be read: it has values of the type Float64, expected"
    ):
        model.map(pl.Series([1.0, 2.0]))
    rows = pa.StructArray.from_arrays([pa.array([1.0, 2.0])] * 3, ["x.0", "x.1", "x.2"], mask=pa.array([False, True]))
    with pytest.raises(rust_host.InvalidInputError, match="cannot be read: a row is missing as a whole"):
        model.map(pa.chunked_array([rows]))
    with pytest.raises(rust_host.InvalidInputError, match="unknown `on_error` `skip`, expected stop or null"):
        model.map(of_polars(), on_error="skip")  # type: ignore[arg-type]

    class Raises:
        def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
            raise KeyError("its own")

    with pytest.raises(KeyError, match="its own"):
        model.map(Raises())


def test_an_exception_in_the_stream_is_an_error_with_its_words(model: rust_host.Model) -> None:
    def failing() -> Iterator[pa.RecordBatch]:
        yield from list(batches())[:2]
        raise OSError("the disk is gone")

    reader = pa.RecordBatchReader.from_batches(of_pyarrow().schema, failing())
    with pytest.raises(rust_host.InvalidInputError, match=r"the table cannot be read: .*the disk is gone"):
        model.map(reader)


def test_a_file_without_a_contract_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "plain.pt"
    torch.jit.script(Whole()).save(str(path))
    with pytest.raises(rust_host.InvalidInputError, match=r"has no contract.*\nhint: `py-authoring export` writes one"):
        rust_host.Model(path, "cpu").map(of_polars())


def test_other_threads_go_on_while_it_runs(write: Any) -> None:
    model = write(Slow(), [tensor("x", "FP32", ["batch", 3])], tensor("y", "FP32", ["batch", 3]))
    table = of_polars()
    turns, done = 0, threading.Event()

    def count() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        before, start = turns, time.monotonic()
        model.map(table)
        seconds = time.monotonic() - start
    finally:
        done.set()
        thread.join()
    # With the GIL held it would be one turn or two.
    assert seconds > 0.02 and turns - before > 5, (seconds, turns - before)


def test_a_table_is_let_go_with_what_was_made_of_it(whole: rust_host.Model) -> None:
    class Watched(np.ndarray):
        pass

    values = np.arange(1000).view(Watched)
    gone = weakref.ref(values)
    table = pa.table(
        {"count": pa.array(range(1000)), "other": pa.Array.from_buffers(pa.int64(), 1000, [None, pa.py_buffer(values)])}
    )
    mapped = whole.map(table)
    del table, values
    gc.collect()
    assert gone() is not None  # the column that passed through is still read from it
    assert pa.table(mapped)["other"][999].as_py() == 999
    del mapped
    gc.collect()
    assert gone() is None
