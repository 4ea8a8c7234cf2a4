"""The user's own code that a sweep, a study or the quickstart names, tried when it is planned."""

from evaluation.config import EvaluationConfig
from trainers.config import ExperimentConfig


def try_own_parts(config: ExperimentConfig | EvaluationConfig) -> None:
    """Run the own parts of a configuration on small inputs; nothing is imported for one that names none.

    Raises:
        UserError: names the part and what does not fit.
    """
    if not config.own_parts():
        return
    if isinstance(config, ExperimentConfig):
        from trainers.checks.own_parts import check_planned_parts

        check_planned_parts(config)
    else:
        from evaluation.preflight import check_own_evaluation

        check_own_evaluation(config)
