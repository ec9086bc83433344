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
def describe_rows(
    values: npt.NDArray[Any],
    minus: npt.NDArray[Any] | None,
    stride: int,
    quantiles: npt.NDArray[np.float64],
    out: npt.NDArray[np.float64],
    /,
) -> None: ...
