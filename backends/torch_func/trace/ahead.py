"""What Inductor does once in a process before it compiles C++, done while a function is traced.

It asks the compiler which vector instructions it knows, and makes one large header ready to be read: seconds of a
compiler on an empty cache, in which another core has nothing to do. Of the instructions that the processor has, all
are taken to compile, as they do with every compiler of the last years: whether they do shows when a kernel is made.
"""

from __future__ import annotations

from functools import cache
from threading import Event, Lock, Thread
from typing import Any

import torch
from torch._inductor import config
from torch._inductor.codecache import CppPythonBindingsCodeCache
from torch._inductor.cpu_vec_isa import VecISA, pick_vec_isa, valid_vec_isa_list

from bilevel.backends.torch_func.trace import wrapping
from bilevel.backends.torch_func.trace.small import NUMBERS, loop

ONE = Lock()
"""held while the compiler is asked: Inductor changes what it knows of instructions while it asks"""
EMPTY = '#include <torch/csrc/inductor/cpp_prefix.h>\nextern "C" void kernel() {}\n'
PATIENCE = 60.0
"""seconds to wait at most for what Inductor finds out by itself otherwise"""


def options() -> dict[str, Any]:
    """What Inductor is told, where the user has told it nothing else."""
    told = config.cpp.vec_isa_ok is not None or config.cpp.simdlen is not None
    return {} if told else {"cpp.vec_isa_ok": True}


def narrower() -> dict[str, Any] | None:
    """Options for the widest vectors that the compiler knows, None where these are the processor's.

    Cost: some seconds of the compiler.
    """
    widths = [isa.bit_width() for isa in valid_vec_isa_list() if isa.check_build(VecISA._avx_code)]
    widest = max(widths, default=1)
    return {**options(), "cpp.simdlen": widest} if options() and widest < pick_vec_isa().bit_width() else None


@cache
def begun(dtype: torch.dtype) -> Event:
    """Begin with it, once in a process; set when Inductor's own questions find their answers ready."""
    wrapping.told()
    asked = Event()
    Thread(target=_prepare, args=(asked, dtype), name="bilevel compiler", daemon=True).start()
    return asked


def _prepare(asked: Event, dtype: torch.dtype) -> None:
    """Ask for the instructions, then compile the loop of small products, or nothing: for either the header is made.

    Options are set while it asks, and no longer: up to torch 2.11 every thread sees what one has set.
    """
    try:
        with ONE, config.patch(options()):
            pick_vec_isa()
        asked.set()
        if dtype in NUMBERS:
            loop(dtype)
        else:
            CppPythonBindingsCodeCache.load_pybinding([], EMPTY)
    except Exception:  # noqa: BLE001, S110 - the first kernel meets it again, and says it
        pass
    finally:
        asked.set()
