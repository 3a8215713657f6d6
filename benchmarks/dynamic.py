"""A network of its own for every input, or for a few."""

from __future__ import annotations

from benchmarks import _mlp
from benchmarks._case import (
    Case,
    Claim,
    Contestant,
    Results,
    Setting,
    Workload,
    best,
    faster,
    ours,
    within,
)

SIZES, WIDTH = (64, 256, 256, 10), 16
ONE, MANY = "n 1, B 512", "n 256, B 32"


def workloads(setting: Setting) -> list[Workload]:
    sizes = (5, 7, 6, 3) if setting.tiny else SIZES

    def make(conditions: int, rows: int) -> list[Contestant]:
        if setting.tiny:
            conditions, rows = min(conditions, 5), min(rows, 4)
        problem = _mlp.Problem(sizes, WIDTH, conditions, rows, device=setting.device)
        # The prototype that the bound was set by is such a contraction.
        return _mlp.everyone(problem, contraction="reference")

    return [
        Workload(ONE, lambda: make(512, 1), seconds=25, memory=True),
        Workload(MANY, lambda: make(32, 256), seconds=12, memory=True),
    ]


def judge(results: Results) -> list[Claim]:
    one, many = results[ONE], results[MANY]
    claims = [faster(one, 12, f"dynamic MLP, {ONE}")]
    name, opponent = best(one)
    mine = ours(one)
    if mine.peak is not None and opponent.peak is not None:
        share = mine.peak / opponent.peak
        claims.append(Claim(f"dynamic MLP, {ONE}: peak memory over {name}", share, most=1 / 8))
    claims.append(within(many, 1.1, f"dynamic MLP, {MANY}", "hand bmm"))
    return claims


CASE = Case(
    "dynamic",
    "Dynamic MLP",
    [
        "Target 64-256-256-10 (85,002 numbers), all of it a linear function of a condition of "
        "width 16: the weights of a network that depends on its input. Gradients of the "
        "condition and of the generator.",
        "hand bmm: a head for each tensor, `baddbmm`. hand vmap: the same heads, "
        "`vmap(functional_call)`. loop: the same heads, `functional_call` for each condition. "
        "hand contraction: weights never formed, on the narrower side of each layer; shown for "
        "reference, it is not a peer but what hyperloom does by itself. hypnettorch: `HMLP` and "
        "`MLP`, which take one condition at a time. hyper-nn: a generator in its base class, "
        "batched with `vmap` from outside.",
        "How far n 1 can go: a layer whose weight is never formed still needs three products of "
        "B n R I O terms (outputs, gradient of the templates, gradient of what goes in). A profile "
        "of the CPU run puts about 80 % of a step into them, at the processor's rate for large "
        "products; with nothing else in it the step would be some 10 times faster than hand bmm. "
        "hand bmm multiplies weight by rows, so that no gradient is copied into another layout, "
        "which makes it faster than the usual `bmm` of rows by weights.",
    ],
    workloads,
    judge,
)
