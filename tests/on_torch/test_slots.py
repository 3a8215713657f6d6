"""Trunks that get all slots at once, and conditions that are sets, in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from tests._support.compare import close
from tests._support.on_torch import hypernetwork
from tests._support.targets import mlp

NUM = 3


class Slots(nn.Module):
    """A trunk of the user's own over slots: each is told the mean of all, and of the context."""

    over_slots = True

    def __init__(self, width: int, dim: int, context: int = 0) -> None:
        super().__init__()
        self.dim = dim
        self.each, self.all = nn.Linear(width, dim), nn.Linear(width, dim)
        self.other = nn.Linear(context, dim) if context else None

    def forward(self, tokens: Tensor, *context: Any) -> Tensor:
        mixed = self.each(tokens) + self.all(tokens.mean(-2, keepdim=True))
        if self.other is None:
            assert not context
            return mixed.tanh()
        elements, mask = context
        assert mask is None or mask.dtype == torch.bool
        return (mixed + self.other(elements).mean(-2, keepdim=True)).tanh()


class Encoder(nn.Module):
    """A condition module that returns a vector, a context and a mask."""

    context_dim = 4

    def __init__(self, dim: int = 2, mask: Any = None) -> None:
        super().__init__()
        self.dim, self.mask = dim, mask
        self.map = nn.Linear(3, 4)

    def forward(self, value: Tensor) -> Any:
        vector = value.mean(-2)[..., : self.dim] if self.dim else None
        tokens = self.map(value)
        return (vector, tokens) if self.mask is None else (vector, tokens, self.mask)


def made(**choices: Any) -> hl.HyperNetwork:
    usual: dict[str, Any] = {
        "condition": hl.Concat(hl.Vector(2), hl.Context(3)),
        "trunk": hl.Transformer(8, 2, 2),
        "layout": hl.Chunked(9, embedding=4),
    }
    return hypernetwork(lambda: mlp(4, 6, 6, 2).double(), **{**usual, **choices})


def values(num: int = NUM) -> Any:
    mask = torch.arange(5) < torch.arange(2, 2 + num)[:, None]
    return torch.randn(num, 2).double(), (torch.randn(num, 5, 3).double(), mask)


X = torch.randn(NUM, 7, 4).double()


def pick(value: Any, i: int) -> Any:
    return tuple(pick(part, i) for part in value) if isinstance(value, tuple) else value[i]


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_batch_is_what_each_condition_gives_alone(norm: str) -> None:
    hnet, conditions = made(trunk=hl.Transformer(8, 2, 2, norm=norm)), values()
    y, generated = hnet(X, condition=conditions), hnet.generate(conditions)
    for i in range(NUM):
        alone = pick(conditions, i)
        close(hnet(X[i], condition=alone), y[i], 1e-12)
        for name, tensor in hnet.generate(alone).items():
            close(tensor, generated[name][i], 1e-12)
    net = hnet.bind(conditions)
    close(net(X), y, 1e-12)
    rows = torch.tensor([2, 0, 0, 1])
    close(hnet(X[:, 0][rows], condition=conditions, rows=rows), y[:, 0][rows], 1e-12)
    in_parts = made(trunk=hnet.plan.trunk, execution=hl.Execution(max_memory=1))
    in_parts.load_state_dict(hnet.state_dict())
    close(in_parts(X, condition=conditions), y, 1e-12)


def test_the_number_of_parameters_is_the_plans() -> None:
    for choices in (
        {},
        {"trunk": hl.Transformer(8, 1, 4, 5, "relu", "post"), "condition": hl.Embedding(3, 2)},
        {"condition": hl.AttentionPool(3, 8, 2), "trunk": hl.MLP(5)},
        {"trunk": Slots(6, 8, 3)},
        {"trunk": hl.Perceiver(8, 3, 1, 2)},
        {"trunk": hl.Perceiver(8, 3, 2, 2), "condition": hl.Embedding(3, 2)},
        {"condition": Encoder(), "trunk": hl.Transformer(8)},
    ):
        hnet = made(**choices)  # type: ignore[arg-type]
        assert hnet.plan.num_parameters == sum(p.numel() for p in hnet.parameters())


def test_the_plan_tells_what_meets() -> None:
    text = str(made())
    assert "condition  Concat(Vector(2), Context(3)) -> (2,) and (L, 3)" in text
    assert (
        "trunk      Transformer(8, heads=2): 10 x (2 + 4 slot embedding,), context (L, 3)" in text
    )


