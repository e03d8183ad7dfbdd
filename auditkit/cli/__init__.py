"""The command line: parse, call one public function, print what came out, leave with the exit code.

Exit codes: 0 pass or done · 1 the audit failed · 3 inconclusive · 2 the input or the request is wrong · 70 an error of
auditkit itself · 130 interrupted.
"""

from __future__ import annotations

from auditkit.cli.application import app, main

__all__ = ["app", "main"]
