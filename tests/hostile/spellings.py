# ruff: noqa: E501 - hostile code in one line each
"""Archives that ask for what no model needs, in every spelling that libtorch might read.

`python tests/hostile/spellings.py` writes nothing into the repository: it shows, for every case, what `torch.jit.load` does
with it (each in a process of its own) and what `rust-host run` says, so that the cases stay honest.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import zips
from binary import ONES, ask
from torch import nn

from models import Loaded, Plain

#: A file that a case writes if it is let through.
HOLE = "hole"


@functools.cache
def saved(kind: type[nn.Module]) -> bytes:
    """A module as torch writes it."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(kind().eval()), buffer)
    return buffer.getvalue()


@dataclass
class Case:
    """A hostile file: what the refusal must name, and what libtorch does with the file when nothing stops it."""

    name: str
    data: bytes
    words: tuple[str, ...]
    #: `writes` a file, `loads`, `raises`, `killed`, `hangs`, or `differs` by machine.
    libtorch: str


def code_at_load(*lines: str, more: str = "") -> bytes:
    """An archive whose `__setstate__` begins with `lines`; `more` stands in front of its class."""
    archive = zips.Archive.read(saved(Loaded))
    member = archive.code()
    marker = "    self.w = (state)[0]\n"
    text = member.data.decode()
    assert marker in text
    body = "".join(f"    {line}\n" for line in ("x = (state)[0]", *lines))
    # What the lines leave in `x` is kept: libtorch drops what nobody uses.
    member.data = (more + text.replace(marker, body + "    self.w = x\n")).encode()
    return archive.write()


def code_in_forward(*lines: str) -> bytes:
    """An archive whose `forward` begins with `lines`."""
    archive = zips.Archive.read(saved(Plain))
    member = archive.code()
    text = member.data.decode()
    marker = "    seq = self.seq\n"
    assert marker in text
    member.data = text.replace(marker, "".join(f"    {line}\n" for line in lines) + marker).encode()
    return archive.write()


