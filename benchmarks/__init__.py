"""Benchmarks: ours beside bare Celery, in one run on private services.

``python -m benchmarks`` prints a table; ``benchmarks/RESULTS.md`` keeps the last result that was
worth keeping. They need what the integration tests need: ``scripts/setup``.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# the private services live with the tests
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "tests")) if path not in sys.path]
