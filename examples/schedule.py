"""Hand in a sweep of three experiments, wait for it, and say what came of it.

Without a broker somebody has to do the work: run "wlm up" in another terminal first.
"""

import sys

from wlm_tasks import Experiment, Resources, Transfer, schedule_experiment

square = Experiment(
    name="square",
    site="local",
    commands=["echo {n} squared is $(({n} * {n})) > answer.txt"],
    outputs=[Transfer("answer.txt", "answers/{n}.txt")],
    resources=Resources(cpus=1, walltime_s=60),
    priority="high",
)

if __name__ == "__main__":
    sweep = schedule_experiment(square, sweep={"n": [2, 3, 4]}, key="squares-2-3-4")
    sweep.wait(progress=True)
    for run in sweep:
        sys.stdout.write(f"{run.id}  {run.status}  {run.outputs['answer.txt'].file}\n")
