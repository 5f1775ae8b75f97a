"""Recall by faiss, usearch, ranx and eccv_caption from what wgoal exports, beside that of `wgoal eval`.

Arguments: a folder, which the test in tests/cli/python.rs fills, with
- eval.json: the line of `wgoal eval --json`;
- npy, fvecs, fbin: the folders of `wgoal embed` in these formats;
- plain.json, plain: the same of --correction none, in npy format;
- i2t.trec, t2i.trec, i2t.qrels, t2i.qrels, i2t.json, t2i.json, i2t-right.json, t2i-right.json: those of `wgoal rank`.
"""

import contextlib
import io
import json
import os
import sys

import faiss
import numpy as np
import usearch.io
from ranx import Qrels, Run, evaluate
from usearch.index import MetricKind, search

from snippets import run, snippets

os.chdir(sys.argv[1])
expected = json.load(open("eval.json"))


def agree(name, found, expected=expected):
    """Checks every recall to the last digit."""
    for direction, recalls in found.items():
        for k, recall in recalls.items():
            right = expected[direction][f"r{k}"]
            assert recall == right, f"{name}, {direction} R@{k}: expected {right}, found {recall}"
    print(f"{name}: {found}")


def percent(hits):
    return 100.0 * int(np.sum(hits)) / len(hits)


def recalls(i2t, t2i, owner):
    """Recall from the positions of the results of every query."""
    captioned = np.unique(owner)
    return {
        "i2t": {k: percent((owner[i2t[captioned, :k]] == captioned[:, None]).any(1)) for k in (1, 5, 10)},
        "t2i": {k: percent((t2i[:, :k] == owner[:, None]).any(1)) for k in (1, 5, 10)},
    }


# Results that are asked for: more than the 10 that count, because the next ones may have equal scores.
MORE = 50


def lower_row_first(scores, rows):
    """Orders results of equal score as wgoal does. The indexes order them in any way."""
    return np.array([rows[i][np.lexsort((rows[i], -scores[i]))] for i in range(len(rows))])


def fvecs(path):
    rows = np.fromfile(path, "<i4")
    return rows.reshape(-1, rows[0] + 1)[:, 1:].copy().view("<f4")


def faiss_search(base, queries):
    index = faiss.IndexFlatIP(base.shape[1])
    index.add(base)
    return lower_row_first(*index.search(queries, MORE))


def usearch_search(base, queries):
    matches = search(base, queries, MORE, MetricKind.IP, exact=True)
    return lower_row_first(-matches.distances, matches.keys.astype(np.int64))


def npy(folder, name):
    return np.load(f"{folder}/{name}.npy")


owner = npy("npy", "text_to_image")
for name, find, (images, texts) in [
    ("faiss, npy", faiss_search, [npy("npy", side) for side in ("images", "texts")]),
    ("faiss, fvecs", faiss_search, [fvecs(f"fvecs/{side}.fvecs") for side in ("images", "texts")]),
    ("usearch, fbin", usearch_search, [usearch.io.load_matrix(f"fbin/{side}.fbin") for side in ("images", "texts")]),
]:
    agree(name, recalls(find(texts, images), find(images, texts), owner))
# Two columns more than without the correction for hubs.
plain = [npy("plain", side) for side in ("images", "texts")]
assert [npy("npy", side).shape[1] - vectors.shape[1] for side, vectors in zip(("images", "texts"), plain)] == [2, 2]
found = recalls(faiss_search(plain[1], plain[0]), faiss_search(plain[0], plain[1]), owner)
agree("faiss, without the correction", found, json.load(open("plain.json")))
for folder in ("fvecs", "fbin"):
    for name in ("image_rows", "text_rows", "text_to_image"):
        assert (npy(folder, name) == npy("npy", name)).all() and npy(folder, name).dtype == np.int64

# The index of the document gives rows of the dataset: the same results as the run file.
os.symlink("npy", "vectors")
found = run("search.md", "import faiss")["found"]
ranked = {}
for line in open("t2i.trec"):
    query, _, image, *_ = line.split()
    ranked.setdefault(int(query), []).append(int(image))
for text, images in zip(npy("npy", "text_rows"), found):
    assert ranked[text][0] == images[0], text


# ranx counts the share of an image's captions that are found; hit_rate is recall as retrieval papers use it.
def ranx(direction):
    metrics = [f"hit_rate@{k}" for k in (1, 5, 10)]
    run_file = Run.from_file(f"{direction}.trec", kind="trec")
    evaluate(Qrels.from_file(f"{direction}.qrels", kind="trec"), run_file, metrics)
    scores = run_file.scores
    return {k: percent(list(scores[f"hit_rate@{k}"].values())) for k in (1, 5, 10)}


agree("ranx", {direction: ranx(direction) for direction in ("i2t", "t2i")})

with contextlib.redirect_stdout(io.StringIO()):
    names = run("search.md", "eccv_caption")
metrics, ranked = names["metrics"], names["ranked"]
by_k = {k: metrics.coco_5k_recalls(ranked, "all", K=k) for k in (1, 5, 10)}
# Its mean is a fraction; the count of hits is exact.
count = {direction: len(ranked[direction]) for direction in ranked}
agree("eccv_caption", {
    direction: {k: 100.0 * round(by_k[k][direction] * count[direction]) / count[direction] for k in by_k}
    for direction in ranked
})
