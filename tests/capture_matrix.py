"""Which test shows that which kind of data is captured in which way of training.

``python docs/render_capture.py`` writes docs/capture.md from this; a test compares. To add a way of
training with ``fit``, add it to `training_styles.STYLES`, which compares all kinds; for another
one, add a row here that names its test.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from training_styles import COMPARED, STYLES

COLUMNS: Final = ("scalars", *COMPARED, "optimizer")
"""Kinds that depend on how the model is trained."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to train, and what has been compared in it."""

    style: str
    test: str
    """File and function that compares, and that shows that the training is not changed."""
    lacks: dict[str, str] = dataclasses.field(default_factory=dict)
    """Kind to the reason why it is not there."""


_LOOPS = "capture/test_tracer_custom_loops.py::test_a_custom_step_is_recorded_and_not_changed"
_ON_BATCH = (
    "session/test_tracer_on_batch.py::test_a_loop_of_train_on_batch_is_recorded_and_not_changed"
)
_PROBES = ("probe", "probe_gradients")


def _as_above(*kinds: str) -> dict[str, str]:
    return dict.fromkeys(kinds, "recorded as in the rows above, and compared there")


_NOT_HERE = _as_above("scalars", "activations", "activation_gradients", "inputs", *_PROBES)
_PASSES = (
    "capture/test_tracer_passes.py::"
    "test_gradients_are_those_that_are_applied_however_they_are_asked_for"
)
_JACOBIAN = "the loss of each sample is differentiated by itself, for the weights alone"
_NO_SLOTS = "plain gradient descent remembers nothing"