#: Lines of `__setstate__`; `x` is a tensor. With what libtorch does, and what must be named.
SPELLINGS: dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    "plain": (('torch.save(x, "hole")',), "writes", ("aten::save",)),
    "space after the call": (('torch.save (x, "hole")',), "writes", ("torch",)),
    "spaces around the dot": (('torch . save(x, "hole")',), "writes", ("torch",)),
    "tab around the dot": (('torch\t.\tsave(x, "hole")',), "writes", ("torch",)),
    "newline before the dot": (("_9 = (torch", '  .save(x, "hole"))'), "writes", ("torch",)),
    "newline after the dot": (("_9 = (torch.", '  save(x, "hole"))'), "writes", ("torch",)),
    "backslash before the dot": (("torch\\", '  .save(x, "hole")'), "writes", ("torch", "backslash")),
    "backslash after the dot": (("torch.\\", '  save(x, "hole")'), "writes", ("torch", "backslash")),
    "backslash before the bracket": (("torch.save\\", '  (x, "hole")'), "writes", ("torch", "backslash")),
    "torch under another name": (("t = torch", 't.save(x, "hole")'), "writes", ("torch",)),
    "torch in brackets": (('(torch).save(x, "hole")',), "writes", ("torch",)),
    "ops": (('ops.aten.save(x, "hole")',), "writes", ("aten::save",)),
    "a namespace under another name": (("t = ops.aten", 't.save(x, "hole")'), "writes", ("ops",)),
    "ops under another name": (("t = ops", 't.aten.save(x, "hole")'), "writes", ("ops",)),
    "ops in brackets": (('(ops.aten).save(x, "hole")',), "writes", ("ops",)),
    "the function under another name": (("f = torch.save", 'f(x, "hole")'), "writes", ("torch",)),
    "getattr of torch": (('getattr(torch, "save")(x, "hole")',), "writes", ("torch", "aten::save")),
    "getattr of ops": (('getattr(ops, "aten").save(x, "hole")',), "writes", ("ops",)),
    "getattr of a namespace": (('getattr(ops.aten, "save")(x, "hole")',), "writes", ("ops", "aten::save")),
    "autograd": (('torch.autograd.save(x, "hole")',), "writes", ("aten::save",)),
    "autograd twice": (('torch.autograd.autograd.save(x, "hole")',), "writes", ("torch",)),
    "autograd behind ops": (('ops.aten.autograd.save(x, "hole")',), "writes", ("ops",)),
    "autograd behind another namespace": (('ops.prim.autograd.save(x, "hole")',), "writes", ("ops",)),
    "method": (('x.save("hole")',), "raises", ("aten::save",)),
    "method with spaces": (('x . save ("hole")',), "raises", ("aten::save",)),
    "method over lines": (("_9 = (x", "  .save", '  ("hole"))'), "raises", ("aten::save",)),
    "method of brackets": (('(x).save("hole")',), "raises", ("aten::save",)),
    "method of an item": (('[x][0].save("hole")',), "raises", ("aten::save",)),
    "method of a result": (('torch.add(x, x).save("hole")',), "raises", ("aten::save",)),
    "method of a text": (('"abc".save("hole")',), "raises", ("aten::save",)),
    "method of a number": (('(3).save("hole")',), "raises", ("aten::save",)),
    "method of a number without brackets": (('3..save("hole")',), "raises", ("aten::save",)),
    "method of an attribute": (("self.w = x", 'self.w.save("hole")'), "raises", ("aten::save",)),
    "method under another name": (("f = x.set_", "x = f(torch.zeros([1]), 0, [1], [1])"), "loads", ("aten::set_",)),
    "method in brackets": (("x = (x.set_)(torch.zeros([1]), 0, [1], [1])",), "loads", ("aten::set_",)),
    "method by getattr": (('x = getattr(x, "set_")(torch.zeros([1]), 0, [1], [1])',), "loads", ("getattr", "set_")),
    "method by getattr, single quotes": (
        ("x = getattr(x, 'set_')(torch.zeros([1]), 0, [1], [1])",),
        "loads",
        ("getattr", "set_"),
    ),
    "method by getattr, three quotes": (
        ('x = getattr(x, """set_""")(torch.zeros([1]), 0, [1], [1])',),
        "loads",
        ("getattr", "set_"),
    ),
    "method by getattr, in pieces": (
        ('x = getattr(x, "se" "t_")(torch.zeros([1]), 0, [1], [1])',),
        "loads",
        ("getattr", "set_"),
    ),
    "method by getattr, escaped": (
        ('x = getattr(x, "\\163et_")(torch.zeros([1]), 0, [1], [1])',),
        "loads",
        ("getattr", "set_"),
    ),
    "method by getattr, in brackets": (
        ('x = (getattr)(x, "set_")(torch.zeros([1]), 0, [1], [1])',),
        "loads",
        ("getattr", "set_"),
    ),
    "getattr under another name": (
        ("g = getattr", 'x = g(x, "set_")(torch.zeros([1]), 0, [1], [1])'),
        "loads",
        ("getattr",),
    ),
    "in a text's place": (('print("a", torch.save(x, "hole"))',), "writes", ("aten::save",)),
    "after a text with quotes": (('_9 = "\\""', 'torch.save(x, "hole")', '_8 = "\\""'), "writes", ("aten::save",)),
    "after three quotes": (('_9 = """ " """', 'torch.save(x, "hole")', '_8 = """ " """'), "writes", ("aten::save",)),
    "between single and double quotes": (
        ("_9 = '\"'", 'torch.save(x, "hole")', "_8 = '\"'"),
        "writes",
        ("aten::save",),
    ),
    "in a lambda's place": (('_9 = [torch.save(x, "hole") for y in [1]]',), "differs", ("aten::save",)),
    "after a comment": (("pass  # a", 'torch.save(x, "hole")'), "writes", ("comment",)),
    "behind a hex number": (('_9 = [0x.8p1, torch.save(x, "hole")]',), "differs", ("aten::save",)),
    "fork": (('_9 = fork(torch.save, x, "hole")',), "differs", ("torch",)),
    "annotated": (('_9 = annotate(Optional[int], torch.save(x, "hole"))',), "differs", ("aten::save",)),
    "a form feed": (('torch.\fsave(x, "hole")',), "writes", ("torch",)),
    "a long s": (('torch.\u017fave(x, "hole")',), "raises", ("character",)),
    "a wide letter": (('torch.\uff53ave(x, "hole")',), "raises", ("character",)),
    "a zero-width space": (('torch.\u200bsave(x, "hole")',), "raises", ("character",)),
    "a byte of zero": (('torch.\0save(x, "hole")',), "raises", ("character",)),
    "from_file": (('x = torch.from_file("/etc/hostname", False, 1, dtype=0)',), "loads", ("aten::from_file",)),
    "from_file creates": (('x = torch.from_file("hole", True, 8, dtype=0)',), "writes", ("aten::from_file",)),
    "PythonOp": (("ops.prim.PythonOp()",), "differs", ("prim::PythonOp",)),
    "PythonOp as torch prints it": (("_9 = ^Function(True)(x)",), "raises", ("^",)),
    "prim.id": (("x = torch.add(x, ops.prim.id(x))",), "raises", ("prim::id",)),
    "inductor": (("x = ops.inductor._reinterpret_tensor(x, [4], [1], 99)",), "differs", ("inductor::",)),
    "inductor, memory": (("x = ops.inductor._alloc_from_pool(x, 99, 6, [4], [1])",), "differs", ("inductor::",)),
    "profiler": (('_9 = ops.profiler._record_function_enter("a")',), "loads", ("profiler::",)),
    "mkldnn": (("x = torch.add(x, ops.mkldnn.data_ptr(x))",), "differs", ("mkldnn::data_ptr",)),
    "an internal": (("x = torch._reshape_alias(x, [4096], [4096])",), "differs", ("aten::_reshape_alias",)),
    "an internal as a method": (("x = x._reshape_alias([4096], [4096])",), "differs", ("aten::_reshape_alias",)),
    "a backward": (
        (
            "x = torch.max_pool2d_with_indices_backward(x, x, [1, 1], [1, 1], [0, 0], [1, 1], False, torch.zeros([1], dtype=4))",
        ),
        "differs",
        ("_backward",),
    ),
    "a backward as a method": (
        ("x = x.adaptive_max_pool2d_backward(x, torch.zeros([1], dtype=4))",),
        "differs",
        ("_backward",),
    ),
    "a vendor's as a method": (("x = x.mkldnn_linear_backward_input([1], x)",), "differs", ("mkldnn_linear",)),
    "set": (("x = x.set_(torch.zeros([1]), 99, [4], [1])",), "differs", ("aten::set_",)),
    "resize": (("x = x.resize_([1000])",), "differs", ("aten::resize_",)),
    "a seed": (("torch.manual_seed(1)",), "loads", ("aten::manual_seed",)),
    "rpc": (('_9 = ops.prim.rpc_sync("a", "b")',), "raises", ("prim::rpc_sync",)),
    "a test class": (
        ('x = __torch__.torch.classes._TorchScriptTesting._StackString(["a"])',),
        "differs",
        ("torch.classes",),
    ),
    "the profiler's class": (("x = __torch__.torch.classes.profiler._RecordFunction()",), "raises", ("torch.classes",)),
    "sparse": (
        ("x = torch.sparse_coo_tensor(torch.full([1, 4], 99), torch.ones([4]), [2])",),
        "differs",
        ("aten::sparse_coo_tensor",),
    ),
    "sparse, unsafe": (
        ("x = torch._sparse_coo_tensor_unsafe(torch.full([1, 4], 99), torch.ones([4]), [2])",),
        "differs",
        ("aten::_sparse",),
    ),
    "semicolon": (('x = x; torch.save(x, "hole")',), "raises", ("aten::save",)),
    "carriage return": (('torch.save(x, "hole")\r',), "writes", ("aten::save",)),
    "vertical tab": (('torch.save\v(x, "hole")',), "writes", ("torch",)),
    "in a dict": (('d = {"a": torch.save}', 'd["a"](x, "hole")'), "raises", ("torch",)),
    "in a list": (("l = [torch.save]", 'l[0](x, "hole")'), "raises", ("torch",)),
    "in a tuple": (("f, g = (torch.save, 1)", 'f(x, "hole")'), "raises", ("torch",)),
    "one of two": (('(torch.save if True else torch.save)(x, "hole")',), "raises", ("torch",)),
    "method of a constant": (('CONSTANTS.c0.save("hole")',), "raises", ("aten::save",)),
    "annotated function": (('annotate(Any, torch.save)(x, "hole")',), "raises", ("torch",)),
    "method of a cast": (('unchecked_cast(Tensor, x).save("hole")',), "raises", ("aten::save",)),
    "item of a tuple": (('_9 = (x, torch.save(x, "hole"))[0]',), "writes", ("aten::save",)),
    "f-string": (("_9 = f\"{torch.save(x, 'hole')}\"",), "raises", ("cannot load",)),
    "starred": (('torch.save(*[x, "hole"])',), "raises", ("aten::save",)),
    "by keywords": (('torch.save(item=x, filename="hole")',), "writes", ("aten::save",)),
    "in an assertion": (('assert False, str(torch.save(x, "hole"))',), "writes", ("aten::save",)),
    "in print": (('print(torch.save(x, "hole"))',), "writes", ("aten::save",)),
    "augmented": (('x += torch.save(x, "hole")',), "raises", ("aten::save",)),
    "as an index": (('_9 = [1][torch.save(x, "hole")]',), "raises", ("aten::save",)),
    "as a slice": (('_9 = [1][torch.save(x, "hole"):]',), "raises", ("aten::save",)),
    "with": (('with torch.save(x, "hole"):', "  pass"), "raises", ("aten::save",)),
    "while": (('while torch.save(x, "hole"):', "  pass"), "raises", ("aten::save",)),
    "raise": (('raise torch.save(x, "hole")',), "raises", ("aten::save",)),
    "lambda": (('(lambda: torch.save(x, "hole"))()',), "raises", ("aten::save",)),
    "isinstance": (('_9 = isinstance(torch.save(x, "hole"), int)',), "writes", ("aten::save",)),
    "an overload": (('ops.aten.save.default(x, "hole")',), "raises", ("ops",)),
    "ops of torch": (('torch.ops.aten.save(x, "hole")',), "raises", ("torch",)),
    "torch._C": (('torch._C._nn.save(x, "hole")',), "raises", ("torch",)),
    "of the class": (('torch.Tensor.save(x, "hole")',), "raises", ("torch",)),
    "a bare namespace": (('aten.save(x, "hole")',), "raises", ("aten::save",)),
    "as C++ writes it": (('aten::save(x, "hole")',), "raises", ("cannot load",)),
    "torch below __torch__": (('__torch__.torch.save(x, "hole")',), "raises", ("cannot load",)),
    "aten below __torch__": (('__torch__.aten.save(x, "hole")',), "raises", ("cannot load",)),
    "import": (("import torch", 'torch.save(x, "hole")'), "raises", ("torch",)),
    "setattr": (('setattr(self, "w", torch.save)', 'self.w(x, "hole")'), "raises", ("torch",)),
    "hasattr": (('hasattr(torch, "save")', 'torch.save(x, "hole")'), "raises", ("torch",)),
    "__call__": (('torch.save.__call__(x, "hole")',), "raises", ("torch",)),
    "getattr with another": (('getattr(torch, "save", torch.save)(x, "hole")',), "raises", ("getattr",)),
    "getattr, \\u": (('getattr(torch, "\\u0073ave")(x, "hole")',), "raises", ("getattr",)),
    "getattr, \\x": (('getattr(torch, "\\x73ave")(x, "hole")',), "raises", ("getattr",)),
    "ops by an item": (('ops["aten"].save(x, "hole")',), "raises", ("ops",)),
    "super": (('super().save(x, "hole")',), "raises", ("aten::save",)),
    "del": (("del x.save",), "raises", ("aten::save",)),
    "global": (("global torch", 'torch.save(x, "hole")'), "raises", ("torch",)),
    "a type that is none": (("x = x.to(-1)",), "differs", ("aten::to", "__setstate__")),
    "deep brackets": (("_9 = " + "(" * 2000 + "1" + ")" * 2000,), "differs", ("nest",)),
    "deep calls": (("_9 = " + "torch.neg(" * 5000 + "x" + ")" * 5000,), "differs", ("nest",)),
    "deep signs": (("_9 = " + "-" * 200_000 + "1",), "killed", ("nest",)),
    "deep nots": (("_9 = " + "not " * 200_000 + "True",), "killed", ("nest",)),
    "deep powers": (("_9 = " + "2**" * 200_000 + "1",), "killed", ("nest",)),
    "deep choices": (("_9 = " + "1 if True else " * 100_000 + "1",), "killed", ("nest",)),
    "a long sum": (("_9 = " + "1+" * 200_000 + "1",), "killed", ("nest",)),
    "a long chain": (("_9 = x" + ".T" * 200_000,), "killed", ("nest",)),
    "a long chain of items": (("_9 = x" + "[0]" * 200_000,), "killed", ("nest",)),
    "many statements": (("x = x",) * 300_000, "differs", ("tokens",)),
}


