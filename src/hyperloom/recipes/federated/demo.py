"""`hyperloom demo federated`: a network for each client, beside training alone and averaging."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import hyperloom.torch as hl
from hyperloom.recipes._frame.measure import Side, lines_of, ms_of
from hyperloom.recipes._frame.run import Run
from hyperloom.recipes.federated import by_hand
from hyperloom.recipes.federated import torch as ours
from hyperloom.recipes.federated.data import CLIENTS, NEW, TRAIN, Clients, read_clients

ROUNDS, AT_ONCE, RATE = 600, 10, 3e-3
JOIN_ROUNDS, JOIN_RATE = 100, 0.03
_INTRODUCTION = (
    "[bold]Personal networks, data at home[/bold]: 40 clients have 12 images each, of two digits. "
    "A server generates the network of each (pFedHN), and learns from what clients send back. "
    "Ten more clients come later, and fit an embedding of 16 numbers."
)
Theta = ours.Weights


def demo(run: Run) -> None:
    """Run the recipe."""
    run.introduce(_INTRODUCTION)
    torch.manual_seed(run.seed)
    everyone = read_clients(run.seed)
    old, new = everyone.some(slice(CLIENTS)), everyone.some(slice(CLIENTS, None))
    run.settings(
        clients=CLIENTS, new=NEW, images=TRAIN, test=old.test_x.shape[1], rounds=ROUNDS,
        clients_a_round=AT_ONCE, rate=RATE, local_steps=ours.LOCAL_STEPS,
        local_rate=ours.LOCAL_RATE, join_rounds=JOIN_ROUNDS, join_rate=JOIN_RATE,
    )  # fmt: skip
    hnet = ours.hypernetwork(CLIENTS)
    hand = by_hand.copied(hnet, CLIENTS)
    with torch.no_grad():
        ids = torch.arange(CLIENTS)
        mine = hnet.run(hnet.generate(ids), old.x)
        difference = float((mine - by_hand.run(hand(ids), old.x)).abs().max())
    curve = _train(run, hnet, old)
    averaged = _average(run, old)
    before = hnet.generate(ids)
    torch.manual_seed(run.seed)
    newcomers = ours.join(hnet, new.x, new.y, run.steps or JOIN_ROUNDS, JOIN_RATE)
    after = hnet.generate(ids)
    theta = hnet.generate(torch.arange(CLIENTS + NEW))
    lonely = ours.train_locally(
        by_hand.run, by_hand.alone(CLIENTS + NEW), everyone.x, everyone.y, 200
    )
    shared = by_hand.repeated(averaged, CLIENTS + NEW)
    tuned = ours.train_locally(by_hand.run, shared, everyone.x, everyone.y)
    named = {
        "generated": (hnet.run, theta),
        "alone": (by_hand.run, lonely),
        "averaged": (by_hand.run, shared),
        "averaged, then 10 steps alone": (by_hand.run, tuned),
    }
    rows = {
        name: {
            "40 clients": _right(how, net, everyone, slice(CLIENTS)),
            "10 new ones": _right(how, net, everyone, slice(CLIENTS, None)),
            "worst client": min(
                _right(how, net, everyone, slice(i, i + 1)) for i in range(CLIENTS)
            ),
        }
        for name, (how, net) in named.items()
    }
    run.table("Right answers in percent, on clients' test images", rows)
    same = all(torch.equal(before[name], after[name]) for name in before)
    _claims(run, rows, same, len(newcomers))
    _beside(run, difference, old, rows["generated"]["40 clients"])
    _pictures(run, hnet, everyone, curve, rows)
    run.checkpoint(hl, hnet)


def _train(run: Run, hnet: hl.HyperNetwork, clients: Clients) -> list[tuple[int, float]]:
    """Make the rounds; return the mean accuracy of all clients every 20 of them."""
    optimizer = torch.optim.Adam(hl.param_groups(hnet, RATE))
    draws, curve = torch.Generator().manual_seed(run.seed), []
    for i in run.train("generated", ROUNDS):
        ids = torch.randperm(CLIENTS, generator=draws)[:AT_ONCE]
        ours.serve(hnet.generate, hnet.run, optimizer, ids, clients.x[ids], clients.y[ids])
        if i % 20 == 19:
            theta = hnet.generate(torch.arange(CLIENTS))
            curve.append((i + 1, ours.right(hnet.run, theta, clients.test_x, clients.test_y)))
            run.now(f"{curve[-1][1]:.1f} % right")
    return curve


def _average(run: Run, clients: Clients) -> Theta:
    """Make as many rounds of federated averaging; return the network."""
    theta = {name: value[0] for name, value in by_hand.alone(1).items()}
    draws = torch.Generator().manual_seed(run.seed)
    for _ in run.train("averaged (FedAvg)", ROUNDS):
        ids = torch.randperm(CLIENTS, generator=draws)[:AT_ONCE]
        theta = by_hand.average(theta, clients.x[ids], clients.y[ids])
    return theta


def _right(run: ours.Run, theta: Theta, clients: Clients, which: slice) -> float:
    some = {name: value[which] for name, value in theta.items()}
    return ours.right(run, some, clients.test_x[which], clients.test_y[which])


def _claims(run: Run, rows: dict[str, dict[str, float]], same: bool, newcomers: int) -> None:
    mine = rows["generated"]
    for other, text in (
        ("alone", "at least as good as clients that train alone"),
        ("averaged", "at least as good as the averaged network"),
        ("averaged, then 10 steps alone", "at least as good as that network trained further"),
    ):
        for who in ("40 clients", "10 new ones"):
            there = rows[other][who]
            run.claim(
                f"{text}: {who}", mine[who] >= there, f"{mine[who]:.1f} against {there:.1f} %"
            )
    text = "networks of the 40 are bitwise the same after new ones have come"
    run.claim(text, same, f"{newcomers} came")


def _beside(run: Run, difference: float, clients: Clients, final: float) -> None:
    """Hold a round beside the same by hand."""
    hnet = ours.hypernetwork(CLIENTS)
    hand = by_hand.HandGenerator(CLIENTS)
    ids = torch.arange(AT_ONCE)
    x, y = clients.x[ids], clients.y[ids]

    def round_of(generator: Any, how: ours.Run, parameters: list[Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.Adam(parameters, RATE)
        return lambda: ours.serve(generator, how, optimizer, ids, x, y)

    ms = ms_of({
        "hyperloom": round_of(hnet.generate, hnet.run, list(hnet.parameters())),
        "by hand": round_of(hand, by_hand.run, list(hand.parameters())),
    })  # fmt: skip
    lines = {"hyperloom": lines_of(ours.hypernetwork, ours.network),
             "by hand": lines_of(by_hand.HandGenerator, by_hand.run) + 2}  # fmt: skip
    run.beside(difference, {n: Side(lines[n], ms[n]) for n in lines}, {"% right, 40": final})


def _pictures(
    run: Run,
    hnet: hl.HyperNetwork,
    clients: Clients,
    curve: list[tuple[int, float]],
    rows: dict[str, dict[str, float]],
) -> None:
    """Draw embeddings by what clients have, and accuracy over rounds."""
    table = torch.cat([p.detach() for n, p in hnet.named_parameters() if "table" in n]).numpy()
    centred = table - table[:CLIENTS].mean(0)
    axes_of = np.linalg.svd(centred[:CLIENTS], full_matrices=False)[2][:2]
    places = centred @ axes_of.T
    figure = Figure((12, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (x, y) in enumerate(places):
        pair = "".join(map(str, sorted(set(clients.y[i].tolist()))))
        color = "tab:red" if i >= CLIENTS else "tab:blue"
        left.text(x, y, pair, color=color, fontsize=9, ha="center", va="center")
    left.set(xlim=_around(places[:, 0]), ylim=_around(places[:, 1]))
    left.set_title("embeddings of clients, by the two digits they have (red: came later)")
    right.plot(*zip(*curve, strict=True) if curve else ([], []), label="generated")
    for name in ("alone", "averaged", "averaged, then 10 steps alone"):
        right.axhline(rows[name]["40 clients"], ls="--", lw=1, color=_COLORS[name], label=name)
    right.set(xlabel="rounds", ylabel="% right, 40 clients")
    right.legend(fontsize=8)
    run.figure("clients.png", figure, "a map of clients, and accuracy over rounds")


_COLORS = {"alone": "black", "averaged": "tab:green", "averaged, then 10 steps alone": "tab:orange"}


def _around(values: np.ndarray) -> tuple[float, float]:
    room = 0.08 * float(np.ptp(values)) + 1e-6
    return float(values.min()) - room, float(values.max()) + room
