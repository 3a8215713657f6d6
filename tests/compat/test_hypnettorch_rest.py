"""What the table does not reach: errors, helpers, initialisation, statistics, the regulariser."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hyperloom.compat.hypnettorch import hnets as ours
from hyperloom.compat.hypnettorch.hnets import hnet_helpers, structured_hmlp_examples
from hyperloom.compat.hypnettorch.utils import hnet_regularizer
from tests.compat import hypnettorch_cases as cases
from tests.compat.hypnettorch_cases import SHAPES, assert_close

theirs = pytest.importorskip("hypnettorch.hnets")
their_helpers = pytest.importorskip("hypnettorch.hnets.hnet_helpers")
their_examples = pytest.importorskip("hypnettorch.hnets.structured_hmlp_examples")
their_regularizer = pytest.importorskip("hypnettorch.utils.hnet_regularizer")
mnets = pytest.importorskip("hypnettorch.mnets")

QUIET: dict[str, Any] = {"verbose": False}


def small(lib: Any, **kwargs: Any) -> Any:
    options = {"cond_in_size": 3, "num_cond_embs": 4, "layers": (6,), **QUIET, **kwargs}
    return lib.HMLP(SHAPES, **options)


def small_chunked(lib: Any, **kwargs: Any) -> Any:
    options = {"cond_in_size": 3, "num_cond_embs": 4, "layers": (6,), **QUIET, **kwargs}
    return lib.ChunkedHMLP(SHAPES, 7, **options)


def both(make: Callable[[Any], Any]) -> tuple[Any, Any]:
    return cases.pair(cases.Case("", make), theirs)


REFUSED: dict[str, Callable[[Any], Any]] = {
    "format": lambda lib: small(lib).forward(cond_id=0, ret_format="flat"),
    "no input": lambda lib: small(lib).forward(),
    "two conditions": lambda lib: small(lib).forward(cond_id=0, cond_input=torch.zeros(1, 3)),
    "no batch": lambda lib: small(lib).forward(cond_input=torch.zeros(3)),
    "width": lambda lib: small(lib).forward(cond_input=torch.zeros(2, 4)),
    "unconditional width": lambda lib: small(lib, uncond_in_size=2).forward(
        cond_id=0, uncond_input=torch.zeros(1, 3)
    ),
    "no unconditional input": lambda lib: small(lib, uncond_in_size=2).forward(cond_id=0),
    "batches": lambda lib: small(lib, uncond_in_size=2).forward(
        cond_id=[0, 1], uncond_input=torch.zeros(3, 2)
    ),
    "id too large": lambda lib: small(lib).forward(cond_id=4),
    "id below 0": lambda lib: small(lib).forward(cond_id=[0, -1]),
    "id of another type": lambda lib: small(lib).forward(cond_id=torch.tensor(0)),
    "ids without embeddings": lambda lib: small(
        lib, cond_in_size=0, num_cond_embs=0, uncond_in_size=2
    ).forward(cond_id=0, uncond_input=torch.zeros(1, 2)),
    "number of weights": lambda lib: small(lib).forward(cond_id=0, weights=[torch.zeros(3)]),
    "keys of weights": lambda lib: small(lib).forward(cond_id=0, weights={"theta": []}),
    "number of uncond_weights": lambda lib: small(lib).forward(
        cond_id=0, weights={"uncond_weights": []}
    ),
    "number of cond_weights": lambda lib: small(lib).forward(
        cond_id=0, weights={"cond_weights": []}
    ),
    "no shapes": lambda lib: lib.HMLP([], **QUIET),
    "dropout": lambda lib: small(lib, dropout_rate=1.5),
    "embedding": lambda lib: small(lib).get_cond_in_emb(4),
    "embedding of a type": lambda lib: small(lib).get_cond_in_emb("0"),
    "method": lambda lib: small(lib).apply_hyperfan_init(method="both"),
    "perturbations": lambda lib: small(lib).add_to_uncond_params([torch.zeros(1)]),
    "source format": lambda lib: small(lib).convert_out_format([], "flat", "squeezed"),
    "chunked: fixed output": lambda lib: small_chunked(lib, cond_in_size=0, num_cond_embs=0),
    "chunked: no conditions": lambda lib: small_chunked(lib, cond_chunk_embs=True, num_cond_embs=0),
    "chunked: chunk_embs": lambda lib: small_chunked(lib).forward(
        cond_input=torch.zeros(2, 3), weights={"chunk_embs": torch.zeros(2, 5, 8)}
    ),
    "chunked: shape of chunk_embs": lambda lib: small_chunked(lib, cond_chunk_embs=True).forward(
        cond_input=torch.zeros(2, 3), weights={"chunk_embs": torch.zeros(2, 4, 8)}
    ),
    "chunked: chunk_embs and id": lambda lib: small_chunked(lib, cond_chunk_embs=True).forward(
        cond_id=[0, 1], weights={"chunk_embs": torch.zeros(2, 5, 8)}
    ),
    "chunked: cond_input alone": lambda lib: small_chunked(lib, cond_chunk_embs=True).forward(
        cond_input=torch.zeros(2, 3)
    ),
    "chunked: id": lambda lib: small_chunked(lib, cond_chunk_embs=True).forward(cond_id=7),
    "chunked: chunk": lambda lib: small_chunked(lib).get_chunk_emb(chunk_id=9),
    "chunked: condition": lambda lib: small_chunked(lib).get_chunk_emb(chunk_id=0, cond_id=0),
    "chunked: no condition": lambda lib: small_chunked(lib, cond_chunk_embs=True).get_chunk_emb(),
    "chunked: hyperfan with batch norm": lambda lib: small_chunked(
        lib, use_batch_norm=True
    ).apply_chunked_hyperfan_init(),
    "container: nothing": lambda lib: lib.HContainer(SHAPES, None),
    "container: no hnets": lambda lib: lib.HContainer(SHAPES, None, hnets=[]),
    "container: names": lambda lib: lib.HContainer(
        SHAPES, None, uncond_param_shapes=[[1]], uncond_param_names=["weight", "bias"]
    ),
    "container: no id": lambda lib: cases._mixed(lib).forward(),
    "container: numbers of conditions": lambda lib: cases._mixed(lib, num_cond_embs=4),
    "container: shapes": lambda lib: lib.HContainer(
        [[2]], lambda o, s, c: s, uncond_param_shapes=[[3]]
    ).forward(),
    "container: distilled": lambda lib: cases._plain(lib).forward(cond_id=0, distilled_params=[]),
    "wrapper: no handler": lambda lib: lib.HPerturbWrapper(small(lib), **QUIET),
    "wrapper: no hypernetwork": lambda lib: lib.HPerturbWrapper(nn.Linear(2, 2), 2, **QUIET),
    "wrapper: no input": lambda lib: lib.HPerturbWrapper(
        small(lib, uncond_in_size=2), 2, **QUIET
    ).forward(cond_id=0),
    "wrapper: width": lambda lib: lib.HPerturbWrapper(
        small(lib, uncond_in_size=2), 2, **QUIET
    ).forward(cond_id=0, uncond_input=torch.zeros(1, 4)),
    "structured: zero chunks": lambda lib: lib.StructuredHMLP(
        [[3]], [[[3]]], [0], 2, {}, cases.in_order, **QUIET
    ),
    "structured: kwargs": lambda lib: lib.StructuredHMLP(
        [[3]], [[[3]]], [1], 2, {"num_cond_embs": 1}, cases.in_order, **QUIET
    ),
    "structured: no embedding": lambda lib: lib.StructuredHMLP(
        [[3], [3]], [[[3]]], [2], 0, {}, cases.in_order, **QUIET
    ),
    "structured: fixed output": lambda lib: lib.StructuredHMLP(
        [[3]], [[[3]]], [1], 2, {}, cases.in_order, cond_in_size=0, num_cond_embs=0, **QUIET
    ),
    "regulariser: task": lambda lib: regularizer(lib).calc_fix_target_reg(small(lib), 0),
    "regulariser: targets": lambda lib: regularizer(lib).calc_fix_target_reg(
        small(lib), 2, targets=[[]]
    ),
    "regulariser: heads": lambda lib: regularizer(lib).calc_fix_target_reg(
        small(lib), 1, targets=[[]], inds_of_out_heads=[[0]]
    ),
    "regulariser: half of the past": lambda lib: regularizer(lib).calc_fix_target_reg(
        small(lib), 1, prev_theta=[]
    ),
    "helper: module": lambda lib: helpers(lib).init_conditional_embeddings(nn.Linear(1, 1)),
    "helper: id": lambda lib: helpers(lib).get_conditional_parameters(small(lib), 4),
    "examples: module": lambda lib: examples(lib).resnet_chunking(nn.Linear(1, 1)),
    "examples: wide": lambda lib: examples(lib).wrn_chunking(nn.Linear(1, 1)),
    "mask": lambda lib: small_chunked(lib).get_output_weight_mask(),
    "task embedding": lambda lib: small_chunked(lib, cond_chunk_embs=True).get_task_emb(0),
}


def regularizer(lib: Any) -> Any:
    return hnet_regularizer if lib is ours else their_regularizer


def helpers(lib: Any) -> Any:
    return hnet_helpers if lib is ours else their_helpers


def examples(lib: Any) -> Any:
    return structured_hmlp_examples if lib is ours else their_examples


@pytest.mark.parametrize("name", REFUSED)
def test_the_same_is_refused(name: str) -> None:
    call = REFUSED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception) as wanted:  # noqa: PT011
            call(theirs)
        # Where 0.0.4 asserts, ours is an AssertionError too, and says what was wanted.
        with pytest.raises(wanted.type) as found:
            call(ours)
    assert str(found.value)


def test_what_0_0_4_cannot_build_works_here() -> None:
    """Half of the parameters from outside: `append` to `None` there."""
    for lib, kwargs in (
        (ours, {"no_uncond_weights": True}),
        (ours, {"no_cond_weights": True}),
    ):
        with pytest.raises(AttributeError):
            small(theirs, **kwargs)
        full, half = small(lib), small(lib, **kwargs)
        outside = [
            p
            for p in full.internal_params
            if p.shape not in [q.shape for q in half.internal_params]
        ]
        assert [list(p.shape) for p in outside] == half.hyper_shapes_learned
        with torch.no_grad():
            for own, index in zip(half.internal_params, half.internal_params_ref, strict=True):
                own.copy_(full.internal_params[index])
        made = half.forward(cond_id=[1, 2], weights=outside, ret_format="flattened")
        wanted = full.forward(cond_id=[1, 2], ret_format="flattened")
        torch.testing.assert_close(made, wanted)


@pytest.mark.parametrize("make", [small, small_chunked])
def test_everything_from_outside(make: Any) -> None:
    options = {"no_uncond_weights": True, "no_cond_weights": True}
    other, mine = make(theirs, **options), make(ours, **options)
    for name in cases.PROPERTIES:
        assert getattr(mine, name, None) == getattr(other, name, None), name
    assert not list(mine.parameters())
    given = [torch.randn(shape, requires_grad=True) for shape in mine.hyper_shapes_learned]
    wanted = other.forward(cond_id=[3, 1], weights=given, ret_format="flattened")
    made = mine.forward(cond_id=[3, 1], weights=given, ret_format="flattened")
    assert_close(made, wanted)
    found = torch.autograd.grad(made.square().sum(), given, allow_unused=True)
    right = torch.autograd.grad(wanted.square().sum(), given, allow_unused=True)
    for a, b in zip(found, right, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert_close(a, b)


def test_chunk_embeddings_from_outside() -> None:
    other, mine = both(lambda lib: small_chunked(lib, cond_chunk_embs=True))
    embs, x = torch.randn(6, 5, 8), torch.randn(6, 3)
    wanted = other.forward(cond_input=x, weights={"chunk_embs": embs}, ret_format="flattened")
    weights = {"chunk_embs": embs}
    made = mine.forward(cond_input=x, weights=weights, ret_format="flattened")
    assert_close(made, wanted)
    assert list(weights) == ["chunk_embs"]  # 0.0.4 takes it out of the caller's dict


def test_chunk_embeddings_of_a_structured_hypernetwork_from_outside() -> None:
    """0.0.4 fails on these; the embeddings of known conditions must give those conditions."""
    case = cases.structured("", cond_chunk_embs=True)
    mine = case.build(ours)
    embs = [
        torch.stack(each) for each in zip(*(mine.get_chunk_embs(i) for i in (2, 0)), strict=True)
    ]
    x = torch.stack([mine.get_cond_in_emb(i) for i in (2, 0)])
    made = mine.forward(cond_input=x, weights={"chunk_embs": embs}, ret_format="flattened")
    torch.testing.assert_close(made, mine.forward(cond_id=[2, 0], ret_format="flattened"))


@pytest.mark.parametrize("make", [small, small_chunked])
def test_batch_norm_has_statistics_per_condition(make: Any) -> None:
    other, mine = both(lambda lib: make(lib, use_batch_norm=True))
    for hnet in (other, mine):
        for layer in hnet.batchnorm_layers:
            layer.checkpoint_stats()
    for stats in (0, 1, 1, 0):
        inputs = {"cond_id": [0, 1, 2 + stats], "condition": stats, "ret_format": "flattened"}
        assert_close(mine.forward(**inputs), other.forward(**inputs))
    for a, b in zip(mine.batchnorm_layers, other.batchnorm_layers, strict=True):
        assert a.num_stats == int(b.num_stats) == 2
        for stats in (0, 1):
            for x, y in zip(a.get_stats(stats), b.get_stats(stats), strict=True):
                assert_close(x, y)
                assert float(x.std()) > 0
    mine.eval()
    other.eval()
    inputs = {"cond_id": [1], "condition": 1, "ret_format": "flattened"}
    assert_close(mine.forward(**inputs), other.forward(**inputs))
    with pytest.raises(ValueError, match="several sets of statistics"):
        mine.forward(cond_id=[1])
    assert set(mine.state_dict()) == set(other.state_dict())


def test_spectral_norm_works_here() -> None:
    with pytest.raises(NotImplementedError):
        small(theirs, use_spectral_norm=True)
    hnet, plain = small(ours, use_spectral_norm=True), small(ours)
    plain.load_state_dict(hnet.state_dict())
    with torch.no_grad():
        weight = plain.layer_weight_tensors[0]
        weight /= torch.linalg.svdvals(weight)[0]
    wanted = plain.forward(cond_id=[0, 1], ret_format="flattened")
    torch.testing.assert_close(hnet.forward(cond_id=[0, 1], ret_format="flattened"), wanted)


def test_modes_reach_internal_hypernetworks() -> None:
    """`eval()` leaves dropout on in 0.0.4's containers, which do not register their members."""
    case = cases.structured("", hmlp_kwargs={"layers": [50], "dropout_rate": 0.5})
    hnet = case.build(ours).eval()
    flat = hnet.forward(cond_id=0, ret_format="flattened")
    torch.testing.assert_close(flat, hnet.forward(cond_id=0, ret_format="flattened"))
    hnet.train()
    assert not torch.equal(flat, hnet.forward(cond_id=0, ret_format="flattened"))


