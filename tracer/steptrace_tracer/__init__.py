"""Record every step of a TensorFlow/Keras training into a trace.

Examples
--------
>>> from steptrace_tracer import Tracer  # doctest: +SKIP
>>> model.fit(x, y, callbacks=[Tracer("run.zarr")])  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steptrace_schema.format.policy import Policy as Policy
    from steptrace_schema.format.retention import around as around
    from steptrace_schema.format.retention import last as last
    from steptrace_tracer.planning.measure import plan as plan
    from steptrace_tracer.session.live_watch import LiveFinding as LiveFinding
    from steptrace_tracer.session.tracer import Tracer as Tracer
    from steptrace_tracer.verification.verify import verify as verify

__all__ = ["LiveFinding", "Policy", "Tracer", "around", "last", "plan", "verify"]


_LIVES_IN = {
    "LiveFinding": "steptrace_tracer.session.live_watch",
    "Policy": "steptrace_schema.format.policy",
    "Tracer": "steptrace_tracer.session.tracer",
    "around": "steptrace_schema.format.retention",
    "last": "steptrace_schema.format.retention",
    "plan": "steptrace_tracer.planning.measure",
    "verify": "steptrace_tracer.verification.verify",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for: the recorder and the command line do without TensorFlow."""
    if name not in _LIVES_IN:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_LIVES_IN[name]), name)
