"""Linear regression whose gradient noise scale is known in closed form, as data and net files.

y = w . x + e with x ~ N(0, I_d) and e ~ N(0, sigma^2). Caffe's EuclideanLoss is the mean of
(w_net . x - y)^2 / 2, so with D = w_net - w the gradient of one sample is (D . x - e) x. Its mean
is D, and the trace of its covariance (d + 1) |D|^2 + d sigma^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

NET = """
layer {{
  name: "data" type: "HDF5Data" top: "data" top: "aim"
  hdf5_data_param {{ source: "{source}" batch_size: {batch_size} }}
}}
layer {{
  name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param {{ num_output: 1 bias_term: false
    weight_filler {{ type: "constant" value: {weight} }} }}
}}
layer {{ name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "aim" top: "loss" }}
"""

#: What the fillers give each of the net's weights.
WEIGHT = 0.5


@dataclass(frozen=True)
class Regression:
    """A regression with its files in one folder.

    Attributes:
        folder: Has net.prototxt and solver.prototxt.
        dimensions: d.
        distance: |D|, how far each of the net's weights is from the truth, times sqrt(d).
        sigma: Standard deviation of e.
    """

    folder: Path
    dimensions: int
    distance: float
    sigma: float

    @property
    def net(self) -> Path:
        return self.folder / "net.prototxt"

    @property
    def solver(self) -> Path:
        return self.folder / "solver.prototxt"

    @property
    def gradient_norm_squared(self) -> float:
        return self.distance**2

    @property
    def trace(self) -> float:
        d = self.dimensions
        return (d + 1) * self.distance**2 + d * self.sigma**2

    @property
    def noise_scale(self) -> float:
        return self.trace / self.gradient_norm_squared


def write_regression(
    folder: Path,
    *,
    records: int,
    batch_size: int,
    dimensions: int = 10,
    distance: float = 1.0,
    sigma: float = 1.5,
    solver: str = "",
    seed: int = 0,
) -> Regression:
    """Data and files of a regression; the data is in one HDF5 file."""
    random = np.random.default_rng(seed)
    inputs = random.standard_normal((records, dimensions)).astype(np.float32)
    truth = np.full(dimensions, WEIGHT - distance / np.sqrt(dimensions))
    aims = inputs @ truth + sigma * random.standard_normal(records)
    with h5py.File(folder / "data.h5", "w") as file:
        file["data"] = inputs
        file["aim"] = aims.astype(np.float32)[:, np.newaxis]
    source = folder / "data.txt"
    source.write_text(f"{folder / 'data.h5'}\n")
    made = Regression(folder, dimensions, distance, sigma)
    made.net.write_text(NET.format(source=source, batch_size=batch_size, weight=WEIGHT))
    made.solver.write_text(
        f'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 10 {solver}\n'
    )
    return made
