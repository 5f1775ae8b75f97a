"""Evaluation and search of embeddings."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wgoal import _arrays, _options, _wgoal
from wgoal._wgoal import hard_negatives as _hard_negatives
from wgoal._wgoal import top_k as _top_k


@dataclass(frozen=True)
class Ranking:
    """Retrieval in one direction.

    `r1`, `r5`, `r10`, `recall_at` (by K), `map_at_r`, `r_precision`, `mrr` and `ndcg` are percentages. `medr` and
    `meanr` are the median and the mean rank of the best right candidate; 1 is first. `ranks` is int64, one number per
    query, 0 is first, -1 for an item without a right partner; None unless `recall` was asked for it.
    """

    r1: float
    r5: float
    r10: float
    medr: float
    meanr: float
    recall_at: Dict[int, float] = field(default_factory=dict)
    map_at_r: Optional[float] = None
    r_precision: Optional[float] = None
    mrr: Optional[float] = None
    ndcg: Optional[float] = None
    ranks: Any = None


@dataclass(frozen=True)
class Recall:
    """Retrieval in both directions. `rsum` is the sum of R@1, R@5 and R@10 in both, at most 600."""

    i2t: Ranking
    t2i: Ranking
    rsum: float

    def __str__(self):
        lines = ["                 R@1    R@5   R@10   medr   meanr"]
        for name, of in (("image to text", self.i2t), ("text to image", self.t2i)):
            lines.append(f"{name}  {of.r1:6.1f} {of.r5:6.1f} {of.r10:6.1f} {of.medr:6.0f} {of.meanr:7.1f}")
        return "\n".join([*lines, f"rsum {self.rsum:.1f} of 600"])


def recall_of(values):
    """A Recall from the parsed JSON of the library."""
    return Recall(Ranking(**values["i2t"]), Ranking(**values["t2i"]), values["rsum"])


def _unit(name, value):
    value = _arrays.matrix(name, value)
    length = np.linalg.norm(value, axis=1, keepdims=True)
    return value / np.where(length > 0, length, 1)


def recall(
    x: ArrayLike,
    y: ArrayLike,
    text_to_image: Optional[ArrayLike] = None,
    ks: Sequence[int] = (1, 5, 10),
    ranks: bool = False,
    *,
    folds: int = 1,
    normalize: bool = False,
    device: str = "auto",
) -> Recall:
    """Retrieval of images `x` (N, D) and texts `y` (M, D) in both directions.

    Args:
        x, y: unit embeddings, float32. Other types are converted.
        text_to_image: the row of each text's image, whole numbers (M,). Without it, row i of both sides is a pair.
        ks: the values of K for `Ranking.recall_at`.
        ranks: also return the rank of every query.
        folds: the mean over this many chunks of consecutive images (COCO 1K: 5).
        normalize: divide each row by its length first.
        device: as `wgoal --device`.

    Raises:
        ValueError: shapes that disagree, a value that is not finite, no text.
    """
    if normalize:
        x, y = _unit("x", x), _unit("y", y)
    else:
        x, y = _arrays.matrix("x", x), _arrays.matrix("y", y)
    if text_to_image is None:
        if len(x) != len(y):
            raise ValueError(
                f"text_to_image: expected the image row of every text, because there are {len(x)} images and "
                f"{len(y)} texts, found none; give it"
            )
        text_to_image = np.arange(len(y))
    found, best = _wgoal.recall(x, y, text_to_image, list(ks), folds, bool(ranks), device)
    values = json.loads(found)
    directions = []
    for at, name in enumerate(("i2t", "t2i")):
        more = values[name]
        more["recall_at"] = {int(k): percent for k, percent in more["recall_at"]}
        directions.append(Ranking(**values["recall"][name], **more, ranks=best[at] if best else None))
    return Recall(*directions, values["recall"]["rsum"])


def top_k(
    x: ArrayLike, y: ArrayLike, k: int, *, normalize: bool = False, device: str = "auto"
) -> Tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `k` rows of `y` (M, D) that are most similar to each row of `x` (N, D), best first.

    Returns:
        Row numbers, int64 (N, min(k, M)), and similarities, float32 of the same shape. Among equal similarities, the
        lower row comes first.
    """
    if normalize:
        x, y = _unit("x", x), _unit("y", y)
    return _top_k(x, y, k, device)


def hard_negatives(
    x: ArrayLike,
    y: ArrayLike,
    ids: Optional[ArrayLike] = None,
    *,
    temperature: float = 0.07,
    seed: int = 0,
    normalize: bool = False,
    device: str = "auto",
) -> Tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One false partner for each row of a batch of pairs `x`, `y` (N, D), drawn at random.

    Similar rows are drawn more often: the probability is proportional to softmax(similarity / temperature) + 1e-5. Pairs
    with the same number in `ids` (N,) are never drawn for each other.

    Returns:
        The row of a text for every image, and the row of an image for every text, int64 (N,) each.
    """
    if normalize:
        x, y = _unit("x", x), _unit("y", y)
    texts, images = _hard_negatives(x, y, ids, temperature, seed, device)
    return texts, images


def analyze(objective: str = "cir:sig-ms", **parameters: Any) -> Dict[str, Any]:
    """Properties of an objective's gradient: whether it is the gradient of a loss, where it pushes the wrong way.

    `parameters` are those of `gradients`, also `weights` and `param`. The keys of the result are those of `wgoal analyze --json`.
    """
    return json.loads(_wgoal.analyze(objective, *_options.objective(**parameters)))


def devices() -> List[Dict[str, Any]]:
    """The devices of this machine, as `wgoal devices --json` prints them."""
    return json.loads(_wgoal.devices())
