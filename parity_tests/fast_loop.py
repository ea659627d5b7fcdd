"""Which tests `python -m pytest -m fast` runs: in a minute or so, what most mistakes break.

The rule, which `conftest.py` applies while collecting:

- A test is fast unless it stands in `LEFT_OUT` or is marked slow. A new test is fast without being named here.
- Of a parametrised test `ROWS` rows are fast, evenly spaced; of one in `COSTLY` the first; of one in `WHOLE` all.

A run of the fast tests ends by naming those which took longer than `SECONDS`: they belong in one of the tables.
"""

from collections.abc import Sequence
from pathlib import Path

__all__ = ["COSTLY", "LEFT_OUT", "ROWS", "SECONDS", "WHOLE", "family", "is_left_out", "rows", "untouched"]

ROWS = 6
"""Rows of a parametrised test that are fast."""
SECONDS = 2.0
"""How long a fast test may take."""

LEFT_OUT: dict[str, tuple[str, ...]] = {
    "starts processes, or measures time or memory": (
        "test_audit_from_disk.py",
        "test_benchmarks.py::test_json_holds_every_number_and_the_environment",
        "test_benchmarks.py::test_the_command_runs_and_writes_its_file",
        "test_benchmarks.py::test_the_table_shows_medians_and_intervals",
        "test_cuda.py",
        "test_cuda_machine.py::test_a_check_that_fails_or_hangs_is_in_the_file",
        "test_cuda_machine.py::test_one_run_fills_one_file_and_the_next_goes_on",
        "test_cuda_machine.py::test_the_benchmark_runs_on_the_cpu",
        "test_cuda_path.py",
        "test_cuda_standin.py",
        "test_examples.py::test_example_runs",
        "test_export_atomic.py::test_a_kill_at_each_step_leaves_a_whole_file_or_none",
        "test_export_atomic.py::test_kills_at_random_moments_leave_a_whole_file_or_none",
        "test_export_large.py::test_a_kill_at_any_step_leaves_a_whole_pair",
        "test_export_large.py::test_a_model_of_more_than_two_gigabytes",
        "test_export_large.py::test_an_export_holds_about_one_tensor_more",
        "test_export_structure.py::test_export_verify_is_the_function_however_it_was_imported",
        "test_flow_plots.py::test_the_style_is_not_left_behind_and_pyplot_is_never_imported",
        "test_imports.py::test_importing_pure_loads_nothing_of_the_export_side",
        "test_imports.py::test_only_one_file_uses_the_private_pytree_module",
        "test_jit.py::test_memory_stays_flat",
        "test_runtime_call.py::test_namedtuples_come_back_without_their_module",
        "test_spmd.py::test_a_failure_on_one_rank_ends_all_within_30_seconds",
        "test_spmd.py::test_two_processes_compute_what_one_does",
        "test_style.py::test_no_exception_is_swallowed_whole",
        "test_sweep.py::test_a_cell_that_dies_is_reported_and_the_rest_go_on",
        "test_report.py",
        "test_trees.py::test_a_killed_save_leaves_the_old_file_whole",
    ),
    "compiles, or writes, runs and judges several files": (
        "test_attention.py::test_a_language_model_exports_with_dynamic_batch_and_length",
        "test_attention.py::test_the_softmax_of_a_narrow_dtype_runs_in_float32",
        "test_contract.py::test_compiles_with_inductor",
        "test_dynamic_depth.py::test_dynamic_branch_mode_with_one_control_a_sample",
        "test_dynamic_depth.py::test_exits_of_threshold_0_and_above_1_are_the_first_and_the_last",
        "test_export_dtypes.py::test_mixed_precision_keeps_its_parameters_in_float32",
        "test_export_dynamic_transforms.py::test_a_transform_with_a_dynamic_batch_is_right_at_every_size",
        "test_export_errors.py::test_a_specialised_size_names_the_size_and_the_line",
        "test_export_functions.py::test_a_gradient_has_a_function_for_its_backward_blocks",
        "test_export_functions.py::test_a_stage_of_a_network_is_a_function_and_its_first_block_is_not",
        "test_export_scan.py::test_a_condition_inside_a_loop",
        "test_export_scan.py::test_a_repeat_inside_the_branches_of_a_condition",
        "test_export_scan.py::test_a_tensor_that_cannot_be_followed_is_unrolled",
        "test_export_scan.py::test_integers_and_booleans_are_carried",
        "test_export_scan.py::test_sizes_inside_a_step_may_be_dynamic",
        "test_export_training.py::test_a_training_step_that_forgets_weight_decay_fails",
        "test_export_training.py::test_five_steps_of_a_smooth_resnet_track_eager_within_its_rounding",
        "test_export_training.py::test_steps_of_a_convolutional_network_are_one_file",
        "test_export_training.py::test_the_fifth_step_of_a_resnet_is_right_from_where_eager_stands",
        "test_gpu_tensors.py",
        "test_jit.py::test_a_baked_tensor_that_changes_or_is_replaced_is_seen",
        "test_jit.py::test_what_was_compiled_with_a_tensor_goes_with_it",
        "test_quantization.py::test_every_convolution_runs_on_integers_and_the_file_shrinks",
        "test_quantization.py::test_repeated_blocks_branches_and_external_data",
        "test_quantization.py::test_the_command",
        "test_reversible.py::test_the_gradient_of_the_stack_compiles_and_exports",
        "test_runtime_call.py::test_a_gradient_comes_from_the_file_alone",
        "test_runtime_call.py::test_every_structure_and_all_weights_come_from_the_file_alone",
        "test_transform_matrix.py::test_a_refused_cell_names_the_line_and_leaves_the_process_as_it_was",
        "test_transform_matrix.py::test_the_gradient_of_a_whole_resnet_runs_in_onnx_runtime",
    ),
    "runs a whole network of a library": (
        "test_networks_convnext.py::test_convnext_tiny_equals_torchvision",
        "test_networks_densenet.py::test_densenet40_12_equals_its_formula",
        "test_networks_densenet.py::test_densenet_bc100_12_equals_pytorchcv",
        "test_networks_densenet.py::test_other_channels_equal_timm",
        "test_networks_densenet.py::test_training_with_dropout_equals_torchvision",
        "test_networks_mobilenet.py::test_preset_equals_torchvision",
        "test_networks_vit.py::test_drop_path_in_the_preset_equals_timm_s",
        "test_networks_vit.py::test_preset_equals_the_library",
        "test_networks_vit.py::test_vit_b_16_of_whole_images_equals_torchvision_s",
    ),
    "repeats many runs, to see what holds of most or to judge a whole page": (
        "test_papers.py::test_the_result_is_complete_and_draws_from_its_file",
        "test_flow_correlation.py::test_the_interval_of_one_draw_covers_the_cosine_of_normal_vectors",
        "test_flow_correlation.py::test_the_interval_over_draws_covers",
        "test_flow_correlation.py::test_unrelated_gradients_lie_in_the_chance_band_and_have_excess_one",
        "test_flow_lanczos.py::test_intervals_of_the_density_cover_the_smeared_spectrum",
        "test_flow_paths_coherence.py::test_the_intervals_cover_the_energies",
        "test_flow_plots.py::test_a_deep_network_names_only_some_rows",
        "test_flow_plots.py::test_every_picture_of_every_network",
        "test_flow_theory.py::test_residual_activation_gradients_grow_as_one_plus_alpha_squared",
        "test_flow_theory_limits.py::test_correlations_follow_the_arc_cosine_angles_and_not_two_to_the_minus_depth",
        "test_pruning.py::test_a_part_can_be_asked_of_some_groups",
        "test_published_inits_placement.py::test_an_update_stays_small_with_deep_norm_and_grows_with_post_norm",
        "test_documentation.py::test_the_code_of_a_page_runs",
        "test_verify_decisions.py::test_a_pool_picks_either_of_two_values_that_tie_within_rounding",
        "test_verify_decisions.py::test_a_relu_whose_result_is_rearranged_before_it_is_compared_may_take_either_side",
        "test_verify_decisions.py::test_the_backward_pass_of_a_highway_stack_is_right",
        "test_verify_verdict.py::test_a_weight_off_by_a_thousandth_fails_and_its_node_is_named",
        "test_verify_verdict.py::test_nan_and_infinity_fail",
    ),
}
"""{why: tests of one file, or one test with all its rows}."""

