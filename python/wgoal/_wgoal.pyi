"""The types of the native module. Use the names of `wgoal`, which are documented."""

from __future__ import annotations

import os
from typing import Callable, Dict, List, Optional, Sequence, Tuple, Union, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__version__: str
PARAMETERS: List[str]

_Options = Sequence[Tuple[str, str]]

class DeviceError(RuntimeError):
    """No fitting device, a driver that refuses, or a device that is lost."""

    kind: str
    thing: str
    expected: str
    found: str
    advice: str

@final
class Gradients:
    """The gradient of an objective at a batch of embeddings."""

    @property
    def loss(self) -> float:
        """The value of the objective."""
    @property
    def images(self) -> NDArray[np.float32]:
        """The gradient at the images, float32, of the shape of `x`."""
    @property
    def texts(self) -> NDArray[np.float32]:
        """The gradient at the texts, float32, of the shape of `y`."""
    @property
    def temperature(self) -> float:
        """The gradient at the temperature of infonce or siglip; 0 for the others."""
    @property
    def logit_bias(self) -> float:
        """The gradient at the logit bias of siglip; 0 for the others."""
    @property
    def positive(self) -> NDArray[np.float32]:
        """The similarity of each text to its image, float32 (N,)."""
    @property
    def hardest_text(self) -> NDArray[np.int64]:
        """The row of each image's hardest text, int64, one per image."""
    @property
    def hardest_image(self) -> NDArray[np.int64]:
        """The row of each text's hardest image, int64 (N,)."""
    @property
    def hardest_text_similarity(self) -> NDArray[np.float32]:
        """The similarity of each image's hardest text, float32, one per image."""
    @property
    def hardest_image_similarity(self) -> NDArray[np.float32]:
        """The similarity of each text's hardest image, float32 (N,)."""

def close() -> None:
    """Closes devices and buffers that are kept between calls. A later call opens them again."""

def gradients(
    x: ArrayLike,
    y: ArrayLike,
    objective: str = "cir:sig-ms",
    ids: Optional[ArrayLike] = None,
    normalize: bool = False,
    device: str = "auto",
    out: Optional[Tuple[NDArray[np.float32], NDArray[np.float32]]] = None,
    *,
    text_image: Optional[ArrayLike] = None,
    scale: float = 1.0,
    margin: Optional[float] = None,
    tau: Optional[float] = None,
    alpha: Optional[float] = None,
    beta: Optional[float] = None,
    lambda_: Optional[float] = None,
    threshold: Optional[float] = None,
    circle_margin: Optional[float] = None,
    temperature: Optional[float] = None,
    logit_bias: Optional[float] = None,
    weights: Optional[Union[str, os.PathLike]] = None,
    param: Optional[Dict[str, float]] = None,
) -> Gradients:
    """The gradient of an objective at a batch of embeddings (N, D), whose row i is a pair. See help(wgoal.gradients)."""

def time_gradients(x: ArrayLike, y: ArrayLike, objective: str, out: Tuple[NDArray[np.float32], NDArray[np.float32]]) -> float: ...

@final
class Dataset:
    """Cached features of images and texts, and which text belongs to which image."""

    @staticmethod
    def open(path: Union[str, os.PathLike]) -> Dataset:
        """Opens a folder or a file with features. Features are read when they are needed."""
    @staticmethod
    def from_arrays(
        images: Optional[ArrayLike] = None,
        texts: Optional[ArrayLike] = None,
        text_to_image: Optional[ArrayLike] = None,
        *,
        image_regions: Optional[ArrayLike] = None,
        region_offsets: Optional[ArrayLike] = None,
        region_lengths: Optional[ArrayLike] = None,
        text_tokens: Optional[ArrayLike] = None,
        text_offsets: Optional[ArrayLike] = None,
        text_lengths: Optional[ArrayLike] = None,
        pairs: Optional[ArrayLike] = None,
        split_train: Optional[ArrayLike] = None,
        split_val: Optional[ArrayLike] = None,
        split_test: Optional[ArrayLike] = None,
        name: str = "arrays",
    ) -> Dataset:
        """A dataset of arrays: images (N, P), texts (M, Q), text_to_image (M,). Memory-mapped arrays stay on disk."""
    @property
    def name(self) -> str:
        """A name for messages."""
    @property
    def images(self) -> int:
        """Number of images (N)."""
    @property
    def texts(self) -> int:
        """Number of texts (M)."""
    @property
    def image_dim(self) -> int:
        """Width of an image row (P)."""
    @property
    def text_dim(self) -> int:
        """Width of a text row (Q)."""
    @property
    def text_to_image(self) -> NDArray[np.int64]:
        """The image row of every text, int64 (M,)."""
    def split(self, name: str) -> List[NDArray[np.int64]]:
        """A split: its image rows, its text rows, and the position of each text's image among the image rows."""
    def rows(self, side: str, rows: Optional[ArrayLike] = None) -> NDArray[np.float32]:
        """Rows of one side, "image" or "text", as stored: float32 (rows, width)."""