#: Where else code can stand: in code of its own behind the archive's, or in place of a line of `forward`.
PLACES = {
    "function": 'def f(x: Tensor) -> NoneType:\n  torch.save(x, "hole")\n',
    "default argument": 'def f(x: Tensor, y: NoneType=torch.save(torch.ones([1]), "hole")) -> NoneType:\n  return None\n',
    "annotation of an argument": 'def f(x: torch.save(torch.ones([1]), "hole")) -> NoneType:\n  return None\n',
    "annotation of a result": 'def f(x: Tensor) -> torch.save(torch.ones([1]), "hole"):\n  return None\n',
    "exported method": 'class A(Module):\n  __parameters__ = []\n  __buffers__ = []\n  def other(self: __torch__.A, x: Tensor) -> NoneType:\n    torch.save(x, "hole")\n',
    "attribute": 'class A(Module):\n  __parameters__ = [torch.save(torch.ones([1]), "hole")]\n  __buffers__ = []\n',
    "type of an attribute": 'class A(Module):\n  __parameters__ = []\n  __buffers__ = []\n  a : torch.save(torch.ones([1]), "hole")\n',
    "constant of a class": 'class A(Module):\n  __parameters__ = []\n  __buffers__ = []\n  a : Final[int] = torch.save(torch.ones([1]), "hole")\n',
    "named tuple": 'class A(NamedTuple):\n  a : Tensor\n  b : NoneType=torch.save(torch.ones([1]), "hole")\n',
    "enum": 'class A(Enum):\n  a = torch.save(torch.ones([1]), "hole")\n',
    "interface": 'class A(ModuleInterface):\n  def forward(self, x: Tensor) -> NoneType:\n    torch.save(x, "hole")\n',
    "base class": 'class A(torch.save(torch.ones([1]), "hole")):\n  pass\n',
    "decorator": '@torch.save\ndef f(x: Tensor) -> NoneType:\n  return None\n',
    "top": 'torch.save(torch.ones([1]), "hole")\n',
    "own function of that name": 'def save(x: Tensor, y: str) -> NoneType:\n  torch.save(x, y)\n',
    "function inside a function": 'def f(x: Tensor) -> NoneType:\n  def g(x: Tensor) -> NoneType:\n    torch.save(x, "hole")\n  g(x)\n',
}  # fmt: skip


