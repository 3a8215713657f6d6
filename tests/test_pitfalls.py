"""What goes wrong for users of hypernetworks elsewhere, and which test shows that it does not here.

Each row of `COVERED` is one trap, in a few words, with the tests that would fail if it were open
again, as `folder::function`. The tests that belong to no other file are below.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"

COVERED: dict[str, list[str]] = {
    # ---- wrong without a word
    "activations that are recomputed inside the target": [
        "on_torch::test_checkpointing_inside_the_target_is_right",
        "on_torch::test_the_switch_of_transformers_changes_no_gradient",
        "on_torch::test_the_reentrant_switch_of_transformers_is_refused",
        "on_torch::test_reentrant_checkpointing_of_some_inputs_is_refused_whenever_it_comes",
        "on_torch::test_checkpointing_around_the_call_is_exact",
    ],
    "missing, unknown and broadcast tensors in a functional call": [
        "on_torch::test_given_parameters",
        "on_torch::test_given_batches_that_differ",
        "on_jax::test_given_parameters",
    ],
    "a submodule with two names, and the template after a call": [
        "on_torch::test_ties_are_generated_once_and_used_everywhere",
        "on_torch::test_the_template_is_bitwise_unchanged",
        "on_torch::test_an_exception_leaves_everything_as_it_was",
        "on_torch::test_nothing_of_a_call_is_held",
        "on_jax::test_shared_variables_are_generated_once",
        "on_jax::test_the_template_is_never_changed",
    ],
    "weights that the target writes into: the user's module, learned rows, conditions": [
        "on_torch::test_writes_hold_for_one_condition_and_one_call",
        "on_torch::test_a_bound_network_writes_into_tensors_of_its_own",
        "on_torch::test_a_condition_and_given_tensors_are_not_written",
        "on_torch::test_a_write_that_comes_late_is_an_error_and_no_secret",
        "on_torch::test_in_a_graph",
    ],
    "parameters of Linen that nobody asked for": ["on_jax::test_given_parameters"],
    "weights assigned by hand, which cut the gradient": [
        "on_torch::test_a_generator_whose_outputs_are_detached",
        "on_torch::test_a_target_that_cuts_the_gradient",
        "on_torch::test_no_gradient_at_all",
    ],
    "generation outside of the data-parallel forward": [
        "distributed::test_two_processes_give_the_gradients_of_one",
        "distributed::test_half_of_the_conditions_gives_other_gradients",
    ],
    "the template's parameters under data parallelism": [
        "distributed::test_two_processes_give_the_gradients_of_one",
        "on_torch::test_the_template_is_no_part_of_the_hypernetwork",
    ],
    "dtypes under autocast": [
        "on_torch::test_dtypes_are_those_of_one_condition",
        "on_torch::test_the_wrong_dtypes_are_torchs",
        "zoo::test_outputs_have_the_dtypes_of_the_plain_module",
    ],
    "modes that do not reach the target": [
        "on_torch::test_modes_reach_the_target",
        "on_torch::test_to_a_dtype",
        "compat::test_the_target_is_never_changed_and_modes_reach_it",
    ],
    # ---- what a plain call sees and a transformed one does not
    "requires_grad, grad_fn and hooks inside vmap": [
        "on_torch::test_code_that_looks_sees_what_a_plain_call_shows",
        "on_torch::test_backward_hooks_of_modules",
        "on_torch::test_hooks_for_all_modules",
    ],
    "uninitialised memory of meta tensors": [
        "on_torch::test_numbers_are_those_of_the_definition",
        "on_torch::test_placeholders_raise_at_any_use",
    ],
    "traces of an attempt that fails": [
        "on_torch::test_an_attempt_writes_into_no_input",
        "on_torch::test_an_attempt_uses_up_no_random_numbers",
        "on_torch::test_lists_that_the_target_fills",
        "on_torch::test_vmap_alone_refuses_what_is_kept",
    ],
    "what is cached under no_grad or autocast": [
        "on_torch::test_what_is_read_first_in_another_mode",
        "on_torch::test_cached_parametrizations_belong_to_one_condition",
    ],
    "state in attributes, lists and objects": [
        "on_torch::test_a_batch_keeps_what_single_calls_would",
        "on_torch::test_every_condition_draws_for_itself",
    ],
    "dtypes that the processor decides": [
        "on_torch::test_recurrent_layers_return_what_this_processor_does",
        "on_torch::test_norms_after_a_layer",
    ],
    # ---- what vmap refuses, or runs slowly
    "errors of vmap": [
        "on_torch::test_what_vmap_cannot_run_is_run_in_a_loop",
        "on_torch::test_recurrent_targets",
        "on_torch::test_batch_norm_in_training_has_statistics_of_each_condition",
        "on_torch::test_dropout_has_a_mask_for_each_condition",
        "on_torch::test_control_flow_on_numbers_is_run_in_a_loop",
        "on_torch::test_other_buffers_by_id",
        "on_torch::test_others",
        "zoo::test_a_batch_equals_the_loop",
    ],
    "operations that vmap takes one by one": [
        "on_torch::test_recurrent",
        "on_torch::test_others",
        "on_torch::test_recurrent_cells",
        "on_torch::test_what_vmap_runs_slowly_is_said_once_by_name",
    ],
    "statistics that are written in place": [
        "on_torch::test_statistics_of_each_id_are_kept_saved_and_grown",
        "on_torch::test_shared_statistics_are_those_of_a_loop",
        "on_torch::test_statistics_of_recomputed_runs_are_updated_once",
    ],
    # ---- compilers and processes
    "recompilation": [
        "compiled::test_one_graph_is_enough",
        "compiled::test_new_batch_sizes_recompile_once_at_most",
        "compiled::test_new_condition_values_compile_nothing",
        "compiled::test_new_batch_sizes_compile_nothing_with_dynamic_shapes",
        "compiled::test_one_graph_for_all_batch_sizes",
    ],
    "sharding a template that need not be there": [
        "::test_the_skeleton_holds_no_numbers",
        "distributed::test_two_processes_give_the_gradients_of_one",
    ],
    "type checks at run time inside a graph": [
        "::test_nothing_checks_types_while_graphs_are_made",
    ],
    # ---- JAX
    "state that is merged inside vmap": [
        "on_jax::test_batch_equals_loop",
        "on_jax::test_statistics_of_each_condition_are_returned_and_not_kept",
        "on_jax::test_dropout_draws_anew_for_each_condition_and_from_the_key",
    ],
    "modules of JAX that are private, or gone": [
        "::test_no_private_module_of_jax_is_used",
        "compat::test_usage",
    ],
    "statistics of Linen": ["on_jax::test_statistics_in_linen"],
    # ---- what is asked for elsewhere
    "a batch of conditions": [
        "on_torch::test_a_batch_equals_a_loop",
        "on_jax::test_outputs_and_gradients_in_float64",
        "compat::test_a_batch_of_parameters_for_a_static_network",
    ],
    "a network of one's own, and conditions of another size than the inputs": [
        "on_torch::test_unmodified",
        "on_torch::test_vectors_and_noise",
        "zoo::test_a_batch_equals_the_loop",
    ],
    "new ids that leave the old ones alone": [
        "on_torch::test_added_ids_leave_the_old_outputs_bitwise_the_same",
        "on_jax::test_added_conditions_leave_old_outputs_bitwise_the_same",
    ],
    "recurrent targets and batch norm in a batch": [
        "on_torch::test_recurrent_targets",
        "on_torch::test_batch_statistics",
    ],
    "one generator for two architectures": [
        "::test_one_generator_for_two_architectures",
    ],
    "a start that explodes": [
        "on_torch::test_native_has_the_templates_own_variances",
        "core::test_native_starts_as_the_template",
        "on_torch::test_an_exploding_start",
    ],
    "generators that are larger than need be": [
        "on_torch::test_the_plan_counts_the_parameters",
    ],
    "training for long on nothing": [
        "on_torch::test_a_correction_that_is_all_zero",
        "on_torch::test_a_lora_that_never_trains",
        "on_torch::test_a_trunk_that_ignores_the_condition",
    ],
    "low-rank changes of each condition, in training": [
        "on_torch::test_a_batch_equals_a_loop",
        "on_torch::test_every_layer_from_its_parts",
        "on_jax::test_batch_equals_loop",
    ],
    "installations that break": [
        "::test_no_dependency_has_an_upper_bound",
        "::test_importing_hyperloom_imports_no_framework",
        "core::test_the_tests_of_the_core_run_without_torch_and_jax",
    ],
    # ---- test suites
    "a folder of tests that hides a framework": [
        "::test_no_folder_of_tests_has_the_name_of_a_framework",
    ],
    "comparisons that assert nothing": [
        "parity::test_numbers_in_the_wrong_place_are_seen",
        "parity::test_a_broken_backend_is_seen",
        "on_torch::test_a_difference_of_one_condition_is_seen",
    ],
    # ---- good input of unusual kinds
    "objects, arrays and lists that are given whole to every condition": [
        "on_torch::test_arrays_and_mappings_are_paired",
        "on_torch::test_what_one_call_returns_the_next_one_takes",
        "on_torch::test_objects_with_tensors_are_refused_unless_they_are_shared",
        "on_torch::test_a_list_with_a_value_for_each_condition_is_refused_unless_it_is_shared",
        "on_torch::test_sizes_and_packed_sequences_are_inputs_like_others",
        "on_torch::test_a_number_is_for_all_conditions",
    ],
    "outputs that are no tensors, and their order": [
        "on_torch::test_values_that_differ_are_in_the_order_and_the_shape_of_the_batch",
        "on_torch::test_lists_that_the_target_fills",
        "on_torch::test_features_that_hooks_store_can_be_used_after_the_call",
    ],
    "buffers written in graphs, in inference mode, through data": [
        "on_torch::test_every_condition_counts",
        "on_torch::test_in_graphs_too",
    ],
    "a first change in a later call": [
        "on_torch::test_what_is_changed_for_the_first_time_in_a_later_call",
        "on_torch::test_counts_of_targets_that_checkpoint",
    ],
    "weights in closures, partials and global lists": [
        "on_torch::test_functions_that_hold_on_to_the_original_are_refused",
        "on_torch::test_a_global_list_of_layers_is_refused",
    ],
    "seeds of the target's own": [
        "on_torch::test_seeds_of_the_target_give_each_condition_the_same",
    ],
    "classes of layers that are patched": [
        "on_torch::test_layers_whose_class_is_patched_later",
    ],
    "sparse tables, scripted modules, masks, tensors without axes": [
        "on_torch::test_tables_with_sparse_gradients",
        "on_torch::test_scripted_modules_are_refused",
        "on_torch::test_masks_of_a_trunk_are_saved",
        "on_torch::test_tensors_without_axes_are_cut_from_a_vector",
        "on_torch::test_noise_on_weights_finds_statistics_by_id",
    ],
    "ids of Python in a graph": ["compiled::test_ids_of_python_are_no_constants"],
}


@cache
def names_in(folder: str) -> frozenset[str]:
    """Return the test functions in the files of a folder of tests."""
    trees = [ast.parse(path.read_text()) for path in (TESTS / folder).glob("test_*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return frozenset(n.name for n in nodes if isinstance(n, ast.FunctionDef))


def is_there(test: str) -> bool:
    """Whether `folder::function` is a test of this project."""
    folder, _, name = test.partition("::")
    return name.startswith("test_") and name in names_in(folder)


@pytest.mark.parametrize("trap", COVERED)
def test_every_trap_has_tests(trap: str) -> None:
    assert COVERED[trap]
    assert [test for test in COVERED[trap] if not is_there(test)] == []


def test_a_test_that_is_gone_would_be_seen() -> None:
    assert not is_there("on_torch::test_that_was_renamed")
    assert not is_there("on_jax::test_unmodified")


def test_the_skeleton_holds_no_numbers() -> None:
    """What runs the target is no submodule and has no storage: there is nothing to shard."""
    pytest.importorskip("torch")
    from torch import nn

    import hyperloom.torch as hl

    hnet = hl.HyperNetwork(nn.Linear(4, 3), condition=hl.Embedding(3, 2))
    skeleton = hnet._runner.skeleton.module
    assert {tensor.device.type for tensor in skeleton.parameters()} == {"meta"}
    assert skeleton not in list(hnet.modules())
    own = {id(p) for p in hnet.parameters()}
    assert not own & {id(p) for p in skeleton.parameters()}


def test_nothing_checks_types_while_graphs_are_made() -> None:
    """An import hook that wraps every function would break the graphs of the compiled tests."""
    hooks = [type(finder).__module__ for finder in sys.meta_path]
    assert not [name for name in hooks if name.startswith(("jaxtyping", "beartype", "typeguard"))]


def test_no_private_module_of_jax_is_used() -> None:
    private = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            imported = []
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported = [f"{node.module}.{alias.name}" for alias in node.names]
            private += [
                (path.name, name)
                for name in imported
                if name.startswith(("jax.", "flax.", "jaxlib.")) and "._" in name
            ]
    assert private == []


def test_one_generator_for_two_architectures() -> None:
    """Both stand in one target; an input says which of them runs."""
    torch = pytest.importorskip("torch")
    from torch import nn

    import hyperloom.torch as hl

    class Either(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small = nn.Linear(4, 2)
            self.large = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))

        def forward(self, x: object, large: bool) -> object:
            return (self.large if large else self.small)(x)

    hnet = hl.HyperNetwork(Either(), condition=hl.Embedding(3, 2), trunk=hl.MLP(5))
    x, ids = torch.randn(3, 6, 4), [2, 0, 1]
    for large in (False, True):
        loop = torch.stack([hnet.instantiate(i)(a, large) for i, a in zip(ids, x, strict=True)])
        torch.testing.assert_close(hnet(x, large, condition=ids), loop)


def test_no_dependency_has_an_upper_bound() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(one for extra in extras for one in extra)]
    assert wanted
    assert [w for w in wanted if any(sign in w for sign in ("<", "==", "~=", "@"))] == []
    assert not [w for w in wanted if w.lower().startswith(("tensorflow", "nvidia"))]


def test_no_folder_of_tests_has_the_name_of_a_framework() -> None:
    folders = {path.name for path in TESTS.rglob("*") if path.is_dir()}
    assert not folders & {"torch", "jax", "flax", "numpy", "hypnettorch", "hypernn"}