@pytest.mark.parametrize("num", [1, 3])
def test_formats_and_the_ways_between_them(num: int) -> None:
    hnet = small(ours)
    ids = list(range(num))
    made = {
        f: hnet.forward(cond_id=ids, ret_format=f) for f in ("flattened", "sequential", "squeezed")
    }
    for source, given in made.items():
        for wanted in made:
            if "flattened" not in (source, wanted):
                continue  # 0.0.4 has no way between the two forms of lists either
            found = hnet.convert_out_format(given, source, wanted)
            torch.testing.assert_close(found, made[wanted])
    assert len(made["squeezed"]) == (4 if num == 1 else 3)


def test_double_precision_and_copies() -> None:
    hnet = small_chunked(ours, cond_chunk_embs=True)
    wanted = hnet.forward(cond_id=[0, 3], ret_format="flattened")
    twin = copy.deepcopy(hnet)
    loaded = pickle.loads(pickle.dumps(hnet))
    for other in (twin, loaded):
        torch.testing.assert_close(other.forward(cond_id=[0, 3], ret_format="flattened"), wanted)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    torch.testing.assert_close(hnet.forward(cond_id=[0, 3], ret_format="flattened"), wanted)
    made = hnet.double().forward(cond_id=[0, 3], ret_format="flattened")
    assert made.dtype == torch.float64
    torch.testing.assert_close(made.float(), wanted)


