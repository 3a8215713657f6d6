"""Views, parameters from outside, perturbed and assembled hypernetworks, angles, bare shapes."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from hyperloom._core.reference.executor import generate as oracle
from hyperloom.torch._tools.checkpoint import neutral_tensors
from tests._support.on_torch import hypernetwork

TARGET = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


build = partial(hypernetwork, lambda: TARGET, condition=hl.Embedding(5, 3), trunk=hl.MLP(6))


def assert_same(made: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert list(made) == list(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(made[name], value)


# ---- views --------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", [2, [0, 4], [[0, 1, 2], [4, 4, 4]]], ids=str)
def test_flat_and_back(condition: Any) -> None:
    hnet = build()
    made = hnet.generate(torch.tensor(condition))
    flat = hl.flatten(made, hnet.plan)
    assert flat.shape == (*torch.tensor(condition).shape, 26)
    assert_same(hl.unflatten(flat, hnet.plan), made)
    own = hl.flatten(dict(TARGET.named_parameters()), hnet.plan)
    assert torch.equal(own, nn.utils.parameters_to_vector(TARGET.parameters()))


def test_apart_and_together() -> None:
    made = build().generate([3, 1, 1])
    samples = hl.unstack(made)
    assert len(samples) == 3
    assert_same(samples[1], samples[2])
    assert_same(hl.stack(samples), made)


def test_parameters_by_whom_they_belong_to() -> None:
    hnet = build(layout={"0.*": hl.Chunked(5, 2, per_condition=True), "2.*": hl.PerCondition()})
    shared, own = hl.shared_parameters(hnet), hl.conditional_parameters(hnet)
    assert set(shared) | set(own) == {name for name, _ in hnet.named_parameters()}
    assert not set(shared) & set(own)
    assert all(len(p) == 5 for p in own.values())
    rows = hl.conditional_parameters(hnet, 3)
    assert {k: tuple(v.shape) for k, v in rows.items()} == {
        "condition.table": (3,),
        "heads.chunked.slots": (4, 2),
        "heads.per_condition.table": (10,),
    }
    # Only what belongs to condition 3 changes what condition 3 gets, and nothing else.
    before = hnet.generate(range(5))
    with torch.no_grad():
        for view in rows.values():
            view.add_(1.0)
    after = hnet.generate(range(5))
    for name, value in before.items():
        changed = (after[name] != value).flatten(1).any(1)
        assert changed.tolist() == [False, False, False, True, False], name


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda h: hl.flatten({}, h.plan), ValueError, "params: got no tensor for '0.weight'"),
        (
            lambda h: hl.flatten({n: t.movedim(0, -1) for n, t in h.generate([0]).items()}, h.plan),
            ValueError,
            r"params\['0.weight'\]: got shape \(4, 3, 1\); wanted shape \(\*batch, 4, 3\)",
        ),
        (
            lambda h: hl.flatten({**h.generate([0]), "0.bias": torch.zeros(4)}, h.plan),
            ValueError,
            r"params: got batches \[\(\), \(1,\)\]; wanted the same for all tensors",
        ),
        (lambda h: hl.unflatten(torch.zeros(2, 25), h.plan), ValueError, r"wanted \(\*batch, 26\)"),
        (lambda h: hl.unstack({}), ValueError, "params: got tensors with first"),
        (
            lambda h: hl.unstack({"a": torch.zeros(2), "b": torch.zeros(3)}),
            ValueError,
            r"params: got tensors with first dimensions \[\(2,\), \(3,\)\]",
        ),
        (lambda h: hl.stack([]), ValueError, "samples: got none"),
        (lambda h: hl.stack([{"a": torch.zeros(1)}, {}]), ValueError, "samples: got none, or"),
        (
            lambda h: hl.conditional_parameters(h, 5),
            IndexError,
            r"cond_id: got 5; wanted .* 0 .. 4",
        ),
        (
            lambda h: h.generate(0, parameters={"trunk.0.weight": torch.zeros(1)}),
            ValueError,
            "parameters: got the name 'trunk.0.weight'.*Did you mean 'trunks.0",
        ),
        (
            lambda h: h.generate(0, parameters={"trunks.0.0.weight": torch.zeros(6, 2)}),
            ValueError,
            r"parameters\['trunks.0.0.weight'\]: got shape \(6, 2\); wanted shape \(6, 3\)",
        ),
        (
            lambda h: h.generate(0, parameters={"condition.table.0": torch.zeros(9, 2)}),
            ValueError,
            r"got shape \(9, 2\); wanted shape \(ids, 3\)",
        ),
        (lambda h: h.generate(0, parameters={"trunks.0.0.weight": 1}), TypeError, "a tensor"),
        (lambda h: h.generate(0, parameters=[]), TypeError, "parameters: got a list; wanted a"),
        (
            lambda h: h.generate(7, parameters={"condition.table.0": torch.zeros(6, 3)}),
            IndexError,
            "the id 7",
        ),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_refused(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(build())


# ---- parameters from outside ----------------------------------------------------------------


def test_a_hypernetwork_of_a_hypernetwork() -> None:
    """The inner one's parameters come from the outer one, and gradients reach that."""
    inner = build(condition=hl.Vector(3))
    outer = hl.HyperNetwork(inner, condition=hl.Embedding(2, 4), layout=hl.Chunked(50, 3))
    given = outer.generate(1)
    assert set(given) == {name for name, _ in inner.named_parameters()}
    vector = torch.randn(4, 3)
    made = inner.generate(vector, parameters=given)
    twin = build(condition=hl.Vector(3))
    twin.load_state_dict({n: p.detach() for n, p in given.items()}, strict=False)
    assert_same(
        {n: t.detach() for n, t in made.items()},
        {n: t.detach() for n, t in twin.generate(vector).items()},
    )
    hl.flatten(made, inner.plan).square().sum().backward()
    assert all(p.grad is not None for p in outer.parameters())
    assert all(p.grad is None for p in inner.parameters())
    x = torch.randn(4, 7, 3)
    wanted = torch.func.functional_call(inner, given, (x,), {"condition": vector})
    torch.testing.assert_close(wanted, inner.run(made, x))


