"""The audit's second kernel: requests and what follows them; see _requests.pyx."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Buffer = bytes | bytearray | memoryview | NDArray[Any]

def first_wrong(
    bodies: Buffer, headers: NDArray[np.uint64], before: int
) -> tuple[int, int, str] | None:
    """The first wrong request of groups whose runs are good, whose bodies follow each other.

    headers: as _audit.Fold.take has them. before: 0, or where the last of the groups has a fault:
    only requests that end before the request which the fault is in are judged then. Returns the
    position, the kind of the record and why, where "{kind}" stands for the kind's name and
    "{events_max}" for the limit. A request whose effects do not fit is named by its own position.
    ValueError for bodies that are not those of the headers or not aligned to 16 bytes.
    """