def test_what_is_hidden_has_no_part_in_anything() -> None:
    hnet, (vector, (elements, mask)) = made(), values()
    expected = hnet.generate((vector, (elements, mask)))
    other = elements.masked_fill(~mask[..., None], float("nan")).requires_grad_()
    found = hnet.generate((vector, (other, mask)))
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)
    sum(t.square().sum() for t in found.values()).backward()  # type: ignore[union-attr]
    assert other.grad is not None
    assert not other.grad[~mask].any()
    assert bool(other.grad[mask].abs().sum(-1).all())
    for i in range(NUM):  # as elements that are not there
        alone = hnet.generate((vector[i], elements[i][mask[i]]))
        for name, tensor in expected.items():
            close(alone[name], tensor[i], 1e-12)


def test_sets_without_elements_and_without_order() -> None:
    for condition in (hl.MeanPool(3), hl.AttentionPool(3, 4), hl.Context(3)):
        trunk = hl.Transformer(8) if isinstance(condition, hl.Context) else hl.MLP(8)
        hnet = made(condition=condition, trunk=trunk)
        elements, none = torch.randn(2, 5, 3).double(), torch.zeros(2, 5, dtype=torch.bool)
        empty = hnet.generate((elements, none))
        for tensor in empty.values():
            assert bool(torch.isfinite(tensor).all())
            assert torch.equal(tensor[0], tensor[1])
        for name, tensor in hnet.generate(elements.flip(1)).items():
            close(tensor, hnet.generate(elements)[name], 1e-12)


def test_a_trunk_over_slots_of_the_users_own(tmp_path: Path) -> None:
    hnet, conditions = made(trunk=Slots(6, 8, 3)), values()
    assert "Slots" in str(hnet.plan)
    assert hnet.plan.trunk_over_slots
    made_here = hnet.generate(conditions)
    for i in range(NUM):
        for name, tensor in hnet.generate(pick(conditions, i)).items():
            close(tensor, made_here[name][i], 1e-12)
    hl.save(hnet, tmp_path / "a")
    again = hl.load(tmp_path / "a", mlp(4, 6, 6, 2).double(), trunk=Slots(6, 8, 3))
    for name, tensor in again.generate(conditions).items():
        assert torch.equal(tensor, made_here[name])
    by_ids = made(condition=hl.Embedding(4, 2), trunk=Slots(6, 8))
    assert by_ids.generate([3, 1])["0.weight"].shape == (2, 6, 4)


def test_a_module_of_pytorch_over_slots() -> None:
    trunk: Any = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
    trunk.over_slots, trunk.dim = True, 6
    hnet = made(condition=hl.Vector(2), trunk=trunk)
    generated = hnet.generate(values()[0])
    assert generated["0.weight"].shape == (NUM, 6, 4)


@pytest.mark.parametrize("dim", [2, 0])
def test_a_condition_module_with_a_context(dim: int) -> None:
    mask = torch.tensor([[True] * 3 + [False] * 2] * NUM)
    for encoder in (Encoder(dim), Encoder(dim, mask)):
        hnet = made(condition=encoder)
        elements = torch.randn(NUM, 5, 3).double()
        encoded = hnet.encode(elements)
        assert encoded.vector.shape == (NUM, dim)
        assert encoded.context is not None
        assert encoded.context.shape == (NUM, 5, 4)
        assert (encoded.mask is None) is (encoder.mask is None)
        assert hnet(X, condition=elements).shape == (NUM, 7, 2)


def test_ids_beside_a_context_grow() -> None:
    hnet = made(condition=hl.Concat(hl.Embedding(2, 3), hl.Context(3)))
    context = torch.randn(2, 5, 3).double()
    before = hnet.generate(([0, 1], context))
    hnet.add_conditions(1)
    for name, tensor in hnet.generate(([0, 1], context)).items():
        assert torch.equal(tensor, before[name])
    assert hnet.generate(([2, 2], context[0]))["0.weight"].shape == (2, 6, 4)


def test_doctor_sees_the_context() -> None:
    report = made().doctor(X, condition=values())
    assert not report.findings
    assert "condition vectors" in str(report)


TRUNKS = [hl.Transformer(48), hl.Transformer(48, norm="post"), hl.Perceiver(48, 8)]


@pytest.mark.parametrize("trunk", TRUNKS, ids=str)
@pytest.mark.parametrize("layout", [hl.Chunked(500, 16), hl.Grouped(16), hl.Full()], ids=str)
def test_the_start_is_native(trunk: Any, layout: Any) -> None:
    """Activations and gradients of every layer within a factor of 2 of the target's own start."""
    condition = hl.Concat(hl.Vector(4), hl.Context(6))
    hnet = hypernetwork(
        lambda: mlp(20, 32, 32, 32, 5),
        condition=condition,
        trunk=trunk,
        layout=layout,
    )
    given = torch.randn(64, 4), torch.randn(64, 9, 6)
    report = hnet.doctor(torch.randn(64, 32, 20), condition=given)
    assert len(report.readings.layers) == 4
    for layer in report.readings.layers:
        assert 0.5 < layer.activation / layer.native_activation < 2.0, layer
        assert 0.5 < layer.gradient / layer.native_gradient < 2.0, layer


