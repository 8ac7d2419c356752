"""`rust-host build --header`: a static library that is linked into programs in C, C++ and Rust."""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "target/release/rust-host"
EXAMPLES = ROOT / "examples/library"
PIXELS, CLASSES = 784, 10


def run(*words: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(words, capture_output=True, check=False, timeout=120, input=stdin)


def done(*words: str | Path, stdin: bytes = b"") -> bytes:
    """What a command that goes well prints; it warns of nothing."""
    ran = run(*words, stdin=stdin)
    assert ran.returncode == 0 and ran.stderr == b"", (ran.returncode, ran.stderr.decode())
    return ran.stdout


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, compiled_digits: Path) -> Path:
    """The folder with models/mnist as a library."""
    folder = tmp_path_factory.mktemp("library") / "digits"
    said = done(BINARY, "build", compiled_digits.parents[1], "-o", folder, "--header").decode()
    assert re.fullmatch(
        rf"{folder}/libdigits.a: mnist, [\d.]+ MB, reproduces all of 4 golden examples without libtorch\n"
        r"  int digits_run\(int64_t batch, const float \*image, float \*log_probabilities\)\n",
        said,
    ), said
    assert sorted(path.name for path in folder.iterdir()) == ["digits.h", "libdigits.a"]
    return folder


@pytest.fixture(scope="module")
def digits(compiled_digits: Path) -> np.ndarray:
    """Pictures of digits, bytes [n, 784], whose answers differ."""
    with zipfile.ZipFile(compiled_digits) as package:
        name = next(n for n in package.namelist() if n.endswith("golden.safetensors"))
        golden = load(package.read(name))
    images = [v for k, v in golden.items() if ".input." in k and v.shape[1:] == (1, 28, 28)]
    return np.rint(np.concatenate(images).reshape(-1, PIXELS) * 255).astype(np.uint8)[:6]


