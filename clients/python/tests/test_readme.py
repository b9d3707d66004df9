"""The README shows Python that compiles, and names everything that the package has."""

import ast
import re
from pathlib import Path

import imgo_client

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_examples_compile() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        compile(block, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_methods_are_named() -> None:
    for kind in (imgo_client.Client, imgo_client.PushClient, imgo_client.Webhook):
        for name in vars(kind):
            public = not name.startswith("_") and callable(getattr(kind, name))
            assert not public or re.search(rf"\b{name}\b", README), f"README.md does not name {kind.__name__}.{name}"
