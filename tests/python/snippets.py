"""Python code in the documents, so that tests run what a reader copies."""

import pathlib
import re

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def snippets(document, word):
    """The code blocks of a document that contain a word."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (DOCS / document).read_text(), re.M | re.S)
    found = [block for block in blocks if word in block]
    assert found, f"{document}: expected a code block with {word}, found none"
    return found


def run(document, word):
    """Runs the only such block and returns what it defines."""
    (block,) = snippets(document, word)
    names = {}
    exec(compile(block, document, "exec"), names)
    return names
