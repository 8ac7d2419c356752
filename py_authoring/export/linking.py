"""What a compiled package is linked with: everything but the C library, its mathematics, and what a host answers.

In: object files of torch's generated code and of ours. Out: a library that needs no libstdc++, libgcc, libgomp or
libsleef beside it. libgomp's functions stay undefined, as its static library cannot go into another: under libtorch its
libgomp answers them, elsewhere the host.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path

import torch

#: Files of `kernels.NATIVE` that every package is linked with, and options of g++ for each.
SOURCES: dict[str, list[str]] = {
    "vector_math.cpp": ["-fno-math-errno", "-fno-trapping-math"],
    "find_object.cpp": ["-fno-exceptions"],
    "check.cpp": [],
}
#: Debian 12, Ubuntu 22.04 and RHEL 9 have it or a newer one.
OLDEST_GLIBC = (2, 34)
# What a library is called by; all else is its own, and left out where nothing calls it.
_EXPORTED = "{ global: AOTInductor*; local: *; };\n"
_STATIC = ["-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL", "-Wl,--gc-sections"]
# Candidates, of which the autotuner measures each, are compiled and linked at once, and only this process opens them.
_SCRIPT = """#!/bin/sh
case " $* " in
*" -c "*) ;;
*".cpp "*" -shared "*) set -- "$@" {objects} ;;
*" -shared "*)
  for each; do
    shift
    case $each in -fopenmp | -lgomp) ;; *) set -- "$@" "$each" ;; esac
  done
  set -- "$@" {objects} {options} ;;
esac
exec {compiler} {first} "$@" -s
"""


def wrapped(compiler: str, folder: Path, objects: Sequence[Path], headers: Path | None = None) -> Path:
    """A g++ for torch's code generator, which links as above.

    `__FILE__` in torch's headers would carry this machine's paths into the library, which the script replaces.

    Args:
        compiler: path of g++.
        folder: where the script goes, and where the generator works.
        objects: of our own kernels and `SOURCES`.
        headers: an include folder to be searched before torch's.
    """
    exported = folder / "exported.map"
    exported.write_text(_EXPORTED)
    script = folder / "bin" / "g++"
    script.parent.mkdir()
    maps = {str(Path(torch.__file__).parent): "torch", os.path.realpath(folder): ".", str(folder): "."}
    first = [f"-ffile-prefix-map={old}={new}" for old, new in maps.items()] + [f"-I{headers}"] * (headers is not None)
    script.write_text(
        _SCRIPT.format(
            objects=shlex.join(map(str, objects)),
            options=shlex.join([*_STATIC, f"-Wl,--version-script={exported}"]),
            compiler=shlex.quote(compiler),
            first=shlex.join(first),
        )
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script
