from typing import Any

import numpy as np
import numpy.typing as npt

def order_statistics(
    rows: npt.NDArray[Any], ranks: npt.NDArray[np.intp], out: npt.NDArray[Any]
) -> None: ...
