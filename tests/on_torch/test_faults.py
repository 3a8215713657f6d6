"""Sixty faults that were found by trying: which test has the right value of each.

`S` was wrong without a word, `C` a crash on good input. Those without a test elsewhere are here.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hyperloom.torch as hl
from tests.on_torch.silent import (
    IDS,
    assert_exact,
    close_and_some,
    gradients,
    inputs,
    loop,
    made,
    target,
)
from tests.test_pitfalls import is_there

FAULTS: dict[str, tuple[str, list[str]]] = {
    "S1": ("gradient lost", ["test_what_is_read_first_in_another_mode"]),
    "S1b": (
        "and of a whole head",
        ["test_a_head_gets_its_gradient_at_sizes_where_parts_are_cheaper"],
    ),
    "S2a": ("scripted functions", ["test_numbers_are_those_of_the_definition"]),
    "S2b": ("vmap inside the target", ["test_numbers_are_those_of_the_definition"]),
    "S2c": ("a list of weights", ["test_numbers_are_those_of_the_definition"]),
    "S2d": ("compiled weight_norm", ["test_compiled_weight_norm"]),
    "S2e": ("memory of meta tensors", ["test_placeholders_raise_at_any_use"]),
    "S3": ("Shift() on a 1x1 convolution", ["test_factors_of_axes_of_length_one"]),
    "S4": ("inputs written by an attempt", ["test_an_attempt_writes_into_no_input"]),
    "S5": (
        "a copy that follows the original",
        ["test_a_copy_taken_after_a_call_runs_its_own_modules"],
    ),
    "S6": (
        "order of outputs that are no tensors",
        ["test_values_that_differ_are_in_the_order_and_the_shape_of_the_batch"],
    ),
    "S7a": ("buffers in inference mode", ["test_every_condition_counts"]),
    "S7b": ("buffers through data", ["test_every_condition_counts"]),
    "S7c": ("buffers in graphs", ["test_in_graphs_too"]),
    "S8": ("seeds of the target's", ["test_seeds_of_the_target_give_each_condition_the_same"]),
    "S9": ("requires_grad inside vmap", ["test_code_that_looks_sees_what_a_plain_call_shows"]),
    "S10": ("backward hooks", ["test_backward_hooks_of_modules"]),
    "S11": (
        "state in attributes",
        [
            "test_a_batch_keeps_what_single_calls_would",
            "test_what_is_changed_for_the_first_time_in_a_later_call",
        ],
    ),
    "S12": ("counters beside checkpoints", ["test_counts_of_targets_that_checkpoint"]),
    "S13": ("inputs that are objects", ["test_what_one_call_returns_the_next_one_takes"]),
    "S14": ("lists that are filled", ["test_lists_that_the_target_fills"]),
    "S15": (
        "the caller's list by reference",
        ["test_what_the_caller_does_with_the_conditions_afterwards"],
    ),
    "S16": (
        "closures around layers",
        ["test_functions_that_hold_on_to_the_original_are_refused"],
    ),
    "S17": ("weight_norm(dim=-2)", ["test_every_axis_of_weight_norm"]),
    "S18": ("inputs written before a recomputation", ["test_inputs_that_a_recomputed_call_writes"]),
    "S19": ("hooks for all modules", ["test_hooks_for_all_modules"]),
    "S20": ("truthiness for a bool", ["test_no_is_no_bool"]),
    "S21": ("learned rows written", ["test_writes_hold_for_one_condition_and_one_call"]),
    "C1": ("recomputation of a loop", ["test_a_loop_can_be_recomputed"]),
    "C2": ("older weight_norm", ["test_weights_that_hooks_compute_do_not_outlive_the_call"]),
    "C3": ("pickles after a call", ["test_copies"]),
    "C4": ("packed sequences", ["test_sizes_and_packed_sequences_are_inputs_like_others"]),
    "C5": ("sizes as inputs", ["test_sizes_and_packed_sequences_are_inputs_like_others"]),
    "C6": ("max_norm", ["test_writes_hold_for_one_condition_and_one_call"]),
    "C7": ("sparse gradients", ["test_tables_with_sparse_gradients"]),
    "C8": ("scripted layers, by name", ["test_scripted_modules_are_refused"]),
    "C8b": ("scripted targets, by name", ["test_scripted_modules_are_refused"]),
    "C9": ("RankOne() on a bias with two axes", ["test_rank_one_on_biases_with_axes"]),
    "C10": ("no rows", ["test_no_rows_by_each_way_of_a_layer"]),
    "C11": ("no conditions", ["test_no_rows_and_no_conditions"]),
    "C12": ("noise over statistics by id", ["test_noise_on_weights_finds_statistics_by_id"]),
    "C13": ("tensors without axes", ["test_tensors_without_axes_are_cut_from_a_vector"]),
    "C14": ("outputs of transformers as inputs", ["test_outputs_of_transformers_are_inputs"]),
    "C15": (
        "dtypes under autocast",
        ["test_recurrent_layers_return_what_this_processor_does", "test_norms_after_a_layer"],
    ),
    "C16": ("features of hooks", ["test_features_that_hooks_store_can_be_used_after_the_call"]),
    "C17": ("scatter_add's gradient", ["test_gradients_of_numbers_that_are_scattered"]),
    "C18": ("a lock, by name", ["test_a_target_that_cannot_be_copied_names_its_attribute"]),
    "C19": ("execution=None, by name", ["test_none_is_no_execution"]),
    "C20": ("masks in a trunk", ["test_masks_of_a_trunk_are_saved"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_a_test(fault: str) -> None:
    assert [name for name in FAULTS[fault][1] if not is_there(f"on_torch::{name}")] == []


@pytest.mark.parametrize("dim", [1, -2, None])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_every_axis_of_weight_norm(kind: str, dim: int | None) -> None:
    layer = nn.Linear(4, 5) if kind == "linear" else nn.Conv1d(2, 4, 3)
    x = inputs() if kind == "linear" else inputs(2, 2, 6)
    axis: Any = dim  # None is for all, which torch's annotation does not say
    assert_exact(nn.utils.parametrizations.weight_norm(layer.double(), dim=axis), x)


def _writes(self: Any, x: Tensor) -> Tensor:
    x = x.mul_(2.0)
    return self.layer(torch.tanh(x @ self.matrix))


def test_inputs_that_a_recomputed_call_writes() -> None:
    hnet = made(target(_writes))
    plain = gradients(hnet, hnet(inputs(), condition=IDS))
    for max_memory in (None, 1):
        hnet.execution = hl.Execution(recompute=True, max_memory=max_memory)
        close_and_some(gradients(hnet, hnet(inputs(), condition=IDS)), plain)


def test_no_is_no_bool() -> None:
    with pytest.raises(TypeError, match=r"^Scale\(inputs=\): got 'no'; wanted a bool"):
        hl.Scale(inputs="no")  # type: ignore[arg-type]


def _looks(self: Any, x: Tensor) -> Tensor:
    return self.layer(x) / (1 + self.layer(x).detach().abs().max().item())


@pytest.mark.filterwarnings("ignore::hyperloom.SlowWarning")
def test_a_loop_can_be_recomputed() -> None:
    module, x = target(_looks), inputs()
    hnet = made(module)
    wanted = gradients(hnet, loop(hnet, module, x))
    hnet.execution = hl.Execution(recompute=True)
    for _ in range(3):
        close_and_some(gradients(hnet, hnet(x, condition=IDS)), wanted)


@pytest.mark.parametrize("name", ["bias_k", "bias_v"])
def test_rank_one_on_biases_with_axes(name: str) -> None:
    module = nn.MultiheadAttention(4, 2, add_bias_kv=True).double()
    hnet, x = made(module, layout={name: hl.Full()}, form=hl.RankOne()), inputs(5, 2, 4)
    y = hnet(x, x, x, condition=IDS)[0]
    alone = torch.stack([hnet(x[i], x[i], x[i], condition=i)[0] for i in IDS])
    plain = torch.stack([hnet.instantiate(i)(x[i], x[i], x[i])[0] for i in IDS])
    torch.testing.assert_close([y, y], [alone, plain])


def test_outputs_of_transformers_are_inputs() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    module = target(lambda self, given: self.layer(given.last_hidden_state))
    hnet, x = made(module), inputs()
    given = outputs.BaseModelOutput(last_hidden_state=x, hidden_states=(x, x))
    wanted = torch.stack([hnet.instantiate(i)(outputs.BaseModelOutput(x[i])) for i in IDS])
    torch.testing.assert_close(hnet(given, condition=IDS), wanted)
    one = outputs.BaseModelOutput(last_hidden_state=x[1])
    torch.testing.assert_close(hnet(one, condition=1), wanted[1])


def test_none_is_no_execution() -> None:
    hnet = made(target(_looks))
    with pytest.raises(TypeError, match=r"^execution: got None; wanted an Execution object"):
        hnet.execution = None  # type: ignore[assignment]
    assert hnet.execution == hl.Execution()
