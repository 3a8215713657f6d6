"""One layer, over conditions, rows, templates and sizes: is the choice right everywhere?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from benchmarks import _mlp
from benchmarks._case import (
    Case,
    Claim,
    Contestant,
    Results,
    Setting,
    Workload,
    best,
    geometric_mean,
    ours,
)

CONDITIONS, ROWS, WIDTHS, LAYERS = (1, 32, 512), (1, 8, 256), (8, 64), (64, 256)
LARGEST = 2**28  # bytes of the contraction's intermediate array


def workloads(setting: Setting) -> list[Workload]:
    cells = list(product(CONDITIONS, ROWS, WIDTHS, LAYERS))
    return [_cell(setting, *cell) for cell in (cells[::7] if setting.tiny else cells)]


def _cell(setting: Setting, b: int, n: int, r: int, d: int) -> Workload:
    size = 4 * b * n * r * d
    fits = size <= LARGEST
    why = {} if fits else {"hand contraction": f"an array of {size / 2**20:.0f} MiB"}

    def make() -> list[Contestant]:
        sizes = (5, 5) if setting.tiny else (d, d)
        num, rows = (min(b, 3), min(n, 4)) if setting.tiny else (b, n)
        problem = _mlp.Problem(sizes, r, num, rows, input_gradient=True, device=setting.device)
        made = [_mlp.hyperloom(problem), _mlp.hand_vmap(problem), _mlp.hand_bmm(problem)]
        return [*made, _mlp.hand_contraction(problem)] if fits else made

    key = f"B {b}, n {n}, R {r}, layer {d}"
    numbers = {"B": b, "n": n, "R": r, "layer": d}
    return Workload(key, make, seconds=2.5, numbers=numbers, omitted=why)


def judge(results: Results) -> list[Claim]:
    ratios = {key: ours(t).median / best(t)[1].median for key, t in results.items()}
    worst = max(ratios, key=lambda key: ratios[key])
    within = sum(ratio <= 1.15 for ratio in ratios.values())
    mean = geometric_mean(list(ratios.values()))
    return [
        Claim(f"grid, worst cell ({worst}): time over the best of three", ratios[worst], most=1.15),
        Claim(f"grid, cells within 1.15 of {len(ratios)}", within, least=len(ratios), unit=""),
        Claim("grid, geometric mean over the best of three", mean, most=1.0),
    ]


def table(cells: Sequence[Workload], results: Results) -> list[list[str]]:
    names = ("hyperloom", "hand vmap", "hand bmm", "hand contraction")
    lines = [["B", "n", "R", "layer", *(f"{name}, ms" for name in names), "ratio", "way"]]
    for cell in cells:
        times = results[cell.key]
        ratio = ours(times).median / best(times)[1].median
        shown = f"{ratio:.2f}" if ratio <= 1.15 else f"**{ratio:.2f}**"
        took = [f"{1e3 * times[n].median:.3g}" if n in times else "–" for n in names]
        lines.append([*(f"{v:g}" for v in cell.numbers.values()), *took, shown, ours(times).note])
    return lines


CASE = Case(
    "grid",
    "Grid of single layers",
    [
        "One `Linear(d, d)` with bias whose numbers are linear in a condition of width R, B "
        "conditions with n rows each; gradients of input, condition and generator. The ratio is "
        "to the fastest of the three written by hand. “Way” is what hyperloom chose: `dense` "
        "forms the weights, `inputs` and `outputs` contract on that side.",
        "Where hyperloom is slower it is for one of two reasons. It has one head for all tensors, "
        "so that the gradients of what was cut are put together again, a copy that heads for each "
        "tensor do not need: with B 1 that is most of the difference. Or the cost model chose "
        "another way than the fastest: it knows sizes, not caches.",
        "–: left out, because the contraction would need an array above 256 MiB.",
    ],
    workloads,
    judge,
    table,
)
