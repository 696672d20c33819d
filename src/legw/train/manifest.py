"""What a run says of itself before its first update."""

from __future__ import annotations

from legw import rules
from legw.runs.records import Manifest
from legw.train.course import Course
from legw.train.dist import World
from legw.train.machine import describe_device, environment
from legw.train.micro import Choice
from legw.train.precision import Precision
from legw.train.task import Task


def describe(
    task: Task,
    course: Course,
    *,
    rule: str,
    seed: int,
    choice: Choice,
    precision: Precision,
    world: World,
    data: str,
) -> Manifest:
    """Return the manifest of a run.

    Args:
        task: what is trained.
        course: the recipe, its base, and how many updates they make.
        rule: the name of the rule that scaled the recipe.
        seed: the run's.
        choice: of the micro-batch.
        precision: fp32, or bf16.
        world: its processes.
        data: fingerprint of the data; empty where the task has none.
    """
    known = rules.RULES.get(rule)
    return Manifest(
        task=task.name,
        rule=rule,
        seed=seed,
        base=course.base,
        recipe=course.recipe,
        num_examples=course.num_examples,
        updates=course.updates,
        micro_batch_size=choice.micro_batch_size,
        lanes=choice.lanes,
        precision=precision,
        world_size=world.size,
        device=describe_device(world.device),
        metric=task.metric.name,
        higher_is_better=task.metric.higher_is_better,
        data=data,
        environment=environment(),
        notes=tuple(rules.cautions(course.base, course.recipe, known)) if known else (),
        extra={
            "micro_batch_table": {str(m): r for m, r in choice.table.items()},
            "micro_batch_measured": choice.measured,
        },
    )
