"""A local explorer of traces in the browser: ``steptrace view``."""

from __future__ import annotations

from importlib.util import find_spec

from steptrace_schema.errors import TraceError


def check_installed() -> None:
    """Refuse to begin without what draws the page.

    Raises
    ------
    TraceError
        With what to install.
    """
    if find_spec("bokeh") is None:
        msg = (
            "'steptrace view' needs the package bokeh, which is not installed; "
            "install it with: pip install 'steptrace[view]'"
        )
        raise TraceError(msg)
