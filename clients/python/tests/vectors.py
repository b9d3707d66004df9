"""The vectors that all client libraries share."""

import json
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parents[2] / "vectors"


def cases(file: str, name: str) -> list[Any]:
    """Return the cases of one list. An empty list would test nothing."""
    found = json.loads((_FOLDER / file).read_text(encoding="utf-8"))[name]
    assert isinstance(found, list)
    assert found
    return found
