import os
from pathlib import Path

import numpy as np
import pytest

from reference import batch

# Tests compare bits, and machines may have GPUs.
DEVICE = os.environ.get("WGOAL_TEST_DEVICE", "cpu")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def device():
    return DEVICE


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture
def embeddings():
    return batch(24, 16)


@pytest.fixture(scope="session")
def features():
    """Images and captions that have something in common: 120 images, 2 captions each."""
    random = np.random.default_rng(5)
    common = random.standard_normal((120, 6))
    images = common @ random.standard_normal((6, 12)) + 0.1 * random.standard_normal((120, 12))
    owners = np.repeat(np.arange(120), 2)
    texts = common[owners] @ random.standard_normal((6, 8)) + 0.1 * random.standard_normal((240, 8))
    return images.astype(np.float32), texts.astype(np.float32), owners
