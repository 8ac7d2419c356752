"""Promise L3: a file cannot reach files, environment or foreign memory, however its code is spelled."""

import sys

import binary
import pytest
import spellings
import zips

from models import Loaded, Plain

CASES = {case.name: case for case in spellings.cases()}


@pytest.mark.parametrize("name", CASES)
def test_is_refused_by_name_and_nothing_is_written(name):
    case = CASES[name]
    answer = binary.ask(case.data, "--input", f"x={binary.ONES}")
    assert answer.code in (1, 2), answer
    assert answer.out.startswith("error: ") and "panicked" not in answer.out
    # The words torch and ops stand in names of files too.
    words = [f"uses `{word}`" if word in ("torch", "ops", "getattr") else word for word in case.words]
    assert any(word in answer.out for word in words), answer.out
    assert answer.files == []
    assert answer.seconds < 5


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.libtorch in ("writes", "killed")])
def test_the_file_would_do_it_where_nothing_stops_it(name):
    seen = spellings.in_child(CASES[name].data)
    # Where other tests have imported rust_host, its checks of operators hold for PyTorch in this process too.
    guarded = "rust_host" in sys.modules and "division by zero" in seen
    assert guarded or seen.startswith(CASES[name].libtorch)


@pytest.mark.parametrize("kind", [Plain, Loaded])
def test_the_files_that_the_cases_are_made_of_run(kind):
    again = zips.Archive.read(spellings.saved(kind)).write()
    answer = binary.ask(again, "--input", f"x={binary.ONES}")
    assert answer.code == 0, answer.out