def test_helpers() -> None:
    for build in (small, small_chunked, lambda lib: small_chunked(lib, cond_chunk_embs=True)):
        other, mine = both(build)
        for lib, hnet in ((theirs, other), (ours, mine)):
            torch.manual_seed(0)
            helpers(lib).init_conditional_embeddings(hnet, 0.5, 0.1)
            helpers(lib).init_chunk_embeddings(hnet, -0.5, 0.2)
        for a, b in zip(mine.internal_params, other.internal_params, strict=True):
            assert torch.equal(a, b)
        for i in range(4):
            found = hnet_helpers.get_conditional_parameters(mine, i)
            wanted = their_helpers.get_conditional_parameters(other, i)
            assert [p.shape for p in found] == [p.shape for p in wanted]
            for a, b in zip(found, wanted, strict=True):
                assert torch.equal(a, b)


def test_helpers_with_functions_and_containers() -> None:
    seen: list[Any] = []

    def fill(value: Tensor, index: int, cond_id: int | None = None) -> None:
        seen.append((tuple(value.shape), index, cond_id))
        nn.init.constant_(value, 3.0)

    hnet = cases.CONTAINERS[3].build(ours)
    hnet_helpers.init_conditional_embeddings(hnet, init_fct=fill)
    hnet_helpers.init_chunk_embeddings(hnet, init_fct=fill)
    inner = hnet.internal_hnets[1]
    assert len(seen) == 5 + 5 + 5 * inner.num_chunks
    assert bool((inner.get_chunk_emb(chunk_id=0, cond_id=4) == 3.0).all())
    # 0.0.4 returns None for a container; its documentation asks for the list.
    own = hnet_helpers.get_conditional_parameters(hnet, 2)
    assert [tuple(p.shape) for p in own] == [(8,), (8,), (inner.num_chunks, 8)]
    structured = cases.structured("", cond_chunk_embs=True).build(ours)
    seen.clear()
    hnet_helpers.init_chunk_embeddings(structured, init_fct=fill)
    assert seen[:2] == [((2, 4), 0, 0), ((3, 4), 1, 0)]
    assert len(hnet_helpers.get_conditional_parameters(structured, 1)) == 3
    wrapped = cases.WRAPPERS[0].build(ours)
    assert len(hnet_helpers.get_conditional_parameters(wrapped, 1)) == 1


