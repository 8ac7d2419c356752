"""Published versions: what `py-authoring publish` writes, and what a host opens where a signature is asked for."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

import rust_host
from py_authoring import signing
from py_authoring.errors import NotFoundError, ParityError, RefusedError, UnavailableError, UsageError
from py_authoring.publishing import HostError, publish
from py_authoring.signing import SigningKeyError, manifest_of

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "target/release/rust-host"
ONNX = ROOT / "rust_host/backends/onnx/tests/data/contract.onnx"
MANIFEST, SIGNATURE = "manifest.json", "manifest.json.sig"

Host = Callable[..., subprocess.CompletedProcess[str]]


def host(*words: str | Path, **variables: str | Path) -> subprocess.CompletedProcess[str]:
    """The binary, with nothing else in its environment."""
    given = [f"{name}={value}" for name, value in variables.items()]
    return subprocess.run(
        ["env", "-i", *given, BINARY, *words], capture_output=True, text=True, check=False, timeout=60
    )


def openssl(*words: str | Path) -> str:
    return subprocess.run(["openssl", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pairs of keys, as openssl writes them."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "other"):
        openssl("genpkey", "-algorithm", "ed25519", "-out", folder / f"{name}.pem")
        openssl("pkey", "-in", folder / f"{name}.pem", "-pubout", "-out", folder / f"{name}.pub")
    return folder


@pytest.fixture(scope="module")
def model(exported_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder with one version: TorchScript, its card, and what belongs to one machine."""
    folder = tmp_path_factory.mktemp("models") / "digits"
    (folder / "3").mkdir(parents=True)
    shutil.copy(exported_digits.parents[1] / "recipe.toml", folder)
    for name in ("model.pt", "README.md"):
        shutil.copy(exported_digits.with_name(name), folder / "3")
    for name in ("trusted.toml", "notes.txt"):
        (folder / "3" / name).write_text("# of this machine\n")
    return folder


