"""What ``wlm site test`` shows."""

from __future__ import annotations

from rich.text import Text

from wlm_tasks.cli import output
from wlm_tasks.config import Settings
from wlm_tasks.control.sitetest import Check, SiteTest
from wlm_tasks.runtime import Runtime


def run_test(settings: Settings, name: str, wait_s: float, form: str) -> bool:
    """Run the test and show each check as it is done; True if all are good."""
    runtime = Runtime(settings)
    seen: list[Check] = []
    try:
        for check in SiteTest(runtime, name, wait_s=wait_s).run():
            seen.append(check)
            if form == output.TABLE:
                _show(check)
    finally:
        runtime.close()
    good = all(check.good for check in seen)
    if form == output.JSON:
        output.show_json(seen)
    else:
        took_s = sum(check.took_s for check in seen)
        words = "works" if good else "does not work"
        output.show(Text(f"\nsite {name} {words}; the test took {output.duration(took_s)}"))
    return good


def _show(check: Check) -> None:
    mark = Text("[ok]  " if check.good else "[FAIL]", style="green" if check.good else "bold red")
    took = (f"{output.duration(check.took_s):>8}", "dim")
    output.show(
        Text.assemble(mark, " ", took, "  ", (check.name, "bold"), ": ", output.clean(check.text))
    )
    if check.mend is not None:
        output.show(Text.assemble(("       mend: ", "dim"), output.clean(check.mend)))
