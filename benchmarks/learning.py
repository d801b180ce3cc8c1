"""Does it learn? Held-out pass@1 before and after training, by where the reward comes from.

Each arm is a whole training run (`crlhf train`) of SmolLM2-135M on the starter problems:

    two_coin, one_coin, majority   the simulated crowd's line marks, aggregated by that estimator
    tests                          the tests themselves, the signal that a crowd can at best approach
    mean, hard, min, softmin, product    as two_coin, with another form of the reward (docs/method.md)
    to_go, blame, first_fault            as two_coin, with credit by line

The gain is the difference of held-out pass@1 (10 samples a problem at temperature 0.8) after and before, averaged over
seeds for each problem; its 95% interval is a bootstrap over problems, a problem's two rates drawn together.

Runs go one after another, each in its own process, and are resumable: the same command goes on where it was stopped.
The table is made from whatever runs are done, after each run, and by --report-only at any time, even beside a
benchmark that is still running. Written to the output folder: learning.md, learning.svg, one folder and log a run.

    python benchmarks/learning.py                                    every arm, seeds 0 and 1
    python benchmarks/learning.py --arms two_coin tests --seeds 0    two runs
    python benchmarks/learning.py --report-only                      the table from what is there
    python benchmarks/learning.py --config jobs/composed.yaml --out runs/composed --arms two_coin mean
"""

from __future__ import annotations

import argparse
import fcntl
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from rich.console import Console
from rich.table import Table

from crlhf_ray.errors import CrlhfError
from crlhf_ray.report.headline import Gain, duration, mean_gain
from crlhf_ray.report.run_files import Run, read_run, round_seconds

ROOT = Path(__file__).resolve().parent.parent
CROWD = ("reward.source=crowd", "aggregation.estimator=two_coin")
SOURCES = {
    "two_coin": CROWD,
    "tests": ("reward.source=tests", "aggregation.estimator=two_coin"),
    "one_coin": ("reward.source=crowd", "aggregation.estimator=one_coin"),
    "majority": ("reward.source=crowd", "aggregation.estimator=majority"),
}
ARMS = {
    **SOURCES,
    **{form: (*CROWD, f"reward.form={form}") for form in ("mean", "hard", "min", "softmin", "product")},
    **{credit: (*CROWD, f"reward.credit={credit}") for credit in ("to_go", "blame", "first_fault")},
}
COLOURS = dict(
    zip(
        ARMS,
        (
            *("#2a78d6", "#15181c", "#14946a", "#d9591c", "#8a4fbf", "#b0893d"),
            *("#c9356f", "#4aa3a2", "#7a7f87", "#5b6ee1", "#9aa52b", "#a0522d"),
        ),
        strict=True,
    )
)
SPARKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Trial:
    """One run of the benchmark and what it has left on disk. done: evaluated after its last round."""

    arm: str
    seed: int
    run: Run | None
    rounds: int

    @property
    def done(self) -> bool:
        return self.run is not None and any(row["round"] >= self.rounds for row in self.run.heldout())

    @property
    def train_pass_rates(self) -> list[float]:
        return [row["train_pass_rate"] for row in self.run.metrics] if self.run else []

    def differences(self) -> dict[str, float]:
        """pass@1 after minus before, by held-out problem."""
        assert self.run is not None
        before, after = self.run.heldout()[0]["per_problem"], self.run.heldout()[-1]["per_problem"]
        return {name: after[name] - before[name] for name in before}


@dataclass(frozen=True)
class Row:
    """One arm over its finished seeds; rates are fractions."""

    arm: str
    seeds: list[int]
    before: float
    after: float
    gain: Gain
    train_curve: list[float]
    seconds_per_round: float


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    failed = [] if options.report_only else run_all(options, console)
    report(options, console)
    for name in failed:
        console.print(f"[red]failed:[/red] {name}; its log: {options.out / name}.log. The same command tries it again.")
    return 1 if failed else 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(SOURCES), help="default: the sources")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="default: 0 1; all arms of a seed in turn")
    parser.add_argument("--rounds", type=int, default=40, help="training rounds of each run (default: 40)")
    parser.add_argument(
        "--config", type=absolute, default=ROOT / "jobs/learning.yaml", help="default: jobs/learning.yaml"
    )
    parser.add_argument("--out", type=absolute, default=ROOT / "runs/learning", help="default: runs/learning")
    parser.add_argument(
        "--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="for every run; repeatable"
    )
    parser.add_argument("--report-only", action="store_true", help="start nothing; print the table from what is done")
    return parser.parse_args(argv)


