# ruff: noqa: E501 - lists of words
"""Valid archives with one field changed, through the binary: no signal, no hang, no panic, bounded memory.

    python tests/hostile/mutate.py --count 20000 --seed 1

Each mutant is a whole zip with right checksums (but for those mutants that are about checksums), so that it reaches what lies
behind the first check. A mutant is its seed and number: `--only N` runs one again and `--keep DIR` writes it down.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import binary
import zips

ROOT = Path(__file__).parents[2]
DATA = ROOT / "rust_host/backends/torch/tests/data"
#: Of a processor, and four times as much on the clock: others use the machine too.
SECONDS = 5.0
EDGES = [
    0,
    1,
    -1,
    2,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    -(2**31),
    2**32 - 1,
    2**32,
    2**63 - 1,
    -(2**63),
    2**40,
]
WORDS = ["torch", "ops", "self", "x", "1", "0", "-1", "(", ")", "[", "]", ",", ".", ":", "=", "None", "True", '"a"', "if", "else", "not", "for", "in", "return", "pass", "\n", "Tensor", "int", "List[int]", "getattr", "unchecked_cast", "9223372036854775807", "1e400", "torch.neg", "inf", "annotate", "uninitialized", "fork", "CONSTANTS.c0"]  # fmt: skip
GLOBALS = [b"torch._utils\n_rebuild_tensor_v2", b"torch._utils\n_rebuild_qtensor", b"torch\nLongStorage", b"torch\nHalfStorage", b"torch\nQInt8Storage", b"torch\nComplexDoubleStorage", b"torch.jit._pickle\nrestore_type_tag", b"torch.jit._pickle\nbuild_intlist", b"torch.jit._pickle\nbuild_tensorlist", b"torch.jit._pickle\nbuild_tensor_from_id", b"collections\nOrderedDict", b"torch\ndevice", b"torch\nper_channel_affine", b"__torch__\nPlain", b"__torch__\nLoaded", b"__torch__\nInner", b"__torch__.torch.classes.quantized\nLinearPackedParamsBase", b"torch._utils\n_rebuild_sparse_tensor", b"builtins\neval"]  # fmt: skip
TYPES = ["Tensor", "int", "float", "str", "bool", "List[int]", "Dict[str, int]", "Optional[Tensor]", "Tuple[int, int]", "Any", "List[Tensor]", "__torch__.Inner", "List[__torch__.Inner]", "Future[int]", "Device", "NoneType"]  # fmt: skip


def bases() -> list[bytes]:
    """What is mutated."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("spellings.py")), "--bases", folder]
        subprocess.run(command, check=True)
        found = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
    found += [(DATA / f"{name}.torchscript").read_bytes() for name in ("aliases", "types", "odd", "hooked", "defaults")]
    return found


