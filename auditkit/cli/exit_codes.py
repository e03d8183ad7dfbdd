"""What the process leaves with."""

from __future__ import annotations

PASSED, FAILED, WRONG, INCONCLUSIVE, BROKEN, INTERRUPTED = 0, 1, 2, 3, 70, 130
VERDICTS = {"pass": PASSED, "fail": FAILED, "inconclusive": INCONCLUSIVE}