def placed(text: str) -> bytes:
    """An archive with that code behind its own."""
    archive = zips.Archive.read(saved(Plain))
    archive.code().data += text.encode()
    return archive.write()


def own_method() -> bytes:
    """A class whose own method has an internal operator's name, and a tensor on which libtorch calls the operator."""
    return code_at_load(
        "x = x._reshape_alias([4096], [4096])",
        more="class Decoy(Module):\n  __parameters__ = []\n  __buffers__ = []\n"
        "  def _reshape_alias(self: __torch__.Decoy) -> int:\n    return 1\n",
    )


def renamed(old: str, new: str) -> bytes:
    """The hostile code in a member whose name libtorch finds although it is written otherwise."""
    archive = zips.Archive.read(code_at_load('torch.save(x, "hole")'))
    for member in archive.members:
        if member.name.endswith(old):
            member.name = member.name[: -len(old)] + new
    return archive.write()


def beside(name: str) -> bytes:
    """An honest archive with the hostile code in a member that libtorch takes instead."""
    archive = zips.Archive.read(saved(Loaded))
    archive.add(name, zips.Archive.read(code_at_load('torch.save(x, "hole")')).code().data)
    return archive.write()


def two_directories() -> bytes:
    """A comment that is itself an end record: one reader takes the first directory, another the second."""
    honest, hostile = saved(Loaded), code_at_load('torch.save(x, "hole")')
    # The whole hostile zip lies in front, the honest directory (with shifted offsets) behind it.
    front = zips.Archive.read(honest)
    front.before = hostile
    end = hostile[-22:]
    assert end.startswith(b"PK\5\6")
    front.comment = end + b"\0"
    return front.write()


