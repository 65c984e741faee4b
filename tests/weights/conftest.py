"""Where the parity tests' peers are, and the folder that may lie beside the checkout."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path.append(str(TESTS / "models"))
