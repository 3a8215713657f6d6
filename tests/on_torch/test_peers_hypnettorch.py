"""hypnettorch 0.0.4 as oracle: the same numbers in both give the same generated tensors.

hypnettorch feeds its generator `[unconditional input, condition]` (HMLP) or `[unconditional
input, chunk embedding, condition]` (ChunkedHMLP); here the slot embedding comes last, so columns
of the first layer change places on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl

hnets = pytest.importorskip("hypnettorch.hnets")

NUM = 4
TOLERANCE = 1e-6
ACTIVATIONS = {"relu": nn.ReLU(), "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid(), "elu": nn.ELU()}


@dataclass(frozen=True)
class Peer:
    """One configuration of both libraries.

    Attributes:
        target: Shapes of the target's tensors.
        layers: Widths of the generator's hidden layers.
        embedding: Width of the condition embeddings.
        uncond: Width of an unconditional input; 0 for none.
        chunk: Chunk size; 0 for a full generator.
        chunk_embedding: Width of the chunk embeddings.
        per_condition: Chunk embeddings for each condition (`cond_chunk_embs`).
        activation: Name of the activation.
        batch_norm: Batch norm in the hidden layers.
    """

    target: tuple[tuple[int, ...], ...] = ((5, 3), (5,), (2, 5), (2,))
    layers: tuple[int, ...] = (7, 6)
    embedding: int = 3
    uncond: int = 0
    chunk: int = 0
    chunk_embedding: int = 4
    per_condition: bool = False
    activation: str = "relu"
    batch_norm: bool = False

    def __str__(self) -> str:
        shown = [f"{k}={v}" for k, v in vars(self).items() if v != getattr(Peer, k)]
        return ",".join(shown).replace(" ", "") or "default"

    def theirs(self) -> Any:
        options = {
            "uncond_in_size": self.uncond,
            "cond_in_size": self.embedding,
            "layers": self.layers,
            "num_cond_embs": NUM,
            "activation_fn": ACTIVATIONS[self.activation],
            "use_batch_norm": self.batch_norm,
            "verbose": False,
        }
        shapes = [list(shape) for shape in self.target]
        if not self.chunk:
            return hnets.HMLP(shapes, **options)
        return hnets.ChunkedHMLP(
            shapes,
            self.chunk,
            chunk_emb_size=self.chunk_embedding,
            cond_chunk_embs=self.per_condition,
            **options,
        )

    def ours(self) -> hl.HyperNetwork:
        condition: Any = hl.Embedding(NUM, self.embedding)
        if self.uncond:
            condition = hl.Concat(hl.Vector(self.uncond), condition)
        norm = "batch" if self.batch_norm else None
        trunk = None
        if self.layers:
            trunk = hl.MLP(*self.layers, activation=self.activation, norm=norm)
        layout: Any = hl.Full()
        if self.chunk:
            layout = hl.Chunked(self.chunk, self.chunk_embedding, self.per_condition, signs=False)
        return hl.HyperNetwork(
            Shapes(self.target),
            condition=condition,
            trunk=trunk,
            layout=layout,
            init=hl.Unscaled(),
        )


class Shapes(nn.Module):
    """A target that is nothing but its shapes."""

    def __init__(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.tensors = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for shape in shapes)


def their_tensors(peer: Peer, theirs: Any) -> dict[str, Tensor]:
    """Return hypnettorch's parameters under our names, as a function of them (differentiable)."""
    inner = theirs._hnet if peer.chunk else theirs
    table = torch.stack(list(inner.internal_params[:NUM]))
    weights, biases = list(inner.layer_weight_tensors), list(inner.layer_bias_vectors)
    if peer.chunk:
        uncond, slot, cond = weights[0].split(
            [peer.uncond, peer.chunk_embedding, peer.embedding], dim=1
        )
        weights[0] = torch.cat([uncond, cond, slot], dim=1)
    head = f"heads.{'chunked' if peer.chunk else 'full'}"
    made = {"condition.parts.1.table.0" if peer.uncond else "condition.table.0": table}
    for i in range(len(peer.layers)):
        made[f"trunks.0.{i}.weight"], made[f"trunks.0.{i}.bias"] = weights[i], biases[i]
        if peer.batch_norm:
            made[f"trunks.0.{i}.norm_weight"] = inner.batchnorm_layers[i].scale
            made[f"trunks.0.{i}.norm_bias"] = inner.batchnorm_layers[i].bias
    made[f"{head}.weight"], made[f"{head}.bias"] = weights[-1], biases[-1]
    if peer.chunk and peer.per_condition:
        made[f"{head}.slots.0"] = torch.stack(list(theirs.internal_params[-NUM:]))
    elif peer.chunk:
        made[f"{head}.slots"] = theirs.internal_params[-1]
    return made


def pair(peer: Peer) -> tuple[Any, hl.HyperNetwork]:
    """Return both, with the same numbers in them."""
    theirs, ours = peer.theirs(), peer.ours()
    with torch.no_grad():
        # Biases start at zero there, norms at one: a column in the wrong place must show.
        for parameter in theirs.parameters():
            parameter.normal_()
    values = {name: value.detach() for name, value in their_tensors(peer, theirs).items()}
    assert set(values) == {name for name, _ in ours.named_parameters()}
    ours.load_state_dict(values, strict=False)
    return theirs, ours


