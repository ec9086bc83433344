from typing import Any

import numpy as np
import numpy.typing as npt

def row_sums(
    values: npt.NDArray[Any],
    minus: npt.NDArray[Any] | None,
    out: npt.NDArray[np.float64],
    wide: bool = True,
    /,
) -> None: ...
