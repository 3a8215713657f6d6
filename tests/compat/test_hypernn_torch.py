"""The door for hyper-nn's scripts against hyper-nn 0.2.2, and what only the door can."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from hyperloom.compat.hypernn import torch as door
from tests._support import targets

hypernn = pytest.importorskip("hypernn.torch")
# hyper-nn's own use of what torch no longer likes.
pytestmark = pytest.mark.filterwarnings("ignore:We've integrated functorch:FutureWarning")


mlp = partial(targets.mlp, 6, 5, 4)


class Branches(nn.Module):
    """Two inputs, one by keyword; a buffer; a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.register_buffer("shift", torch.full((6,), 0.5))

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.second(self.first(x).tanh() + self.shift) * scale


def conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))


TARGETS = {"mlp": (mlp, (7, 6)), "branches": (Branches, (7, 6)), "conv": (conv, (7, 2, 4, 4))}
SIZES = [
    {"embedding_dim": 3, "num_embeddings": 4},
    {"embedding_dim": 8, "num_embeddings": 1},
    {"embedding_dim": 3, "num_embeddings": 4, "weight_chunk_dim": 40},
    {},
]


def pair(name: str, make: Any, **options: Any) -> tuple[Any, Any]:
    """Return hyper-nn's object and the door's with the same numbers in them."""
    torch.manual_seed(0)
    target = make()
    theirs = getattr(hypernn, name).from_target(target_network=target, **options)
    ours = getattr(door, name).from_target(target_network=target, **options)
    ours.load_state_dict({**ours.state_dict(), **theirs.state_dict()})
    return theirs, ours


@pytest.mark.parametrize("options", SIZES, ids=str)
@pytest.mark.parametrize("name", TARGETS)
def test_static_numbers_and_gradients(name: str, options: dict[str, Any]) -> None:
    make, shape = TARGETS[name]
    theirs, ours = pair("TorchLinearHyperNetwork", make, **options)
    assert ours.num_target_parameters == theirs.num_target_parameters
    assert ours.weight_chunk_dim == theirs.weight_chunk_dim
    assert ours.target_weight_shapes == theirs.target_weight_shapes
    x = torch.randn(shape)
    expected, flat, aux = theirs(x, has_aux=True)
    y, own_flat, own_aux = ours(x, has_aux=True)
    torch.testing.assert_close(y, expected)
    num = ours.num_target_parameters
    assert own_flat.shape == (num,)  # as the README says; theirs may be longer
    torch.testing.assert_close(own_flat, flat[:num])
    torch.testing.assert_close(own_aux, aux)
    torch.testing.assert_close(ours(x, generated_params=flat), expected)
    torch.testing.assert_close(ours.target_network(flat, x), expected)
    expected.square().sum().backward()
    y.square().sum().backward()
    named = dict(ours.named_parameters())
    for key, parameter in theirs.named_parameters():
        if parameter.numel():
            torch.testing.assert_close(named[key].grad, parameter.grad)


def test_keyword_arguments_reach_the_target() -> None:
    theirs, ours = pair("TorchLinearHyperNetwork", Branches)
    x = torch.randn(7, 6)
    torch.testing.assert_close(ours(x, scale=3.0), theirs(x, scale=3.0))
    torch.testing.assert_close(ours(x, scale=3.0), 3 * ours(x))


@pytest.mark.parametrize("options", SIZES, ids=str)
def test_dynamic_numbers_over_steps(options: dict[str, Any]) -> None:
    theirs, ours = pair("TorchDynamicHyperNetwork", mlp, input_dim=6, **options)
    state = own_state = None
    for _ in range(4):
        x = torch.randn(1, 6)
        kwargs = {"x": x, "hidden_state": state}  # hyper-nn 0.2.2 does not pass the input on
        expected, flat, aux = theirs(x, has_aux=True, generate_params_kwargs=kwargs)
        own = {"hidden_state": own_state}
        y, own_flat, own_aux = ours(x, has_aux=True, generate_params_kwargs=own)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(own_flat, flat[: ours.num_target_parameters])
        torch.testing.assert_close(own_aux, aux)
        state, own_state = aux["hidden_state"], own_aux["hidden_state"]


@pytest.mark.parametrize("shape", [(5, 6), (5, 1, 6), (2, 3, 6)], ids=str)
def test_a_batch_for_a_dynamic_network_is_a_loop(shape: tuple[int, ...]) -> None:
    """Each row has a network and a state of its own; hyper-nn itself refuses batches."""
    theirs, ours = pair("TorchDynamicHyperNetwork", mlp, input_dim=6, num_embeddings=3)
    state: Any = None
    states: list[Any] = [None] * (5 if len(shape) != 3 or shape[1] == 1 else 6)
    for _ in range(3):
        x = torch.randn(shape)
        y, flat, aux = ours(x, has_aux=True, generate_params_kwargs={"hidden_state": state})
        state = aux["hidden_state"]
        assert flat.shape == (*(shape[:-2] if shape[1] == 1 else shape[:-1]), 59)
        expected = []
        for i, row in enumerate(x.reshape(-1, 1, 6)):
            kwargs = {"x": row, "hidden_state": states[i]}
            one, _, aux = theirs(row, has_aux=True, generate_params_kwargs=kwargs)
            states[i] = aux["hidden_state"]
            expected.append(one)
        torch.testing.assert_close(y, torch.stack(expected).reshape(*shape[:-1], 4))


