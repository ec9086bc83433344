"""What is left out of a step that takes more bytes than the policy allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steptrace_schema.format.attributes import Missing
from steptrace_schema.format.layout import split_key
from steptrace_schema.format.policy import SACRIFICES
from steptrace_tracer.record.declare import is_static

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt


def beyond_budget(arrays: Mapping[str, npt.NDArray[Any]], step_bytes: int) -> dict[str, Missing]:
    """Return which arrays a step has to do without, ``kind/path`` to the reason.

    Whole kinds go, in the order of `SACRIFICES`, until the rest fits.

    Parameters
    ----------
    arrays
        Everything that the step would record. What is recorded only once does not count.
    step_bytes
        The most bytes that a step may take.
    """
    every_step = {k: v for k, v in arrays.items() if not is_static(*split_key(k))}
    total = sum(values.nbytes for values in every_step.values())
    left_out: dict[str, Missing] = {}
    for kind in SACRIFICES:
        if total <= step_bytes:
            break
        for key, values in every_step.items():
            own, path = split_key(key)
            if own == kind:
                reason = f"left out, so that a step takes no more than {step_bytes} bytes"
                left_out[key] = Missing(kind=own, path=path, reason=reason)
                total -= values.nbytes
    return left_out