def two_zip64() -> bytes:
    """A zip64 end record that names the hostile directory, a short one that names the honest one."""
    front = zips.Archive.read(saved(Loaded))
    hostile = code_at_load('torch.save(x, "hole")')
    front.before = hostile
    count, size, offset = struct.unpack("<HII", hostile[-12:-2])
    front.zip64 = (count, size, offset)
    return front.write()


def legacy() -> bytes:
    """The format of torch 1.0: `model.json` names the member that holds the code, wherever it is."""
    archive = zips.Archive.read(saved(Loaded))
    archive.add("extra/code.txt", archive.code().data)
    archive.add(
        "model.json", b'{"protoVersion":"6","mainModule":{"torchscriptArena":{"key":"extra/code.txt"},"name":"m"}}'
    )
    return archive.write()


def pickled(edit: Callable[[bytes], bytes], kind: type[nn.Module] = Plain, member: str = "data.pkl") -> bytes:
    """An archive whose pickle went through `edit`."""
    archive = zips.Archive.read(saved(kind))
    one = archive.find(member)
    new = edit(one.data)
    assert new != one.data
    one.data = new
    return archive.write()


def replaced(old: bytes, new: bytes, count: int = 1) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        assert old in data, old
        return data.replace(old, new, count)

    return edit


def short_record() -> bytes:
    archive = zips.Archive.read(saved(Plain))
    archive.find("data/0").data = bytes(32)
    return archive.write()


