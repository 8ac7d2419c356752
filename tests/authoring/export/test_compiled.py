"""`--method compiled`: a package of machine code, checked on its own bytes and opened only where it is trusted."""

import errno
import hashlib
import io
import json
import platform
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch._inductor.exc import CppCompileError, InductorError

from py_authoring import trusted
from py_authoring.archive_view import InvalidModelError, parse_archive
from py_authoring.contract import Bounds
from py_authoring.errors import DeviceError, RefusedError, UnavailableError, WriteError
from py_authoring.export import Version, build, compiled, elf, export, golden, program
from py_authoring.export.cases import Cases
from py_authoring.export.parity import Case
from py_authoring.export.returns import Layout
from py_authoring.export.sibling import find_sibling
from py_authoring.export.signature import bounds_of
from py_authoring.export.weights import load_weights
from py_authoring.verify import verify

ROOT = Path(__file__).resolve().parents[3]
Run = Callable[..., subprocess.CompletedProcess[str]]
Make = Callable[..., Version]
UNTRUSTED = "is machine code, .* SHA-256 is not in `.*trusted.toml` or `.*trusted.toml`"


def copy_of(name: str, folder: Path = Path("models")) -> Path:
    ignore = shutil.ignore_patterns("runs", "[0-9]*", "trusted.toml")
    return Path(shutil.copytree(ROOT / "models" / name, folder / name, ignore=ignore))


@dataclass(frozen=True)
class Pair:
    """One model in both forms, and what the folder held before the second."""

    script: Version
    compiled: Version
    script_before: bytes
    left: list[str]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The only compile of this file: it takes half a minute."""
    folder = copy_of("some_nn_arch", tmp_path_factory.mktemp("compiled"))
    first = export(folder)
    before = first.path.read_bytes()
    temporary = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temporary))
        second = export(folder, method="compiled")
    return Pair(first, second, before, [str(path) for path in temporary.rglob("*") if path.is_file()])


@pytest.fixture
def no_compile(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of the same model take the library that is there."""
    with zipfile.ZipFile(pair.compiled.path) as archive:
        names = [name for name in archive.namelist() if "/aotinductor/" in name]
        files = {name.rpartition("/")[2]: archive.read(name) for name in names}
    library = compiled.Library({"model": files}, {"batch": (1, None)}, [], [])
    monkeypatch.setattr(compiled, "compile_model", lambda *arguments: library)


def test_the_package_lies_beside_the_script_of_the_same_weights(pair: Pair) -> None:
    assert pair.compiled.path == pair.script.path.with_name("model.pt2")
    assert pair.script.path.read_bytes() == pair.script_before
    assert sorted(file.name for file in pair.script.path.parent.iterdir()) == ["README.md", "model.pt", "model.pt2"]
    contract = pair.compiled.contract
    assert (contract.platform, contract.provenance.method) == ("torch_aoti", "compiled")
    assert contract.dims["batch"].min == 1
    assert [part.name for part in contract.inputs] == ["x", "h"]
    assert contract.inputs == pair.script.contract.inputs


def test_the_package_holds_a_library_contract_and_golden_examples_and_no_source(pair: Pair) -> None:
    data = pair.compiled.path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
    inside = [name.rpartition("/")[2].partition(".")[2] for name in names if "aotinductor/model/" in name]
    assert sorted(inside) == ["wrapper.so", "wrapper_metadata.json"]
    assert {"extra/contract.json", "extra/golden.safetensors"} <= set(names)
    assert not [name for name in names if name.endswith((".cpp", ".o", ".py"))]
    for path in (str(Path(torch.__file__).parent), str(ROOT), str(Path.home()), "/tmp/"):
        assert path.encode() not in data, path


def test_nothing_stays_in_the_temporary_folder(pair: Pair) -> None:
    assert pair.left == []  # torch would keep 280 MB of precompiled headers there, for every export


def test_it_computes_what_eager_does_at_sizes_that_the_export_never_saw(pair: Pair) -> None:
    package = compiled.Package(pair.compiled.path.read_bytes())
    model = torch.jit.load(str(pair.script.path))
    for batch in (1, 2, 3, 7, 31, 64, 1000):
        inputs = {"x": torch.randn(batch, 4), "h": torch.randn(batch, 4)}
        got = package.run(["x", "h"], inputs)
        for value, expected in zip(got, model(**inputs), strict=True):
            torch.testing.assert_close(value, expected)