class Mutator:
    """One change, chosen by the seed."""

    def __init__(self, seed: int, number: int, originals: list[bytes]) -> None:
        self.random = random.Random(f"{seed}/{number}")
        self.archive = zips.Archive.read(self.random.choice(originals))
        self.said = ""

    def mutant(self) -> bytes:
        kinds = [(self.header, 3), (self.names, 2), (self.pickle, 8), (self.code, 7), (self.bytes, 2), (self.extra, 1)]
        kind = self.random.choices([k for k, _ in kinds], [w for _, w in kinds])[0]
        changed = kind()
        return self.archive.write() if changed is None else changed

    def edge(self) -> int:
        r = self.random
        return r.choice([r.choice(EDGES), r.randrange(-300, 70000), r.choice(EDGES) + r.choice([-1, 1])])

    def header(self) -> None:
        a, r = self.archive, self.random
        m = r.choice(a.members)
        field = r.choice(["crc", "size", "packed", "offset", "flags", "method", "extra", "local_extra", "count", "directory_size", "directory_offset", "zip64", "comment", "before"])  # fmt: skip
        value = self.edge()
        match field:
            case "crc" | "size" | "packed" | "offset":
                setattr(m, field, value & (2**64 - 1))
                if r.random() < 0.3:
                    m.extra = struct.pack("<HHQQQ", 1, 24, *(r.choice(EDGES) & (2**64 - 1) for _ in range(3)))
            case "flags" | "method":
                setattr(m, field, value & 0xFFFF)
            case "extra" | "local_extra":
                setattr(m, field, r.randbytes(r.randrange(40)))
            case "count" | "directory_size" | "directory_offset":
                setattr(a, field, value)
            case "zip64":
                numbers = [None, *(n & (2**64 - 1) for n in EDGES)]
                a.zip64 = (r.choice(numbers), r.choice(numbers), r.choice(numbers))
            case "comment":
                a.comment = r.choice([b"a", b"PK\5\6", b"PK\5\6" + bytes(18), b"PK\6\7" + bytes(16), r.randbytes(60)])
            case "before":
                a.before = r.randbytes(r.choice([1, 4, 64]))
        if r.random() < 0.2:
            m.deflate = True
        self.said = f"{field} of {m.name}"

    def names(self) -> None:
        a, r = self.archive, self.random
        m = r.choice(a.members)
        other = r.choice(a.members)
        new = r.choice([
            m.name.upper(), m.name.lower(), m.name + "/", m.name.replace("/", "//", 1), other.name, "/" + m.name,
            m.name.split("/", 1)[1], f"{a.stem}/../{m.name}", m.name[:-1], m.name + "\0", "x" * 5000,
            f"{a.stem}/model.json", f"{a.stem}/code/__torch__/extra.py", f"{a.stem}/extra/contract.json", "\udcff",
        ])  # fmt: skip
        self.said = f"{m.name} named {new[:60]!r}"
        if r.random() < 0.3:
            m.local_name = new
        elif r.random() < 0.3:
            a.members.append(zips.Member(new, r.choice([m.data, other.data])))
        elif r.random() < 0.3:
            a.members.remove(m)
        else:
            m.name = new

    def pickle(self) -> None:
        a, r = self.archive, self.random
        m = a.find(r.choice(["data.pkl"] * 9 + ["constants.pkl"]))
        parts = zips.opcodes(m.data)
        for _ in range(r.choice([1, 1, 1, 2, 3])):
            at = r.randrange(len(parts))
            numbers = [i for i, p in enumerate(parts) if p[:1] in (b"K", b"M", b"J", b"\x8a")]
            texts = [i for i, p in enumerate(parts) if p[:1] == b"X"]
            named = [i for i, p in enumerate(parts) if p[:1] == b"c"]
            kind = r.choice(
                ["number"] * 4
                + ["text"] * 2
                + ["global"] * 3
                + ["drop", "double", "swap", "value", "splice", "memo", "type"]
            )
            if kind == "number" and numbers:
                parts[r.choice(numbers)] = zips.number(self.edge())
            elif kind == "text" and texts:
                others = [parts[i] for i in texts]
                parts[r.choice(texts)] = r.choice([r.choice(others), zips.text(""), zips.text("9" * 30), zips.text("cuda:0"), zips.text("../data/0"), zips.text("\udcff\0"), zips.text(r.choice(TYPES))])  # fmt: skip
            elif kind == "type" and texts:
                parts[r.choice(texts)] = zips.text(r.choice(TYPES))
            elif kind == "global" and named:
                parts[r.choice(named)] = b"c" + r.choice(GLOBALS) + b"\n"
            elif kind == "drop":
                del parts[at]
            elif kind == "double":
                parts.insert(at, parts[at])
            elif kind == "swap":
                other = r.randrange(len(parts))
                parts[at], parts[other] = parts[other], parts[at]
            elif kind == "splice":
                start = r.randrange(len(parts))
                parts[at:at] = parts[start : start + r.randrange(1, 12)]
            elif kind == "memo":
                parts.insert(at, r.choice([b"h", b"q"]) + bytes([r.randrange(256)]))
            else:
                parts[at] = r.choice([b"N", b"\x88", b"\x89", b")", b"]", b"}", b"K\0", b"G" + r.randbytes(8), b"(", b"t", b"\x85", b"\x86", b"\x87", b"e", b"u", b"R", b"b", b"\x81", b"Q", b"a", b"s", b"."])  # fmt: skip
            self.said += f"{m.name}: {kind} at {at}; "
            if not parts:
                break
        m.data = b"".join(parts)
        if r.random() < 0.1:
            record = next((x for x in a.members if "/data/" in x.name), m)
            record.data = record.data[: r.randrange(len(record.data) + 1)] + bytes(r.choice([0, 8, 64]))

    def code(self) -> None:
        a, r = self.archive, self.random
        m = r.choice([x for x in a.members if x.name.endswith(".py")])
        words = re.findall(r"\s+|\w+|[^\w\s]", m.data.decode(errors="replace"))
        for _ in range(r.choice([1, 1, 2, 4])):
            if not words:
                break
            at = r.randrange(len(words))
            kind = r.choice(["word", "other", "drop", "double", "swap", "operator", "number", "line", "repeat", "type"])
            if kind == "word":
                words[at] = r.choice(WORDS)
            elif kind == "other":
                words[at] = r.choice(words)
            elif kind == "drop":
                del words[at]
            elif kind == "double":
                words.insert(at, words[at])
            elif kind == "swap":
                other = r.randrange(len(words))
                words[at], words[other] = words[other], words[at]
            elif kind == "operator":
                places = [i + 2 for i, w in enumerate(words[:-3]) if w == "torch" and words[i + 1] == "."]
                if places:
                    words[r.choice(places)] = r.choice(operators())
            elif kind == "number":
                places = [i for i, w in enumerate(words) if w.isdigit()]
                if places:
                    words[r.choice(places)] = str(self.edge())
            elif kind == "type":
                places = [i for i, w in enumerate(words) if w in ("Tensor", "int", "bool", "float", "str")]
                if places:
                    words[r.choice(places)] = r.choice(TYPES)
            elif kind == "line":
                ends = [i for i, w in enumerate(words) if "\n" in w]
                if len(ends) > 2:
                    start = r.randrange(len(ends) - 1)
                    words[at:at] = words[ends[start] : ends[start + 1]]
            elif kind == "repeat":
                words[at] = words[at] * r.choice([10, 1000, 30000])
            self.said += f"{m.name}: {kind} at {at}; "
        m.data = "".join(words).encode("utf-8", "surrogateescape")

    def bytes(self) -> bytes:
        """Bytes of a member that are changed under a right checksum, or of the whole file under a wrong one."""
        a, r = self.archive, self.random
        whole = r.random() < 0.5
        m = r.choice(a.members)
        data = bytearray(a.write() if whole else m.data)
        for _ in range(r.choice([1, 2, 8])):
            if data:
                at = r.randrange(len(data))
                kind = r.random()
                if kind < 0.6:
                    data[at] ^= 1 << r.randrange(8)
                elif kind < 0.8:
                    del data[at : at + r.randrange(1, 64)]
                else:
                    data[at:at] = r.randbytes(r.randrange(1, 64))
        self.said = f"bytes of {'the file' if whole else m.name}"
        if whole:
            return bytes(data)
        m.data = bytes(data)
        return a.write()

    def extra(self) -> None:
        """A contract and golden examples that are not what they say."""
        r = self.random
        good = sorted((ROOT / "tests/contract/good").glob("*.json"))
        text = r.choice(good).read_text()
        numbers = list(re.finditer(r"-?\d+(\.\d+)?(e-?\d+)?", text))
        strings = list(re.finditer(r'"[^"]*"', text))
        found = r.choice(r.choice([numbers, strings]))
        new = r.choice([str(self.edge()), "1e400", "null", "[]", "{}", '""', '"x"', "[" * 300, "[-1, -1]"])
        self.archive.add("extra/contract.json", (text[: found.start()] + new + text[found.end() :]).encode())
        header = r.choice(
            [
                b"{}",
                b'{"0.input.x":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}' % (self.edge(), self.edge()),
                r.randbytes(30),
            ]
        )
        length = r.choice([len(header), self.edge() & (2**64 - 1)])
        self.archive.add("extra/golden.safetensors", struct.pack("<Q", length) + header + bytes(16))
        self.said = f"contract: {found.group()[:30]} -> {new[:30]}"