def test_a_batch_of_parameters_for_a_static_network() -> None:
    ours = door.TorchHyperNetwork.from_target(mlp(), num_embeddings=3)
    flat, x = torch.randn(5, 59), torch.randn(5, 2, 6)
    y = ours(x, generated_params=flat)
    for i in range(5):
        torch.testing.assert_close(y[i], ours(x[i], generated_params=flat[i]))


def test_custom_modules_are_used() -> None:
    """hyper-nn 0.2.2 fails on `custom_weight_generator`."""
    embedding = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 4))
    generator = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 20))
    ours = door.TorchHyperNetwork.from_target(
        mlp(),
        num_embeddings=3,
        custom_embedding_module=embedding,
        custom_weight_generator=generator,
    )
    flat, _ = ours.generate_params()
    torch.testing.assert_close(flat, generator(embedding(torch.arange(3))).flatten()[:59])
    assert {id(p) for p in ours.parameters()} == {
        id(p) for module in (embedding, generator) for p in module.parameters()
    }


@pytest.mark.parametrize("name", ["TorchLinearHyperNetwork", "TorchDynamicHyperNetwork"])
def test_save_and_load(name: str, tmp_path: Path) -> None:
    """Files of the door, and files that hyper-nn wrote."""
    extra = {"input_dim": 6} if "Dynamic" in name else {}
    theirs, ours = pair(name, Branches, **extra)
    other = getattr(door, name).from_target(Branches(), **extra)
    x = torch.randn(1, 6)
    assert not torch.equal(other(x), ours(x))
    theirs.save(str(tmp_path / "theirs.pt"))
    other.load(str(tmp_path / "theirs.pt"))
    assert torch.equal(other(x), ours(x))
    ours.save(tmp_path / "ours.pt")
    third = getattr(door, name).from_target(Branches(), **extra)
    third.load(tmp_path / "ours.pt")
    assert torch.equal(third(x), ours(x))


def test_the_target_is_never_changed_and_modes_reach_it() -> None:
    """hyper-nn hides the target from `eval()`: dropout stays on."""
    target = nn.Sequential(nn.Linear(6, 50), nn.Dropout(0.5), nn.Linear(50, 4))
    before = [p.clone() for p in target.parameters()]
    ours = door.TorchHyperNetwork.from_target(target).eval()
    x = torch.randn(3, 6)
    assert torch.equal(ours(x), ours(x))
    ours.train()
    assert not torch.equal(ours(x), ours(x))
    assert all(torch.equal(a, b) for a, b in zip(before, target.parameters(), strict=True))


def test_dtype_and_device() -> None:
    ours = door.TorchDynamicHyperNetwork.from_target(mlp(), input_dim=6).double()
    assert ours(torch.randn(2, 6, dtype=torch.float64)).dtype == torch.float64
    assert ours.device == torch.device("cpu")
    assert ours.to("meta").device.type == "meta"
    module = door.TorchDynamicEmbeddingModule(6, 4, 3)
    assert torch.equal(module.init_hidden(), torch.zeros(1, 3))
    assert module.device == torch.device("cpu")


def test_target_forward_may_be_overridden() -> None:
    class Doubled(door.TorchHyperNetwork):
        def target_forward(self, *args: Any, **kwargs: Any) -> Any:
            return 2 * super().target_forward(*args, **kwargs)

    ours = Doubled.from_target(mlp())
    x = torch.randn(3, 6)
    flat, _ = ours.generate_params()
    torch.testing.assert_close(ours(x), 2 * ours.target_network(flat, x))
    cut = flat.split([p.numel() for p in mlp().parameters()])
    shapes = ours.target_weight_shapes
    params = {n: v.view(s) for (n, s), v in zip(shapes.items(), cut, strict=True)}
    torch.testing.assert_close(ours(x), 2 * functional_call(mlp(), params, (x,)))


def test_wrong_shapes_are_refused() -> None:
    ours = door.TorchHyperNetwork.from_target(mlp())
    x = torch.randn(3, 6)
    with pytest.raises(ValueError, match=r"generated_params: got shape \(58,\); wanted"):
        ours(x, generated_params=torch.zeros(58))
    with pytest.raises(ValueError, match=r"condition: got .*\(58,\)"):
        ours(x, generated_params=torch.zeros(58), assert_parameter_shapes=False)
    short = door.TorchHyperNetwork.from_target(mlp(), num_embeddings=3, weight_chunk_dim=19)
    with pytest.raises(ValueError, match=r"generated_params: got shape \(57,\)"):
        short(x)
