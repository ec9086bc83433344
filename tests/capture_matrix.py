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


_NOT_COMPARED = "recorded, but not compared in a test of its own"
_SEVERAL = "the probe needs inputs for one model: give `Tracer(probe=...)`"
_LOOPS = "test_tracer_custom_loops.py::test_a_custom_step_is_recorded_and_not_changed"
_NO_SLOTS = "plain gradient descent remembers nothing"

ROWS: Final[tuple[Row, ...]] = (
    *(
        Row(
            f"`fit`: {style.name}",
            "test_tracer_styles.py::"
            "test_a_style_is_recorded_as_a_second_computation_finds_it_and_not_changed",
            dict(style.lacks),
        )
        for style in STYLES
    ),
    *(
        Row(f"own loop: {name}", _LOOPS, {"probe_gradients": _NOT_COMPARED})
        for name in ("eager", "`tf.function`", "`tf.function(jit_compile=True)`")
    ),
    Row(
        "own loop: method, autograph",
        "test_tracer_custom_loops.py::test_a_method_is_a_step_too_and_its_object_has_the_models",
        {
            **dict.fromkeys(
                ("activations", "activation_gradients", "inputs", "probe", "probe_gradients"),
                _NOT_COMPARED,
            ),
            "optimizer": _NO_SLOTS,
        },
    ),
    Row(
        "own loop: GAN, two models and optimizers",
        "test_tracer_custom_loops.py::test_both_models_of_a_gan_are_recorded_with_their_own_losses",
        {
            "inputs": _NOT_COMPARED,
            "probe": _SEVERAL,
            "probe_gradients": _SEVERAL,
            "optimizer": "the optimizers have to be built before the first step",
        },
    ),
    Row(
        "own loop: nested tapes, a gradient penalty",
        "test_tracer_own_tapes.py::test_a_gradient_penalty_is_recorded_and_not_changed",
        {
            **dict.fromkeys(("activations", "activation_gradients", "inputs"), _NOT_COMPARED),
            **dict.fromkeys(("probe", "probe_gradients"), _NOT_COMPARED),
            "optimizer": _NO_SLOTS,
        },
    ),
    Row(
        "own loop: a persistent tape, two losses",
        "test_tracer_own_tapes.py::test_a_persistent_tape_gives_the_sum_of_its_gradients",
        {
            **dict.fromkeys(("inputs", "probe", "probe_gradients"), _NOT_COMPARED),
            "activations": "the hidden layer's are compared by way of their gradients only",
            "optimizer": _NO_SLOTS,
        },
    ),
    Row(
        "`MirroredStrategy`, two replicas: `fit`, and an own loop with `strategy.run`",
        "test_tracer_replicas.py::test_gradients_are_those_that_the_optimizer_applies",
        {"probe_gradients": _NOT_COMPARED, "optimizer": _NO_SLOTS},
    ),
    Row(
        "several worker processes",
        "test_tracer_workers.py::test_every_worker_writes_its_trace_into_one_folder",
        dict.fromkeys(
            [kind for kind in COLUMNS if kind not in ("scalars", "inputs")],
            "as `fit` records it; only inputs and ranks are compared",
        ),
    ),
    Row(
        "a second `fit`, `trainable` changed between",
        "test_tracer_resume.py::test_layers_may_be_frozen_between_fits",
        dict.fromkeys((*COMPARED[2:], "optimizer"), _NOT_COMPARED),
    ),
    Row(
        "resumed from a checkpoint",
        "test_tracer_resume.py::test_a_trace_goes_on_after_a_checkpoint_was_loaded",
        {"probe_gradients": "only on request", "optimizer": "only on request"},
    ),
    Row(
        "random operations without a seed",
        "test_tracer_custom_loops.py::"
        "test_random_operations_without_a_seed_draw_what_they_draw_without_the_tracer",
        dict.fromkeys((*COMPARED, "optimizer"), "the test is that the training is not changed"),
    ),
)