def many_tuples(n: int) -> Callable[[bytes], bytes]:
    # `names` becomes a list that holds n nested tuples.
    return replaced(b"](X\x01\x00\x00\x00a", b"](X\x01\x00\x00\x00a" + b"N" + b"\x85" * n)


def code_with(old: str, new: str, kind: type[nn.Module] = Plain) -> bytes:
    archive = zips.Archive.read(saved(kind))
    for member in archive.members:
        if member.name.endswith(".py") and old.encode() in member.data:
            member.data = member.data.replace(old.encode(), new.encode())
            return archive.write()
    raise AssertionError(old)


def flatbuffer() -> bytes:
    return b"\x10\0\0\0PTMF" + bytes(64)


def doubling() -> bytes:
    """40 functions, each of which calls the next twice: written into one another they have 2^40 nodes."""
    archive = zips.Archive.read(saved(Plain))
    code = archive.code()
    functions = [
        f"def f{i}(x: Tensor) -> Tensor:\n  return __torch__.f{i + 1}(__torch__.f{i + 1}(x, ), )\n" for i in range(40)
    ]
    last = "def f40(x: Tensor) -> Tensor:\n  return torch.neg(x)\n"
    call = code.data.replace(b"    seq = self.seq\n", b"    x = __torch__.f0(x, )\n    seq = self.seq\n")
    code.data = "".join(functions).encode() + last.encode() + call
    return archive.write()


def false_cast() -> bytes:
    """An object that is read as a class with more attributes: the last lies in foreign memory."""
    archive = zips.Archive.read(saved(Plain))
    code = archive.code()
    cast = b"    n = unchecked_cast(__torch__.Wide, annotate(Any, self.inner))\n    x = torch.add(x, n.z)\n"
    attributes = "".join(f"  a{i} : Tensor\n" for i in range(5000)) + "  z : Tensor\n"
    forward = "  def forward(self: __torch__.Wide, x: Tensor) -> Tensor:\n    return x\n"
    wide = "class Wide(Module):\n  __parameters__ = []\n  __buffers__ = []\n" + attributes + forward
    code.data = code.data.replace(b"    seq = self.seq\n", cast + b"    seq = self.seq\n") + wide.encode()
    return archive.write()


def folded() -> Iterator[Case]:
    """Constants that libtorch computes while it loads, in code that need not even run."""
    for name, expression, word in [
        ("remainder", "torch.remainder(7, 0)", "division by zero"),
        ("floordiv", "torch.floordiv(-9223372036854775808, -1)", "overflow"),
        ("ljust", 'torch.len(torch.ljust("x", 20000000000))', "characters"),
        ("zfill", 'torch.len(torch.zfill("x", 3000000000))', "characters"),
    ]:
        yield Case(f"folded {name}", code_in_forward(f"x = torch.add(x, {expression})"), (word,), "differs")


