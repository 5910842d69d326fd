"""Benchmarks on private services: ours beside bare Celery, and beside what is asked of it.

``python -m benchmarks`` runs all of them and prints their tables, ``python -m benchmarks -h`` lists
them; ``benchmarks/RESULTS.md`` keeps the last result that was worth keeping. They need what the
integration tests need: ``scripts/setup``.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# the private services live with the tests
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "tests")) if path not in sys.path]
