"""How much each setting of a study has to do with which points are the best, by Optuna."""

from collections.abc import Mapping, Sequence
from typing import Any

from nbrl.studies.plan import Plan
from nbrl.studies.search import distribution, load_optuna, told_value

FEWEST = 10  # points, of which a tenth are the best


def importances(plan: Plan, scores: Sequence[tuple[Mapping[str, Any], float]]) -> dict[str, float]:
    """The importance of each setting in which points differ, the most important first; together they are 1.

    By PED-ANOVA (Watanabe et al., 2023): how far the settings of the best tenth of all points lie apart from those of
    all. It tells of what was tried, and not of other ranges.

    Parameters
    ----------
    plan : Plan
        Whose points were drawn or proposed.
    scores : sequence of (mapping, float)
        Points and the mean score of each.

    Returns
    -------
    dict of str to float
        Empty where there are fewer than ten points, one setting alone, scores that are all alike, or no Optuna.
    """
    if len(scores) < FEWEST or len(plan.axes) < 2 or len({score for _, score in scores}) < 2:
        return {}
    try:
        optuna = load_optuna()
    except ValueError:
        return {}
    axes = {name: plan.values[name] for name in plan.axes}
    study = optuna.create_study(direction=plan.direction)
    for point, score in scores:
        study.add_trial(
            optuna.trial.create_trial(
                value=score,
                params={name: told_value(axis, point[name]) for name, axis in axes.items()},
                distributions={name: distribution(optuna, axis) for name, axis in axes.items()},
            )
        )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}
