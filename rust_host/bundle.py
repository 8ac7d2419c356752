"""Packs the native binary with every library it needs into one archive that runs on a machine without Python and torch.

usage: bundle.py BUILD_FOLDER OUT_FOLDER [tar]   writes OUT_FOLDER/rust-host-VERSION-linux-ARCH.tar.xz, or .tar at once

    rust-host-0.1.0-linux-x86_64/
        bin/rust-host
        lib/rust-host-program  librust_host_embedded.so      what `rust-host build` makes programs and libraries of
            librust_host_torch_library.so  libtorch_cpu.so  libc10.so  …  libtorch-version
        licenses/
"""

from __future__ import annotations

import json
import mmap
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

# What every Linux has. Anything else that a library needs is packed, or the archive is not written.
SYSTEM = re.compile(r"^(libc|libm|libdl|librt|libpthread|libutil|libgcc_s|libstdc\+\+|ld-linux.*)\.so")


def needed(library: Path) -> list[str]:
    """Names of the libraries that a library asks the loader for."""
    out = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.+)\]", out)


def closure(start: Path, folders: list[Path]) -> dict[str, Path]:
    """Every library that `start` needs, directly or not, outside the system's own: name → file."""
    found: dict[str, Path] = {}
    open_ = [start]
    while open_:
        for name in needed(open_.pop()):
            if name in found or SYSTEM.match(name):
                continue
            places = [folder / name for folder in folders if (folder / name).exists()]
            if not places:
                sys.exit(f"error: {name} is in none of {', '.join(map(str, folders))}")
            found[name] = places[0]
            open_.append(places[0])
    return found


def run_paths(library: Path) -> list[str]:
    """Where the loader looks for what a library needs."""
    out = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    return re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.+)\]", out)


def look_in_own_folder(copy: Path) -> None:
    """Has the copy of a library look for the others beside itself alone, as `rust-host build` does.

    torch's look in `../../nvidia` before that, and ours in the virtual environment: anybody's folders where the
    archive is unpacked.
    """
    copy.chmod(0o755)
    for path in run_paths(copy):
        text, own = f"\0{path}\0".encode(), b"\0$ORIGIN\0"
        with copy.open("r+b") as file, mmap.mmap(file.fileno(), 0) as bytes_:
            place = bytes_.find(text)
            if place >= 0 and len(text) >= len(own):
                bytes_[place : place + len(own)] = own
    if wrong := [path for path in run_paths(copy) if path != "$ORIGIN"]:
        sys.exit(f"error: `{copy.name}` looks for its libraries in `{wrong[0]}`, and that cannot be changed")


def licences(target: Path, site: Path, libraries: dict[str, Path]) -> None:
    """The licence texts of torch, of NVIDIA's libraries that are packed, and of every crate in the binary."""
    target.mkdir()
    shutil.copy(Path(__file__).parent.parent / "LICENSE", target / "rust-host.txt")
    for info in sorted(site.glob("*.dist-info")):
        name = info.name.split("-")[0]
        record = (info / "RECORD").read_text() if (info / "RECORD").exists() else ""
        if name != "torch" and not any(f"/{library}," in record for library in libraries):
            continue
        texts = [p for p in info.rglob("*") if p.is_file() and re.match(r"(?i)licen[cs]e|notice|copying", p.name)]
        for i, text in enumerate(sorted(texts)):
            shutil.copy(text, target / f"{name}{i or ''}.txt")
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    metadata = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    with (target / "crates.txt").open("w") as out:
        for package in sorted(metadata["packages"], key=lambda p: p["name"]):
            if not package["source"]:
                continue
            out.write(f"{package['name']} {package['version']}: {package['license']}\n\n")
            for text in sorted(Path(package["manifest_path"]).parent.glob("LICEN[CS]E*")):
                if text.is_file():
                    out.write(text.read_text(errors="replace") + "\n")


def reproducible(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same bytes whoever packs it, whenever."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mtime = 0
    return entry


def pack_with_xz(top: Path, name: str, archive: Path) -> None:
    """A tar through the program xz."""
    with archive.open("wb") as target:
        packer = subprocess.Popen(["xz", "--threads=0", "-6", "--stdout"], stdin=subprocess.PIPE, stdout=target)
        assert packer.stdin is not None
        with tarfile.open(fileobj=packer.stdin, mode="w|") as tar:
            tar.add(top, name, filter=reproducible)
        packer.stdin.close()
        if packer.wait():
            sys.exit(f"error: xz ended with {packer.returncode}")


def main(build: Path, out: Path, kind: str = "tar.xz") -> None:
    """Collects, packs, and replaces the archive at once."""
    site = Path(sysconfig.get_paths()["purelib"])
    folders = [site / "torch" / "lib", *sorted(site.glob("nvidia/*/lib")), *sorted(site.glob("nvidia/lib"))]
    version = re.search(r'^version = "(.+)"', Path("Cargo.toml").read_text(), re.M)[1]  # type: ignore[index]
    name = f"rust-host-{version}-linux-{platform.machine()}"
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as work:
        top = Path(work) / name
        (top / "bin").mkdir(parents=True)
        (top / "lib").mkdir()
        backend = build / "librust_host_torch_library.so"
        libraries = closure(backend, folders)
        shutil.copy(build / "rust-host", top / "bin")
        for host in ("rust-host-program", "librust_host_embedded.so"):  # of what `build` writes
            shutil.copy(build / host, top / "lib")
        for library, path in {backend.name: backend, **libraries}.items():
            shutil.copy(path, top / "lib" / library)
            look_in_own_folder(top / "lib" / library)
        torch_version = (site / "torch" / "version.py").read_text()
        (top / "lib" / "libtorch-version").write_text(re.search(r"__version__ = '(.+)'", torch_version)[1] + "\n")  # type: ignore[index]
        licences(top / "licenses", site, libraries)
        size = sum(p.stat().st_size for p in top.rglob("*") if p.is_file())
        archive = Path(work) / f"{name}.{kind}"
        if kind == "tar.xz" and shutil.which("xz"):  # on all cores; Python's own uses one
            pack_with_xz(top, name, archive)
        else:
            with tarfile.open(archive, "w:xz" if kind == "tar.xz" else "w") as tar:
                tar.add(top, name, filter=reproducible)
        final = out / archive.name
        archive.replace(final)
    print(f"{final}: {final.stat().st_size / 1e6:.0f} MB packed, {size / 1e6:.0f} MB unpacked")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