def test_it_needs_no_libtorch_and_says_so(pair: Pair) -> None:
    library = parse_archive(pair.compiled.path, pair.compiled.path.read_bytes()).member(".so")
    assert library is not None
    symbols = elf.undefined_symbols(library)
    assert "aoti_torch_get_sizes" in symbols
    assert elf.host_operators(symbols) == []
    assert [note for note in pair.compiled.notes if "runs without libtorch" in note]


def test_the_list_of_trusted_packages_names_it_by_its_hash(pair: Pair, call: Run) -> None:
    text = (pair.compiled.path.parents[1] / "trusted.toml").read_text()
    assert text.splitlines()[0].startswith("# Native code that rust-host may open")
    assert f'sha256 = "{hashlib.sha256(pair.compiled.path.read_bytes()).hexdigest()}"' in text
    assert 'file = "1/model.pt2"' in text
    assert verify(pair.compiled.path).ok
    done = call("verify", str(pair.compiled.path))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "some_nn_arch: 4 golden examples on cpu: ok")


def test_a_package_that_nobody_trusts_is_not_opened(pair: Pair, call: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(pair.compiled.path, "copy.pt2")
    monkeypatch.setattr(compiled.Package, "__init__", lambda *arguments: pytest.fail("it was opened"))
    done = call("verify", "copy.pt2")
    assert done.returncode == 1
    assert done.stderr.startswith("error: `copy.pt2` is machine code, which may do anything, and its SHA-256 is not in")
    assert f'sha256 = "{hashlib.sha256(Path("copy.pt2").read_bytes()).hexdigest()}"' in done.stderr
    changed = pair.compiled.path.with_name("changed.pt2")
    changed.write_bytes(pair.compiled.path.read_bytes() + b"\0")
    with pytest.raises((RefusedError, InvalidModelError)):
        verify(changed)
    changed.unlink()


def test_a_package_for_another_processor_is_not_opened(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("py_authoring.verify._processor_flags", lambda: {"sse2"})
    with pytest.raises(RefusedError, match="was compiled for a processor with AVX"):
        verify(pair.compiled.path)
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(RefusedError, match="compiled for x86_64, and this is"):
        verify(pair.compiled.path)


def test_inspect_says_what_it_is(pair: Pair, call: Run) -> None:
    done = call("inspect", str(pair.compiled.path))
    assert done.returncode == 0
    for words in ("processor   x86_64 AVX", "libtorch    not needed", "trusted     yes", "[batch, 4]"):
        assert words in done.stdout
    document = json.loads(call("inspect", str(pair.compiled.path), "--json").stdout)
    assert (document["platform"], document["libtorch"]) == ("torch_aoti", "not needed")
    assert json.loads(call("inspect", str(pair.compiled.path), "--contract").stdout)["platform"] == "torch_aoti"
    assert call("inspect", str(pair.compiled.path), "--code").returncode == 2


def test_a_package_cut_at_any_place_is_damaged(pair: Pair) -> None:
    data = pair.compiled.path.read_bytes()
    for cut in range(1, len(data), len(data) // 40):
        with pytest.raises(InvalidModelError):
            parse_archive(Path("cut.pt2"), data[:cut])


@pytest.mark.usefixtures("no_compile")
def test_what_is_there_is_never_overwritten() -> None:
    folder = copy_of("some_nn_arch")
    paths = [export(folder, method=method).path for method in ("script", "compiled", "compiled", "script")]
    assert [str(path.relative_to(folder)) for path in paths] == [
        "1/model.pt",
        "1/model.pt2",
        "2/model.pt2",
        "3/model.pt",
    ]
    entries = (folder / "trusted.toml").read_text()
    assert [line for line in entries.splitlines() if line.startswith("file")] == [
        'file = "1/model.pt2"',
        'file = "2/model.pt2"',
    ]
    assert "export --method" not in (folder / "2" / "README.md").read_text()
    assert "rust-host run model.pt2" in (folder / "2" / "README.md").read_text()


@pytest.mark.usefixtures("no_compile")
def test_other_weights_get_a_version_of_their_own() -> None:
    folder = copy_of("some_nn_arch")
    export(folder, overrides=["training.seed=1"])
    built = build(load_weights(folder, method="script", overrides=["training.seed=1"]))
    contract = built.contract.model_copy(update={"platform": "onnxruntime_onnx"})
    assert find_sibling(folder, contract, built.examples) == folder / "1"
    for change in ("inputs", "outputs"):
        examples = golden.from_bytes(golden.to_bytes(built.examples), built.contract)
        next(iter(getattr(examples[0], change).values())).add_(1e-3)
        assert find_sibling(folder, contract, examples) is None
    assert export(folder, method="compiled").path == folder / "2" / "model.pt2"


@pytest.mark.usefixtures("no_compile")
def test_a_list_that_cannot_be_read_or_written_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_of("some_nn_arch")
    (folder / "trusted.toml").write_text("[[package]\n")
    with pytest.raises(trusted.InvalidTrustError, match=r"trusted.toml` is no TOML"):
        export(folder, method="compiled")
    assert not (folder / "1").exists()
    (folder / "trusted.toml").unlink()

    def full(*arguments: object) -> None:
        raise WriteError("no space")

    monkeypatch.setattr("py_authoring.trusted.add", full)
    with pytest.raises(WriteError, match="no space"):
        export(folder, method="compiled")
    assert not (folder / "1").exists()
    export(folder)
    with pytest.raises(WriteError, match="no space"):
        export(folder, method="compiled")
    assert sorted(file.name for file in (folder / "1").iterdir()) == ["README.md", "model.pt"]


def test_control_flow_is_refused_with_its_line_and_nothing_is_written(call: Run) -> None:
    folder = copy_of("control_flow")
    done = call("export", str(folder), "--method", "compiled")
    assert done.returncode == 1
    assert done.stderr.splitlines()[1:] == [
        "error: a value decides what is computed at `models/control_flow/model.py:23`: "
        "`steps = 1 + int(x.abs().sum()) % 4`, and a compiled model has one road for every input",
        "hint: `--method script` keeps it; or write it without Python's if, for and int(): torch.where, torch.cond",
    ]
    assert not (folder / "1").exists()


def test_a_length_that_torch_writes_into_the_graph_is_named() -> None:
    folder = copy_of("lstm")
    source = (folder / "model.py").read_text()
    assert "nn.LSTM(" in source
    (folder / "model.py").write_text(source.replace("nn.LSTM(", "nn.GRU("))  # of which torch makes a loop
    with pytest.raises(RefusedError, match=r"writes time \d+ into the graph at `models/lstm/model\.py:\d+`: `states"):
        export(folder, method="compiled", untrained=True)


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (
            "s = self.linear(x)\nfor i in range(len(x)):\n    s = s + i\nreturn s",
            r"batch size 5 into .*`for i in range",
        ),
        (
            "if x.max() > 0:\n    return x\nreturn self.linear(x)",
            r"a value decides .*model\.py:12`: `if x\.max\(\) > 0",
        ),
        ("if x.shape[0] > 3:\n    return x\nreturn self.linear(x)", r"is another than .*`if x\.shape\[0\] > 3"),
    ],
)
def test_what_a_graph_would_lose_is_refused_with_its_line(make_export: Make, forward: str, words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        make_export(forward, method="compiled")
    assert not Path("models/small/1").exists()


def test_a_missing_compiler_is_said_before_anything_is_done(
    run_command: Run, call: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of("some_nn_arch")
    monkeypatch.setenv("CXX", "no-such-compiler")
    done = call("export", str(folder), "--method", "compiled")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == (
        "error: `--method compiled` needs a C++ compiler, and `no-such-compiler` is not on PATH"
    )
    with pytest.raises(UnavailableError):
        export(folder, method="compiled")


def test_scalar_code_is_an_error(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"a.wrapper.so": b"", "a.wrapper_metadata.json": b'{"AOTI_CPU_ISA": "INVALID_VEC_ISA"}'}
    monkeypatch.setattr(compiled, "compile_program", lambda *arguments: made)
    with pytest.raises(UnavailableError, match="made scalar code only"):
        export(copy_of("some_nn_arch"), method="compiled")


def test_what_the_compiler_says_becomes_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("C++ compile error\n\nCommand:\ng++ …\n" + "x\n" * 500)

    monkeypatch.setattr(compiled, "compile_program", fail)
    with pytest.raises(RefusedError, match=r"cannot hold what the model does.*: c\+\+ compile error$") as caught:
        export(copy_of("some_nn_arch"), method="compiled")
    assert "\n" not in str(caught.value)


def test_undefined_symbols_are_read_from_the_file_itself() -> None:
    library = Path(torch._C.__file__).read_bytes()
    assert "initModule" in elf.undefined_symbols(library)
    with pytest.raises(elf.UnreadableLibraryError, match="no 64-bit"):
        elf.undefined_symbols(b"MZ")
    with pytest.raises(elf.UnreadableLibraryError):
        elf.undefined_symbols(library[:100])
    with pytest.raises(elf.UnreadableLibraryError, match=r"^the library in `a.pt2` is no 64-bit"):
        elf.undefined_symbols(b"MZ", "the library in `a.pt2`")


def test_the_list_keeps_what_it_held_and_reads_hashes_in_any_case() -> None:
    path = Path("m/1/model.pt2")
    path.parent.mkdir(parents=True)
    Path("m/trusted.toml").write_text('# mine\n[[package]]\nsha256 = "AB"\n')
    assert not trusted.is_trusted(path, b"data")
    trusted.add(path, b"data", "2026-01-01T00:00:00Z")
    assert Path("m/trusted.toml").read_text().startswith('# mine\n[[package]]\nsha256 = "AB"\n\n[[package]]\nsha256')
    assert trusted.is_trusted(path, b"data")
    text = Path("m/trusted.toml").read_text()
    Path("m/trusted.toml").write_text(text.upper().replace("PACKAGE", "package").replace("SHA256", "sha256"))
    assert trusted.is_trusted(path, b"data")
    Path("m/trusted.toml").write_text("package = 3\n")
    with pytest.raises(trusted.InvalidTrustError, match="no list of tables"):
        trusted.is_trusted(path, b"data")


def test_a_package_is_trusted_where_rust_host_trusts_it_and_in_the_same_spellings() -> None:
    path = Path("m/1/model.pt2")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"data")
    digest = hashlib.sha256(b"data").hexdigest()
    for file in (Path("m/1/trusted.toml"), Path("m/trusted.toml")):
        for spelling in (digest, f"  {digest.upper()} ", f"sha256:{digest}", f" SHA256:{digest.upper()}"):
            file.write_text(f'[[package]]\nsha256 = "{spelling}"\n')
            assert trusted.is_trusted(path, b"data"), (file, spelling)
        file.unlink()
    Path("trusted.toml").write_text(f'[[package]]\nsha256 = "{digest}"\n')
    assert not trusted.is_trusted(path, b"data")
    Path("trusted.toml").unlink()
    Path("link.pt2").symlink_to(path.absolute())
    Path("m/trusted.toml").write_text(f'[[package]]\nsha256 = "{digest}"\n')
    assert trusted.is_trusted(Path("link.pt2"), b"data")
    for wrong in ('file = "1/model.pt2"', "sha256 = 3"):
        Path("m/trusted.toml").write_text(f'[[package]]\nsha256 = "{digest}"\n[[package]]\n{wrong}\n')
        with pytest.raises(trusted.InvalidTrustError, match="entry 2 has no `sha256`"):
            trusted.is_trusted(path, b"data")


def test_a_list_that_takes_no_entry_stays_as_it_was() -> None:
    path = Path("m/1/model.pt2")
    path.parent.mkdir(parents=True)
    for text in ("package = []\n", f'package = [{{ sha256 = "{"a" * 64}" }}]\n'):
        Path("m/trusted.toml").write_text(text)
        assert not trusted.is_trusted(path, b"data")
        with pytest.raises(trusted.InvalidTrustError, match="no entry can be added"):
            trusted.add(path, b"data", "2026-01-01T00:00:00Z")
        assert Path("m/trusted.toml").read_text() == text


def test_a_file_system_without_locks_takes_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    Path("m/1").mkdir(parents=True)
    trusted.add(Path("m/1/model.pt2"), b"data", "2026-01-01T00:00:00Z")
    assert trusted.is_trusted(Path("m/1/model.pt2"), b"data")


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), WriteError, "temporary folder `.*`: no space left"),
        (
            CppCompileError(["g++"], "In file included from x.cpp:1:\nx.cpp:3:1: fatal error: math.h: No such file\n"),
            UnavailableError,
            r"cannot compile what torch made of the model: fatal error: math.h: No such file$",
        ),
        (CppCompileError(["g++"], "as: No space left on device"), WriteError, "temporary folder"),
        (ValueError("something of the model's"), RefusedError, "something of the model's"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_this_machine_lacks_is_not_blamed_on_the_model(
    make_export: Make,
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    kind: type[Exception],
    words: str,
    wrapped: bool,
) -> None:
    def fails(*arguments: object) -> None:
        raise InductorError(raised, None) if wrapped else raised

    monkeypatch.setattr(compiled, "compile_program", fails)
    with pytest.raises(kind, match=words):
        make_export("return self.linear(x)", method="compiled")
    assert not Path("models/small/1").exists()


def test_a_compiler_that_wrote_no_library_is_named(make_export: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "compile_program", lambda *arguments: {})
    with pytest.raises(UnavailableError, match="compiled no library"):
        make_export("return self.linear(x)", method="compiled")


def test_a_package_that_the_temporary_folder_cannot_take_is_a_sentence(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(WriteError, match=r"temporary folder `.*gone`: no such file"):
        compiled.Package(pair.compiled.path.read_bytes())


def test_on_a_machine_with_a_gpu_auto_means_the_processor(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def gpu(name: str) -> torch.device:
        return torch.device("cpu" if name == "cpu" else "cuda:0")

    monkeypatch.setattr("py_authoring.verify.choose_device", gpu)
    assert verify(pair.compiled.path, device="auto").device == "cpu"
    with pytest.raises(DeviceError, match="on the CPU only"):
        verify(pair.compiled.path, device="cuda")


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        ("x.add_(1)\nreturn self.linear(x)", "writes into its input `x`"),
        ("self.calls += 1\nreturn self.linear(x)", "changes `calls`"),
    ],
)
def test_a_model_that_writes_where_others_read_is_refused(make_export: Make, forward: str, words: str) -> None:
    init = 'self.linear = nn.Linear(4, 4); self.register_buffer("calls", torch.zeros(1))'
    with pytest.raises(RefusedError, match=words):
        make_export(forward, method="compiled", init=init)
    assert not Path("models/small/1").exists()


def small_cases(tried: dict[int, bool]) -> Cases:
    case = Case(sizes={"batch": 5, "width": 6}, inputs={}, outputs={})
    return Cases(Layout(names=[], paths=[], tree=()), [case], {"batch": {5: True}, "width": tried})


def test_a_graph_for_other_sizes_than_the_inputs_have_is_refused() -> None:
    seen = program.Decisions()
    for limits in ((7, None), (2, 5)):
        with pytest.raises(RefusedError, match=r"is another than for .*6"):
            program.keep_within(small_cases({6: True, 13: True}), {"width": limits}, "batch", [5], seen)


def test_where_eager_refuses_before_the_graph_does_its_bound_stays() -> None:
    cases = small_cases({5: False, 6: True, 13: False})
    assert program.keep_within(cases, {"width": (2, 64)}, "batch", [5], program.Decisions()) == []
    assert bounds_of(cases.tried)["width"] == Bounds(min=6, max=6)
    cases = small_cases({6: True, 13: True})
    program.keep_within(cases, {"width": (2, 64)}, "batch", [5], program.Decisions())
    assert bounds_of(cases.tried)["width"] == Bounds(min=2, max=64)


def test_half_of_avx512_is_not_avx512(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = {"AOTI_MACHINE": platform.machine(), "AOTI_CPU_ISA": "AVX512"}
    monkeypatch.setattr("py_authoring.verify.metadata_of", lambda archive: metadata)
    monkeypatch.setattr("py_authoring.verify._processor_flags", lambda: {"avx2", "avx512f"})
    with pytest.raises(RefusedError, match=r"a processor with AVX512, which this one does not have"):
        verify(pair.compiled.path)
    whole = {"avx2", "avx512f", "avx512dq", "avx512vl", "avx512bw"}
    monkeypatch.setattr("py_authoring.verify._processor_flags", lambda: whole)
    assert verify(pair.compiled.path).ok
