"""Record every step of a TensorFlow/Keras training into a trace.

Examples
--------
>>> from steptrace_tracer import Tracer  # doctest: +SKIP
>>> model.fit(x, y, callbacks=[Tracer("run.zarr")])  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steptrace_schema.format.policy import Policy as Policy
    from steptrace_schema.format.retention import around as around
    from steptrace_schema.format.retention import last as last
    from steptrace_tracer.session.tracer import Tracer as Tracer
    from steptrace_tracer.verification.verify import verify as verify

__all__ = ["Policy", "Tracer", "around", "last", "verify"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: the recorder and the command line do without TensorFlow."""
    if name == "Tracer":
        from steptrace_tracer.session.tracer import Tracer

        return Tracer
    if name == "Policy":
        from steptrace_schema.format.policy import Policy

        return Policy
    if name in ("around", "last"):
        from steptrace_schema.format import retention

        return getattr(retention, name)
    if name == "verify":
        from steptrace_tracer.verification.verify import verify

        return verify
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
