"""Heads: loading, saving, embedding, other formats, and closed forms."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgoal import _options, _wgoal
from wgoal._evaluate import Recall, recall_of
from wgoal._wgoal import Dataset


class Head:
    """Maps image features (N, image_dim) and text features (M, text_dim) to unit rows of one width, `dim`.

    Heads come from `load`, `from_torch`, `JointHead`, `Trainer`, `cca`, `ridge` and `kcca`. They can be pickled and
    compared.
    """

    def __init__(self, native: _wgoal.Head):
        if not isinstance(native, _wgoal.Head):
            raise TypeError("Head: expected Head.load(path), Head.from_torch(layers) or the result of training")
        self._native = native

    @classmethod
    def load(cls, path: Union[str, os.PathLike]) -> Head:
        """Reads the head of a file, or the best head in the folder of a run."""
        return cls(_wgoal.Head.load(os.fspath(path)))

    def save(self, path: Union[str, os.PathLike]) -> None:
        """Writes a safetensors file, which the command line reads too."""
        self._native.save(os.fspath(path))

    def embed(
        self,
        side: str,
        features: Union[ArrayLike, Dataset],
        rows: Optional[ArrayLike] = None,
        *,
        correction: bool = False,
        device: str = "auto",
    ) -> NDArray[np.float32]:
        """Embeds one side, "image" or "text": unit rows, float32 (rows, dim).

        Args:
            features: an array (items, width), local features (items, rows per item, width), or a Dataset.
            rows: the items to embed; all by default.
            correction: append the two columns of the correction for hubs, if the head has one. The inner product of
                an image and a text is then the corrected score.
        """
        return self._native.embed(side, features, rows, correction, device)

    def recall(
        self,
        dataset: Dataset,
        split: str = "test",
        *,
        folds: int = 1,
        correction: bool = False,
        device: str = "auto",
    ) -> Recall:
        """Recall on a split of a dataset: "train", "val" or "test"."""
        return recall_of(json.loads(self._native.recall(dataset, split, folds, correction, device)))

    @property
    def dim(self) -> int:
        """Width of the embedding, without the columns of the correction for hubs."""
        return self._native.dim

    @property
    def image_dim(self) -> int:
        """Width of the image features."""
        return self._native.image_dim

    @property
    def text_dim(self) -> int:
        """Width of the text features."""
        return self._native.text_dim

    @property
    def temperature(self) -> float:
        """The temperature of infonce or siglip. Embeddings do not depend on it."""
        return self._native.temperature

    @property
    def epoch(self) -> int:
        """The epoch that the head is of; 0 for a head that was not trained."""
        return self._native.epoch

    @property
    def has_correction(self) -> bool:
        """Whether the head has a correction for hubs."""
        return self._native.has_correction

    @property
    def config(self) -> Dict[str, Any]:
        """The options of the head and of its training."""
        return json.loads(self._native.config)

    def parameters(self) -> Dict[str, NDArray[np.float32]]:
        """The tensors of the head, by the names of its file (docs/head-file.md)."""
        return self._native.parameters()

    def to_torch(self, side: str):
        """One side as a torch.nn.Module: features (rows, width) to unit rows (rows, dim)."""
        from wgoal.torch import Encoder

        return Encoder(self, side)

    @classmethod
    def from_torch(cls, image, text) -> Head:
        """A head of two torch.nn.Linear layers with the same number of outputs."""
        def layer(module):
            weight = module.weight.detach().cpu().float().numpy()
            bias = module.bias
            bias = np.zeros(len(weight), np.float32) if bias is None else bias.detach().cpu().float().numpy()
            return np.ascontiguousarray(weight), bias

        return cls(_wgoal.Head.from_layers(layer(image), layer(text)))

    def to_onnx(self, side: str, path: Union[str, os.PathLike, None] = None):
        """One side as an ONNX model, and with `path` as a file. It needs the package onnx."""
        from wgoal._onnx import model

        made = model(self, side)
        if path is not None:
            import onnx

            onnx.save(made, os.fspath(path))
        return made

    def layers(self, side: str) -> Tuple[Dict[str, NDArray[np.float32]], bool]:
        """What one side computes, for other formats: its tensors without the name of the side, and its options.

        Raises:
            ValueError: the head has layers that only wgoal computes.
        """
        if side not in ("image", "text"):
            raise ValueError(f"side: expected image or text, found '{side}'; name one of them")
        config = self.config
        for option in (f"{side}_encoder", f"{side}_pooling"):
            if config[option] not in ("linear", "none", "mean", "max", "joined"):
                raise ValueError(
                    f"head: expected a linear encoder without learned pooling, found {option} {config[option]}; "
                    "use Head.embed"
                )
        start = side + "."
        tensors = {name[len(start):]: value for name, value in self.parameters().items() if name.startswith(start)}
        return tensors, config["signed_root"] in ("both", side + "s")

    def __reduce__(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "head.safetensors")
            self.save(path)
            with open(path, "rb") as file:
                return _from_bytes, (file.read(),)

    def __eq__(self, other):
        return isinstance(other, Head) and self._native == other._native

    __hash__ = None

    def __repr__(self):
        return repr(self._native)


def _from_bytes(data):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "head.safetensors")
        with open(path, "wb") as file:
            file.write(data)
        return Head.load(path)


@dataclass(frozen=True)
class Fit:
    """A head in closed form, and the regularisation and bandwidth that validation chose.

    `correlations` are the canonical correlations in descending order; empty for ridge.
    """

    head: Head
    regularization: float
    bandwidth: Optional[float]
    val: Recall
    correlations: List[float]


def _closed(form, dataset, device, options):
    if not isinstance(dataset, Dataset):
        dataset = Dataset.open(os.fspath(dataset))
    native, found, warnings = _wgoal.baseline(form, dataset, _options.given(options), device)
    _options.warn(warnings)
    found = json.loads(found)
    found["val"] = recall_of(found["val"])
    return Fit(Head(native), **found)


def cca(dataset: Union[Dataset, str, os.PathLike], *, device: str = "auto", **options: Any) -> Fit:
    """Regularised canonical correlation analysis. `options` are those of `wgoal baseline`, such as `embed=256`."""
    return _closed("cca", dataset, device, options)


def ridge(dataset: Union[Dataset, str, os.PathLike], *, device: str = "auto", **options: Any) -> Fit:
    """Ridge regression of one side on the other. `options` are those of `wgoal baseline`."""
    return _closed("ridge", dataset, device, options)


def kcca(dataset: Union[Dataset, str, os.PathLike], *, device: str = "auto", **options: Any) -> Fit:
    """Kernel CCA. `options` are those of `wgoal baseline`, such as `landmarks=5000`."""
    return _closed("kcca", dataset, device, options)
