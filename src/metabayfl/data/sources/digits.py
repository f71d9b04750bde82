"""scikit-learn's digits with their 14 writing forms as clients: no download, so first steps and tests run anywhere.

The 1,797 rows are 14 consecutive copies of one dictated sheet; the forms are inferred from the file's order (no writer id is given). So the
order is checked before it is relied on.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from metabayfl.data.options import DataOptions
from metabayfl.data.raw import Array, RawArrays
from metabayfl.data.sources.arrays import from_arrays
from metabayfl.errors import DataError

FORMS = (130, 256, 386, 516, 646, 776, 915, 1029, 1157, 1287, 1415, 1545, 1667)
"""First rows of the second to the last form."""

_Y_SHA256 = "a3c91c262eddcf7ba8f0e37507c30284493c9b20412ffe4af30d536401f7ba21"
_X_SHA256 = "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"


def load_digits(options: DataOptions, base: Path) -> RawArrays:
    """1,797 images of 8 x 8 pixels 0..16, 10 classes, 14 writing forms.

    Raises:
        DataError: if this scikit-learn has other digits, or in another order.
    """
    from sklearn.datasets import load_digits as read

    x, y = read(return_X_y=True)
    check_order(x, y)
    forms = [f"form-{form:02d}" for form in np.searchsorted(FORMS, np.arange(len(y)), side="right")]
    return from_arrays(x.reshape(-1, 8, 8), y, forms, name=options.name or "digits", layout="image", targets=("digit",))


def check_order(x: Array, y: Array) -> None:
    """Refuse digits whose order is not the one that the forms were inferred from.

    Raises:
        DataError: says which part differs.
    """
    for what, values, dtype, known in (("labels", y, "<i8", _Y_SHA256), ("pixels", x, "u1", _X_SHA256)):
        if hashlib.sha256(np.ascontiguousarray(values.astype(dtype)).tobytes()).hexdigest() != known:
            raise DataError(
                f"scikit-learn's digits have other {what} than the 14 writing forms were inferred from: use another release of scikit-learn."
            )