def cases() -> Iterator[Case]:
    """Every hostile file."""
    yield from folded()
    yield Case("doubling functions", doubling(), ("nodes",), "hangs")
    yield Case("a false cast", false_cast(), ("Wide",), "differs")
    for name, (lines, libtorch, words) in SPELLINGS.items():
        yield Case(name, code_at_load(*lines), words, libtorch)
        if name not in ("a type that is none", "in a lambda's place") and not name.startswith(
            ("deep", "a long", "many")
        ):
            # What is only a call that fails at run is told by libtorch's graphs at the latest.
            yield Case(f"{name}, in forward", code_in_forward(*lines), (*words, "cannot load"), "differs")
    for place, text in PLACES.items():
        yield Case(f"place: {place}", placed(text), ("aten::save", "torch"), "differs")
    yield Case("own method of an internal's name", own_method(), ("_reshape_alias",), "differs")
    yield Case(
        "a loop while loading",
        code_at_load("for i in range(9223372036854775807):", "  x = torch.neg(x)"),
        ("__setstate__",),
        "hangs",
    )
    yield Case(
        "gigabytes while loading",
        code_at_load('x = torch.add(x, torch.len(torch.ljust("x", 20000000000)))'),
        ("__setstate__",),
        "differs",
    )
    yield Case(
        "division by zero while loading",
        code_at_load("x = torch.add(x, torch.remainder(7, 0))"),
        ("aten::add", "__setstate__"),
        "killed",
    )
    yield Case("folder in capitals", renamed("code/__torch__.py", "CODE/__torch__.py"), ("CODE",), "writes")
    yield Case("ending in capitals", renamed(".py", ".PY"), (".PY",), "writes")
    yield Case("top folder in capitals", beside("../loaded/code/__torch__.py"), ("damaged",), "differs")
    yield Case(
        "pickle in capitals", renamed("data.pkl", "DATA.PKL"), ("data.pkl", "DATA.PKL", "something else"), "writes"
    )
    yield Case("a second code in capitals", beside("CODE/__TORCH__.PY"), ("CODE", "two members"), "differs")
    yield Case("duplicate member", beside("code/__torch__.py"), ("two members",), "differs")
    yield Case("two directories", two_directories(), ("damaged",), "writes")
    yield Case("two zip64 directories", two_zip64(), ("contradict",), "writes")
    yield Case("the format of torch 1.0", legacy(), ("model.json",), "differs")
    yield Case("a flatbuffer", flatbuffer(), ("flatbuffer",), "differs")
    yield Case(
        "foreign global",
        pickled(replaced(b"ccollections\nOrderedDict\n", b"cposix\nsystem\n")),
        ("posix.system",),
        "raises",
    )
    yield Case(
        "builtin global",
        pickled(replaced(b"ccollections\nOrderedDict\n", b"cbuiltins\neval\n")),
        ("builtins.eval",),
        "raises",
    )
    yield Case("short record", short_record(), ("record", "data/0"), "loads")
    yield Case("nested tuples", pickled(many_tuples(2_000_000)), ("nested",), "killed")
    yield Case(
        "negative stride",
        pickled(replaced(b"(K\x04K\x04t(K\x04K\x01t", b"(K\x04K\x04t(J\xff\xff\xff\xffK\x01t")),
        ("tensor",),
        "differs",
    )
    yield Case(
        "huge stride",
        pickled(replaced(b"(K\x04K\x04t(K\x04K\x01t", b"(K\x04K\x04t(J\xff\xff\xff\x7fK\x01t")),
        ("reaches",),
        "differs",
    )
    yield Case(
        "huge size",
        pickled(replaced(b"(K\x04K\x04t(K\x04K\x01t", b"(J\xff\xff\xff\x7fK\x04t(K\x04K\x01t")),
        ("reaches",),
        "differs",
    )
    yield Case(
        "tensor of another type",
        pickled(replaced(b"ctorch\nFloatStorage\n", b"ctorch\nDoubleStorage\n")),
        ("record",),
        "differs",
    )
    yield Case(
        "unknown storage", pickled(replaced(b"ctorch\nFloatStorage\n", b"ctorch\nBlahStorage\n")), ("Blah",), "raises"
    )
    yield Case(
        "torch class in a pickle",
        pickled(replaced(b"c__torch__\nInner\n", b"c__torch__.torch.classes.profiler\n_RecordFunction\n")),
        ("torch.classes",),
        "differs",
    )
    yield Case(
        "an attribute that no value has",
        code_with("  step : int\n", "  more : Tensor\n  step : int\n"),
        ("not in the map",),
        "raises",
    )
    yield Case("an attribute too many", in_place_of_inner(b"K\1", name="spare"), ("spare",), "loads")
    narrow = "class Narrow(Module):\n  __parameters__ = []\n  __buffers__ = []\n  def forward(self: __torch__.Narrow, x: Tensor) -> Tensor:\n    return x\n"
    yield Case(
        "an object of another class", in_place_of_inner(b"c__torch__\nNarrow\n)\x81}b", narrow), ("inner",), "killed"
    )
    yield Case(
        "an object of another class by a call",
        in_place_of_inner(b"c__torch__\nNarrow\n}R", narrow),
        ("Narrow", "inner"),
        "killed",
    )
    yield Case(
        "a class that is not there", in_place_of_inner(b"c__torch__\nNowhere\n)\x81}b"), ("Nowhere", "inner"), "raises"
    )
    yield Case("a list of another class", list_of_others(), ("List", "names"), "killed")
    yield Case("a short tuple", pickled(replaced(PAIR, b"K\1\x85")), ("isTuple", "Tuple", "failed"), "raises")
    yield Case("a number for a tuple", pickled(replaced(PAIR, b"K\1")), ("isTuple", "Tuple", "failed"), "raises")
    yield Case("a number for a global", number_for_global(), ("calls",), "loads")
    yield Case("a storage's type for a global", number_for_global(b"ctorch\nFloatStorage\n"), ("calls",), "differs")
    yield Case(
        "lists that are nested from the outside",
        pickled(replaced(b"](X\1\0\0\0a", b"](X\1\0\0\0a]" + b"]q\xc8ah\xc8" * 200_000)),
        ("nested",),
        "differs",
    )
    yield Case(
        "a list that contains itself",
        pickled(replaced(b"](X\1\0\0\0a", b"]q\xc8(X\1\0\0\0ah\xc8")),
        ("itself",),
        "differs",
    )


