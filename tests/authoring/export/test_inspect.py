"""inspect shows anyone's TorchScript file, and says of every other file what it is instead."""

import io
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from py_authoring.archive_view import InvalidFileContractError, InvalidModelError, parse_archive, read_archive, view
from py_authoring.contract import Contract
from py_authoring.errors import AuthoringError, NotFoundError
from py_authoring.export import Version, archive, export

ROOT = Path(__file__).resolve().parents[3]
REAL = ROOT.parent / "shared" / "real" / "torchscript"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def version() -> Version:
    folder = shutil.copytree(
        ROOT / "models/some_nn_arch", "models/some_nn_arch", ignore=shutil.ignore_patterns("runs", "[0-9]*")
    )
    return export(folder)


def scripted() -> torch.jit.ScriptModule:
    return torch.jit.script(torch.nn.Linear(2, 3).eval())  # type: ignore[no-any-return]


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, data in members.items():
            target.writestr(name, data)
    return buffer.getvalue()


def with_contract(change: Callable[[dict[str, object]], None], contract: Contract) -> bytes:
    document = contract.to_dict()
    change(document)
    buffer = io.BytesIO()
    extra = {"contract.json": json.dumps(document), "golden.safetensors": b""}
    torch.jit.save(scripted(), buffer, _extra_files=extra)
    return buffer.getvalue()


def test_a_summary_names_methods_parameters_extra_files_and_contract(version: Version, call: Run) -> None:
    done = call("inspect", str(version.path))
    assert done.returncode == 0
    assert done.stderr == ""
    for words in (
        "forward(x: Tensor, h: Tensor) -> Tuple[Tensor, Tensor]",
        "20 (80 bytes)",
        "contract.json",
        "some_nn_arch: One step of a small recurrent cell",
        "[batch, 4]",
        "4 golden examples",
        "untrained",
    ):
        assert words in done.stdout


def test_json_is_one_document(version: Version, call: Run) -> None:
    document = json.loads(call("inspect", str(version.path), "--json").stdout)
    assert document["parameters"] == 20
    assert document["methods"][0]["arguments"] == [{"name": "x", "type": "Tensor"}, {"name": "h", "type": "Tensor"}]
    assert document["contract"]["name"] == "some_nn_arch"
    assert set(document["extra_files"]) == {"contract.json", "golden.safetensors"}


def test_code_graph_and_contract(version: Version, call: Run) -> None:
    assert call("inspect", str(version.path), "--code").stdout.startswith("def forward(self,\n    x: Tensor")
    assert call("inspect", str(version.path), "--graph").stdout.startswith("graph(%self")
    assert json.loads(call("inspect", str(version.path), "--code", "--json").stdout)["forward"].startswith("def")
    printed = call("inspect", str(version.path), "--contract").stdout
    assert json.loads(printed) == version.contract.to_dict()


@pytest.mark.skipif(not REAL.is_dir(), reason="real TorchScript files of others are not here")
def test_files_of_others_are_shown_without_a_contract() -> None:
    files = sorted(REAL.glob("*.pt"))
    assert len(files) >= 10
    signatures = {file.stem: [method.signature() for method in view(file).methods] for file in files}
    assert all(view(file).contract is None for file in files)
    assert signatures["tch_foo4"] == ["forward(x: Tuple[float, float, int]) -> float"]
    assert signatures["tch_foo8"] == ["generate(batch: Dict[str, Tensor]) -> Tuple[Tensor, Tensor]"]
    assert len(signatures["tch_foo7"]) == 2


def test_extra_files_of_others_are_listed() -> None:
    buffer = io.BytesIO()
    torch.jit.save(scripted(), buffer, _extra_files={"config.txt": '{"task": "detect"}'})
    Path("other.pt").write_bytes(buffer.getvalue())
    seen = view("other.pt")
    assert seen.archive.extra == {"config.txt": b'{"task": "detect"}'}
    assert seen.contract is None


def test_arguments_with_defaults_and_buffers_are_shown() -> None:
    Path("n.pt").write_bytes(archive.to_bytes(torch.jit.script(torch.nn.BatchNorm1d(3).eval())))
    seen = view("n.pt")
    assert (seen.parameters, seen.parameter_bytes, seen.buffer_bytes) == (6, 24, 32)


WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "text": (b"hello\n", "no zip file"),
    "weights": (b"", "written by torch.save"),
    "old weights": (b"", "it is a pickle"),
    "safetensors": (safetensors.torch.save({"x": torch.ones(2)}), "safetensors"),
    "other zip": (zipped({"a/b.txt": b"1"}), "zip file with other contents"),
    "zip without a folder": (zipped({"b.txt": b"1"}), "zip file with other contents"),
    "empty zip": (zipped({}), "no zip file"),
    "git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "`git lfs pull`"),
    "flatbuffer": (b"\x00\x00\x00\x00PTMF" + bytes(40), "flatbuffer"),
    "torch.export": (zipped({"ep/archive_format": b"pt2", "ep/models/model.json": b"{}"}), "torch.export"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_something_else_is_named_for_what_it_is(name: str) -> None:
    data, words = WRONG[name]
    if "weights" in name:
        buffer = io.BytesIO()
        torch.save(torch.nn.Linear(2, 2).state_dict(), buffer, _use_new_zipfile_serialization=name == "weights")
        data = buffer.getvalue()
    with pytest.raises(InvalidModelError) as caught:
        parse_archive(Path("model.pt"), data)
    assert words in f"{caught.value} {caught.value.hint}"
    assert caught.value.hint
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_missing_file_and_a_folder_are_misuse(version: Version, command: str, call: Run) -> None:
    for path, words in (("models/some_nn_arch/7/model.pt", "is not there"), ("models/some_nn_arch/1", "is a folder")):
        done = call(command, path)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.splitlines()[0].startswith(f"error: `{path}` {words}")
        assert "models/some_nn_arch/1/model.pt" in done.stderr.splitlines()[1]
        assert "Traceback" not in done.stderr


def test_an_error_with_json_is_one_document(call: Run) -> None:
    done = call("inspect", "nothing.pt", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["kind"] == "not_found"
    assert done.stderr == ""


def test_an_archive_cut_at_any_place_is_damaged(version: Version) -> None:
    data = version.path.read_bytes()
    for cut in range(1, len(data), max(1, len(data) // 200)):
        with pytest.raises(InvalidModelError) as caught:
            parse_archive(Path("cut.pt"), data[:cut])
        assert "\n" not in str(caught.value)
        assert caught.value.hint


def test_a_flipped_byte_is_refused_or_does_no_harm(version: Version) -> None:
    data = version.path.read_bytes()
    refused = 0
    for place in range(0, len(data), 37):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        try:
            contract = parse_archive(Path("m.pt"), bytes(damaged)).contract()
        except AuthoringError as error:
            assert "\n" not in error.message
            refused += 1
        else:  # padding and fields of the zip that nobody reads
            assert contract == version.contract or contract is None
    assert refused > 100


def test_a_contract_of_a_future_version_is_refused_by_name(version: Version, call: Run) -> None:
    Path("future.pt").write_bytes(with_contract(lambda document: document.update(format_version=2), version.contract))
    for command in ("inspect", "verify"):
        done = call(command, "future.pt")
        assert done.returncode == 2
        assert done.stderr.startswith("error: `future.pt`: the contract has `format_version` 2")


def test_wrong_types_and_duplicate_names_in_a_contract_are_refused(version: Version) -> None:
    def duplicate(document: dict[str, object]) -> None:
        inputs = document["inputs"]
        assert isinstance(inputs, list)
        inputs.append(inputs[0])

    for change, words in (
        (lambda document: document.update(inputs="x"), "`inputs`"),
        (duplicate, "duplicate name `x`"),
        (lambda document: document.update(golden={"file": "other", "count": 1}), "not in the archive"),
    ):
        with pytest.raises(InvalidFileContractError, match=words):
            parse_archive(Path("m.pt"), with_contract(change, version.contract)).contract()


def test_a_file_without_a_contract_has_none_to_show(call: Run) -> None:
    Path("plain.pt").write_bytes(archive.to_bytes(scripted()))
    done = call("inspect", "plain.pt", "--contract")
    assert done.returncode == 2
    assert done.stderr.startswith("error: `plain.pt` has no contract\nhint: ")
    assert read_archive("plain.pt").contract() is None


def test_code_that_torch_cannot_read_is_a_sentence() -> None:
    Path("bad.pt").write_bytes(
        zipped({"m/code/__torch__.py": b"this is no code", "m/data.pkl": b"junk", "m/version": b"3"})
    )
    with pytest.raises(InvalidModelError, match=r"`bad\.pt`: torch .* cannot load it") as caught:
        view("bad.pt")
    assert "\n" not in str(caught.value)


def test_missing_file_is_an_error_of_python_too() -> None:
    with pytest.raises(FileNotFoundError):
        view("nothing.pt")
    with pytest.raises(NotFoundError):
        view("nothing.pt")


def test_wrong_files_and_recipes_are_named_without_loading_torch(version: Version, run_command: Run) -> None:
    Path("no_torch").mkdir()
    for name in ("torch", "ignite", "numpy", "sklearn", "matplotlib"):
        Path(f"no_torch/{name}.py").write_text(f"raise SystemExit('{name} was imported')")
    env = {"PYTHONPATH": f"{Path('no_torch').resolve()}:{ROOT}"}
    Path("junk.pt").write_bytes(b"junk")
    for arguments, words in (
        (["inspect", "junk.pt"], "no TorchScript archive"),
        (["verify", "junk.pt"], "no TorchScript archive"),
        (["verify", "nothing.pt"], "is not there"),
        (["export", "some_nn_arch", "--set", "export.method=trase"], "export.method"),
        (["export", "nothing"], "no model `nothing`"),
        (["export", "some_nn_arch", "--method", "trase"], "trase"),
    ):
        done = run_command(*arguments, env=env)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert words in done.stderr
    done = run_command("inspect", str(version.path), "--contract", env=env)
    assert done.returncode == 0
