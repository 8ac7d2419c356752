"""Loops that check an index or a value: generated for one thread.

A check that does not hold throws, and what leaves a parallel region by an exception ends the process: one token beside
its vocabulary did. Outside of such a region the package's entry makes an error code of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

#: What throws: checks, and divisions of integers.
_THROWING = ("check_bounds", "device_assert_async", "floordiv", "truncdiv", "mod", "remainder")


@contextmanager
def on_one_thread() -> Iterator[None]:
    """While this lasts, torch's code generator leaves loops with checks out of its parallel regions."""
    from torch._inductor.codegen import cpp

    check_bounds: Any = cpp.CppKernel.check_bounds
    check_value: Any = cpp.CppKernel.device_assert_async
    codegen_loops: Any = cpp.CppKernel.codegen_loops_impl
    can_fuse: Any = cpp.CppScheduling.can_fuse_vertical

    def bounds_noted(kernel: Any, expr: Any, size: Any, lower: bool, upper: bool) -> None:
        kernel.checks = lower or upper or _checks(kernel)
        check_bounds(kernel, expr, size, lower, upper)

    def value_noted(kernel: Any, *args: Any) -> Any:
        kernel.checks = True
        return check_value(kernel, *args)

    def alone(kernel: Any, loops: Any, code: Any, region: Any) -> None:
        none = cpp.ParallelDepth(parallel_depth=0, start_depth=0)
        with ExitStack() as changed:
            if any(map(_checks, _kernels_of(loops))):
                region.close()
                changed.enter_context(patch.object(loops, "max_parallel_depth", lambda: none))
            codegen_loops(kernel, loops, code, region)

    # What is fused behind a matrix product runs within the product's own region.
    def unless_it_throws(scheduling: Any, first: Any, second: Any) -> Any:
        bodies = [body for node in second.get_nodes() if (body := getattr(node, "_body", None))]
        throws = any(body.indirect_vars or any(map(body.has_op, _THROWING)) for body in bodies)
        return can_fuse(scheduling, first, second) and not (first.is_template() and throws)

    with (
        patch.object(cpp.CppKernel, "check_bounds", bounds_noted),
        patch.object(cpp.CppKernel, "device_assert_async", value_noted),
        patch.object(cpp.CppKernel, "codegen_loops_impl", alone),
        patch.object(cpp.CppScheduling, "can_fuse_vertical", unless_it_throws),
    ):
        yield


def _checks(kernel: Any) -> bool:
    return bool(getattr(kernel, "checks", False))


# A nest holds a proxy for a vector and a scalar version of one body, or several nests within a common outer loop.
def _kernels_of(loops: Any) -> Iterator[Any]:
    kernel = loops.get_kernel()
    if inner := getattr(kernel, "inner", None):
        for nest in inner:
            yield from _kernels_of(nest)
    else:
        yield from getattr(kernel, "kernels", [kernel])