@pytest.fixture(scope="module")
def expected(compiled_digits: Path, digits: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """What `rust-host run` answers for them: [n, 10]."""
    path = tmp_path_factory.mktemp("expected") / "x.npy"
    np.save(path, (digits.astype(np.float32) / 255).reshape(-1, 1, 28, 28))
    said = done(BINARY, "run", compiled_digits, "--input", path, "--format", "json")
    return np.array(json.loads(said)["outputs"][0]["data"], np.float32)


@pytest.fixture(scope="module")
def shared(library: Path, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The library, linked into one that Python can open."""
    path = tmp_path_factory.mktemp("shared") / "digits.so"
    archive = library / "libdigits.a"
    done("cc", "-shared", "-Wl,--fatal-warnings,--whole-archive", archive, "-Wl,--no-whole-archive", "-o", path)
    opened = ctypes.CDLL(str(path))
    opened.digits_error.restype = ctypes.c_char_p
    opened.digits_run.argtypes = [ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
    return opened


def call(shared: ctypes.CDLL, images: np.ndarray) -> np.ndarray:
    images = np.ascontiguousarray(images, np.float32)
    result = np.full((len(images), CLASSES), np.nan, np.float32)
    assert shared.digits_run(len(images), images.ctypes.data, result.ctypes.data) == 0, shared.digits_error()
    return result


def test_a_program_in_c_needs_no_more_than_the_library(
    library: Path, digits: np.ndarray, expected: np.ndarray, tmp_path: Path
) -> None:
    strict = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
    program = tmp_path / "read-digit"
    done("cc", *strict, EXAMPLES / "digits.c", "-I", library, "-L", library, "-ldigits", "-o", program)
    for pixels, row in zip(digits, expected, strict=True):
        assert int(done("env", "-i", program, stdin=pixels.tobytes())) == row.argmax()
    ran = run(program, stdin=b"too few")
    assert ran.returncode == 2 and ran.stderr == b"error: expected 784 bytes on stdin\n"


def test_a_program_in_cpp_asks_for_many_at_once_from_two_threads(
    library: Path, digits: np.ndarray, expected: np.ndarray, tmp_path: Path
) -> None:
    strict = ("-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-pthread")
    program = tmp_path / "read-digits"
    done("c++", *strict, EXAMPLES / "digits.cpp", "-I", library, "-L", library, "-ldigits", "-o", program)
    said = done(program, stdin=digits.tobytes()).split()
    assert [int(digit) for digit in said] == expected.argmax(1).tolist()
    ran = run(program)
    assert ran.returncode == 1 and ran.stderr.startswith(b"error: ") and b"batch" in ran.stderr, ran.stderr


def test_a_program_in_rust_links_it_beside_its_own_library(
    library: Path, digits: np.ndarray, expected: np.ndarray, tmp_path: Path
) -> None:
    program = tmp_path / "read-digit"
    words = ("rustc", "--edition", "2024", "-D", "warnings", EXAMPLES / "digits.rs", "-L", library, "-o", program)
    done(*words)
    assert int(done(program, stdin=digits[0].tobytes())) == expected[0].argmax()


def test_it_answers_what_rust_host_does_whichever_thread_asks(
    shared: ctypes.CDLL, digits: np.ndarray, expected: np.ndarray
) -> None:
    assert shared.digits_verify() == 0, shared.digits_error()
    images = digits.astype(np.float32) / 255
    assert np.array_equal(call(shared, images), expected)
    one_by_one = np.concatenate([call(shared, images[i : i + 1]) for i in range(len(images))])
    with ThreadPoolExecutor(4) as threads:
        asked = list(threads.map(lambda i: call(shared, images[i % len(images) :][:1]), range(200)))
    assert all(np.array_equal(row[0], one_by_one[i % len(images)]) for i, row in enumerate(asked))


def test_what_does_not_fit_is_a_sentence_and_nothing_is_written(shared: ctypes.CDLL) -> None:
    image, result = np.zeros((1, PIXELS), np.float32), np.full(CLASSES, np.nan, np.float32)
    for batch, given, room, said in (
        (1, None, result.ctypes.data, "`image`"),
        (1, image.ctypes.data, None, "`log_probabilities` is NULL"),
        (-1, image.ctypes.data, result.ctypes.data, "-1"),
        (0, image.ctypes.data, result.ctypes.data, "batch"),
        (2**62, image.ctypes.data, result.ctypes.data, "`image`"),
    ):
        assert shared.digits_run(batch, given, room) == 1
        error = shared.digits_error().decode()
        assert said in error and "\n" not in error, error
        assert np.isnan(result).all()
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(shared.digits_error).result() == b""


def test_a_plugin_that_is_closed_and_opened_again_costs_nothing(shared: ctypes.CDLL, tmp_path: Path) -> None:
    again = tmp_path / "again.py"
    again.write_text(
        "import _ctypes, ctypes, os, sys\n"
        "def turn():\n"
        "    plugin = ctypes.CDLL(sys.argv[1])\n"
        "    assert plugin.digits_verify() == 0\n"
        "    _ctypes.dlclose(plugin._handle)\n"
        "    return len(os.listdir('/proc/self/fd'))\n"
        "turn()\n"
        "assert len({turn() for _ in range(5)}) == 1\n"
    )
    done(sys.executable, again, shared._name)


def test_a_program_that_ends_may_still_ask(library: Path, tmp_path: Path) -> None:
    main = tmp_path / "main.c"
    main.write_text(
        '#include <stdio.h>\n#include <stdlib.h>\n#include "digits.h"\n'
        'static void late(void) { puts(digits_run(1, NULL, NULL) == 1 && digits_error() != NULL ? "late" : "?"); }\n'
        'int main(void) { atexit(late); puts(digits_run(1, NULL, NULL) ? digits_error() : "?"); return 0; }\n'
    )
    program = tmp_path / "ends"
    done("cc", main, "-I", library, "-L", library, "-ldigits", "-o", program)
    assert done(program) == b"`image` is NULL\nlate\n"


def test_two_models_in_one_program_share_the_host(
    library: Path, compiled_digits: Path, digits: np.ndarray, expected: np.ndarray, tmp_path: Path
) -> None:
    done(BINARY, "build", compiled_digits, "-o", tmp_path / "other-digits", "--header")
    other = tmp_path / "other-digits/libother_digits.a"
    main = tmp_path / "main.c"
    main.write_text(
        '#include <stdio.h>\n#include "digits.h"\n#include "other_digits.h"\n'
        "int main(void) {\n    static float image[784], a[10], b[10];\n"
        "    if (fread(image, 4, 784, stdin) != 784) return 3;\n"
        "    if (digits_run(1, image, a) || other_digits_run(1, image, b)) return 1;\n"
        "    for (int i = 0; i < 10; i++) if (a[i] != b[i]) return 2;\n    return other_digits_verify();\n}\n"
    )
    program = tmp_path / "both"
    done("cc", main, "-I", library, "-I", other.parent, library / "libdigits.a", other, "-o", program)
    done(program, stdin=(digits[0].astype(np.float32) / 255).tobytes())
    names = done("nm", program).decode()
    assert len(re.findall(r" rust_host_[0-9a-f]{16}_bytes\n", names)) == 1


def test_a_linker_sees_three_functions_and_no_stack_that_runs(library: Path) -> None:
    listed = done("readelf", "-sW", library / "libdigits.a").decode()
    symbols = [line.split() for line in listed.splitlines() if re.match(r" +\d+: ", line)]
    seen = {s[7] for s in symbols if s[4] == "GLOBAL" and s[5] == "DEFAULT" and s[6] not in ("UND", "ABS")}
    assert seen == {"digits_run", "digits_verify", "digits_error"}
    sections = done("readelf", "-SW", library / "libdigits.a").decode()
    assert sections.count(".note.GNU-stack") == 4
    names = {s[7] for s in symbols if len(s) > 7}
    assert not any("in_place_of" in name for name in names)


def test_the_host_needs_nothing_but_an_old_c_library_and_libgcc() -> None:
    host = BINARY.with_name("librust_host_embedded.so")
    about = done("readelf", "-dW", host).decode()
    names = set(re.findall(r"\(NEEDED\).*\[(.+)\]", about))
    assert names <= {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}, names
    symbols = done("readelf", "--dyn-syms", "-W", host).decode()
    versions = {tuple(map(int, v.split("."))) for v in re.findall(r"@GLIBC_([\d.]+)", symbols)}
    assert versions and max(versions) <= (2, 34), max(versions)
    shown = re.findall(r" GLOBAL +DEFAULT +\d+ (\w+)$", symbols, re.M)
    assert sorted(shown) == [f"rust_host_embedded_{name}" for name in ("error", "open", "run", "verify")]


def test_what_cannot_become_a_library_is_a_sentence(compiled_digits: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    for output, more, code, said in (
        ("9digits", (), 2, "cannot name functions of C"),
        ("größe", (), 2, "cannot name functions of C"),
        ("x" * 97, (), 2, "cannot name functions of C"),
        ("string", (), 2, "would be taken for the system's `string.h`"),
        ("taken", (), 2, "is a file, expected a folder"),
        ("digits", ("--with-libtorch",), 2, "cannot be used with"),
    ):
        ran = run(BINARY, "build", compiled_digits, "-o", tmp_path / output, "--header", *more)
        text = ran.stderr.decode()
        assert ran.returncode == code and ran.stdout == b"" and text.startswith("error: ") and said in text, text
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_the_header_says_what_the_function_takes(library: Path) -> None:
    text = (library / "digits.h").read_text()
    for words in (
        "image              float[batch][1][28][28], read\n",
        "log_probabilities  float[batch][10], written, for 0 1 2 3 4 5 6 7 8 9\n",
        "int digits_run(int64_t batch, const float *image, float *log_probabilities);\n",
        "int digits_verify(void);\n",
        "const char *digits_error(void);\n",
    ):
        assert words in text, text
