"""A model over tables in memory: handwritten digits that it has never seen, through Polars, DuckDB and pyarrow.

usage: tables.py [MODEL] [polars | duckdb | pyarrow]...

MODEL is `models/mnist/<n>/model.pt` (`make demo` makes it). Each part needs only the library it is named after:
`pip install polars`, `duckdb` or `pyarrow`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

import rust_host

TOP = Path(__file__).resolve().parent.parent


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pictures `[rows, 784]` and what they show, from the part of the data that training leaves out."""
    from py_authoring.data import load_splits
    from py_authoring.recipe import load_recipe

    test = load_splits(load_recipe(TOP / "models/mnist")).test
    pictures, targets = zip(*((inputs["image"].flatten().numpy(), int(target)) for inputs, target in test), strict=True)
    return np.stack(pictures), np.array(targets)


def of_polars(model: rust_host.Model, images: np.ndarray, targets: np.ndarray) -> None:
    """Rows → rows: the column `image` is an input, `target` passes through, `label` and `score` are the model's."""
    import polars as pl

    table = pl.DataFrame({"target": targets, "image": images})
    out = pl.DataFrame(model.map(table))
    right = pl.col("label") == pl.col("target").cast(pl.String)
    print(out.select("target", "label", "score").head(3))
    print(out.group_by("target").agg(right.mean().alias("right"), pl.len()).sort("right").head(3))


def of_duckdb(model: rust_host.Model, images: np.ndarray, targets: np.ndarray) -> None:
    """A query → the model → a query; DuckDB reads `scored` by its name."""
    import duckdb

    values = {"target": targets, **{f"image.{i}": images[:, i] for i in range(images.shape[1])}}  # noqa: F841
    scored = model.map(duckdb.sql("select * from values where target < 5"), top_k=2)  # noqa: F841
    print(
        duckdb.sql("""
            select target, label_1, label_2, score_1 from scored
            where label_1 != target::varchar order by score_1 desc limit 3
        """)
    )


def of_pyarrow(model: rust_host.Model, images: np.ndarray, targets: np.ndarray) -> None:
    """Batches from a stream, and the types that come out; a row that cannot be run stays empty if that is asked for."""
    import pyarrow as pa

    table = pa.table({"target": targets, "image": pa.FixedSizeListArray.from_arrays(images.ravel(), images.shape[1])})
    gap = pa.table({"target": [0], "image": [None]}, schema=table.schema)
    batches = pa.concat_tables([table, gap]).to_reader(max_chunksize=100)
    mapped = model.map(batches, on_error="null")
    print(mapped)
    print(mapped.first_failure)
    print(pa.table(mapped).select(["target", "label", "score"]).schema)


PARTS: dict[str, Callable[[rust_host.Model, np.ndarray, np.ndarray], None]] = {
    "polars": of_polars,
    "duckdb": of_duckdb,
    "pyarrow": of_pyarrow,
}


def main() -> None:
    """Runs the parts that were asked for, or all."""
    path = next((Path(a) for a in sys.argv[1:] if a not in PARTS), None)
    if path is None:
        path = max((TOP / "models/mnist").glob("[0-9]*/model.pt"), key=lambda p: int(p.parent.name), default=None)
    if path is None:
        raise SystemExit("error: there is no models/mnist/<n>/model.pt\nhint: `make demo` trains and exports it")
    model = rust_host.Model(path, "cpu")
    images, targets = digits()
    for name in [a for a in sys.argv[1:] if a in PARTS] or PARTS:
        print(f"== {name}: {len(targets)} digits")
        PARTS[name](model, images, targets)


if __name__ == "__main__":
    main()
