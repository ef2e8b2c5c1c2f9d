"""HDF5Output: writes its two bottoms into a file."""

from __future__ import annotations

from caffe_batch.engines.torch.layers.base import Place, Tensors, TorchLayer
from caffe_batch.errors import InputError


class HDF5Output(TorchLayer):
    """The datasets ``data`` and ``label``, with four axes; as in Caffe, of one pass only."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.path: str = place.message.hdf5_output_param.file_name
        self.written = False

    def forward(self, bottoms: Tensors, blobs: Tensors) -> Tensors:
        import h5py  # of the extra hdf5; only nets with such a layer need it

        if self.written:
            raise InputError(
                f"layer {self.place.name!r} has already written {self.path}: an HDF5Output takes "
                "the blobs of one pass only, in Caffe too",
                hint="Take it out of the net, or of this phase.",
            )
        with h5py.File(self.path, "w") as file:
            for name, bottom in zip(("data", "label"), bottoms, strict=True):
                values = bottom.detach().cpu().numpy()
                file[name] = values.reshape(*values.shape, *[1] * (4 - values.ndim))
        self.written = True
        return ()