@final
class Head:
    @staticmethod
    def load(path: str) -> Head: ...
    @staticmethod
    def from_layers(
        image: Tuple[NDArray[np.float32], NDArray[np.float32]], text: Tuple[NDArray[np.float32], NDArray[np.float32]]
    ) -> Head: ...
    def save(self, path: str) -> None: ...
    def embed(
        self,
        side: str,
        features: Union[ArrayLike, Dataset],
        rows: Optional[ArrayLike] = None,
        correction: bool = False,
        device: str = "auto",
    ) -> NDArray[np.float32]: ...
    def recall(self, dataset: Dataset, split: str, folds: int, correction: bool, device: str) -> str: ...
    def parameters(self) -> dict: ...
    @property
    def config(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def image_dim(self) -> int: ...
    @property
    def text_dim(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def has_correction(self) -> bool: ...

@final
class Run:
    def __new__(
        cls,
        dataset: Dataset,
        options: _Options,
        device: str,
        on_step: Optional[Callable[[int, int, int], object]] = None,
        checkpoint: Optional[str] = None,
    ) -> Run: ...
    recipe: str
    warnings: List[str]
    def run_epoch(self) -> Optional[str]: ...
    def start(self) -> Optional[str]: ...
    def head(self) -> Head: ...
    def best(self) -> Optional[Head]: ...
    def finish(self) -> Tuple[Optional[Head], Optional[str]]: ...
    def recall(self, split_name: str, head: Optional[Head] = None) -> str: ...
    def save(self, path: str) -> None: ...
    def request_stop(self) -> None: ...
    @property
    def finished(self) -> bool: ...
    @property
    def epoch(self) -> int: ...
    @property
    def best_epoch(self) -> Optional[int]: ...
    @property
    def steps_per_epoch(self) -> int: ...
    @property
    def config(self) -> str: ...
    @property
    def device(self) -> str: ...

def main(arguments: Sequence[str]) -> int: ...
def devices() -> str: ...
def device_name(device: str) -> str: ...
def recall(
    x: ArrayLike, y: ArrayLike, text_to_image: ArrayLike, ks: Sequence[int], folds: int, ranks: bool, device: str
) -> Tuple[str, Optional[List[NDArray[np.int64]]]]: ...
def top_k(
    x: ArrayLike, y: ArrayLike, k: int, device: str = "auto"
) -> Tuple[NDArray[np.int64], NDArray[np.float32]]: ...
def hard_negatives(
    x: ArrayLike,
    y: ArrayLike,
    ids: Optional[ArrayLike] = None,
    temperature: float = 0.07,
    seed: int = 0,
    device: str = "auto",
) -> List[NDArray[np.int64]]: ...
def analyze(
    name: str,
    parameters: Sequence[Optional[float]],
    weights: Optional[Union[str, os.PathLike]],
    param: Optional[Dict[str, float]],
) -> str: ...
def logits(
    name: str,
    parameters: Sequence[Optional[float]],
    weights: Optional[Union[str, os.PathLike]],
    param: Optional[Dict[str, float]],
) -> Optional[Tuple[float, float, bool, bool]]: ...
def baseline(form: str, dataset: Dataset, options: _Options, device: str) -> Tuple[Head, str, List[str]]: ...
def options(command: str) -> List[Tuple[str, str]]: ...
def train_config(dataset: Dataset, options: _Options) -> Tuple[str, str, List[str]]: ...
