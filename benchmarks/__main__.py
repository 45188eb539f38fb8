"""Command ``python -m benchmarks``: measure everything and write it down."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.data_path import HELD, TWO, BuildRate, Growth, Waiting, measure_build_growth
from benchmarks.memory import Peak, in_child
from benchmarks.scaling import FULL, QUICK, UNITS, Epoch, Point, draw, measure_epochs, measure_steps
from benchmarks.timing import Ratio, Result
from data_prep.commands import run_command

BFLOAT16 = "mixed_bfloat16"
GOALS = {
    ("MLBF-Net", "training", "float32"): 4,
    ("MLBF-Net", "training", BFLOAT16): 6,
    ("MLBF-Net", "inference", "float32"): 4,
    ("MRM-Net", "training", "float32"): 1.5,
    ("MRM-Net", "training", BFLOAT16): 3,
    ("MRM-Net", "inference", "float32"): 2,
    ("MRM-Net", "inference", BFLOAT16): 4,
}
NO_BFLOAT16 = "not measured: this processor has no bfloat16 instructions"
FIRST_STEP_GOAL, BUILD_GOAL = 4, 1.8
# What noise alone makes of a ratio of 1.
MEMORY_NOISE = 1.1


def main(*, out: Path | None = None, repeats: int = 3, quick: bool = False) -> None:
    """Measure the speed and memory of both networks and of the data path, on Linux.

    Takes half an hour or more on two cores that do nothing else.  Ratios are of things run in turn,
    repeat by repeat; every part runs in a process of its own.

    Args:
        out: folder of results.md and scaling.png; by default benchmarks/, or runs/bench for a quick
            run.
        repeats: how often each time is taken; tables show the median, and least and most.
        quick: go the same way with tiny sizes in a few minutes; the numbers mean nothing.
    """
    from data_prep.files import written_whole

    out = out or (Path("runs/bench") if quick else Path(__file__).parent)
    start = time.perf_counter()
    mlbf, mrm = {}, {}
    if quick:
        mlbf = {"batch_size": 2, "input_length": 512, "num_leads": 2}
        mrm = {"batch_size": 4, "input_length": 64, "low_channels": 8, "high_channels": 16}
    report = Report()

    for name, sizes in (("mlbf", mlbf), ("mrm", mrm)):
        say(f"{name.upper()}-Net against its plain form")
        report.network(*in_child(f"benchmarks.networks:measure_{name}", repeats, **sizes))

    say("MLBF-Net's slices")
    report.slices(*in_child("benchmarks.networks:measure_slices", repeats, **mlbf))

    say("Rate of building a store")
    rate, _ = in_child(
        "benchmarks.data_path:measure_build_rate", repeats, records=40 if quick else 800
    )
    report.build_rate(rate)
    say("Memory of building a store")
    growth = measure_build_growth(records=20 if quick else 200)
    report.growth(growth)

    say("Batches that are ready against the pipeline")
    waits: list[Waiting] = []
    for network, sizes in (("MLBF-Net", mlbf), ("MRM-Net", mrm)):
        waiting, _ = in_child(
            "benchmarks.data_path:measure_waiting",
            network,
            repeats,
            steps=3 if quick else 6,
            **{"batch_size": 32, **sizes},
        )
        waits.append(waiting)
    report.waiting(waits)

    say("How cost grows")
    points = measure_steps(QUICK if quick else FULL, repeats)
    epochs = measure_epochs((100, 200) if quick else (500, 2000, 8000), repeats)
    report.scaling(points, epochs)

    out.mkdir(parents=True, exist_ok=True)
    with written_whole(out / "scaling.png") as part:
        draw(points, epochs, growth, part)
    minutes = (time.perf_counter() - start) / 60
    with written_whole(out / "results.md") as part:
        part.write_text(report.text(repeats=repeats, minutes=minutes, quick=quick))
    print(f"\n{out / 'results.md'} and {out / 'scaling.png'}, after {minutes:.1f} minutes.")


def say(what: str) -> None:
    """Tell what is being measured now."""
    print(f"\n{what} …", flush=True)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are aligned."""
    cells = [list(head), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    )