# Some of libtorch's, those that are refused among them.
INTERNAL = (ROOT / "rust_host/engine/src/internal_operators.txt").read_text().split()
PUBLIC = ["add", "mul", "div", "remainder", "fmod", "floor_divide", "index_select", "gather", "scatter", "embedding", "embedding_bag", "matmul", "bmm", "conv2d", "conv1d", "max_pool2d", "avg_pool2d", "batch_norm", "layer_norm", "group_norm", "lstm", "gru", "cat", "stack", "narrow", "slice", "select", "as_strided", "view", "reshape", "expand", "repeat", "pad", "unfold", "fold", "im2col", "col2im", "grid_sampler", "upsample_nearest2d", "interpolate", "sort", "topk", "kthvalue", "searchsorted", "bucketize", "bincount", "histc", "unique_consecutive", "cumsum", "cdist", "fft_rfft", "stft", "istft", "linalg_eigvals", "linalg_inv", "linalg_svd", "linalg_lstsq", "cholesky", "lu_unpack", "ormqr", "tril_indices", "one_hot", "put_", "take", "index_put_", "index_add", "masked_scatter", "masked_fill", "max_unpool2d", "adaptive_max_pool2d", "pixel_shuffle", "quantize_per_tensor", "dequantize", "int_repr", "to", "item", "len", "format", "str", "ord", "chr", "ljust", "replace", "split", "zfill", "sorted", "dict", "list", "tensor", "zeros", "ones", "full", "arange", "linspace", "eye", "randperm", "multinomial", "bernoulli", "save", "from_file", "sparse_coo_tensor", "to_sparse", "ctc_loss", "nll_loss", "segment_reduce", "native_batch_norm", "set_", "resize_", "manual_seed", "mkldnn_rnn_layer", "backward"]  # fmt: skip


