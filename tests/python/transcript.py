"""Runs every block of docs/transcript.md in order, in the current folder, and checks what the document promises.

`wgoal` must be on the path. Arguments: none.
"""

import json
import os
import re
import subprocess

from snippets import DOCS

blocks = re.findall(r"^```(python|sh)\n(.*?)^```$", (DOCS / "transcript.md").read_text(), re.M | re.S)
assert [language for language, _ in blocks].count("sh") >= 4
names = {}
for language, block in blocks:
    print(block)
    if language == "sh":
        subprocess.run(["bash", "-euc", block], check=True)
    else:
        exec(compile(block, "transcript.md", "exec"), names)

for page in ("run/report.html", "found.html"):
    assert os.path.getsize(page) > 1000, page
expected = json.load(open("eval.json"))["t2i"]
assert names["recall"] == {k: expected[f"r{k}"] for k in (1, 5, 10)}, (names["recall"], expected)
# Without a head, one caption of 140 images is found by chance.
assert names["recall"][10] > 20, names["recall"]
