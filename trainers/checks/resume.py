"""Whether a run may go on from a snapshot: only as the same experiment, on the same data."""

import json

from cluster.settings import UserError, flatten, to_tree, validate
from trainers.config import MANIFEST, ExperimentConfig, matches, may_differ_on_resume
from trainers.state.optim import learning_rate
from trainers.state.optim_config import OptimConfig
from trainers.state.snapshot import Snapshot


def refuse_another_experiment(last: Snapshot, config: ExperimentConfig, data_hash: str) -> None:
    """A folder continues only the experiment that it holds (docs/faults.md, 13).
    The UserError names every key that differs and what to do.
    """
    # A key that a later release added had the effect of its default.
    old = flatten(to_tree(ExperimentConfig())) | flatten(last.config)
    new, rules = flatten(to_tree(config)), config.run.may_differ
    keys = sorted(
        key for key in old.keys() | new.keys() if old.get(key) != new.get(key) and not may_differ_on_resume(key, rules)
    )
    jump = rate_change(last, config)
    if jump and not any(matches(rule, "optim.steps") for rule in rules):
        keys = sorted([*keys, "optim.steps"])
    if keys:
        changes = ", ".join(f"{key}: {old.get(key)!r} there, {new.get(key)!r} now" for key in keys)
        raise UserError(
            f"{config.run.dir} holds another experiment ({changes}{f'; {jump}' if jump else ''}); choose another "
            f"run.dir, or let it go on as another: run.may_differ='{json.dumps([*rules, *keys])}'"
        )
    if last.data_hash != data_hash and not may_differ_on_resume(MANIFEST, rules):
        raise UserError(
            f"{config.run.dir}: the shards have changed since its snapshot (manifest {last.data_hash[:12]} there, "
            f"{data_hash[:12]} now); bring them back, choose another run.dir, or let it go on with these: "
            f"run.may_differ='{json.dumps([*rules, MANIFEST])}'"
        )


def rate_change(last: Snapshot, config: ExperimentConfig) -> str | None:
    """What other ``optim.steps`` than those of a snapshot do to the learning rate; None where they do nothing to it."""
    now, step = config.optim, last.step
    if now.schedule == "constant" or now.steps == last.config["optim"]["steps"] or step >= now.steps:
        return None
    before = validate(OptimConfig, last.config["optim"], str(last.path))
    return (
        f"optim.schedule={now.schedule} ends at optim.steps, so the learning rate of step {step + 1} goes from "
        f"{learning_rate(step, before):.3g} to {learning_rate(step, now):.3g} and reaches 0 at step {now.steps}"
    )
