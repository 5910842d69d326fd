"""Run the benchmarks: ``python -m benchmarks``."""

from __future__ import annotations

from benchmarks.chains import main

main()
