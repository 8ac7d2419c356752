"""Programs that `rust-host build` writes: what `rust-host run` answers, from a file that needs only the C library."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "target/release/rust-host"
HOST = BINARY.with_name("rust-host-program")


def run(*words: str | Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """A command in an empty environment; without `stdin` it has nothing to read."""
    feed = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    return subprocess.run(["env", "-i", *words], capture_output=True, check=False, timeout=60, **feed)  # type: ignore[call-overload,no-any-return]


def answer(*words: str | Path, stdin: bytes | None = None) -> bytes:
    """What a command that goes well prints."""
    ran = run(*words, stdin=stdin)
    assert ran.returncode == 0, (ran.stdout, ran.stderr)
    return ran.stdout


def refuses(ran: subprocess.CompletedProcess[bytes], code: int, *said: str) -> None:
    """One sentence, perhaps with a hint, and nothing on stdout."""
    text = ran.stderr.decode()
    lines = text.splitlines()
    assert ran.returncode == code and ran.stdout == b"", (ran.returncode, ran.stdout, text)
    assert lines[0].startswith("error: ") and all(line.startswith("hint: ") for line in lines[1:]), text
    for words in said:
        assert words in text, text


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory, compiled_digits: Path) -> Path:
    """A picture of a digit: the one that the golden examples carry."""
    with zipfile.ZipFile(compiled_digits) as package:
        name = next(n for n in package.namelist() if n.endswith("golden.safetensors"))
        golden = load(package.read(name))
    path = tmp_path_factory.mktemp("picture") / "7.png"
    path.write_bytes(next(v for k, v in golden.items() if ".raw." in k).tobytes())
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, compiled_digits: Path) -> Path:
    """models/mnist as one program; not to be changed."""
    path = tmp_path_factory.mktemp("program") / "digits"
    said = answer(BINARY, "build", compiled_digits.parents[1], "-o", path).decode()
    assert re.fullmatch(rf"{path}: mnist, [\d.]+ MB, reproduces all of 4 golden examples without libtorch\n", said), (
        said
    )
    return path


@pytest.fixture
def copy(program: Path, tmp_path: Path) -> Path:
    """One that may be changed."""
    return Path(shutil.copy(program, tmp_path / "copy"))


def test_it_answers_byte_for_byte_as_rust_host_run_does(
    program: Path, compiled_digits: Path, picture: Path, tmp_path: Path
) -> None:
    array = tmp_path / "x.npy"
    np.save(array, np.random.default_rng(0).random((3, 1, 28, 28), dtype=np.float32))
    wide = tmp_path / "wide.npy"
    np.save(wide, np.random.default_rng(0).random((2, 1, 28, 28)))
    for words in ([f"image={picture}"], [f"image={array}"], [f"image={wide}"], [str(array), "--top-k", "7"]):
        for more in ([], ["--json"], ["--draw"]):
            ours = run(program, "--input", *words, *more)
            theirs = run(BINARY, "run", compiled_digits, "--input", *words, *more)
            assert ours.returncode == theirs.returncode == 0, (ours.stderr, theirs.stderr)
            assert (ours.stdout, ours.stderr) == (theirs.stdout, theirs.stderr)
    assert answer(program, "--verify").startswith(b"mnist on cpu (compiled code")


def test_an_input_comes_as_a_path_from_a_pipe_or_as_json(program: Path, picture: Path) -> None:
    expected = answer(program, f"--input=image={picture}", "--json")
    assert len(json.loads(expected)["predictions"][0]["rows"][0]) == 3
    pixels = picture.read_bytes()
    for words, stdin in (
        ([picture], None),
        ([f"image={picture}"], None),
        (["--", picture], None),
        (["-i", picture, "--threads", "2"], None),
        (["-"], pixels),
        (["image=-"], pixels),
        ([], pixels),
    ):
        flags = [] if words[:1] == ["--"] else ["--json"]
        given = answer(program, *flags, *words, stdin=stdin)
        assert given == (expected if flags else answer(program, picture)), words
    zeros = np.zeros((1, 1, 28, 28), np.float32)
    array = io.BytesIO()
    np.save(array, zeros)
    assert answer(program, json.dumps(zeros.tolist())) == answer(program, stdin=array.getvalue())


def test_it_says_what_it_is(program: Path, compiled_digits: Path) -> None:
    with zipfile.ZipFile(compiled_digits) as package:
        name = next(n for n in package.namelist() if n.endswith("contract.json"))
        contract = package.read(name)
    assert json.loads(answer(program, "--contract")) == json.loads(contract)
    digest = hashlib.sha256(compiled_digits.read_bytes()).hexdigest()
    assert re.fullmatch(rf"mnist \(rust-host [\d.]+, model {digest}\)\n", answer(program, "--version").decode())
    text = answer(program, "--help").decode()
    for words in ("mnist", "[batch, 1, 28, 28]", "picture (L, NCHW, 28 x 28)", "--verify", "--threads N", str(program)):
        assert words in text, text
    verdict = json.loads(answer(program, "--verify", "--json"))
    assert verdict["ok"] and verdict["examples"] == 4


def test_what_does_not_fit_is_a_sentence(program: Path, picture: Path, tmp_path: Path) -> None:
    narrow = tmp_path / "narrow.npy"
    np.save(narrow, np.zeros((1, 1, 28, 27), np.float32))
    refuses(run(program), 2, "missing input `image`")
    refuses(run(program, narrow), 2, "shape [1, 1, 28, 27]", "expects [batch, 1, 28, 28]")
    refuses(run(program, "nowhere.png"), 2, "`nowhere.png`: no such file")
    refuses(run(program, f"picture={picture}"), 2, "unknown input `picture`", "`image`")
    refuses(run(program, stdin=b""), 2, "stdin is empty")
    refuses(run(program, picture, "--nope"), 2, "there is no flag `--nope`", "`--threads`")
    refuses(run(program, picture, "--threads"), 2, "`--threads` needs a value")
    refuses(run(program, picture, "--threads=0"), 2, "`--threads` is `0`, expected a number from 1")
    refuses(run(program, "--verify", picture), 2, "`--verify` takes no inputs")
    refuses(run(program, "--verify", "--contract"), 2, "cannot be asked for at once")
    ran = run(program, "nowhere.png", "--json")
    assert ran.returncode == 2 and json.loads(ran.stdout)["error"]["kind"] == "not_found"


def test_a_program_that_was_changed_or_cut_says_so(copy: Path, picture: Path) -> None:
    whole = copy.read_bytes()
    at = whole.index(b"extra/golden.safetensors") + 4096
    copy.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    refuses(run(copy, "--verify"), 1, "is damaged", "not the one that it was built with")
    for cut in (whole[:-1], whole[: len(whole) // 2], whole[: HOST.stat().st_size], whole + b"\n"):
        copy.write_bytes(cut)
        refuses(run(copy, picture), 2, "carries no model")
        refuses(run(copy, "--verify"), 2, "carries no model")
    copy.write_bytes(whole[:100_000] + whole[104_096:])
    assert run(copy, picture).returncode != 0
    refuses(run(HOST), 2, "carries no model", "`rust-host build MODEL -o FILE`")


def test_its_own_name_and_place_do_not_matter(copy: Path, picture: Path, tmp_path: Path) -> None:
    expected = answer(copy, picture)
    other = copy.rename(tmp_path / "an other name")
    link = tmp_path / "link"
    link.symlink_to(other)
    assert answer(link, picture) == answer(other, picture) == expected


def test_it_needs_nothing_but_an_old_c_library() -> None:
    needed = subprocess.run(["readelf", "-d", HOST], capture_output=True, text=True, check=True).stdout
    names = set(re.findall(r"\(NEEDED\).*\[(.+)\]", needed))
    assert names <= {"libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}, names
    symbols = subprocess.run(["readelf", "--dyn-syms", "-W", HOST], capture_output=True, text=True, check=True).stdout
    versions = {tuple(map(int, v.split("."))) for v in re.findall(r"@GLIBC_([\d.]+)", symbols)}
    assert versions and max(versions) <= (2, 34), max(versions)


def test_it_runs_in_a_root_with_nothing_but_the_c_library(program: Path, picture: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "proc").mkdir(parents=True)
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for library in map(Path, re.findall(r"(/\S+) \(0x", listed)):
        (root / library.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library.relative_to("/"))
    shutil.copy(program, root / "digits")
    shutil.copy(picture, root / "7.png")
    chroot = shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin:/bin")
    apart = ["unshare", "--map-root-user", "--mount", "--pid", "--fork"]
    inside = f'mount -t proc proc "{root}/proc" && exec env -i {chroot} "{root}" "$@"'

    def in_root(*words: str) -> subprocess.CompletedProcess[bytes]:
        command = [*apart, "sh", "-c", inside, "sh", *words]
        return subprocess.run(command, capture_output=True, check=False, timeout=60)

    allowed = subprocess.run(
        [*apart, "sh", "-c", f'mount -t proc proc "{root}/proc"'], capture_output=True, check=False
    )
    if chroot is None or allowed.returncode != 0:
        pytest.skip(f"a root of one's own is not allowed here: {allowed.stderr.decode().strip() or 'no chroot'}")
    ran = in_root("/digits", "/7.png")
    assert (ran.stdout, ran.stderr) == (answer(program, picture), b"")
    assert in_root("/digits", "--verify").returncode == 0


def test_a_program_is_executable_and_replaces_what_was_there_only_when_it_is_whole(
    program: Path, compiled_digits: Path, tmp_path: Path
) -> None:
    assert program.stat().st_mode & 0o777 == 0o755
    output = tmp_path / "digits"
    output.write_text("before")
    refuses(run(BINARY, "build", compiled_digits.with_name("model.pt"), "-o", output), 2, "expected a compiled package")
    assert output.read_text() == "before"
    refuses(run(BINARY, "build", compiled_digits, "-o", tmp_path), 2, "is a folder, expected a file")
    refuses(run(BINARY, "build", compiled_digits, "-o", tmp_path / "no/digits"), 2, "no such folder")
    built = json.loads(answer(BINARY, "build", compiled_digits, "-o", output, "--json"))
    assert built["ok"] and built["bytes"] == output.stat().st_size
    assert output.read_bytes() == program.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["digits"]


@pytest.fixture
def package(compiled_digits: Path, tmp_path: Path) -> Path:
    """A copy in a folder that trusts nothing."""
    return Path(shutil.copy(compiled_digits, tmp_path / "model.pt2"))


def changed(package: Path, change: Callable[[str, bytes], bytes]) -> str:
    """Changes the package's members in place, and returns its new digest."""
    with zipfile.ZipFile(package) as old:
        members = {n: change(n, old.read(n)) for n in old.namelist()}
    with zipfile.ZipFile(package, "w", zipfile.ZIP_STORED) as new:
        for name, data in members.items():
            new.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return hashlib.sha256(package.read_bytes()).hexdigest()