def test_only_the_conditions_parameters_from_outside() -> None:
    hnet = build()
    table = torch.randn(9, 3, requires_grad=True)
    made = hnet.generate([8, 0], parameters={"condition.table.0": table})
    vectors = build(condition=hl.Vector(3))
    vectors.load_state_dict(
        {n: p for n, p in hnet.state_dict().items() if "condition" not in n}, strict=False
    )
    assert_same(made, vectors.generate(table[[8, 0]]))
    hl.flatten(made, hnet.plan).sum().backward()
    assert table.grad is not None
    assert table.grad.flatten(1).any(1).tolist() == [True, *[False] * 7, True]


def test_the_shared_parameters_perturbed() -> None:
    hnet = build()
    torch.manual_seed(1)
    moved = {n: p + 0.1 * torch.randn_like(p) for n, p in hl.shared_parameters(hnet).items()}
    before = hnet.generate([0, 1])
    made = hnet.generate([0, 1], parameters=moved)
    assert not torch.allclose(made["0.weight"], before["0.weight"])
    assert_same(hnet.generate([0, 1]), before)
    batched = {n: torch.stack([p, p + 1]) for n, p in hl.shared_parameters(hnet).items()}
    both = torch.func.vmap(lambda p: hnet.generate(3, parameters=p))(batched)
    assert_same({n: t[0] for n, t in both.items()}, hnet.generate(3))


# ---- perturbed ----------------------------------------------------------------------------------


def test_noise_fills_the_space_of_weights() -> None:
    inner = build(condition=hl.Noise(2), trunk=None)
    hnet = hl.Perturbed(inner, sigma=0.3)
    torch.manual_seed(0)
    draws = hl.flatten(hnet.generate(4000), inner.plan).detach()
    plain = hl.flatten(inner.generate(4000), inner.plan).detach()
    for values, rank in ((plain, 2), (draws, 26)):
        spectrum = torch.linalg.svdvals(values - values.mean(0)) / 4000**0.5
        assert int((spectrum > 0.05).sum()) == rank
    smallest = float(torch.linalg.svdvals(draws - draws.mean(0))[-1] / 4000**0.5)
    assert 0.27 < smallest < 0.33


