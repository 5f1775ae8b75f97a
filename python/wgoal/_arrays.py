"""Arrays as the native module takes them: NumPy arrays of one type, in C order.

The native module reads arrays of this kind in place and calls these functions for all others.
"""

from __future__ import annotations

import os
import sys

import numpy as np

_REAL = "biuf"


def array(name, value):
    """The argument as a NumPy array. CPU tensors of other libraries share their memory through DLPack."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "__dlpack__") and not isinstance(value, (bool, int, float)):
        try:
            return np.from_dlpack(_detached(value))
        except (BufferError, RuntimeError, TypeError, AttributeError) as error:
            found = f"{type(value).__module__}.{type(value).__name__} ({error})"
            raise TypeError(
                f"{name}: expected a NumPy array, or a CPU tensor that DLPack can share, found {found}; "
                "convert it to float32 on the CPU first"
            ) from error
    return np.asarray(value)


def _detached(value):
    """A tensor without its graph, and of a type that NumPy has. Only PyTorch has such tensors."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return value
    value = value.detach()
    if value.dtype == torch.bfloat16:
        value = value.float()
    return value.cpu()


def _real(name, value):
    found = array(name, value)
    if found.dtype.kind not in _REAL:
        raise TypeError(f"{name}: expected real numbers, found the type {found.dtype}; convert them to float32")
    return found


def matrix(name, value):
    """A matrix of float32 in C order. It is a copy only if the argument is something else."""
    found = _real(name, value)
    if found.ndim != 2:
        raise ValueError(
            f"{name}: expected a matrix (rows, columns), found shape {found.shape}; reshape it, one row per item"
        )
    return np.require(found, np.float32, ["C", "A"])


def _integers(name, value):
    found = array(name, value)
    if found.size == 0:
        found = found.astype(np.int64)
    if found.dtype.kind not in "iub":
        raise TypeError(f"{name}: expected whole numbers, found the type {found.dtype}; convert them to int64")
    return found


def _rows(name, value, dtype, most):
    found = _integers(name, value).reshape(-1)
    if found.dtype.kind == "b":
        # A mask of rows.
        return np.flatnonzero(found).astype(dtype)
    if found.size and (found.min() < 0 or found.max() >= most):
        bad = found[(found < 0) | (found >= most)][0]
        raise ValueError(f"{name}: expected row numbers of 0 or more, found {bad}; give rows of the other side")
    return np.require(found, dtype, ["C", "A"])


def rows(name, value):
    """Row numbers of a dataset as uint64, flattened."""
    return _rows(name, value, np.uint64, 2**63)


def positions(name, value):
    """Positions among the rows of a matrix as uint32, flattened."""
    return _rows(name, value, np.uint32, 2**32 - 1)


def ids(name, value):
    """Numbers of which only equality counts, as uint32."""
    found = _integers(name, value)
    if found.ndim != 1:
        raise ValueError(f"{name}: expected one number per pair, found shape {found.shape}; flatten it")
    if found.size and (found.min() < 0 or found.max() >= 2**32 - 1):
        found = np.unique(found, return_inverse=True)[1].reshape(-1)
    return np.require(found, np.uint32, ["C", "A"])


_ROWS = (
    "text_to_image",
    "split_train",
    "split_val",
    "split_test",
    "region_offsets",
    "region_lengths",
    "text_offsets",
    "text_lengths",
)


def dataset(given):
    """Arrays of a dataset as (name, kind, value). Memory-mapped arrays stay in their files."""
    prepared = []
    for name, value in given.items():
        if name in _ROWS:
            prepared.append((name, "rows", rows(name, value)))
        elif name == "pairs":
            found = _integers(name, value)
            if found.ndim != 2 or found.shape[1] != 2:
                raise ValueError(f"{name}: expected shape (pairs, 2), found {found.shape}; give (image, text) rows")
            prepared.append((name, "pairs", found))
        else:
            place = _place(value)
            if place is not None:
                prepared.append((name, "file", place))
            else:
                found = np.require(_real(name, value), np.float32, ["C", "A"])
                prepared.append((name, "features", found))
    return prepared


def _place(value):
    """Where a memory-mapped array is in its file: (path, first byte, type, shape); None if it is not one whole."""
    if not isinstance(value, np.memmap) or value.filename is None or not value.flags.c_contiguous:
        return None
    if not value.dtype.isnative or sys.byteorder != "little" or not os.path.isfile(value.filename):
        return None
    # A view of a part has the offset of the whole.
    whole = value
    while isinstance(whole.base, np.memmap):
        whole = whole.base
    start = int(whole.offset) + value.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    return os.fspath(value.filename), start, value.dtype.name, list(value.shape)