# ---- derivatives ---------------------------------------------------------------------------------


def test_second_derivatives_and_transforms() -> None:
    """The fused attention has none of its own: gradients of gradients are those of the formula."""
    hnet, conditions = made(), values(2)
    elements = conditions[1][0].clone().requires_grad_()

    def tensors(elements: Tensor) -> Tensor:
        return hnet.generate((conditions[0], (elements, conditions[1][1])))["2.weight"]

    assert torch.autograd.gradcheck(tensors, elements)
    assert torch.autograd.gradgradcheck(tensors, elements)
    plain = tensors(elements).detach()
    one = lambda v, e, m: hnet.generate((v, (e, m)))["2.weight"]  # noqa: E731
    close(torch.func.vmap(one)(conditions[0], elements, conditions[1][1]).detach(), plain, 1e-12)
    direction = torch.randn_like(elements)
    forward: Any = torch.func.jvp(tensors, (elements.detach(),), (direction,))[1]
    pull: Any = torch.func.vjp(tensors, elements.detach())[1]
    weight = torch.randn_like(forward)
    close((forward * weight).sum(), (pull(weight)[0] * direction).sum(), 1e-10)


def test_checkpointed_generation_has_the_same_gradient() -> None:
    grads = []
    for execution in (hl.Execution(), hl.Execution(recompute=True, max_memory=1)):
        hnet = made(execution=execution)
        torch.manual_seed(1)
        hnet(X, condition=values()).square().sum().backward()
        grads.append({name: p.grad for name, p in hnet.named_parameters()})
    for name, grad in grads[0].items():
        assert grad is not None
        assert grads[1][name] is not None
        close(grads[1][name], grad, 1e-12)


# ---- errors --------------------------------------------------------------------------------------

WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: hl.Transformer(6, heads=4), ValueError, "Transformer(heads=): got 4; wanted a divis"),
    (
        lambda: hl.AttentionPool(3, 4, 3),
        ValueError,
        "AttentionPool(heads=): got 3; wanted a divisor of width=4.",
    ),
    (
        lambda: hl.Concat(hl.Context(3), hl.Context(4)),
        ValueError,
        "Concat(*parts): got Context(3) and Context(4); wanted one context.",
    ),
    (
        lambda: made(trunk=hl.MLP(8)),
        ValueError,
        "trunk: got MLP(8) with the condition Concat(Vector(2), Context(3)), whose context it does",
    ),
    (
        lambda: made(condition=hl.Context(3), layout=hl.Full()),
        ValueError,
        "condition: got Context(3), which has no vector, for full heads;",
    ),
    (
        lambda: made(condition=hl.Context(3)).generate(torch.randn(3).double()),
        ValueError,
        "condition: got a torch.float64 tensor of shape (3,); wanted a floating tensor (*batch, L,",
    ),
    (
        lambda: made(condition=hl.Context(3)).generate(torch.zeros(2, 0, 3).double()),
        ValueError,
        "condition: got a torch.float64 tensor of shape (2, 0, 3); wanted a floating tensor",
    ),
    (
        lambda: made(condition=hl.Context(3)).generate((torch.randn(2, 4, 3), torch.ones(2, 4))),
        TypeError,
        "condition: got the mask a torch.float32 tensor of shape (2, 4); wanted a bool mask of sha",
    ),
    (
        lambda: made(condition=hl.Context(3)).generate(
            (torch.randn(2, 4, 3), torch.ones(2, dtype=torch.bool))
        ),
        ValueError,
        "condition: got a mask of shape (2,); wanted a bool mask of shape (2, 4), true where an el",
    ),
    (
        lambda: made(trunk=Slots(5, 7, 3)),
        ValueError,
        "trunk: got a Slots over slots that fails (",
    ),
]


@pytest.mark.parametrize(("call", "kind", "text"), WRONG, ids=[text[:60] for *_, text in WRONG])
def test_wrong_values_are_named(call: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as error:
        call()
    assert str(error.value).startswith(text)


def test_what_a_module_returns_is_checked() -> None:
    class Wrong(Encoder):
        def forward(self, value: Tensor) -> Any:
            return self.map(value)

    class Mixed(Slots):
        def forward(self, tokens: Tensor, *context: Any) -> Tensor:
            return super().forward(tokens, *context).mean(-2)

    with pytest.raises(ValueError, match=r"condition module Wrong: got .*; wanted a vector \(\*ba"):
        made(condition=Wrong()).generate(torch.randn(2, 5, 3).double())
    with pytest.raises(ValueError, match=r"trunk module Mixed: got .*shape \(16, 8\); wanted "):
        made(trunk=Mixed(6, 8, 3))
    carrying: Any = Encoder()
    carrying.has_carry = True
    with pytest.raises(ValueError, match=r"Encoder\.context_dim: got beside has_carry = True"):
        made(condition=carrying)