@pytest.mark.parametrize("make", [small, small_chunked])
def test_parameters_start_filled(make: Any) -> None:
    """With as many embeddings as make a statistic: normal, as 0.0.4 documents."""
    torch.manual_seed(0)
    hnet = make(ours, num_cond_embs=500)
    embeddings = torch.stack([hnet.get_cond_in_emb(i).detach() for i in range(500)])
    assert abs(float(embeddings.mean())) < 0.1
    assert abs(float(embeddings.std()) - 1) < 0.1
    for parameter in hnet.parameters():
        assert bool(torch.isfinite(parameter).all())
        assert float(parameter.detach().std()) > 0


def test_prints_unless_told_not_to(capsys: pytest.CaptureFixture[str]) -> None:
    inner = ours.HMLP(SHAPES, uncond_in_size=2, layers=(3,))
    ours.ChunkedHMLP(SHAPES, 7, layers=(3,))
    ours.HPerturbWrapper(inner, 2)
    ours.HContainer([[2]], lambda o, s, c: s, uncond_param_shapes=[[2]])
    ours.StructuredHMLP([[3]], [[[3]]], [1], 2, {"layers": []}, cases.in_order)
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("HMLP: ")
    ours.HContainer([[2]], lambda o, s, c: s, uncond_param_shapes=[[2]], verbose=False)
    ours.HPerturbWrapper(inner, 2, verbose=False)
    assert not capsys.readouterr().out


