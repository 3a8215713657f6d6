"""What an import costs: nothing of PyTorch that PyTorch itself has not imported."""

from __future__ import annotations

import subprocess
import sys

LATE = ("torch._dynamo", "torch._inductor", "torch.distributed.tensor", "torch.onnx")


def loaded(code: str) -> list[str]:
    """Return which of the late modules a fresh interpreter has after `code`."""
    told = f"import sys\n{code}\nprint(*[name for name in {LATE!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_an_import_brings_no_compiler_and_no_distributed_tensors() -> None:
    assert set(loaded("import torch, hyperloom.torch")) <= set(loaded("import torch"))


def test_a_module_that_is_imported_late_would_be_seen() -> None:
    assert "torch._dynamo" in loaded("import torch._dynamo")
