"""The studies by name, and `crlhf study`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from crlhf_ray.errors import ConfigError
from crlhf_ray.studies.crowds import CROWDS
from crlhf_ray.studies.rewards import REWARDS
from crlhf_ray.studies.study import Study, run_study

STUDIES: dict[str, Study] = {study.name: study for study in (*CROWDS, *REWARDS)}


def study_named(name: str) -> Study:
    if name not in STUDIES:
        raise ConfigError(f"there is no study {name!r}; there are {', '.join(sorted(STUDIES))}")
    return STUDIES[name]


def run(name: str, folder: Path, seeds: int, console: Console) -> None:
    """Run the study, or resume it, and say where its page is."""
    study = study_named(name)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(study.name, total=None)
        page = run_study(study, folder, seeds, lambda done, of: progress.update(task, completed=done, total=of))
    console.print(study.question, highlight=False)
    console.print(f"Page: [bold]{page}[/bold]; numbers: [bold]{page.with_suffix('.json')}[/bold]")
