"""What is left out of a step that takes more bytes than the policy allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from steptrace_schema.format.attributes import Missing
from steptrace_schema.format.layout import split_key
from steptrace_schema.format.policy import SACRIFICES
from steptrace_schema.names import STATISTIC_NAMES
from steptrace_tracer.record.declare import is_static

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from steptrace_schema.format.policy import Policy

_DESCRIBED: Final = 8 * len(STATISTIC_NAMES)
"""Bytes of the statistics of a tensor."""


def beyond_budget(
    arrays: Mapping[str, npt.NDArray[Any]], policy: Policy, steps: int = 1
) -> dict[str, Missing]:
    """Return which arrays a step has to do without, ``kind/path`` to the reason.

    Whole kinds go, in the order of `SACRIFICES`, until the rest fits.

    Parameters
    ----------
    arrays
        Everything that the step would record. What is recorded only once does not count.
    policy
        Says the most bytes that a step may take, and what is only described.
    steps
        Of how many steps the arrays are, which are alike.
    """
    step_bytes = policy.step_bytes
    if step_bytes is None:
        return {}
    every_step = {
        key: _DESCRIBED if policy.only_describes(split_key(key)[0]) else values.nbytes // steps
        for key, values in arrays.items()
        if not is_static(*split_key(key))
    }
    total = sum(every_step.values())
    left_out: dict[str, Missing] = {}
    for kind in SACRIFICES:
        if total <= step_bytes:
            break
        for key, nbytes in every_step.items():
            own, path = split_key(key)
            if own == kind:
                reason = f"left out, so that a step takes no more than {step_bytes} bytes"
                left_out[key] = Missing(kind=own, path=path, reason=reason)
                total -= nbytes
    return left_out
