"""The version of the package and of the format it writes; the two move independently."""

from typing import Final

PACKAGE_VERSION: Final = "0.1.0"
"""Version of the distribution ``steptrace``."""

FORMAT_VERSION: Final = "1.3"
"""Version of the trace format that this package writes, ``major.minor``."""