def test_given_noise_and_handlers() -> None:
    inner = build(condition=hl.Vector(3))
    z = torch.randn(5, 26)
    # hypnettorch's own: the first entries of the noise are the condition.
    hnet = hl.Perturbed(inner, 0.1, before=lambda z: z[:, :3])
    made = hl.flatten(hnet.generate(z, noise=z), inner.plan)
    wanted = hl.flatten(inner.generate(z[:, :3]), inner.plan) + 0.1 * z
    torch.testing.assert_close(made, wanted)
    x = torch.randn(5, 7, 3)
    y = hnet(x, condition=z, noise=z)
    torch.testing.assert_close(y, inner.run(hl.unflatten(wanted, inner.plan), x))
    twice = hl.Perturbed(inner, after=lambda params, z: {n: 2 * t for n, t in params.items()})
    made = hl.flatten(twice.generate(z[:, :3]), inner.plan)
    torch.testing.assert_close(made, 2 * (wanted - 0.1 * z))
    assert [n for n, _ in hnet.named_parameters()] == [
        f"hnet.{n}" for n, _ in inner.named_parameters()
    ]
    with pytest.raises(ValueError, match=r"noise: got shape \(4, 26\); wanted \(\*batch, P\)"):
        hnet.generate(z, noise=z[:4])
    with pytest.raises(ValueError, match="noise: got a tensor; wanted none"):
        twice.generate(z[:, :3], noise=z)
    with pytest.raises(TypeError, match="hnet: got a Linear; wanted a HyperNetwork"):
        hl.Perturbed(nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sigma: got -1"):
        hl.Perturbed(inner, -1.0)
    with pytest.raises(ValueError, match=r"hnet: got one with Recurrent\(2, 3.* has no state"):
        hl.Perturbed(build(condition=hl.Recurrent(2, 3)))


# ---- assembled ----------------------------------------------------------------------------------


def assembled() -> hl.Assembled:
    torch.manual_seed(0)
    condition = hl.Embedding(5, 3)
    parts = {
        "rows": hl.HyperNetwork(hl.Shapes([(2, 3), (2,)]), condition=condition),
        "out": hl.HyperNetwork(hl.Shapes({"w": (4, 2)}), condition=condition, trunk=hl.MLP(5)),
        "own": hl.HyperNetwork(hl.Shapes([(2,)]), condition=hl.Ids(5), layout=hl.PerCondition()),
        "bias": hl.HyperNetwork(nn.Linear(1, 2), condition=hl.Ids(5), layout=hl.Shared()),
    }

    def assemble(made: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
        rows = made["rows"]
        return {
            "0.weight": torch.cat([rows["0.weight"], -rows["0.weight"]]),
            "0.bias": torch.cat([rows["0.bias"], made["own"]["0.bias"]]),
            "2.weight": made["out"]["w"].T,
            "2.bias": made["bias"]["bias"],
        }

    return hl.Assembled(TARGET, parts, assemble)


def test_assembled_by_a_function() -> None:
    hnet = assembled()
    made = hnet.generate([4, 0])
    for i, condition in enumerate((4, 0)):
        one = hnet.generate(condition)
        for name, value in one.items():
            torch.testing.assert_close(made[name][i], value)
        torch.testing.assert_close(one["0.weight"][:2], -one["0.weight"][2:])
    torch.testing.assert_close(made["2.bias"][0], made["2.bias"][1])
    x = torch.randn(2, 7, 3)
    y = hnet(x, condition=[4, 0])
    for i in range(2):
        one = {name: value[i] for name, value in made.items()}
        wanted = torch.func.functional_call(TARGET, one, (x[i],))
        torch.testing.assert_close(y[i], wanted)
    y.square().sum().backward()
    assert not [n for n, p in hnet.named_parameters() if p.grad is None and p.requires_grad]
    each = hnet.generate({"rows": [1, 2], "out": [2, 1], "own": [1, 2], "bias": [1, 2]})
    torch.testing.assert_close(each["2.weight"][0], hnet.generate(2)["2.weight"])


def test_a_large_target_costs_nothing_to_wrap() -> None:
    """No array of its 4 TB is made: neither its weights nor a vector that stands for them."""
    large = hl.Shapes({"weight": (10**6, 10**6)})
    hnet = hl.Assembled(large, {"a": build()}, lambda made: made["a"])
    assert hnet.plan.num_generated == 10**12


def test_assemblies_that_do_not_fit_are_refused() -> None:
    hnet = assembled()
    right = hnet.assemble
    with pytest.raises(ValueError, match="condition: got batches"):
        hnet.generate({"rows": [1, 2], "out": 2, "own": 1, "bias": 1})
    with pytest.raises(ValueError, match=r"condition: got \['rows'\]; wanted"):
        hnet.generate({"rows": [1, 2]})
    hnet.assemble = lambda made: {**right(made), "2.weight": torch.zeros(4, 2)}
    with pytest.raises(ValueError, match=r"assemble: got shape \(4, 2\) for '2.weight'"):
        hnet.generate([1, 2])
    hnet.assemble = lambda made: {"x": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"assemble: got .*missing, \['x'\] unknown"):
        hnet.generate(1)
    hnet.assemble = lambda made: []  # type: ignore[assignment]
    with pytest.raises(TypeError, match="assemble: got a list; wanted a tensor for each"):
        hnet.generate(1)
    hnet.assemble = lambda made: {**right(made), "2.bias": 1.0}  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"assemble: got 1\.0 for '2.bias'; wanted "):
        hnet.generate(1)
    with pytest.raises(ValueError, match="parts: got none"):
        hl.Assembled(TARGET, {}, right)
    with pytest.raises(TypeError, match=r"parts\['a'\]: got a Linear; wanted a HyperNetwork"):
        hl.Assembled(TARGET, {"a": nn.Linear(1, 1)}, right)  # type: ignore[dict-item]


# ---- angles, ids, shapes ------------------------------------------------------------------------


def test_angles_keep_the_magnitude() -> None:
    """std of the generated tensors from the smallest to the largest condition: 100x without."""
    target = nn.Linear(64, 64)
    gammas = torch.tensor([[0.01], [0.1], [0.3], [0.6], [1.0]])
    spread = {}
    for condition in (hl.Vector(1), hl.CosSin(1)):
        torch.manual_seed(0)
        hnet = hl.HyperNetwork(target, condition=condition, trunk=None)
        with torch.no_grad():
            stds = hnet.generate(gammas)["weight"].flatten(1).std(1)
        spread[type(condition).__name__] = float(stds.max() / stds.min())
    assert spread["Vector"] > 50
    assert spread["CosSin"] < 1.2
    torch.manual_seed(0)
    residual = hl.HyperNetwork(target, condition=hl.CosSin(1), form=hl.Delta(trained=True))
    assert_same(
        {n: t[0] for n, t in residual.generate(gammas).items()},
        {n: p.detach() for n, p in target.named_parameters()},
    )


def test_angles_against_the_oracle() -> None:
    hnet = build(condition=hl.Concat(hl.CosSin(2), hl.Vector(1))).double()
    state = {key: t.double().numpy() for key, t in neutral_tensors(hnet, with_base=True).items()}
    raw = (torch.tensor([0.2, 0.9]).double(), torch.tensor([0.5]).double())
    made = hnet.generate(raw)
    for key, value in oracle(hnet.plan, state, tuple(v.numpy() for v in raw)).items():
        np.testing.assert_allclose(made[key].detach().numpy(), value, atol=1e-6)
    assert hnet.plan.condition.width == 5
    with pytest.raises(ValueError, match=r"CosSin\(dim=\): got 0"):
        hl.CosSin(0)


def test_ids_alone() -> None:
    hnet = build(condition=hl.Ids(4), layout=hl.Chunked(9, 3, per_condition=True))
    assert hnet.plan.num_parameters == sum(p.numel() for p in hnet.parameters())
    before = hnet.generate(range(4))
    hnet.add_conditions(2)
    assert hnet.plan.condition == hl.Ids(6)
    assert_same(hnet.generate(range(4)), before)
    assert hnet.generate(5)["0.weight"].shape == (4, 3)
    table = hl.HyperNetwork(TARGET, condition=hl.Ids(3), layout=hl.PerCondition())
    assert table(torch.randn(3, 5, 3), condition=[0, 1, 2]).shape == (3, 5, 2)


def test_bare_shapes() -> None:
    hnet = hl.HyperNetwork(
        hl.Shapes([(4, 3), (4,), (2, 4), (2,), (5,)]),
        condition=hl.Embedding(2, 3),
        init=hl.HyperfanIn(),
    )
    names = ["0.weight", "0.bias", "1.weight", "1.bias", "2.bias"]
    assert [t.name for t in hnet.plan.spec] == names
    own = hl.target_spec(TARGET)
    for mine, other in zip(hnet.plan.spec, own, strict=False):
        assert (mine.shape, mine.role) == (other.shape, other.role)
        assert (mine.fan_in, mine.fan_out) == (other.fan_in, other.fan_out)
    assert list(hnet.generate(0)) == names
    with pytest.raises(TypeError, match=r"target: got Shapes, which has no forward.*generate"):
        hnet(torch.zeros(1, 3), condition=0)
    with pytest.raises(ValueError, match="shapes: got none"):
        hl.Shapes([])
    with pytest.raises(TypeError, match=r"shapes\[0\]: got \(2, 'x'\)"):
        hl.Shapes([(2, "x")])  # type: ignore[list-item]
