"""What a first step with fx imports: nothing that it does not need and that takes long; networkx cuts residuals."""

from __future__ import annotations

import subprocess
import sys

from tests.command.tools import ROOT

STEP = """
import sys
import bilevel
from bilevel.backends.torch_func.keyed import make_key
import torch
program = bilevel.compile("maml_sine", compile="fx")
phase, key = program.phases[-1], make_key(0)
with torch.no_grad():
    phase.step(phase.begin(key), key)
print(len([one for one in program.kernels.made if one.run is not None]))
print(*sorted({"scipy", "sklearn", "matplotlib", "rich", "torch._inductor.compile_fx"} & sys.modules.keys()))
"""


def test_a_first_step_with_fx_imports_no_other_compiler_and_no_large_library() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", STEP], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, check=True
    )
    assert ran.stdout == "1\n\n"
