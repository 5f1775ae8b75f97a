"""An estimator in the style of scikit-learn, without scikit-learn."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, Iterable, Optional, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgoal import _arrays
from wgoal._evaluate import recall as _recall
from wgoal._train import Trainer
from wgoal._wgoal import Dataset


class JointHead:
    """Trains a joint projection head: `fit`, `transform_images`, `transform_texts`, `score`.

    Args:
        objective: what training optimises, such as "cir:sig-ms"; by default that of the recipe.
        recipe: the training to start from; "wgoal" by default.
        device: as `wgoal --device`.
        verbose: print a line per epoch.
        options: further options of `wgoal train` by name, with underscores for hyphens: `epochs=10`, `lr=1e-3`,
            `standardize=True`, `lr_drop=[15]`.

    Attributes:
        head_: the fitted `Head`. The same options give the same bits as `wgoal train`.
        history_: a list of `Epoch`.
        best_epoch_: the epoch that the head is of.
    """

    def __init__(
        self,
        objective: Optional[str] = None,
        recipe: Optional[str] = None,
        *,
        device: str = "auto",
        verbose: bool = False,
        **options: Any,
    ):
        self.objective = objective
        self.recipe = recipe
        self.device = device
        self.verbose = verbose
        self._options = dict(options)

    def fit(
        self,
        images: Union[ArrayLike, Dataset, str, os.PathLike],
        texts: Optional[ArrayLike] = None,
        text_to_image: Optional[ArrayLike] = None,
        validation: Any = None,
        test: Any = None,
        callbacks: Iterable[Callable] = (),
    ) -> JointHead:
        """Trains a head.

        Args:
            images: features (N, P); or a Dataset, or the path of one, which is enough alone.
            texts: features (M, Q).
            text_to_image: the row of each text's image, (M,). Without it, row i of both sides is a pair.
            validation: arrays (images, texts, text_to_image), or the rows of images that are for validation. Validation
                chooses the best epoch. Without it, the images are divided at random, as `wgoal train` does.
            test: the same for a test split.
            callbacks: as of `Trainer`.
        """
        dataset = _dataset(images, texts, text_to_image, validation, test)

        def show(_, epoch):
            print(f"epoch {epoch.epoch:3}  loss {epoch.loss:9.3f}  val rsum {epoch.val.rsum:6.1f}{' *' * epoch.best}")

        callbacks = [show, *callbacks] if self.verbose else list(callbacks)
        options = {"objective": self.objective, "recipe": self.recipe, **self._options}
        trainer = Trainer(dataset, options, device=self.device, callbacks=callbacks)
        trainer.train()
        self.head_ = trainer.finish()
        self.history_ = trainer.history
        self.best_epoch_ = trainer.best_epoch
        self.recipe_ = trainer.recipe
        self.config_ = trainer.config
        return self

    def _fitted(self):
        if not hasattr(self, "head_"):
            raise ValueError("JointHead: expected a fitted estimator, found one without a head; call fit first")
        return self.head_

    def transform_images(self, images: ArrayLike) -> NDArray[np.float32]:
        """Unit rows (N, dim) of image features (N, P)."""
        return self._fitted().embed("image", images, device=self.device)

    def transform_texts(self, texts: ArrayLike) -> NDArray[np.float32]:
        """Unit rows (M, dim) of text features (M, Q)."""
        return self._fitted().embed("text", texts, device=self.device)

    def score(
        self,
        images: Union[ArrayLike, Dataset, str, os.PathLike],
        texts: Optional[ArrayLike] = None,
        text_to_image: Optional[ArrayLike] = None,
    ) -> float:
        """rsum, the sum of R@1, R@5 and R@10 in both directions, at most 600. Of a Dataset, that of its test split."""
        if isinstance(images, Dataset) or isinstance(images, (str, os.PathLike)):
            dataset = images if isinstance(images, Dataset) else Dataset.open(os.fspath(images))
            return self._fitted().recall(dataset, "test", device=self.device).rsum
        x, y = self.transform_images(images), self.transform_texts(texts)
        return _recall(x, y, text_to_image, device=self.device).rsum

    def get_params(self, deep: bool = True) -> Dict[str, Any]:
        """The arguments of the constructor."""
        named = ("objective", "recipe", "device", "verbose")
        return {**{name: getattr(self, name) for name in named}, **self._options}

    def set_params(self, **params: Any) -> JointHead:
        """Changes arguments of the constructor."""
        for name, value in params.items():
            if name in ("objective", "recipe", "device", "verbose"):
                setattr(self, name, value)
            else:
                self._options[name] = value
        return self

    def __sklearn_is_fitted__(self):
        return hasattr(self, "head_")

    def __repr__(self):
        defaults = {"objective": None, "recipe": None, "device": "auto", "verbose": False}
        given = {name: value for name, value in self.get_params().items() if defaults.get(name, self) != value}
        return f"JointHead({', '.join(f'{name}={value!r}' for name, value in given.items())})"


def _dataset(images, texts, text_to_image, validation, test):
    """The dataset of the arguments of `fit`.

    Validation and test data are arrays of their own, or the rows of images. They are appended to the training rows,
    because a dataset has one array per side.
    """
    if isinstance(images, Dataset):
        return images
    if isinstance(images, (str, os.PathLike)):
        return Dataset.open(os.fspath(images))
    parts = {"val": validation, "test": test}
    if all(part is None for part in parts.values()):
        return Dataset.from_arrays(images, texts, text_to_image)
    if all(part is None or _is_rows(part) for part in parts.values()):
        total = len(_arrays.array("images", images))
        taken = {name: _arrays.rows(name, part) for name, part in parts.items() if part is not None}
        rest = np.setdiff1d(np.arange(total), np.concatenate(list(taken.values())))
        splits = {f"split_{name}": rows for name, rows in taken.items()}
        return Dataset.from_arrays(images, texts, text_to_image, split_train=rest, **splits)
    sides = [_part("training data", (images, texts, text_to_image))]
    splits, start = {"split_train": np.arange(len(sides[0][0]))}, len(sides[0][0])
    for name, part in parts.items():
        if part is not None:
            x, y, owners = _part(name, part)
            splits[f"split_{name}"] = np.arange(start, start + len(x))
            sides.append((x, y, owners + start))
            start += len(x)
    x, y, owners = (np.concatenate(each) for each in zip(*sides))
    return Dataset.from_arrays(x, y, owners, **splits)


def _is_rows(part):
    return not isinstance(part, tuple)


def _part(name, part):
    """Images, texts and the image of every text."""
    if not isinstance(part, tuple) or len(part) not in (2, 3):
        raise ValueError(f"{name}: expected (images, texts, text_to_image), or rows of images, found another value")
    x, y = _arrays.array(f"{name} images", part[0]), _arrays.array(f"{name} texts", part[1])
    owners = part[2] if len(part) == 3 else None
    if owners is None:
        if len(x) != len(y):
            raise ValueError(
                f"{name}: expected text_to_image, because there are {len(x)} images and {len(y)} texts, found none; "
                "give the image row of every text"
            )
        owners = np.arange(len(y))
    return x, y, _arrays.rows(f"{name} text_to_image", owners).astype(np.int64)
