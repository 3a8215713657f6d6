"""Cost against conditions, rows and target size: the plots."""

from __future__ import annotations

from itertools import pairwise

from benchmarks import _mlp
from benchmarks._case import Case, Claim, Contestant, Results, Setting, Workload

WIDTH = 16
POINTS = {
    "conditions": (1, 4, 16, 64, 256, 1024, 4096),
    "rows": (1, 4, 16, 64, 256, 1024),
    "size": (16, 64, 256, 512, 1024),
}
LARGEST = 2**28  # bytes of the contraction's intermediate array


def workloads(setting: Setting) -> list[Workload]:
    made = []
    for axis, points in POINTS.items():
        for point in points[:1] if setting.tiny else points[::3] if setting.quick else points:
            made.append(_point(setting, axis, point))
    return made


def _point(setting: Setting, axis: str, point: int) -> Workload:
    num, rows, wide = 64, 1, 256
    if axis == "conditions":
        num = point
    elif axis == "rows":
        rows = point
    else:
        wide = point
    if setting.tiny:
        num, rows, wide = min(num, 3), min(rows, 4), 8
    sizes = (64, wide, wide, 10)
    total = sum(a * b + b for a, b in pairwise(sizes))
    x = point if axis != "size" else total
    # What would take minutes or all memory shows nothing that a shorter line does not.
    omitted = {}
    if 4 * num * rows * WIDTH * wide > LARGEST:
        omitted["hand contraction"] = "an array above 256 MiB"
    if num > 1024:
        omitted.update(dict.fromkeys(("loop", "hypnettorch", "hyper-nn"), "several seconds a step"))

    def make() -> list[Contestant]:
        problem = _mlp.Problem(sizes, WIDTH, num, rows, device=setting.device)
        return [c for c in _mlp.everyone(problem, "reference") if c.name not in omitted]

    key = f"{axis} {x}"
    return Workload(key, make, seconds=2.0, numbers={"x": x}, omitted=omitted)


def judge(results: Results) -> list[Claim]:
    return []


CASE = Case(
    "curves",
    "Cost against B, n and target size",
    [
        "The dynamic MLP again, along three axes. Lines end where a step takes seconds, or an "
        "array more than 256 MiB.",
    ],
    workloads,
    judge,
)