@pytest.fixture(scope="module")
def published(model: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The version, published and signed; not to be changed."""
    return publish(model, tmp_path_factory.mktemp("served"), key=keys / "ours.pem").path


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    """The published version, to be changed."""
    return shutil.copytree(published, tmp_path / "digits/3")


def sign(folder: Path, key: Path, manifest: bytes) -> None:
    private = load_pem_private_key(key.read_bytes(), None)
    (folder / MANIFEST).write_bytes(manifest)
    (folder / SIGNATURE).write_bytes(private.sign(manifest))  # type: ignore[union-attr,call-arg]


def assert_refused(file: Path, key: Path, *said: str, code: int = 1) -> None:
    """By the binary and by the wheel, in the same sentence."""
    ran = host("info", file, "--require-signed", key)
    lines = ran.stderr.splitlines()
    assert (ran.returncode, ran.stdout) == (code, ""), ran
    assert lines[0].startswith("error: ") and all(line.startswith("hint: ") for line in lines[1:]), ran.stderr
    with pytest.raises(rust_host.Error) as caught:
        rust_host.Model(file, "cpu", require_signed=key)
    assert str(caught.value).splitlines()[0] == lines[0].removeprefix("error: ")
    assert code == 2 or isinstance(caught.value, rust_host.RefusedError)
    for text in said:
        assert text in lines[0], lines[0]


def test_a_version_is_published_with_digests_and_a_signature_that_openssl_checks(
    model: Path, published: Path, keys: Path
) -> None:
    assert sorted(path.name for path in published.iterdir()) == ["README.md", MANIFEST, SIGNATURE, "model.pt"]
    assert [path.name for path in published.parent.iterdir()] == ["3"]  # nothing hidden is left beside it
    manifest = json.loads((published / MANIFEST).read_text())
    assert (manifest["manifest"], manifest["name"], manifest["version"]) == (1, "digits", 3)
    for name in ("model.pt", "README.md"):
        data = (published / name).read_bytes()
        assert data == (model / "3" / name).read_bytes()
        assert manifest["files"][name] == {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    files = ["-in", published / MANIFEST, "-sigfile", published / SIGNATURE]
    assert "Verified Successfully" in openssl(
        "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", keys / "ours.pub", *files
    )


def test_what_was_signed_runs_in_the_binary_and_in_the_wheel(published: Path, keys: Path, tmp_path: Path) -> None:
    key = keys / "ours.pub"
    both = tmp_path / "both.pub"  # any of several keys will do, so that they can change
    both.write_bytes((keys / "other.pub").read_bytes() + key.read_bytes())
    for words in (["verify"], ["verify", "--sandbox", "on"], ["info"]):
        assert host(*words, published, "--require-signed", key).returncode == 0, words
    assert host("verify", published.parent, RUST_HOST_REQUIRE_SIGNED=both).returncode == 0
    assert rust_host.Model(published, "cpu", require_signed=key).verify().ok


@pytest.mark.parametrize("command", ["info", "run", "verify", "bench", "tune", "rows"])
def test_no_command_opens_a_file_that_was_changed(command: str, copy: Path, keys: Path, tmp_path: Path) -> None:
    with (copy / "model.pt").open("ab") as file:
        file.write(b"\n")
    rows, output = tmp_path / "rows.csv", tmp_path / "out.csv"
    rows.write_text("image\n")
    words = ["run", copy, "--input", rows, "--output", output] if command == "rows" else [command, copy]
    for ran in (
        host(*words, "--require-signed", keys / "ours.pub"),
        host(*words, RUST_HOST_REQUIRE_SIGNED=keys / "ours.pub"),
    ):
        assert ran.returncode == 1 and "is not the file that was signed: its SHA-256 is" in ran.stderr, ran
    assert not output.exists() and not (copy / "host.toml").exists()


def test_the_environment_asks_for_signatures_in_the_wheel_too(
    model: Path, published: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUST_HOST_REQUIRE_SIGNED", str(keys / "ours.pub"))
    rust_host.Model(published, "cpu")
    with pytest.raises(rust_host.RefusedError, match=r"not signed: there is no `manifest.json` beside it"):
        rust_host.Model(model, "cpu")
    # an argument goes before it; and set to nothing it is no permission
    with pytest.raises(rust_host.RefusedError, match=r"other.pub"):
        rust_host.Model(published, "cpu", require_signed=keys / "other.pub")
    monkeypatch.setenv("RUST_HOST_REQUIRE_SIGNED", "")
    with pytest.raises(rust_host.InvalidInputError, match="is set and empty"):
        rust_host.Model(published, "cpu")


def test_whatever_was_changed_or_left_out_is_said(copy: Path, keys: Path) -> None:
    key, file = keys / "ours.pub", copy / "model.pt"
    assert_refused(file, keys / "other.pub", "signed by another key than that of", "other.pub")
    shutil.copy(ONNX, copy / "model.onnx")
    assert_refused(copy / "model.onnx", key, "it is not in", "which lists `README.md`, `model.pt`")
    manifest, signature = (copy / MANIFEST).read_bytes(), (copy / SIGNATURE).read_bytes()
    (copy / MANIFEST).write_bytes(manifest.replace(b'"version": 3', b'"version": 4'))
    assert_refused(file, key, "was changed after it was signed")
    (copy / MANIFEST).write_bytes(manifest)
    (copy / SIGNATURE).write_bytes(signature[:-1])
    assert_refused(file, key, "has 63 bytes, a signature has 64")
    (copy / SIGNATURE).unlink()
    assert_refused(file, key, "there is no `manifest.json.sig` beside it")
    (copy / MANIFEST).unlink()
    assert_refused(file, key, "there is no `manifest.json` beside it")


def test_a_manifest_that_is_signed_and_says_something_else_is_refused(copy: Path, keys: Path) -> None:
    key, private, file = keys / "ours.pub", keys / "ours.pem", copy / "model.pt"
    data = file.read_bytes()
    for manifest, said in [
        (
            manifest_of("digits", 2, {"model.pt": data}),
            "folder of version 3 of `digits`, and is signed as version 2 of `digits`",
        ),
        (manifest_of("digits", 3, {"../x": data, "model.pt": data}), "names `../x`, which is no file beside it"),
        (manifest_of("digits", 3, {"model.onnx": data}), "which lists `model.onnx`"),
        (manifest_of("digits", 3, {"model.pt": b"other"}), "is not the file that was signed"),
        (b'{"manifest": 2, "name": "a", "version": 3, "files": {}}', "has format 2, this host reads format 1"),
        (b"{}", "is signed, but no manifest that this host reads: missing field `manifest`"),
    ]:
        sign(copy, private, manifest)
        assert_refused(file, key, said)


def test_a_key_that_is_none_is_named(published: Path, keys: Path, tmp_path: Path) -> None:
    assert_refused(published, tmp_path / "nowhere.pub", "nowhere.pub", "no such file", code=2)
    assert_refused(published, keys / "ours.pem", "holds a private key, which no host should have", code=2)
    openssl("genpkey", "-algorithm", "ed448", "-out", tmp_path / "ed448.pem")
    openssl("pkey", "-in", tmp_path / "ed448.pem", "-pubout", "-out", tmp_path / "ed448.pub")
    assert_refused(published, tmp_path / "ed448.pub", "not of Ed25519, or damaged", code=2)
    (tmp_path / "text.pub").write_text("ssh-ed25519 AAAA")
    assert_refused(published, tmp_path / "text.pub", "holds no public key", code=2)


def test_machine_code_that_is_signed_still_needs_trust(compiled_digits: Path, keys: Path, tmp_path: Path) -> None:
    made = publish(compiled_digits.parents[1], tmp_path, key=keys / "ours.pem")
    package = made.path / "model.pt2"
    digest = made.files["model.pt2"]
    assert any(f"--trust {digest}" in note for note in made.notes)
    words = ["verify", package, "--require-signed", keys / "ours.pub"]
    refused = host(*words)
    assert refused.returncode == 1 and "holds compiled code" in refused.stderr
    assert host(*words, "--trust", digest).returncode == 0
    with package.open("ab") as file:
        file.write(b"\n")
    changed = host(*words, "--trust", hashlib.sha256(package.read_bytes()).hexdigest())
    assert changed.returncode == 1 and "is not the file that was signed" in changed.stderr


def test_an_onnx_file_is_signed_like_the_others(model: Path, keys: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "digits")
    (folder / "3/model.pt").unlink()
    shutil.copy(ONNX, folder / "3/model.onnx")
    made = publish(folder, tmp_path / "served", key=keys / "ours.pem")
    assert rust_host.Model(made.path, "cpu", require_signed=keys / "ours.pub").verify().ok
    (made.path / "model.onnx").write_bytes(b"\x08\x0a")
    assert_refused(made.path, keys / "ours.pub", "is not the file that was signed")


def test_a_published_version_never_changes(model: Path, keys: Path, tmp_path: Path) -> None:
    folder, served = shutil.copytree(model, tmp_path / "digits"), tmp_path / "served"
    first = publish(folder, served)
    assert first.changed and not first.signed and any("not signed" in note for note in first.notes)
    assert not publish(folder, served).changed
    # the signature may come later
    second = publish(folder, served, key=keys / "ours.pem")
    assert second.changed and second.signed
    assert not publish(folder, served, key=keys / "ours.pem").changed
    unchecked = publish(folder, served)
    assert unchecked.signed is None and not unchecked.changed
    assert any("was not checked: `rust-host verify" in note for note in unchecked.notes)
    (first.path / "host.toml").write_text("# measured on the machine that runs it\n")
    assert not publish(folder, served).changed
    before = {path.name: path.read_bytes() for path in first.path.iterdir()}
    with pytest.raises(RefusedError, match="signed by another key"):
        publish(folder, served, key=keys / "other.pem")
    shutil.copy(ONNX, folder / "3/model.onnx")
    with pytest.raises(RefusedError, match=r"there already with other bytes: model.onnx, manifest.json") as caught:
        publish(folder, served)
    assert "export a new one" in str(caught.value.hint)
    (folder / "3/model.onnx").unlink()
    (folder / "3/README.md").write_text("another card\n")
    with pytest.raises(RefusedError, match=r"other bytes: README.md"):
        publish(folder, served, key=keys / "ours.pem")
    assert {path.name: path.read_bytes() for path in first.path.iterdir()} == before


def test_a_version_that_the_host_does_not_verify_is_not_published(model: Path, tmp_path: Path) -> None:
    folder, served = shutil.copytree(model, tmp_path / "digits"), tmp_path / "served"
    file = folder / "3/model.pt"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(HostError, match=r"the host says: `.*digits/3/model.pt`: ") as caught:
        publish(folder, served)
    assert str(served) not in str(caught.value)
    shutil.copy(ROOT / "rust_host/backends/onnx/tests/data/drifted.onnx", folder / "3/model.onnx")
    file.write_bytes(whole)
    with pytest.raises(ParityError, match=r"model.onnx` does not give its golden outputs in the host: "):
        publish(folder, served)
    assert [path for path in served.rglob("*") if path.is_file()] == []


def test_what_cannot_be_published_is_a_sentence(
    model: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFoundError, match="has no version 2") as caught:
        publish(model, tmp_path, version=2)
    assert caught.value.hint == "versions there: 3"
    (tmp_path / "new").mkdir()
    shutil.copy(model / "recipe.toml", tmp_path / "new")
    with pytest.raises(NotFoundError, match="model `new` has no version"):
        publish(tmp_path / "new", tmp_path)
    with pytest.raises(UsageError, match="is where the model itself lies"):
        publish(model, model.parent)
    (tmp_path / "taken" / model.name).mkdir(parents=True)
    (tmp_path / "taken" / model.name / "3").touch()
    with pytest.raises(RefusedError, match="digits/3` is a file, and a version is a folder"):
        publish(model, tmp_path / "taken")
    openssl("genpkey", "-algorithm", "ed448", "-out", tmp_path / "ed448.pem")
    openssl("pkey", "-in", keys / "ours.pem", "-aes256", "-passout", "pass:x", "-out", tmp_path / "locked.pem")
    (tmp_path / "text.pem").write_text("key\n")
    for key, said in [
        (tmp_path / "nowhere.pem", "there is no such key file"),
        (keys / "ours.pub", "holds a public key, and the private one signs"),
        (tmp_path / "ed448.pem", "of another kind, expected Ed25519"),
        (tmp_path / "locked.pem", "is encrypted"),
        (tmp_path / "text.pem", "holds no private key in PEM"),
        (tmp_path, "cannot be read: is a directory"),
    ]:
        with pytest.raises((SigningKeyError, NotFoundError), match=said):
            publish(model, tmp_path / "served", key=key)
    monkeypatch.setattr(signing, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="needs the Python package `cryptography`"):
        publish(model, tmp_path / "served", key=keys / "ours.pem")
    assert not (tmp_path / "served").exists()


def test_a_key_that_others_can_read_is_noted(model: Path, keys: Path, tmp_path: Path) -> None:
    key = Path(shutil.copy(keys / "ours.pem", tmp_path / "open.pem"))
    for mode, noted in [(0o600, False), (0o644, True)]:
        os.chmod(key, mode)  # noqa: PTH101
        notes = publish(model, tmp_path, key=key).notes
        assert any("can be read by others" in note for note in notes) == noted
