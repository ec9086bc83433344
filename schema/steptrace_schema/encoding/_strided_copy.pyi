from typing import Any

import numpy.typing as npt

def copy_strided(target: npt.NDArray[Any], source: npt.NDArray[Any]) -> None: ...