ROWS: Final[tuple[Row, ...]] = (
    *(
        Row(
            f"`fit`: {style.name}",
            "capture/test_tracer_styles.py::"
            "test_a_style_is_recorded_as_a_second_computation_finds_it_and_not_changed",
            dict(style.lacks),
        )
        for style in STYLES
    ),
    *(
        Row(f"custom loop: {name}", _LOOPS)
        for name in ("eager", "`tf.function`", "`tf.function(jit_compile=True)`")
    ),
    Row(
        "custom loop: method, autograph",
        "capture/test_tracer_custom_loops.py::test_a_method_is_a_step_too_and_its_object_has_the_models",
        {"optimizer": _NO_SLOTS},
    ),
    Row(
        "custom loop: GAN, two models and optimizers",
        "capture/test_tracer_custom_loops.py::test_both_models_of_a_gan_are_recorded_with_their_own_losses",
    ),
    Row(
        "custom loop: nested tapes, a gradient penalty",
        "capture/test_tracer_own_tapes.py::test_a_gradient_penalty_is_recorded_and_not_changed",
        {"optimizer": _NO_SLOTS},
    ),
    Row(
        "custom loop: a persistent tape, two losses",
        "capture/test_tracer_own_tapes.py::test_a_persistent_tape_gives_the_sum_of_its_gradients",
        {"optimizer": _NO_SLOTS},
    ),
    *(
        Row(f"custom loop: {name}", _PASSES, {"optimizer": _NO_SLOTS, **lacks})
        for name, lacks in (
            ("gradients of `v.value`, of `tape.watched_variables()`", {}),
            ("two passes, sharpness-aware minimisation", {}),
            ("`tape.jacobian`, a loss for each sample", {"activation_gradients": _JACOBIAN}),
        )
    ),
    Row("`train_on_batch`", _ON_BATCH, {"optimizer": _NO_SLOTS}),
    Row(
        "`train_on_batch`: GAN of two compiled models",
        "session/test_tracer_on_batch.py::test_every_update_of_a_gan_of_compiled_models_is_a_step",
        {"optimizer": _NO_SLOTS, **_as_above("activations", "activation_gradients", *_PROBES)},
    ),
    Row(
        "custom loop: a step that takes an iterator",
        "session/test_tracer_iterators.py::"
        "test_a_step_that_takes_its_batch_from_an_iterator_is_recorded_and_not_changed",
        {"optimizer": _NO_SLOTS},
    ),
    Row(
        "custom loop: a step without arguments",
        "session/test_tracer_iterators.py::"
        "test_of_a_step_without_arguments_the_batch_is_what_its_model_is_called_with",
        {"optimizer": _NO_SLOTS},
    ),
    Row(
        "custom loop: a Python argument that alternates",
        "capture/test_tracer_flags.py::"
        "test_each_step_of_an_alternating_flag_records_what_its_own_function_computes",
        {
            "optimizer": _NO_SLOTS,
            **_as_above("scalars", "activation_gradients", "inputs", *_PROBES),
        },
    ),
    Row(
        "custom loop: a batch that is a mapping",
        "capture/test_tracer_passes.py::test_the_label_of_a_mapping_is_y",
        {"optimizer": _NO_SLOTS},
    ),
    Row(
        "`MirroredStrategy`, two replicas: `fit`, and a custom loop with `strategy.run`",
        "capture/test_tracer_replicas.py::test_gradients_are_those_that_the_optimizer_applies",
        {"optimizer": _NO_SLOTS},
    ),
    Row(
        "several worker processes",
        "session/test_tracer_workers.py::test_every_worker_writes_its_trace_into_one_folder",
        {"optimizer": _NO_SLOTS},
    ),
    Row(
        "a second `fit`, `trainable` changed between",
        "session/test_tracer_resume.py::test_layers_may_be_frozen_between_fits",
        {"optimizer": _NO_SLOTS},
    ),
    Row(
        "a second `fit` without `compile`, `trainable` or an attribute changed between",
        "session/test_tracer_frozen.py::"
        "test_a_change_without_compile_has_no_effect_with_the_tracer_either",
        {"optimizer": _NO_SLOTS, **_NOT_HERE},
    ),
    Row(
        "many fits of one batch",
        "session/test_tracer_many_fits.py::"
        "test_many_fits_are_one_recording_that_is_finished_at_the_end",
        {
            "optimizer": _NO_SLOTS,
            **_as_above("gradients", "activations", "activation_gradients", "inputs", *_PROBES),
        },
    ),
    Row(
        "`SwapEMAWeights`, best weights restored: the tracer first or last",
        "session/test_tracer_last_weights.py::"
        "test_the_last_row_is_what_the_last_step_left_in_either_order_of_callbacks",
        {"optimizer": _NO_SLOTS, **_NOT_HERE},
    ),
    Row(
        "custom loop: weights assigned after the last step",
        "session/test_tracer_last_weights.py::"
        "test_the_last_row_of_a_loop_is_what_its_last_step_left",
        {"optimizer": _NO_SLOTS, **_as_above("gradients"), **_NOT_HERE},
    ),
    Row(
        "`fit`: a functional model of `keras.ops`",
        "capture/test_tracer_operations.py::"
        "test_operations_of_a_functional_model_are_recorded_and_not_changed",
        {"optimizer": _NO_SLOTS, **_as_above("scalars", "gradients", "inputs", *_PROBES)},
    ),
    Row(
        "`fit`: a stateful recurrent layer",
        "capture/test_tracer_operations.py::"
        "test_the_state_that_a_recurrent_layer_carries_is_recorded_and_not_changed",
        {
            "optimizer": _NO_SLOTS,
            **_as_above("scalars", "gradients", "activation_gradients", "inputs", *_PROBES),
        },
    ),
    Row(
        "`fit`: a GAN as one model, with two optimizers",
        "session/test_tracer_phases.py::"
        "test_all_optimizers_of_a_model_are_named_and_the_unused_one_is_not_the_main",
        _as_above(*COMPARED, "optimizer"),
    ),
    Row(
        "several fits, each compiled in another way",
        "session/test_tracer_phases.py::test_each_fit_is_described_as_it_trains",
        _as_above(*(kind for kind in COMPARED if kind != "weights"), "optimizer"),
    ),
    Row(
        "custom loop: a layer that only some steps train",
        "session/test_tracer_later_tensors.py::"
        "test_what_begins_and_ends_in_mid_run_is_missing_elsewhere_and_no_fault",
        _as_above(*(kind for kind in COMPARED if kind != "weights"), "scalars", "optimizer"),
    ),
    Row(
        "resumed from a checkpoint",
        "session/test_tracer_resume.py::test_a_trace_goes_on_after_a_checkpoint_was_loaded",
    ),
    Row(
        "random operations without a seed",
        "capture/test_tracer_custom_loops.py::"
        "test_random_operations_without_a_seed_draw_what_they_draw_without_the_tracer",
    ),
)
