"""The Python code of the documents runs."""

import re
import subprocess
import sys

import pytest


def blocks(path):
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("document", ["docs/python.md", "python/README.md"])
def test_the_code_of_a_document_runs(document, root, tmp_path):
    found = blocks(root / document)
    assert found, f"{document}: expected code"
    for number, block in enumerate(found):
        if "torch" in block:
            pytest.importorskip("torch")
        script = tmp_path / f"block_{number}.py"
        script.write_text(block, encoding="utf-8")
        done = subprocess.run([sys.executable, script], cwd=root, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{document}: {block}\n{done.stderr}"
