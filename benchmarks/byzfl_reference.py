"""What byzfl computes on shared inputs, for the tests of our combines: run by hand, ``python benchmarks/byzfl_reference.py [FILE]``.

Needs ``byzfl==0.0.11`` with what it imports (torch, torchvision, scipy, matplotlib, seaborn) in an environment of its own; nothing of metabayfl.
All inputs are float64 NumPy arrays, which byzfl keeps as they are; of torch tensors it makes float32.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import byzfl
import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).parents[1] / "tests" / "aggregators" / "byzfl_reference.json"


def inputs() -> dict[str, NDArray[np.float64]]:
    """Messages of clients that are alike, that differ, and of which some are far away."""
    rng = np.random.default_rng(20)
    alike = rng.normal(size=(10, 6)) + 2.0
    differing = rng.normal(size=(13, 4)) * np.linspace(0.1, 3.0, 13)[:, None]
    far = np.concatenate([rng.normal(size=(8, 5)), 1e3 * rng.normal(size=(3, 5))])
    return {"alike": alike, "differing": differing, "far": far}


def outputs(x: NDArray[np.float64]) -> dict[str, Any]:
    """Every rule on one matrix; three rows may be hostile."""
    found = {
        "median": byzfl.Median()(x),
        "trimmed_mean": byzfl.TrMean(3)(x),
        "krum": byzfl.Krum(3)(x),
        "multi_krum": byzfl.MultiKrum(3)(x),
        "geometric_median": byzfl.GeometricMedian(nu=0.1, T=3)(x),
        "geometric_median_long": byzfl.GeometricMedian(nu=1e-6, T=60)(x),
        "centred_clipping": byzfl.CenteredClipping(L=4, tau=0.7)(x),
        "nearest_neighbour_mixing": byzfl.NNM(3)(x),
        "mixed_trimmed_mean": byzfl.TrMean(3)(byzfl.NNM(3)(x)),
        "clipped": byzfl.Clipping(1.5)(x.copy()),
        "inner_product": byzfl.InnerProductManipulation(0.5)(x),
        "a_little": byzfl.ALittleIsEnough(-1.2)(x),
    }
    return {name: value.tolist() for name, value in found.items()}


def main(path: Path) -> None:
    """Write inputs and outputs."""
    cases = [f'"{name}": {json.dumps({"inputs": x.tolist(), "outputs": outputs(x)})}' for name, x in inputs().items()]
    path.write_text("{\n" + ",\n".join(cases) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE)