def test_a_package_that_is_not_trusted_makes_no_program(package: Path, tmp_path: Path) -> None:
    output = tmp_path / "digits"
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    refuses(run(BINARY, "build", package, "-o", output), 1, "holds compiled code", f"--trust {digest}")
    assert not output.exists()
    assert run(BINARY, "build", package, "-o", output, "--trust", digest).returncode == 0
    # What was asked at the time of building is not asked again.
    assert run(output, "--verify").returncode == 0


def test_a_package_for_another_processor_makes_no_program(package: Path, tmp_path: Path) -> None:
    def other(name: str, data: bytes) -> bytes:
        if not name.endswith("_metadata.json"):
            return data
        return json.dumps({**json.loads(data), "AOTI_CPU_ISA": "AVX9000"}).encode()

    digest = changed(package, other)
    ran = run(BINARY, "build", package, "-o", tmp_path / "digits", "--trust", digest)
    refuses(ran, 1, "a processor with `AVX9000`, which this one does not have")
    assert not (tmp_path / "digits").exists()


def test_a_package_that_needs_libtorch_makes_no_program_and_its_operator_is_named(
    package: Path, tmp_path: Path
) -> None:
    def other(name: str, data: bytes) -> bytes:
        return data.replace(b"aoti_torch_get_sizes\0", b"aoti_torch_get_pizza\0") if name.endswith(".so") else data

    digest = changed(package, other)
    ran = run(BINARY, "build", package, "-o", tmp_path / "digits", "--trust", digest)
    refuses(ran, 1, "needs libtorch for `aoti_torch_get_pizza`", "a program of one file carries no libtorch")
    assert not (tmp_path / "digits").exists()


