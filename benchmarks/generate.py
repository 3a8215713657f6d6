"""A large target from a small generator: memory, and the time to construct it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from benchmarks._case import Case, Claim, Contestant, Results, Setting, Workload, ours

GENERATE, NO_GRAD, CONSTRUCT = "generate, B 4", "generate, B 4, no_grad", "construct"
SIZE, LAYERS, CHUNK, EMBEDDING, TRUNK, CONDITIONS = 2048, 6, 10_000, 32, (100, 100), 4


class Problem:
    """The target, and what makes the two generators."""

    def __init__(self, setting: Setting) -> None:
        size, self.chunk = (6, 25) if setting.tiny else (SIZE, CHUNK)
        torch.manual_seed(0)
        self.device = setting.device
        self.target = nn.Sequential(*(nn.Linear(size, size) for _ in range(LAYERS)))
        self.target.to(setting.device)
        self.shapes = [list(p.shape) for p in self.target.parameters()]
        self.ids = list(range(CONDITIONS))

    def ours(self) -> hl.HyperNetwork:
        return hl.HyperNetwork(
            self.target,
            condition=hl.Embedding(CONDITIONS, EMBEDDING),
            trunk=hl.MLP(*TRUNK),
            layout=hl.Chunked(self.chunk, embedding=EMBEDDING),
        )

    def theirs(self) -> Any:
        from hypnettorch.hnets import ChunkedHMLP

        return ChunkedHMLP(
            self.shapes,
            self.chunk,
            chunk_emb_size=EMBEDDING,
            cond_in_size=EMBEDDING,
            layers=TRUNK,
            num_cond_embs=CONDITIONS,
            verbose=False,
        ).to(self.device)


def generators(setting: Setting, grad: bool) -> list[Contestant]:
    p = Problem(setting)
    hnet, theirs = p.ours(), p.theirs()
    ids = torch.tensor(p.ids, device=setting.device)

    def generate() -> dict[str, Tensor]:
        with torch.set_grad_enabled(grad):
            return hnet.generate(ids)

    def published() -> Any:
        with torch.set_grad_enabled(grad):
            return theirs.forward(cond_id=p.ids, ret_format="sequential")

    # Its default start (no scales) and ours differ; that the same numbers give the same tensors
    # is what the workloads of the continual step check.
    return [
        Contestant("hyperloom", generate, None, "ours"),
        Contestant("hypnettorch", published, None),
    ]


def constructors(setting: Setting) -> list[Contestant]:
    p = Problem(setting)
    made = [Contestant("hyperloom", p.ours, None, "ours")]
    return [*made, Contestant("hypnettorch", p.theirs, None)]


def workloads(setting: Setting) -> list[Workload]:
    return [
        Workload(GENERATE, lambda: generators(setting, True), seconds=4, memory=True),
        Workload(NO_GRAD, lambda: generators(setting, False), seconds=4, memory=True),
        Workload(CONSTRUCT, lambda: constructors(setting), seconds=4),
    ]


def judge(results: Results) -> list[Claim]:
    output = 4 * CONDITIONS * LAYERS * (SIZE * SIZE + SIZE)
    claims = []
    for key in (GENERATE, NO_GRAD):
        peak = ours(results[key]).peak
        if peak is not None:
            what = f"25 million numbers, {key}: peak memory over the output's bytes"
            claims.append(Claim(what, peak / output, most=1.5))
    seconds = ours(results[CONSTRUCT]).median
    return [*claims, Claim("25 million numbers: construction", seconds, most=2.0, unit=" s")]


CASE = Case(
    "generate",
    "A target of 25 million numbers",
    [
        "Six `Linear(2048, 2048)`, 25,178,112 numbers, from chunks of 10,000, embeddings 32 and "
        "32, trunk 100,100: all weights of four conditions (403 MB) in one call, forward only, "
        "with what a backward pass needs kept and under `no_grad`; and the time to construct the "
        "generator for a target that is there.",
    ],
    workloads,
    judge,
)
