"""The recorded values of these tests: ``expected.json``, and how it is recorded.

    CRESS_SVCD_RECORD_GOLDEN=1 python -m pytest tests/golden

writes what the code gives now, fixtures included.  Do that only where a change is meant, and say
why in
the commit: files that users have were written by the code that these values come from.
"""

import json
import os
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
FILE = FOLDER / "expected.json"
RECORDING = os.environ.get("CRESS_SVCD_RECORD_GOLDEN") == "1"


def expected(key: str, found: Any) -> Any:
    """The recorded value of ``key``; while recording, ``found`` (plain data), which is stored."""
    values = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    if RECORDING:
        values[key] = found
        FILE.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return values[key]