@dataclass
class Report:
    """Tables, printed as they come and kept for the file; and goals with what was reached.

    Attributes:
        parts: Markdown, one for each section.
        goals: what, the goal, what was reached, and whether that is enough (None if unknown).
    """

    parts: list[str] = field(default_factory=list)
    goals: list[tuple[str, str, str, bool | None]] = field(default_factory=list)

    def add(self, title: str, *text: str) -> None:
        """Print and keep a section."""
        print("\n" + "\n\n".join(text), flush=True)
        self.parts.append("\n\n".join([f"## {title}", *text]))

    def at_least(self, what: str, goal: float, reached: Ratio | float) -> None:
        """Note a ratio that should be no less than a goal."""
        median = reached.median if isinstance(reached, Ratio) else reached
        shown = str(reached) if isinstance(reached, Ratio) else f"{reached:.2f}×"
        self.goals.append((what, f"≥ {goal:g}×", shown, median >= goal))

    def network(self, result: Result, peak: Peak) -> None:
        """Tell how a network does against its plain form."""
        rows = []
        for form in result.first_step:
            row = [form, f"{result.first_step[form]:.1f}"]
            for what in ("training", "inference"):
                faster = result.ratios.get((what, form), "1×")
                row += [f"{result.rates[what, form]:.1f}", str(faster)]
            rows.append(row)
        for (network, what, form), goal in GOALS.items():
            if network != result.network:
                continue
            name = f"{network}, {what}, {form}"
            if form in result.first_step:
                self.at_least(name, goal, result.ratios[what, form])
            else:
                self.goals.append((name, f"≥ {goal:g}×", NO_BFLOAT16, None))
        batches = ""
        if result.network == "MLBF-Net":
            first = result.first_step["plain"] / result.first_step["float32"]
            self.at_least("MLBF-Net, first step sooner", FIRST_STEP_GOAL, first)
            batches = (
                "Random batches of lengths as in CPSC 2018; the plain form, which takes as long for"
                " every batch, on the first. "
            )
        self.add(
            f"{result.network} against its plain form",
            table(
                ("form", "first step, s", "training, records/s", "faster")
                + ("inference, records/s", "faster"),
                rows,
            ),
            f"{batches}The plain form computes in float32. Peak memory of all forms together:"
            f" {peak.own:,.0f} MB.",
        )

    def slices(self, slices: Mapping[str, tuple[float, Ratio]], peak: Peak) -> None:
        """Tell what MLBF-Net's slices are worth."""
        rows = [(name, f"{rate:.1f}", str(faster)) for name, (rate, faster) in slices.items()]
        self.add(
            "Batches of MLBF-Net by the lengths in them",
            table(("computed in", "training, records/s", "faster"), rows),
            "In float32, lengths as in CPSC 2018 but for the last row. Training draws random"
            " batches; sorted ones are here for comparison, as batch norm would see them. Peak"
            f" memory of all forms together: {peak.own:,.0f} MB.",
        )

    def build_rate(self, rate: BuildRate) -> None:
        """Tell how fast a store is built."""
        self.at_least("Building a store, two workers over one", BUILD_GOAL, rate.faster[TWO])
        over_plain = "Building a store, two workers over the plain form"
        self.at_least(over_plain, BUILD_GOAL, rate.over_plain)
        rows = [
            (name, f"{r:.0f}", str(rate.faster.get(name, "1×"))) for name, r in rate.rates.items()
        ]
        self.add(
            "Building a store",
            table(("by", "records/s", "faster"), rows),
            f"{rate.records:,} recordings as long as those of CPSC 2018, 500 to 250 Hz; the start"
            " of the processes is not counted. Two builds at once, each with one worker and of its"
            " own store, share only the machine: their rate together is the most that it can give."
            " The plain form reads with wfdb and writes the same samples, without labels, checks"
            f" and checksums; two workers are {rate.over_plain} as fast.",
        )

    def growth(self, growth: Sequence[Growth]) -> None:
        """Tell what building takes as records become more."""
        most = max(g.peak.own / growth[0].peak.own for g in growth)
        self.goals.append(
            (
                "Peak memory of building 16 times the records",
                "as for 1×",
                f"{most:.2f}×",
                most <= MEMORY_NOISE,
            )
        )
        rows = [
            (f"{g.records:,}", f"{g.store:,.0f}", f"{g.seconds:.1f}")
            + (f"{g.peak.own:,.0f}", f"{g.peak.child:,.0f}")
            for g in growth
        ]
        head = ("records", "store, MB", "seconds", "peak of the command, MB")
        self.add(
            "Memory of building a store",
            table((*head, "peak of a worker, MB"), rows),
            "Recordings of 6 s, two workers, the start of the processes included.",
        )

    def waiting(self, waits: Sequence[Waiting]) -> None:
        """Tell whether training waits for its batches."""
        rows = []
        for wait in waits:
            for name in wait.steps:
                longer = str(wait.longer.get(name, "1×"))
                step, first = f"{wait.steps[name]:.3f}", f"{wait.first[name]:.3f}"
                rows.append((wait.network, name, step, longer, first))
            reached = wait.longer[HELD]
            # It waits where even the shortest epoch took longer than on batches that are ready.
            self.goals.append(
                (f"{wait.network}, step with the pipeline", "no longer", str(reached),
                 reached.least <= 1.02)
            )  # fmt: skip
        self.add(
            "Does training wait for its batches?",
            table(("network", "batches", "step, s", "as long", "first step of an epoch, s"), rows),
            "Batches of 32 records, in float32.",
        )

    def scaling(self, points: Sequence[Point], epochs: Sequence[Epoch]) -> None:
        """Tell how cost grows."""
        steps = [
            (p.network, p.what, f"{p.size:g} {UNITS[p.what]}")
            + (f"{p.seconds:.3f} ({p.least:.3f}–{p.most:.3f})", f"{p.peak:,.0f}")
            for p in points
        ]
        passes = [
            (f"{e.records:,}", f"{e.seconds:.3f} ({e.least:.3f}–{e.most:.3f})", f"{e.peak:,.0f}")
            for e in epochs
        ]
        self.add(
            "How cost grows",
            table(("network", "what grows", "to", "training step, s", "peak memory, MB"), steps),
            "In float32, on signals that fill the input; what does not grow is at the largest size"
            " of its own rows (12 leads for MRM-Net).",
            table(("records", "all batches of an epoch, s", "peak memory, MB"), passes),
            "Records of 10 s at 100 Hz, held in memory, without a network.",
            "![Time and memory against everything that grows](scaling.png)",
        )

    def text(self, *, repeats: int, minutes: float, quick: bool) -> str:
        """Return the file."""
        provenance, _ = in_child("benchmarks.networks:made_with")
        words = {True: "yes", False: "no", None: "–"}
        goals = [(what, goal, reached, words[met]) for what, goal, reached, met in self.goals]
        made = ", ".join(f"{name} {value}" for name, value in provenance.items())
        parts = [
            "# Benchmarks",
            f"Written by `python -m benchmarks --repeats {repeats}` in {minutes:.0f} minutes;"
            f" {repeats} repeats: median (least–most).",
            made + ".",
            table(("what", "goal", "reached", "met"), goals),
            *self.parts,
        ]
        if quick:
            parts.insert(1, "**A quick run at tiny sizes: the numbers mean nothing.**")
        return "\n\n".join(parts) + "\n"


def command() -> None:
    """Run ``python -m benchmarks``."""
    run_command(main)


if __name__ == "__main__":
    command()