def operators() -> list[str]:
    """Names behind `torch.`."""
    return PUBLIC + INTERNAL


def faults(data: bytes) -> list[str]:
    """What is wrong with how the binary took it."""
    found = []
    bound = 3 * len(data) + (512 << 20)
    commands = [("info", ()), ("run", ("--input", f"x={binary.ONES}")), ("verify", ())]
    for command, arguments in commands:
        answer = binary.ask(data, *arguments, command=command, seconds=4 * SECONDS)
        if answer.code == 1000 or answer.cpu > SECONDS:
            found.append(f"{command}: {answer.cpu:.1f} s of a processor, {answer.seconds:.1f} s in all")
        elif answer.code not in (0, 1, 2):
            found.append(f"{command}: ended with {answer.code}: {answer.out[-300:]}")
        if "panicked" in answer.out:
            found.append(f"{command}: {answer.out[-300:]}")
        if answer.peak > bound:
            found.append(f"{command}: {answer.peak >> 20} MiB")
        if answer.files:
            found.append(f"{command}: wrote {answer.files}")
        if command == "info" and answer.code:
            break  # the same gate stands before the other two
        if command == "run" and b"extra/contract.json" not in data:
            break
    return found


def run(numbers: range, seed: int, seconds: float, keep: Path | None = None, workers: int = 2) -> tuple[int, list[str]]:
    """Runs mutants until they are through or the time is over: how many ran, and what was wrong."""
    originals = bases()
    deadline = time.monotonic() + seconds
    bad: list[str] = []
    left = iter(numbers)  # taken one by one: a million waiting calls would fill the memory that a child's peak begins at

    def work(_: int) -> int:
        done = 0
        while time.monotonic() < deadline and (number := next(left, None)) is not None:
            one(number)
            done += 1
        return done

    def one(number: int) -> None:
        mutator = Mutator(seed, number, originals)
        data = mutator.mutant()
        for fault in faults(data):
            bad.append(f"--seed {seed} --only {number} ({mutator.said.strip('; ')}): {fault}")
            print(bad[-1], file=sys.stderr, flush=True)
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}-{number}.pt").write_bytes(data)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        done = sum(pool.map(work, range(workers)))
    return done, bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--only", type=int, help="one mutant")
    parser.add_argument("--keep", type=Path, help="a folder for mutants that are not taken well")
    options = parser.parse_args()
    numbers = range(options.count) if options.only is None else range(options.only, options.only + 1)
    start = time.monotonic()
    done, bad = run(numbers, options.seed, options.seconds, options.keep)
    print(f"{done} mutants in {time.monotonic() - start:.0f} s, {len(bad)} faults")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
