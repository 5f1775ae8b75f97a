"""The estimator: arrays in, a head out.

    python estimator.py
"""

import pickle

import numpy as np

import wgoal

# Features of 400 images and 2 captions each, with something in common.
random = np.random.default_rng(0)
common = random.standard_normal((400, 16))
owners = np.repeat(np.arange(400), 2)
images = common @ random.standard_normal((16, 64)) + 2.5 * random.standard_normal((400, 64))
texts = common[owners] @ random.standard_normal((16, 48)) + 2.5 * random.standard_normal((800, 48))

train, test = np.arange(300), np.arange(300, 400)
of_train, of_test = np.isin(owners, train), np.isin(owners, test)

estimator = wgoal.JointHead(epochs=5, verbose=True)
# Rows 250 to 299 choose the best epoch.
estimator.fit(images[train], texts[of_train], owners[of_train], validation=np.arange(250, 300))
print(f"rsum on other images: {estimator.score(images[test], texts[of_test], owners[of_test] - 300):.1f} of 600")

again = pickle.loads(pickle.dumps(estimator))
best, similarity = wgoal.top_k(again.transform_texts(texts[of_test][:1]), again.transform_images(images[test]), k=3)
print(f"the first caption finds image {best[0, 0]}, its own is 0; similarity {similarity[0, 0]:.2f}")