def absolute(text: str) -> Path:
    return Path(text).resolve()


def run_all(options: argparse.Namespace, console: Console) -> list[str]:
    """Run what is not done yet; returns the names of runs that failed."""
    options.out.mkdir(parents=True, exist_ok=True)
    plan = [(arm, seed) for seed in options.seeds for arm in options.arms]
    check_settings(options, plan)
    failed = []
    with (options.out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"another benchmark is running in {options.out}: use --report-only, or another --out"
            raise CrlhfError(message) from error
        for arm, seed in plan:
            trial = read_trial(options, arm, seed)
            name = f"{arm}-{seed}"
            if trial.done:
                continue
            at = len(trial.run.metrics) if trial.run else 0
            console.print(f"{name}: {'from the last checkpoint' if at else 'starts'}; log {options.out / name}.log")
            if train(options, arm, seed) != 0:
                failed.append(name)
            else:
                report(options, console)
    return failed


def check_settings(options: argparse.Namespace, plan: Sequence[tuple[str, int]]) -> None:
    """Raise ConfigError for a wrong setting of any run now, rather than in an hour."""
    from crlhf_ray.config import load_config  # slow to import, and --help and --report-only need none of it

    for arm, seed in plan:
        load_config(options.config, settings_of(options, arm, seed))


def settings_of(options: argparse.Namespace, arm: str, seed: int) -> list[str]:
    return [
        *options.changes,
        *ARMS[arm],
        f"run.seed={seed}",
        f"run.rounds={options.rounds}",
        f"run.dir={options.out / f'{arm}-{seed}'}",
        "evaluation.samples=10",
        "evaluation.temperature=0.8",
    ]


def train(options: argparse.Namespace, arm: str, seed: int) -> int:
    """Train in a process of its own; returns its exit status. When this one is stopped, that one is, and waited for."""
    command = [sys.executable, "-c", "from crlhf_ray.cli import main; main()", "train", "--resume"]
    command += ["--config", str(options.config)]
    for change in settings_of(options, arm, seed):
        command += ["--set", change]
    with (options.out / f"{arm}-{seed}.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait(60)
            raise


def read_trial(options: argparse.Namespace, arm: str, seed: int) -> Trial:
    directory = options.out / f"{arm}-{seed}"
    exists = (directory / "settings.json").exists()
    return Trial(arm, seed, read_run(directory) if exists else None, options.rounds)


def report(options: argparse.Namespace, console: Console) -> None:
    """Print the table and write learning.md and learning.svg."""
    trials = [read_trial(options, arm, seed) for arm in options.arms for seed in options.seeds]
    rows = [row for arm in options.arms if (row := summarise([t for t in trials if t.arm == arm and t.done]))]
    running = [trial for trial in trials if trial.run and not trial.done]
    top = max((rate for row in rows for rate in row.train_curve), default=0.0)
    cells = [as_text(row, top) for row in rows]
    table = Table(title=f"Held-out pass@1 after {options.rounds} rounds", title_justify="left")
    for title in HEADER:
        table.add_column(title, no_wrap=True)
    for row_cells in cells:
        table.add_row(*row_cells)
    console.print(table if rows else "No run is finished yet.")
    for trial in running:
        console.print(f"{trial.arm}, seed {trial.seed}: {progress(trial)}")
    if rows:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "learning.md").write_text(markdown(cells, running, options), encoding="utf-8")
        plot([trial for trial in trials if trial.run]).savefig(options.out / "learning.svg", metadata={"Date": None})
        console.print(f"Table: {options.out / 'learning.md'}   Plot: {options.out / 'learning.svg'}")


def summarise(trials: Sequence[Trial]) -> Row | None:
    """One arm's finished runs as a row. Only problems that every seed was measured on count."""
    if not trials:
        return None
    by_seed = [trial.differences() for trial in trials]
    problems = sorted(set.intersection(*(set(found) for found in by_seed)))
    runs = [trial.run for trial in trials if trial.run]
    seconds = [round_seconds(row) for run in runs for row in run.metrics]
    return Row(
        arm=trials[0].arm,
        seeds=[trial.seed for trial in trials],
        before=float(np.mean([run.heldout()[0]["pass_at_1"] for run in runs])),
        after=float(np.mean([run.heldout()[-1]["pass_at_1"] for run in runs])),
        gain=mean_gain(np.array([np.mean([found[name] for found in by_seed]) for name in problems])),
        train_curve=np.mean([bins(trial.train_pass_rates) for trial in trials], axis=0).tolist(),
        seconds_per_round=float(np.median(seconds)),
    )


def bins(values: Sequence[float], count: int = 10) -> list[float]:
    """Means of consecutive parts; at most count of them."""
    return [float(part.mean()) for part in np.array_split(np.asarray(values), min(count, len(values)))]


def sparkline(values: Sequence[float], top: float) -> str:
    """Values from 0 to top as bars."""
    return "".join(SPARKS[min(7, int(8 * value / top))] if top > 0 else SPARKS[0] for value in values)


HEADER = ("arm", "seeds", "before", "after", "gain, points", "95% interval", "training pass@1", "s a round")


def as_text(row: Row, top: float) -> tuple[str, ...]:
    return (
        row.arm,
        ", ".join(map(str, row.seeds)),
        f"{row.before:.1%}",
        f"{row.after:.1%}",
        f"{100 * row.gain.mean:+.1f}",
        f"{100 * row.gain.low:+.1f} to {100 * row.gain.high:+.1f}",
        f"{row.train_curve[0]:.0%} {sparkline(row.train_curve, top)} {row.train_curve[-1]:.0%}",
        f"{row.seconds_per_round:.0f}",
    )


def progress(trial: Trial) -> str:
    assert trial.run is not None
    rates = trial.train_pass_rates
    text = f"{len(rates)} of {trial.rounds} rounds"
    if not rates:
        return text
    curve = bins(rates)
    left = np.median([round_seconds(row) for row in trial.run.metrics]) * (trial.rounds - len(rates))
    ends = f"{curve[0]:.0%} {sparkline(curve, max(curve))} {curve[-1]:.0%}"
    return f"{text}, training pass@1 {ends}, about {duration(float(left))} to go"


def markdown(cells: Sequence[tuple[str, ...]], running: Sequence[Trial], options: argparse.Namespace) -> str:
    lines = [
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * len(HEADER),
        *("| " + " | ".join(row) + " |" for row in cells),
        "",
        f"{options.rounds} rounds; pass@1 from 10 samples a problem at temperature 0.8; the interval is a bootstrap "
        "over held-out problems, paired before and after, seeds averaged. Training pass@1: means of tenths of the run.",
        *(f"\nNot finished: {trial.arm}, seed {trial.seed}, {progress(trial)}." for trial in running),
        "",
        "![pass@1 over rounds](learning.svg)",
        "",
    ]
    return "\n".join(lines)


def plot(trials: Sequence[Trial]) -> Figure:
    """Held-out and training pass@1 over rounds; one colour an arm, one line a seed."""
    figure = Figure(figsize=(10, 3.6), layout="constrained", facecolor="white")
    held, train_axes = figure.subplots(1, 2)
    for trial in trials:
        assert trial.run is not None
        style: dict[str, Any] = {"color": COLOURS[trial.arm], "linewidth": 1.8, "alpha": 0.9}
        first = trial.seed == min(other.seed for other in trials if other.arm == trial.arm)
        label = trial.arm if first else None
        rows = trial.run.heldout()
        held.plot([row["round"] for row in rows], [row["pass_at_1"] for row in rows], "o-", label=label, **style)
        if trial.train_pass_rates:
            curve = bins(trial.train_pass_rates, 20)
            middles = [
                float(part.mean()) for part in np.array_split(np.arange(len(trial.train_pass_rates)), len(curve))
            ]
            train_axes.plot(middles, curve, **style)
    for axes, title in ((held, "held-out pass@1"), (train_axes, "training samples passing")):
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("round")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(axis="y", color="#e6e5df")
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    try:
        sys.exit(main())
    except CrlhfError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command goes on from the last checkpoint.")