def test_golden_examples_that_are_not_reproduced_make_no_program(package: Path, tmp_path: Path) -> None:
    def shifted(name: str, data: bytes) -> bytes:
        if not name.endswith("golden.safetensors"):
            return data
        return save({key: value + 1 if ".output." in key else value for key, value in load(data).items()})

    digest = changed(package, shifted)
    ran = run(BINARY, "build", package, "-o", tmp_path / "digits", "--trust", digest)
    refuses(ran, 1, "does not reproduce its golden examples", "`rust-host verify")
    assert not (tmp_path / "digits").exists()


def test_the_wheels_command_says_where_the_host_is(compiled_digits: Path, tmp_path: Path) -> None:
    words = ["-m", "rust_host", "build", compiled_digits, "-o", tmp_path / "digits"]
    ran = subprocess.run([sys.executable, *words], capture_output=True, check=False, cwd=tmp_path)
    refuses(ran, 1, "rust-host-program", "not in the wheel")


def test_who_may_read_a_program_may_run_it_whatever_was_there(compiled_digits: Path, tmp_path: Path) -> None:
    for before, umask, mode in (
        (None, "022", 0o755),
        (0o644, "022", 0o755),
        (0o600, "077", 0o700),
        (0o4755, "022", 0o755),
    ):
        path = tmp_path / f"digits{before}"
        if before is not None:
            path.write_bytes(b"another file")
            path.chmod(before)
        command = f'umask {umask}; exec "{BINARY}" build "{compiled_digits}" -o "{path}"'
        subprocess.run(["sh", "-c", command], check=True, stdout=subprocess.DEVNULL, timeout=60)
        assert path.stat().st_mode & 0o7777 == mode


def test_what_is_no_file_and_the_package_itself_are_left_alone(compiled_digits: Path, tmp_path: Path) -> None:
    pipe, package = tmp_path / "pipe", Path(shutil.copy(compiled_digits, tmp_path / "model.pt2"))
    os.mkfifo(pipe)
    refuses(run(BINARY, "build", compiled_digits, "-o", pipe), 2, "is a device or a pipe, expected a file")
    assert pipe.is_fifo()
    trust = hashlib.sha256(package.read_bytes()).hexdigest()
    before = package.read_bytes()
    refuses(run(BINARY, "build", package, "--trust", trust, "-o", package), 2, "is the package itself")
    assert package.read_bytes() == before