def test_deprecated_names() -> None:
    hnet = small(ours)
    with pytest.warns(DeprecationWarning, match="instead of"):
        assert hnet.weights is hnet.internal_params
    with pytest.warns(DeprecationWarning, match="instead of"):
        assert len(hnet.get_task_embs()) == 4
    with pytest.warns(DeprecationWarning, match="instead of"):
        assert hnet.get_task_emb(2) is hnet.conditional_params[2]


def test_main_network_interface() -> None:
    other, mine = both(lambda lib: small(lib, layers=()))
    masks = mine.get_output_weight_mask(out_inds=[1, 4])
    for a, b in zip(masks, other.get_output_weight_mask(out_inds=[1, 4]), strict=True):
        assert (a is None) == (b is None)
        assert a is None or b is None or torch.equal(a, b)
    new = [torch.randn_like(p) for p in mine.internal_params]
    mine.overwrite_internal_params(new)
    flat = mine.flatten_params(mine.internal_params)
    back = mine.flatten_params(flat, mine.param_shapes, unflatten=True)
    for a, b in zip(back, new, strict=True):
        assert torch.equal(a, b)
    mine.custom_init(normal_init=True, normal_std=0.0)
    assert not any(w.any() for w in (*mine.layer_weight_tensors, *mine.layer_bias_vectors))
    changed = mine.add_to_uncond_params([torch.ones_like(p) for p in mine.unconditional_params])
    assert all(bool((p == 1).all()) for p in changed)


