"""Version → a copy for the machines that run it: checked by the host, with digests, signed; written in one step.

In: `models/NAME/<version>/`. Out: `DIR/NAME/<version>/` with the same bytes, `manifest.json` and, with a key,
`manifest.json.sig`. A published version never changes. No torch here: the host replays the golden examples.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from py_authoring import atomic, trusted
from py_authoring.errors import AuthoringError, NotFoundError, ParityError, RefusedError, UnavailableError, UsageError
from py_authoring.platforms import COMPILED, MODEL_FILES
from py_authoring.recipe import find_model
from py_authoring.runs import command_name
from py_authoring.signing import MANIFEST_FILE, SIGNATURE_FILE, manifest_of, public_pem, read_private_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_CARD_FILE = "README.md"
#: Names a host's public keys: here the key of this command counts, and no other.
_REQUIRED = "RUST_HOST_REQUIRE_SIGNED"


class HostError(AuthoringError, RuntimeError):
    """The host says that a file of the version cannot be run."""

    kind = "failed"


@dataclass(frozen=True)
class Published:
    """A published version.

    Attributes:
        path: `DIR/NAME/<version>`.
        name: the model's name.
        version: its number.
        files: name → SHA-256, of all files but the manifest.
        signed: whether a signature of this key lies there; None where one lies there and no key was given to check it.
        changed: whether anything was written; False where all was there already.
        notes: what a person should know, a sentence each.
    """

    path: Path
    name: str
    version: int
    files: dict[str, str]
    signed: bool | None
    changed: bool
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "path": str(self.path),
            "name": self.name,
            "version": self.version,
            "files": self.files,
            "signed": self.signed,
            "changed": self.changed,
            "notes": self.notes,
        }


def publish(
    model: str | Path,
    to: str | Path,
    *,
    version: int | None = None,
    key: str | Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Published:
    """Copies a version to `to`/NAME/<version>, after the host has replayed the golden examples on the copy.

    Args:
        model: a name in ./models, or a path to a model's folder.
        to: the folder of published models; made where it is missing.
        version: its number; default: the newest.
        key: a PEM file with an Ed25519 private key, which signs the manifest.
        say: gets a line for each file that was checked.

    Raises:
        NotFoundError: no such model, version or key.
        SigningKeyError: the key cannot be used.
        RefusedError: this version is there with other bytes or another signature, or holds code that is not trusted.
        ParityError, HostError: the host does not reproduce the golden examples, or cannot run the file.
        UnavailableError: there is no host here.
        WriteError: `to` cannot be written. In every case nothing of the version is left there.
    """
    directory = find_model(model)
    source = _find_version(directory, version)
    name, number = directory.resolve().name, int(source.name)
    target = Path(to) / name / str(number)
    if target.resolve() == source.resolve():
        raise UsageError(f"`{to}` is where the model itself lies", hint="`--to` another folder")
    private = None if key is None else read_private_key(Path(key))
    files = _read(source)
    manifest = manifest_of(name, number, files)
    signature = None if private is None else private.sign(manifest)
    there = _is_there(target)
    notes = _notes(files, target, key)
    atomic.clear_stale(target.parent)

    def published(signed: bool | None, changed: bool) -> Published:
        digests = {file: trusted.digest_of(data) for file, data in files.items()}
        return Published(target, name, number, digests, signed, changed, notes)

    if there:
        has_signature = _compare(target, files, manifest, signature)
        if signature is None:
            return published(None if has_signature else False, changed=False)
        if has_signature:
            return published(signed=True, changed=False)
        _check(target, source, files, None, say)
        atomic.write_bytes(target / SIGNATURE_FILE, signature)
        return published(signed=True, changed=True)
    with atomic.write_folder(target) as folder:
        for file, data in files.items():
            (folder / file).write_bytes(data)
        (folder / MANIFEST_FILE).write_bytes(manifest)
        if signature is not None:
            (folder / SIGNATURE_FILE).write_bytes(signature)
        _check(folder, source, files, private, say)
    return published(signed=signature is not None, changed=True)


def _find_version(directory: Path, version: int | None) -> Path:
    folders = [path for path in directory.iterdir() if path.name.isdecimal() and path.name == str(int(path.name))]
    names = MODEL_FILES.values()
    numbers = sorted(int(path.name) for path in folders if any((path / name).is_file() for name in names))
    shown = directory.resolve().name
    if not numbers:
        hint = f"`{shlex.join(['py-authoring', 'export', command_name(directory)])}`"
        raise NotFoundError(f"model `{shown}` has no version", hint=hint)
    if version is not None and version not in numbers:
        known = ", ".join(map(str, numbers[-5:]))
        raise NotFoundError(f"model `{shown}` has no version {version}", hint=f"versions there: {known}")
    return directory / str(numbers[-1] if version is None else version)


# `host.toml` is of the machine that was measured, `trusted.toml` the word of a machine's owner: neither is published.
def _read(source: Path) -> dict[str, bytes]:
    found = [source / name for name in (*MODEL_FILES.values(), _CARD_FILE) if (source / name).is_file()]
    try:
        return {path.name: path.read_bytes() for path in found}
    except OSError as error:
        raise NotFoundError(f"cannot read `{error.filename}`: {(error.strerror or str(error)).lower()}") from error


def _is_there(target: Path) -> bool:
    try:
        return target.exists() and any(target.iterdir())
    except NotADirectoryError as error:
        hint = "move it away, or publish to another folder"
        raise RefusedError(f"`{target}` is a file, and a version is a folder", hint=hint) from error
    except OSError as error:
        raise RefusedError(f"cannot read `{target}`: {(error.strerror or str(error)).lower()}") from error


def _notes(files: Mapping[str, bytes], target: Path, key: str | Path | None) -> list[str]:
    notes = []
    if key is None and (target / SIGNATURE_FILE).exists():
        command = shlex.join(["rust-host", "verify", str(target), "--require-signed"])
        notes.append(f"a signature lies there, and was not checked: `{command} KEY.pub` checks it")
    elif key is None:
        notes.append(
            "not signed: `--key KEY.pem` signs it; `openssl genpkey -algorithm ed25519 -out KEY.pem` makes a key"
        )
    elif Path(key).stat().st_mode & 0o077:
        notes.append(f"`{key}` can be read by others: `{shlex.join(['chmod', '600', str(key)])}`")
    package = MODEL_FILES[COMPILED]
    if package in files:
        digest = trusted.digest_of(files[package])
        notes.append(f"{package} is machine code, which a host opens by its owner's word alone: `--trust {digest}`")
    return notes


def _compare(target: Path, files: Mapping[str, bytes], manifest: bytes, signature: bytes | None) -> bool:
    """Whether a published version, which must hold these very files, has this signature; any, if none is asked for."""
    hint = "a published version never changes: export a new one, or publish to another folder"
    names = [*files, MANIFEST_FILE, *(name for name in MODEL_FILES.values() if name not in files)]
    expected = {**files, MANIFEST_FILE: manifest}
    different = [name for name in names if _bytes_of(target / name) != expected.get(name)]
    if different:
        raise RefusedError(f"`{target}` is there already with other bytes: {', '.join(different)}", hint=hint)
    there = _bytes_of(target / SIGNATURE_FILE)
    if None not in (there, signature) and there != signature:
        raise RefusedError(f"`{target}` is there already, signed by another key", hint=hint)
    return there is not None


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RefusedError(f"cannot read `{path}`: {(error.strerror or str(error)).lower()}") from error


def _check(
    folder: Path,
    source: Path,
    files: Mapping[str, bytes],
    key: Ed25519PrivateKey | None,
    say: Callable[[str], None],
) -> None:
    """Has the host replay the golden examples of every model file in a folder, and check its signature."""
    host = _find_host()
    with TemporaryDirectory() as temporary:
        words = ["--device", "cpu", "--json"]
        if key is not None:
            public = Path(temporary) / "key.pub"
            public.write_bytes(public_pem(key))
            words += ["--require-signed", str(public)]
        for name in MODEL_FILES.values():
            if name not in files:
                continue
            trust = []
            if name == MODEL_FILES[COMPILED] and trusted.is_trusted(source / name, files[name]):
                trust = ["--trust", trusted.digest_of(files[name])]
            environment = {word: value for word, value in os.environ.items() if word != _REQUIRED}
            command = [*host, "verify", str(folder / name), *words, *trust]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            _raise_if_wrong(done, folder, source, name)
            say(f"verified {name}  {len(files[name]):,} bytes")


def _raise_if_wrong(done: subprocess.CompletedProcess[str], folder: Path, source: Path, name: str) -> None:
    if done.returncode == 0:
        return
    try:
        document = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip() or f"it ended with {done.returncode} without a word").splitlines()[-1]
        raise HostError(f"the host cannot verify `{source / name}`: {last}") from None
    if "error" in document:
        said = document["error"]
        message, hint = (str(said[key] or "").replace(str(folder), str(source)) for key in ("message", "hint"))
        raise HostError(f"the host says: {message}", hint=hint or None)
    wrong = [output["output"] for output in document.get("outputs", []) if not output.get("ok", True)]
    raise ParityError(
        f"`{source / name}` does not give its golden outputs in the host: {', '.join(wrong) or 'all'} differ",
        hint=f"`rust-host verify {shlex.quote(str(source / name))}` shows how far",
    )


# The one that was installed with this package, before any other of that name.
def _find_host() -> list[str]:
    installed = find_spec("rust_host")
    if installed is not None and installed.origin is not None:
        return [sys.executable, "-m", "rust_host"]
    binary = shutil.which("rust-host")
    if binary is not None:
        return [binary]
    raise UnavailableError(
        "a version is published after `rust-host verify`, and there is no rust-host here",
        hint="`pip install 'rust-host[authoring]'`, or put the binary on PATH",
    )