WHOLE = {
    "test_export_ops.py::test_operation_agrees_with_float64",
    "test_oracles.py::test_row_equals_its_oracle_in_training",
}
"""Tests of which every row is fast: each row is the only check of one operator or block."""

COSTLY = {
    "test_benchmarks.py::test_the_transforms_of_a_cell_are_those_that_they_are_called",
    "test_dynamic_depth.py::test_branch_mode_equals_select_mode",
    "test_dynamic_depth.py::test_the_file_of_the_branch_form_holds_an_if_and_passes",
    "test_export_catalogue.py::test_in_float16_it_passes_or_the_missing_operation_is_named",
    "test_export_conv_gradients.py::test_per_sample_and_second_derivatives_of_a_convolution",
    "test_export_conv_gradients.py::test_the_derivative_of_pooling",
    "test_export_conv_gradients.py::test_the_derivatives_of_a_convolution",
    "test_export_conv_gradients.py::test_the_derivatives_of_a_transposed_convolution",
    "test_export_dtypes.py::test_it_is_right_or_the_missing_operator_is_named",
    "test_export_op_transforms.py::test_what_needs_a_fixed_batch_says_so",
    "test_export_ops.py::test_a_sum_over_many_values_rounds_no_worse_than_eager",
    "test_export_scan.py::test_a_repeat_inside_a_repeat",
    "test_export_scan.py::test_a_transform_of_a_loop_passes_the_verdict",
    "test_export_scan.py::test_depth_does_not_count",
    "test_export_scan.py::test_other_precisions",
    "test_export_scan.py::test_tensors_that_a_step_closes_over",
    "test_export_scan.py::test_the_batch_may_be_dynamic",
    "test_export_training.py::test_steps_of_an_optimiser_are_one_file",
    "test_export_transforms.py::test_a_transform_is_a_function_like_any_other",
    "test_flow_curvature.py::test_a_gauss_newton_product_is_the_dense_one",
    "test_flow_memory.py::test_an_audit_holds_one_stream_a_block_and_nothing_else",
    "test_flow_memory.py::test_beyond_its_budget_it_holds_two_roots_of_the_depth",
    "test_flow_ntk.py::test_a_wide_network_tends_to_the_limit",
    "test_flow_paths_nested.py::test_hundreds_of_blocks_neither_overflow_nor_vanish",
    "test_flow_spectrum.py::test_every_result_has_its_picture",
    "test_flow_sweep.py::TestScale::test_gradients_far_outside_the_range_of_a_float",
    "test_flow_theory_exact.py::test_a_perturbed_law_is_rejected",
    "test_flow_theory_exact.py::test_every_prediction_agrees",
    "test_jit.py::test_it_equals_the_function",
    "test_networks_convnext.py::test_larger_presets_have_the_libraries_names_and_shapes",
    "test_networks_convnext.py::test_preset_equals_timm",
    "test_networks_densenet.py::test_preset_equals_torchvision",
    "test_networks_fixup.py::test_preset_equals_the_module",
    "test_networks_initial.py::test_initial_values_follow_the_library_s_rule",
    "test_networks_mobilenet.py::test_other_widths_equal_torchvision",
    "test_networks_resnet.py::test_checkpoint_comes_back",
    "test_networks_resnet.py::test_other_members_of_the_family_equal_the_library",
    "test_networks_resnet.py::test_preset_equals_the_library",
    "test_networks_resnet.py::test_preset_equals_the_library_with_the_same_drop_path",
    "test_papers.py::test_the_claims_that_small_sizes_can_show",
    "test_pruning.py::test_every_row_is_pruned_rightly_or_refused",
    "test_quantization.py::test_bad_calibration_fails",
    "test_quantization.py::test_good_calibration_passes_on_held_out_digits",
    "test_style.py::test_tool_passes",
    "test_transform_matrix.py::test_a_cell_is_right",
    "test_tutorial_verdicts.py::test_a_module_with_other_weights_does_not_pass",
    "test_tutorial_verdicts.py::test_the_verdict_passes_at_every_batch_size_and_against_the_module",
    "test_verify_decisions.py::test_a_mask_that_is_wrong_at_a_clear_margin_fails",
    "test_verify_verdict.py::test_damage_fails_on_the_leaf_it_touches",
}
"""Tests of which one row is fast, as each takes long."""


def family(nodeid: str) -> str:
    """Return the test without its parameters: `test_x.py::test_y` for `parity_tests/test_x.py::test_y[1]`."""
    return nodeid.partition("[")[0].removeprefix("parity_tests/")


def is_left_out(test: str) -> bool:
    """Return whether a test, named as by `family`, or its whole file is left out."""
    named = {name for names in LEFT_OUT.values() for name in names}
    return test in named or test.partition("::")[0] in named


def rows(test: str, count: int) -> Sequence[int]:
    """Return which of a test's rows are fast."""
    if is_left_out(test):
        return ()
    if test in WHOLE:
        return range(count)
    taken = min(count, 1 if test in COSTLY else ROWS)
    return [number * count // taken for number in range(taken)]


def untouched(path: Path, tests: Sequence[str]) -> bool:
    """Return whether no test of a file, of which the names of the tests are given, is fast."""
    return all(is_left_out(f"{path.name}::{test}") for test in tests)
