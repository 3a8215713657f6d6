"""docs/reports/zoo.md: every architecture and block, run in every way. `make zoo` writes it."""

from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import hyperloom.torch as hl
from hyperloom.torch._rules.hidden import NotAtOnceError
from tests.zoo import checks
from tests.zoo.architectures import ARCHITECTURES
from tests.zoo.blocks import BLOCKS
from tests.zoo.checks import IDS, NUM, hypernetwork

REPORT = Path(__file__).parents[2] / "docs" / "reports" / "zoo.md"

_TOP = """# Report: the zoo

Written by `make zoo`. Every target in every way: three conditions at once against a loop.
Outputs, gradients to all parameters, buffers written. Differences are relative to the largest
number of each tensor. *Run as* says how: at once (`vmap`, `chain`), or one condition after the
other (`loop`). *Rows*: the same with all rows at once, `Execution(strategy="rows")`, where no
row of the target sees another; else why it is refused. There it is 1e-6 for models whose norms
compute in float32 whatever the dtype.
"""

# They multiply by a weight, or scan, in float32 whatever the dtype: rows round in another order.
ROUNDED = ("GemmaModel", "Gemma2Model", "CohereModel", "MambaModel", "FalconMambaModel")


@dataclass(frozen=True)
class Row:
    """One target, to be run."""

    kind: str
    name: str
    make: Callable[[], nn.Module]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    pattern: str
    dtype: torch.dtype
    eval_only: str = ""


def rows() -> Iterator[Row]:
    for name, (make, inputs, pattern) in BLOCKS.items():
        args = inputs(NUM, dtype=torch.float64)
        yield Row("block", name, make, args, {}, pattern, torch.float64)
    for e in ARCHITECTURES:
        dtype = torch.float32 if e.single else torch.float64
        kwargs = e.inputs(NUM, dtype=dtype)
        yield Row(e.kind, e.model, e.make, (), kwargs, e.pattern, dtype, e.eval_only)


def seeded() -> None:
    torch.manual_seed(5)


def run(row: Row, train: bool, part: bool, strategy: str = "auto") -> tuple[str, str]:
    """Return how the batch was run, and whether it equals the loop."""
    torch.manual_seed(1)
    target = row.make().to(row.dtype).train(train)
    before = checks.frozen_copy(target)
    layout = {row.pattern: hl.Full()} if part else hl.Chunked(256, embedding=4)
    hnet = hypernetwork(target, layout=layout).train(train)
    hnet.execution = hl.Execution(strategy=strategy)
    tolerance = 1e-9 if row.dtype == torch.float64 else 1e-5
    if strategy == "rows" and row.name in ROUNDED:
        tolerance = 1e-6
    try:
        checks.batch_equals_loop(hnet, row.args, row.kwargs, tolerance, prepare=seeded)
        checks.unchanged(target, before)
    except NotAtOnceError as error:
        return strategy, f"no: {' '.join(str(error).split())[:90]}"
    except Exception as error:  # the report is to show all that fail
        return "", f"FAIL: {type(error).__name__}"
    how = hnet.explain(*row.args, condition=list(IDS), **row.kwargs)
    return how.strategy, f"equal ({tolerance:g})"


def main() -> None:
    """Run everything and write the report; fail if anything does."""
    import transformers

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    transformers.logging.set_verbosity_error()
    lines = [
        f"torch {torch.__version__}, transformers {transformers.__version__}, Python "
        f"{platform.python_version()}, CPU, one thread.",
        "",
        "| kind | target | parameters | run as | eval | training | a part | rows | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    failed, counts = [], list[str]()
    for row in rows():
        start = time.process_time()
        size = sum(p.numel() for p in row.make().parameters())
        strategy, in_eval = run(row, False, False)
        left_out = f"no: {row.eval_only}"
        training = left_out if row.eval_only else run(row, True, False)[1]
        part = run(row, False, True)[1]
        on_rows = run(row, False, False, "rows")[1]
        counts += [on_rows.partition(" ")[0]]
        seconds = time.process_time() - start
        cells = [row.kind, row.name, str(size), strategy, in_eval, training, part, on_rows]
        cells += [f"{seconds:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
        failed += [row.name] if "FAIL" in lines[-1] else []
    equal = counts.count("equal")
    lines += ["", f"On rows: {equal} of {len(counts)} equal the loop, outputs and gradients."]
    REPORT.write_text(_TOP + "\n" + "\n".join(lines) + "\n", "utf-8")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
