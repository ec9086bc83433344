"""Whether the step that the training runs draws the random numbers that the one with taps draws.

Each compiled function has its own generators, which no one can read or set. Two functions with the
same seeds draw the same numbers for as long as both run at every step: they are level.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from steptrace_tracer.capture.frozen_step import batch_kind
from steptrace_tracer.capture.random_draws import seeds_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from steptrace_tracer.capture.program import Program


def has_seeds(function: Any) -> bool:
    """Whether every generator in a compiled function begins with a seed, and not by chance."""
    return all(any(seeds) for _, *seeds in seeds_of(function))


def draws_alike(
    function: Any, program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bool:
    """Whether the step without taps has the seeds of the one with taps.

    Parameters
    ----------
    function
        The compiled step with taps.
    program
        What it is a step of.
    args, kwargs
        The arguments of the program's step.
    """
    frozen = program.frozen

    def body(*args: Any, **kwargs: Any) -> Any:
        known: AbstractContextManager[None] = nullcontext()
        if frozen is not None:
            kind = batch_kind((args, kwargs))
            known = frozen.as_compiled(kind, program.models, program.optimizers)
        with known:
            return program.body(*args, **kwargs)

    inner: Callable[..., Any] = program.compiled.step(body)

    def around(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    plain = program.compiled.around(around).get_concrete_function(*args, **kwargs)
    return seeds_of(plain) == seeds_of(function)
