"""What says that a published version is whole and whose it is: a manifest of digests, and its Ed25519 signature.

In: the files of a version, a private key as `openssl genpkey -algorithm ed25519` writes it. Out: the bytes of
`manifest.json` and `manifest.json.sig`, which `rust-host --require-signed` and `openssl pkeyutl` check. No torch
here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from py_authoring.errors import NotFoundError, UnavailableError, UsageError
from py_authoring.trusted import digest_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "manifest.json.sig"
FORMAT = 1
_MAKE = "`openssl genpkey -algorithm ed25519 -out KEY.pem` makes one"


class SigningKeyError(UsageError):
    """A file that holds no Ed25519 private key that can be used."""


def manifest_of(name: str, version: int, files: Mapping[str, bytes]) -> bytes:
    """The manifest of a version; equal files give equal bytes.

    Example:
        >>> print(manifest_of("mnist", 3, {"model.pt": b"..."}).decode())
        {
          "manifest": 1,
          "name": "mnist",
          "version": 3,
          "files": {
            "model.pt": {
              "sha256": "ab5df625bc76dbd4e163bed2dd888df828f90159bb93556525c31821b6541d46",
              "size": 3
            }
          }
        }
        <BLANKLINE>
    """
    listed = {file: {"sha256": digest_of(data), "size": len(data)} for file, data in sorted(files.items())}
    document = {"manifest": FORMAT, "name": name, "version": version, "files": listed}
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Reads a PEM file with a private key.

    Raises:
        UnavailableError: the package `cryptography` is not installed.
        NotFoundError: there is no such file.
        SigningKeyError: it cannot be read, is encrypted, or holds something else.
    """
    if find_spec("cryptography") is None:
        raise UnavailableError(
            "`--key` needs the Python package `cryptography`, not installed here",
            hint="`pip install cryptography`, or with this project `pip install 'rust-host[authoring,publish]'`",
        )
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        pem = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFoundError(f"`{path}`: there is no such key file", hint=_MAKE) from error
    except OSError as error:
        raise SigningKeyError(f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}") from error
    if b"PUBLIC KEY-----" in pem:
        raise SigningKeyError(f"`{path}` holds a public key, and the private one signs", hint="`--key KEY.pem`")
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError as error:  # what cryptography raises where a password is needed
        raise SigningKeyError(
            f"`{path}` is encrypted, and a key is read without a passphrase here",
            hint=f"`openssl pkey -in {path} -out PLAIN.pem` decrypts it; keep that where only you can read",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningKeyError(f"`{path}` holds no private key in PEM, or a damaged one", hint=_MAKE) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningKeyError(f"`{path}` holds a private key of another kind, expected Ed25519", hint=_MAKE)
    return key


def public_pem(key: Ed25519PrivateKey) -> bytes:
    """Its public key, as `openssl pkey -pubout` writes it and a host reads it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
