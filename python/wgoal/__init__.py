"""Image-text retrieval at native speed: gradients, joint projection heads, recall and search.

``gradients`` computes the gradient of an objective at embeddings. ``wgoal.torch.Loss`` and ``wgoal.jax.loss`` use it in
PyTorch and JAX. ``JointHead`` trains a head on cached features in the style of scikit-learn; ``Trainer`` gives control
over each epoch; ``cca``, ``ridge`` and ``kcca`` fit one without training. ``recall``, ``top_k``, ``hard_negatives`` and
``analyze`` evaluate and search.

Functions release the GIL while they work. Errors are ``ValueError``, ``OSError`` or ``DeviceError``.
"""

import atexit as _atexit

from wgoal import _wgoal as _native
from wgoal._estimator import JointHead
from wgoal._evaluate import Ranking, Recall, analyze, devices, hard_negatives, recall, top_k
from wgoal._head import Fit, Head, cca, kcca, ridge
from wgoal._train import Epoch, Trainer
from wgoal._wgoal import Dataset, DeviceError, Gradients, __version__, gradients

__all__ = [
    "Dataset",
    "DeviceError",
    "Epoch",
    "Fit",
    "Gradients",
    "Head",
    "JointHead",
    "Ranking",
    "Recall",
    "Trainer",
    "__version__",
    "analyze",
    "cca",
    "devices",
    "gradients",
    "hard_negatives",
    "kcca",
    "recall",
    "ridge",
    "top_k",
]

# A driver should not meet the end of the process with a device open.
_atexit.register(_native.close)