# ---- the regulariser -------------------------------------------------------------------------


@pytest.mark.parametrize("make", [small, small_chunked])
def test_regularizer(make: Any) -> None:
    other, mine = both(make)
    targets = their_regularizer.get_current_targets(3, other)
    found = hnet_regularizer.get_current_targets(3, mine)
    for a, b in zip(found, targets, strict=True):
        for x, y in zip(a, b, strict=True):
            assert_close(x, y)
            assert not x.requires_grad
    assert hnet_regularizer.get_current_targets(0, mine) == []
    d_theta = [0.1 * torch.randn_like(p) for p in other.unconditional_params]
    d_embs = [0.1 * torch.randn_like(p) for p in other.conditional_params]
    fisher = [[torch.rand(s) for s in SHAPES] for _ in range(3)]
    old_theta = [p.detach() + 0.1 * torch.randn_like(p) for p in other.unconditional_params]
    old_embs = [p.detach() + 0.1 * torch.randn_like(p) for p in other.conditional_params]
    target_net = mnets.MLP(n_in=3, n_out=2, hidden_layers=(5,), no_weights=True, verbose=False)
    options: list[dict[str, Any]] = [
        {"targets": targets, "dTheta": d_theta},
        {"targets": targets, "dTheta": d_theta, "dTembs": d_embs},
        {"targets": targets, "dTheta": d_theta, "fisher_estimates": fisher},
        {"targets": targets, "dTheta": d_theta, "reg_scaling": [0.5, 2.0, 0.0]},
        {"targets": targets, "dTheta": d_theta, "batch_size": 2},
        {"targets": targets, "dTheta": d_theta, "batch_size": 9},
        {"prev_theta": old_theta, "prev_task_embs": old_embs},
        {"prev_theta": old_theta, "prev_task_embs": old_embs, "batch_size": 1},
        {
            "targets": targets,
            "dTheta": d_theta,
            "mnet": target_net,
            "inds_of_out_heads": [[0], [1], [0, 1]],
        },
        {
            "targets": targets,
            "dTheta": d_theta,
            "mnet": target_net,
            "inds_of_out_heads": [[1]] * 3,
            "fisher_estimates": fisher,
        },
    ]
    for kwargs in options:
        grads = []
        for lib, hnet in ((theirs, other), (ours, mine)):
            np.random.seed(0)
            value = regularizer(lib).calc_fix_target_reg(hnet, 3, **kwargs)
            params = list(hnet.internal_params)
            grads.append((value, torch.autograd.grad(value, params, allow_unused=True)))
        assert_close(grads[1][0], grads[0][0])
        assert float(grads[0][0].detach()) > 0
        for a, b in zip(grads[1][1], grads[0][1], strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                assert_close(a, b, 2e-5)


# ---- initialisation --------------------------------------------------------------------------

WIDE = [[40, 30], [40], [20, 10, 3, 3], [20], [60, 40], [60]]


def head_variances(hnet: Any) -> list[float]:
    sizes = [int(np.prod(s)) for s in hnet.target_shapes]
    cuts = hnet.layer_weight_tensors[-1].detach().split(sizes)
    return [float(cut.square().mean()) for cut in cuts]


@pytest.mark.parametrize("xavier", [False, True])
@pytest.mark.parametrize("method", ["in", "out"])
def test_hyperfan_has_the_same_variances(method: str, xavier: bool) -> None:
    shapes = [s for s in WIDE if len(s) != 4 and s != [20]]  # biases of convolutions: see below
    found = []
    for lib in (theirs, ours):
        torch.manual_seed(0)
        hnet = lib.HMLP(shapes, uncond_in_size=4, cond_in_size=4, layers=(64,), **QUIET)
        hnet.apply_hyperfan_init(method, xavier, uncond_var=2.0, cond_var=0.5)
        found.append(head_variances(hnet))
        assert not any(bool(b.any()) for b in hnet.layer_bias_vectors)
    np.testing.assert_allclose(found[1], found[0], rtol=0.12, atol=1e-12)
    assert found[0][0] > 0


@pytest.mark.parametrize("method", ["in", "out", "harmonic"])
def test_hyperfan_generates_the_variance_that_it_promises(method: str) -> None:
    torch.manual_seed(0)
    hnet = ours.HMLP(WIDE, cond_in_size=50, num_cond_embs=200, layers=(400,), **QUIET)
    hnet.apply_hyperfan_init(method)
    with torch.no_grad():
        made = hnet.forward(cond_id=list(range(200)), ret_format="sequential")
    wanted_in = [2 / (2 * 30), 1.0, 2 / (2 * 90), 1.0, 2 / (2 * 40), 1.0]
    wanted_out = [2 / 40, 2 * (1 - 30 / 40), 2 / 180, 2 * (1 - 90 / 180), 2 / 60, 2 * (1 - 40 / 60)]
    pairs = list(zip(wanted_in, wanted_out, strict=True))
    wanted = {
        "in": wanted_in,
        "out": wanted_out,
        # 0.0.4 computes 2 (1/in + 1/out) under this name.
        "harmonic": [2 / (1 / a + 1 / b) for a, b in pairs],
    }[method]
    for i, variance in enumerate(wanted):
        found = torch.stack([sample[i] for sample in made]).square().mean()
        assert abs(float(found) / variance - 1) < 0.2, (i, float(found), variance)


def test_hyperfan_options() -> None:
    shapes = [[6, 5], [6], [6], [6], [7, 3]]
    meta = [
        {"name": "weight", "layer": 1},
        {"name": "bias", "layer": 1},
        {"name": "bn_scale", "layer": 2},
        {"name": "bn_shift", "layer": 2},
        {"name": "embedding", "layer": -1},
    ]
    net = type("Net", (), {"param_shapes_meta": meta, "hyper_shapes_learned_ref": None})()
    hnet = ours.HMLP(shapes, layers=(30,), **QUIET)
    hnet.apply_hyperfan_init(
        mnet=net,
        w_val={"weight": 3.0, "bn_shift": 0.5},
        w_var={"weight": 0.0},
        b_val={"weight": 1.0},
        b_var={"weight": 0.0},
    )
    rows = hnet.layer_weight_tensors[-1].detach().split([30, 6, 6, 6, 21])
    biases = hnet.layer_bias_vectors[-1].detach().split([30, 6, 6, 6, 21])
    assert bool((rows[0] == 3.0).all())
    assert bool((biases[0] == 1.0).all())
    assert float(rows[1].std()) > 0
    assert not bool(biases[1].any())
    assert not bool(rows[2].any())
    assert bool((biases[2] == 1.0).all())
    assert bool((rows[3] == 0.5).all())
    assert not bool(biases[3].any())
    assert not bool(rows[4].any())
    assert 0.4 < float(biases[4].square().mean()) < 2.0
    hnet.apply_hyperfan_init(
        w_val=[1.0, *[None] * 4],
        w_var=[0.0, *[None] * 4],
        b_val=[0.0, *[None] * 4],
        b_var=[0.0, *[None] * 4],
    )
    assert bool((hnet.layer_weight_tensors[-1].detach()[:30] == 1.0).all())


@pytest.mark.parametrize("method", ["in", "out"])
def test_chunked_hyperfan_has_the_same_variances(
    method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for lib in (theirs, ours):
        torch.manual_seed(0)
        hnet = lib.ChunkedHMLP(WIDE, 500, chunk_emb_size=400, cond_in_size=4, layers=(20,), **QUIET)
        hnet.apply_chunked_hyperfan_init(method, cond_var=1e-3, target_vars={"bias": 0.3})
        found.append(hnet.get_chunk_emb().detach().square().mean(1))
    np.testing.assert_allclose(found[1], found[0], rtol=0.25)
    hnet.apply_chunked_hyperfan_init(cond_var=1e-3, cemb_normal_init=True)
    with pytest.warns(UserWarning, match="clipped|below"):
        hnet.apply_chunked_hyperfan_init(cond_var=1e3)


# ---- chunking of residual networks -----------------------------------------------------------


def resnet(**kwargs: Any) -> Any:
    options = {"n": 1, "num_feature_maps": (4, 4, 6, 8), "verbose": False, **kwargs}
    return mnets.ResNet(in_shape=(8, 8, 3), num_classes=5, **options)


def wrn(**kwargs: Any) -> Any:
    options = {"n": 1, "k": 1, "num_feature_maps": (4, 4, 6, 12), "verbose": False, **kwargs}
    return mnets.WRN(in_shape=(8, 8, 3), num_classes=5, **options)


CHUNKINGS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "resnet": ("resnet_chunking", lambda: resnet(use_bias=True, use_batch_norm=True), {}),
    "resnet-plain": ("resnet_chunking", lambda: resnet(use_bias=False, use_batch_norm=False), {}),
    "resnet-deep": ("resnet_chunking", lambda: resnet(n=2, use_batch_norm=True), {}),
    "resnet-gcd": (
        "resnet_chunking",
        lambda: resnet(n=2, use_bias=True, use_batch_norm=True),
        {"gcd_chunking": True},
    ),
    "resnet-gcd-plain": (
        "resnet_chunking",
        lambda: resnet(use_bias=False, use_batch_norm=False),
        {"gcd_chunking": True},
    ),
    "wrn": ("wrn_chunking", lambda: wrn(use_bias=False, use_fc_bias=True), {}),
    "wrn-all": (
        "wrn_chunking",
        lambda: wrn(n=2, use_bias=True),
        {"ignore_bn_weights": False, "ignore_out_weights": False},
    ),
    "wrn-gcd": (
        "wrn_chunking",
        lambda: wrn(use_bias=True, k=2),
        {"ignore_bn_weights": False, "gcd_chunking": True},
    ),
    "wrn-no-norm": (
        "wrn_chunking",
        lambda: wrn(use_bias=False, use_fc_bias=True, use_batch_norm=False),
        {"ignore_out_weights": False},
    ),
}


@pytest.mark.parametrize("name", CHUNKINGS)
def test_chunking_of_residual_networks(name: str) -> None:
    function, make, kwargs = CHUNKINGS[name]
    net = make()
    shapes, nums, assemble = getattr(their_examples, function)(net, **kwargs)
    found = getattr(structured_hmlp_examples, function)(net, **kwargs)
    assert found[:2] == (shapes, nums)
    chunks = [
        [torch.randn(s) for s in kind]
        for kind, num in zip(shapes, nums, strict=True)
        for _ in range(num)
    ]
    wanted = assemble(chunks)
    made = found[2](chunks)
    assert len(made) == len(wanted)
    for a, b in zip(made, wanted, strict=True):
        assert torch.equal(a, b)
