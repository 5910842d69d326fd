"""What our side is asked to do: experiments that do nothing, or next to nothing."""

from __future__ import annotations

from typing import Final

from wlm_tasks.model.experiment import Experiment, Transfer

#: four steps run as tasks (setup, stage_in, submit, stage_out) and a job that ends at once
NOOP: Final = Experiment(
    "noop",
    "bench",
    ["true"],
    inputs=[Transfer("noop://lab/in", "in")],
    outputs=[Transfer("out", "noop://lab/out")],
)
#: the same with a parameter `n`, for sweeps
SWEPT: Final = Experiment(
    "noop",
    "bench",
    ["true {n}"],
    inputs=[Transfer("noop://lab/in", "in")],
    outputs=[Transfer("out", "noop://lab/out-{n}")],
)
#: a process on this host that ends at once
QUICK: Final = Experiment("quick", "local", ["true"])
