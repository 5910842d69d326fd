"""The fresh process of the benchmark `intake`: hands one sweep in and says what it took.

The peak of memory is the kernel's mark for this program (``VmHWM``). `getrusage` would not do: its
figure is kept over fork and exec, so a large parent's would be taken for ours.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

from benchmarks.work import SWEPT
from wlm_tasks.api import Client


def peak_mb() -> float:
    """The most memory this process ever had, in millions of bytes."""
    [kibibytes] = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.M)
    return int(kibibytes) * 1024 / 1e6


def main(count: int) -> None:
    """Hand in a sweep of `count` members and print the figures as JSON."""
    client = Client()
    start, busy = time.perf_counter(), time.process_time()
    sweep = client.schedule_sweep(SWEPT, {"n": list(range(count))})
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - busy
    client.close()
    said = {"sweep": sweep.id, "wall_s": wall_s, "cpu_s": cpu_s, "peak_mb": peak_mb()}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