def run(peer: Peer, theirs: Any, ours: Any, ids: list[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Return what both generate for a batch of ids, tensor by tensor, `(B, *shape)`."""
    inputs: dict[str, Any] = {"cond_id": ids}
    condition: Any = torch.tensor(ids)
    if peer.uncond:
        inputs["uncond_input"] = torch.randn(len(ids), peer.uncond)
        condition = (inputs["uncond_input"], condition)
    sequences = theirs.forward(ret_format="sequential", **inputs)
    made = ours.generate(condition)
    return [torch.stack(each) for each in zip(*sequences, strict=True)], list(made.values())


FULL = [
    Peer(),
    Peer(layers=()),
    Peer(layers=(5,), embedding=1),
    Peer(target=((4, 3, 3, 3), (4,), (2, 16), (2,), (3, 1))),
    Peer(uncond=2),
    Peer(uncond=5, layers=()),
    Peer(activation="tanh"),
    Peer(activation="sigmoid", layers=(3, 4, 5, 6)),
    Peer(batch_norm=True),
]
# 32 numbers: chunks that divide, chunks that do not, one number, all of them.
CHUNKED = [
    *(Peer(chunk=size) for size in (8, 7, 5, 1, 31, 32)),
    *(Peer(chunk=size, per_condition=True) for size in (8, 7, 32)),
    Peer(chunk=9, layers=()),
    Peer(chunk=9, layers=(), per_condition=True, chunk_embedding=1),
    Peer(chunk=10, uncond=2),
    Peer(chunk=10, uncond=2, per_condition=True),
    Peer(chunk=13, target=((4, 2, 3, 3), (4,), (2, 16), (2,)), layers=(10, 10, 10, 10)),
    Peer(chunk=6, activation="elu"),
    Peer(chunk=6, batch_norm=True),
]


@pytest.mark.parametrize("ids", [[2], [0, 3, 1], [1, 1]], ids=str)
@pytest.mark.parametrize("peer", [*FULL, *CHUNKED], ids=str)
def test_the_same_numbers_give_the_same_tensors(peer: Peer, ids: list[int]) -> None:
    theirs, ours = pair(peer)
    if peer.batch_norm and len(ids) == 1 and not peer.chunk:
        theirs.eval()  # one row has no variance
        ours.eval()
    expected, made = run(peer, theirs, ours, ids)
    assert [tuple(t.shape) for t in made] == [(len(ids), *shape) for shape in peer.target]
    for mine, other in zip(made, expected, strict=True):
        scale = max(1.0, float(other.detach().abs().max()))
        torch.testing.assert_close(mine, other, rtol=0, atol=TOLERANCE * scale)


@pytest.mark.parametrize("peer", [*FULL, *CHUNKED], ids=str)
def test_the_gradients_agree(peer: Peer) -> None:
    theirs, ours = pair(peer)
    expected, made = run(peer, theirs, ours, [3, 0, 3])
    weights = [torch.randn_like(tensor) for tensor in made]
    torch.stack([(w * t).sum() for w, t in zip(weights, expected, strict=True)]).sum().backward()
    torch.stack([(w * t).sum() for w, t in zip(weights, made, strict=True)]).sum().backward()
    # Our gradient, pulled back to their parameters through the map of names.
    mapped = their_tensors(peer, theirs)
    own = dict(ours.named_parameters())
    grads = [own[name].grad for name in mapped]
    found = list(theirs.parameters())
    pulled = torch.autograd.grad(list(mapped.values()), found, grads, allow_unused=True)
    compared = 0
    for parameter, gradient in zip(found, pulled, strict=True):
        assert parameter.grad is None or gradient is not None
        if gradient is not None:
            wanted = torch.zeros_like(gradient) if parameter.grad is None else parameter.grad
            scale = max(1.0, float(gradient.abs().max()))
            torch.testing.assert_close(gradient, wanted, rtol=0, atol=2 * TOLERANCE * scale)
            compared += bool(gradient.any())
    assert compared >= 2 * len(peer.layers) + 2 + bool(peer.chunk)


@pytest.mark.parametrize("peer", [Peer(), Peer(chunk=7), Peer(chunk=7, uncond=2)], ids=str)
def test_as_many_parameters(peer: Peer) -> None:
    theirs, ours = peer.theirs(), peer.ours()
    assert ours.plan.num_parameters == theirs.num_params
    assert ours.plan.num_generated == theirs.num_outputs
    assert not ours.plan.has_scales


def test_columns_in_the_wrong_place_are_seen() -> None:
    peer = Peer(chunk=7, uncond=2)
    theirs, ours = pair(peer)
    inner = theirs._hnet
    with torch.no_grad():
        ours.get_parameter("trunks.0.0.weight").copy_(inner.layer_weight_tensors[0])
    expected, made = run(peer, theirs, ours, [0, 1])
    with pytest.raises(AssertionError):
        torch.testing.assert_close(made[0], expected[0], rtol=0, atol=1e-2)
