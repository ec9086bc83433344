"""A plan as text, and byte counts as a person writes them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from steptrace_schema.errors import TraceError
from steptrace_schema.human import human_bytes
from steptrace_tracer.planning.plan import tracer_line

if TYPE_CHECKING:
    from steptrace_tracer.planning.plan import Plan

_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY: Final = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(text: str) -> int:
    """Return the number of bytes that `text` says.

    Raises
    ------
    TraceError
        If it says none.

    Examples
    --------
    >>> parse_bytes("10GB"), parse_bytes("1.5 MiB"), parse_bytes("2000")
    (10000000000, 1572864, 2000)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(|[kmgt]i?)b?\s*", text.lower())
    if found is None or not float(found[1]):
        msg = f"'{text}' is not a number of bytes; write it as 500MB, 10GB or 2GiB"
        raise TraceError(msg)
    return int(float(found[1]) * (_UNITS | _BINARY)[found[2]])


def describe(plan: Plan) -> str:
    """Return a table of bytes by kind and layer, then the totals, and the tracer that fits."""
    run = plan.run_bytes
    rows = [("kind", "layer", "tensors", "bytes a step")]
    rows += [
        (row.kind, row.layer, str(row.tensors), human_bytes(row.step_bytes))
        for row in plan.rows(plan.policy)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  "
        f"{row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}"
        for row in rows
    ]
    lines += ["", f"a recorded step takes {human_bytes(plan.step_bytes)}, before encoding"]
    if run is not None:
        stored = human_bytes(plan.stored_bytes or 0)
        lines.append(
            f"a run of {plan.steps} steps takes {human_bytes(run)} before encoding, and about "
            f"{stored} on disk"
        )
    lines.append(
        f"a step takes {plan.untraced_seconds * 1e3:.1f} ms untraced and "
        f"{plan.traced_seconds * 1e3:.1f} ms traced: {plan.slow_down:.2f} times as long"
    )
    every = plan.every(plan.policy.every if plan.policy.max_slowdown is not None else 1)
    steps = "every step" if every == 1 else f"one step in {every}"
    lines.append(f"to stay within {plan.max_slowdown:.0%} more time, every='auto' records {steps}")
    if plan.budget is None:
        lines.append(f"the tracer: {tracer_line(plan.policy)}")
    elif plan.fitting is not None:
        taken = human_bytes(plan.bytes_of_a_run(plan.fitting) or 0)
        lines.append(f"within {human_bytes(plan.budget)} ({taken}): {tracer_line(plan.fitting)}")
    else:
        lines.append(
            f"not even one step and the last weights fit into {human_bytes(plan.budget)}; "
            "record fewer kinds, or exclude layers"
        )
    return "\n".join(lines)