#: The value of `pair`.
PAIR = b"K\1G@\4\0\0\0\0\0\0\x86"


def in_place_of_inner(value: bytes, code: str = "", name: str = "inner") -> bytes:
    """Another value for the submodule `inner` (whose own value stays, under a name that nobody declares)."""
    archive = zips.Archive.read(saved(Plain))
    archive.code().data += code.encode()
    pickle = archive.find("data.pkl")
    if name == "inner":
        pickle.data = pickle.data.replace(zips.text("inner"), zips.text("spare"), 1)
    pickle.data = pickle.data.replace(zips.text("names"), zips.text(name) + value + zips.text("names"), 1)
    return archive.write()


def list_of_others() -> bytes:
    """A list whose items are of another class than its type says."""
    archive = zips.Archive.read(saved(Plain))
    code, pickle = archive.code(), archive.find("data.pkl")
    code.data = code.data.replace(b"  names : List[str]", b"  names : List[__torch__.Inner]")
    code.data = code.data.replace(
        b"_4 = torch.add(_3, torch.len(names))", b"_4 = torch.add(_3, torch.mul(x, (names[0]).step))"
    )
    code.data += b"class Narrow(Module):\n  __parameters__ = []\n  __buffers__ = []\n  def forward(self: __torch__.Narrow, x: Tensor) -> Tensor:\n    return x\n"
    new = pickle.data.replace(b"](X\1\0\0\0a", b"](c__torch__\nNarrow\n)\x81}bX\1\0\0\0a", 1)
    pickle.data = new.replace(zips.text("List[str]"), zips.text("List[__torch__.Inner]"))
    return archive.write()


def number_for_global(value: bytes = b"K\1") -> bytes:
    """A call of which the pickle says only the number: to libtorch every global is one (here 1, which rebuilds tensors)."""
    return pickled(replaced(b"h\2((", value + b"(("))


def in_child(data: bytes, seconds: float = 20) -> str:
    """What `torch.jit.load` and one call do with the file, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(read)
                os.chdir(folder)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
                devnull = os.open(os.devnull, os.O_WRONLY)
                os.dup2(devnull, 1)
                os.dup2(devnull, 2)
                warnings.simplefilter("ignore")
                try:
                    model = torch.jit.load(io.BytesIO(data), map_location="cpu")
                    model(torch.ones(4, 4))
                    os.write(write, b"loads")
                except BaseException as e:
                    os.write(
                        write, f"raises {str(e).strip().splitlines()[-1] if str(e).strip() else e!r}"[:300].encode()
                    )
            finally:
                os._exit(0)
        os.close(write)
        deadline = time.monotonic() + seconds
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                os.close(read)
                return "hangs"
            time.sleep(0.005)
        said = os.read(read, 1000).decode(errors="replace")
        os.close(read)
        if os.WIFSIGNALED(status):
            return f"killed {signal.Signals(os.WTERMSIG(status)).name}"
        if (Path(folder) / HOLE).exists() or any("hole" in f.name for f in Path(folder).iterdir()):
            return "writes"
        return said


def main() -> None:
    """Shows both answers for every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--keep", type=Path, help="write the files into this folder")
    parser.add_argument("--bases", type=Path, help="only write what mutants are made of into this folder")
    options = parser.parse_args()
    if options.bases:
        for kind in (Plain, Loaded):
            (options.bases / f"{kind.__name__}.pt").write_bytes(saved(kind))
        return
    bad = 0
    for case in cases():
        if options.only not in case.name:
            continue
        if options.keep:
            options.keep.mkdir(exist_ok=True, parents=True)
            (options.keep / f"{case.name.replace(' ', '_')}.pt").write_bytes(case.data)
        python = in_child(case.data)
        answer = ask(case.data, "--input", f"x={ONES}")
        last = next((line for line in answer.out.splitlines() if "error" in line), answer.out[:200])
        refused = answer.code == 2 or answer.code == 1
        good = refused and "error" in answer.out and any(w in answer.out for w in case.words) and not answer.files
        good &= case.libtorch == "differs" or python.startswith(case.libtorch)
        bad += not good
        print(
            f"{'   ' if good else 'BAD'} {case.name}: torch: {python[:110]} | {answer.code} {answer.seconds:.2f}s {answer.files or ''} {last[:230]}",
            flush=True,
        )
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
