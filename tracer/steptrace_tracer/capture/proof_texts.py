"""What is said of proofs: why there is none, and that one failed."""

from __future__ import annotations

from typing import Final

DRAWS: Final = (
    "taps change the last bits of this step, and a copy of it would draw other random numbers; "
    "draw them from a tf.random.Generator, or by keras.random with a seed"
)
TOGETHER: Final = (
    "it is not shown that taps change nothing: the workers do each step together, so that none can "
    "do one a second time"
)
EAGER: Final = (
    "capture='beside' runs the step a second time, and this one runs eagerly, so that its Python "
    "code would run twice; compile it with tf.function, or leave capture out"
)


def unproved(obstacle: str) -> str:
    """Return why nothing is recorded where nothing can be compared."""
    return (
        f"it cannot be shown that tracing leaves this training as it is, because {obstacle}; "
        "Tracer(capture='inside') records it all the same"
    )


def changed(variable: str, step: int) -> str:
    """Return the warning that a later proof failed."""
    return (
        f"at step {step} taps in the training step changed the last bits of '{variable}', so that "
        "the steps since the last proof may differ from an untraced training; from here on the "
        "record is computed beside the step, which is left as it is"
    )
