"""Random 4-bit weights at true sizes trained on one GPU: both systems in one process, taking turns.

GPU time is short, so the cases come by importance, each has its share of the seconds left, and every
number is said the moment it is there. A side's peak is counted from what was in use before it was loaded.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from bench.figures import median, ratio, shown, table
from bench.train_sides import RATE, SIDES, Ours, Shape, Side, timed
from mlxone.backend.arrays import mx

HEAD = ["model", "step", "what", "mlxone", "mlx-lm", "mlxone / mlx-lm (95 % interval)", "bar"]
SPEED_BAR, LONG_SPEED_BAR, LONG_PEAK_BAR = 1.1, 0.8, 0.6
FEWEST_SECONDS = 4.0  # with less left, a case is not begun
TURN_SECONDS, MOST_ROUNDS = 0.8, 8

Say = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Case:
    model: str
    shape: Shape

    @property
    def what(self) -> str:
        again = ", layers recomputed" if self.shape.segment else ""
        return f"{self.shape.batch} x {self.shape.length}{again}"

    def to_json(self) -> dict[str, Any]:
        return {"model": self.model, **asdict(self.shape)}


SHORT, MIDDLE, LONG = Shape(4, 512), Shape(1, 2048), Shape(1, 8192, segment=1)


def cases(models: list[str], shapes: list[Shape], wanted: set[str] | None) -> list[Case]:
    """The first model from short to long, the others the other way round; `wanted` lengths only."""
    ordered = [
        Case(model, shape) for n, model in enumerate(models) for shape in (shapes[::-1] if n else shapes)
    ]
    return [case for case in ordered if wanted is None or str(case.shape.length) in wanted]


@dataclass(slots=True)
class Seen:
    case: Case
    peaks: dict[str, int] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    speeds: dict[str, list[float]] = field(default_factory=lambda: {side: [] for side in SIDES})

    def rows(self) -> list[list[object]]:
        name = [self.case.model, self.case.what]
        rows: list[list[object]] = []
        ours, theirs = self.pairs()
        if ours:
            bar = LONG_SPEED_BAR if self.case.shape.segment else SPEED_BAR
            middles = [f"{median(ours):.0f}", f"{median(theirs):.0f}"]
            rows.append(
                [*name, "tok/s", *middles, shown(ours, theirs), _judged(">=", bar, ratio(ours, theirs)[0])]
            )
        if len(self.peaks) == len(SIDES):
            share = self.peaks["mlxone"] / self.peaks["mlx-lm"]
            sizes = [f"{self.peaks[side] / 1e9:.2f}" for side in SIDES]
            bar_words = _judged("<=", LONG_PEAK_BAR, share) if self.case.shape.segment else ""
            rows.append([*name, "peak memory, GB", *sizes, f"{share:.3f}", bar_words])
        if len(self.losses) == len(SIDES):
            rows.append([*name, "first loss", *(f"{self.losses[side]:.4f}" for side in SIDES), "", ""])
        return rows

    def pairs(self) -> tuple[list[float], list[float]]:
        """A run that was cut off leaves one side a turn ahead."""
        count = min(map(len, self.speeds.values()))
        return self.speeds["mlxone"][:count], self.speeds["mlx-lm"][:count]


def _judged(sign: str, bar: float, value: float) -> str:
    met = value >= bar if sign == ">=" else value <= bar
    return f"{sign} {bar:g}: {'met' if met else 'missed'}"


def measure(folders: Callable[[str], Path], cases: list[Case], deadline: float, say: Say) -> str:
    rows: list[list[object]] = []
    for number, case in enumerate(cases):
        left = deadline - time.perf_counter()
        if left < FEWEST_SECONDS:
            say({"skipped": case.to_json(), "seconds_left": left})
            continue
        share = left / (len(cases) - number) if number else left / max(1, len(cases) - 1)
        with reported(case.to_json(), say):
            found = Seen(case)
            try:
                one_case(found, folders(case.model), time.perf_counter() + share, say)
            finally:
                rows += found.rows()
                print(table(HEAD, found.rows()), flush=True)
    return table(HEAD, rows)


@contextmanager
def reported(what: dict[str, Any], say: Say) -> Iterator[None]:
    """One case that breaks down does not take the others with it."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - MLX raises all sorts, and the rest shall still be measured
        traceback.print_exc()
        say({"failed": what, "error": f"{type(error).__name__}: {error}"[:400]})


def one_case(found: Seen, folder: Path, until: float, say: Say) -> None:
    sides: dict[str, Side] = {}
    try:
        for name, opener in SIDES.items():
            before = mx.get_active_memory()
            start = time.perf_counter()
            sides[name] = opener(folder, found.case.shape)
            sides[name].step()  # loads, traces and compiles
            found.losses[name] = sides[name].finish()
            warm = time.perf_counter() - start
            found.peaks[name] = peak_of(sides[name]) - before
            say(
                found.case.to_json()
                | {"side": name, "first_loss": found.losses[name], "peak": found.peaks[name], "warm_s": warm}
            )
        for number in range(MOST_ROUNDS):
            for name in sorted(sides, reverse=number % 2 == 1):  # who goes first takes turns, too
                mx.clear_cache()
                sides[name].step()  # neither is timed on what the other left behind
                sides[name].finish()
                found.speeds[name].append(timed(sides[name], found.case.shape.tokens, TURN_SECONDS))
                say(found.case.to_json() | {"side": name, "tps": found.speeds[name][-1]})
            if time.perf_counter() > until and number > 1:
                break
    finally:
        for side in sides.values():
            side.close()


def peak_of(side: Side) -> int:
    """Of two steps: where one is submitted behind another, what they take together."""
    side.finish()
    mx.clear_cache()
    mx.reset_peak_memory()
    for _ in range(2):
        side.step()
    side.finish()
    return mx.get_peak_memory()


def peaks(
    folders: Callable[[str], Path], models: list[str], lengths: list[int], deadline: float, say: Say
) -> None:
    """Of one text, at each length with and without recomputing; for the plot. Short ones first."""
    for case in (Case(m, Shape(1, length, s)) for m in models for length in lengths for s in (0, 1)):
        for name, opener in SIDES.items():
            if time.perf_counter() > deadline - FEWEST_SECONDS:
                return
            with reported(case.to_json() | {"side": name}, say):
                side = opener(folders(case.model), case.shape)
                try:
                    side.step()
                    say(case.to_json() | {"side": name, "peak": peak_of(side)})
                finally:
                    side.close()


# Finding out what pays -----------------------------------------------------------------


def variants(folder: Path, shapes: list[Shape], seconds: float, say: Say) -> None:
    """Ours with one thing changed at a time, a few seconds each."""
    for shape in shapes:
        for name, change in VARIANTS.items():
            with reported({"variant": name, **asdict(shape)}, say):
                side = change(folder, shape)
                try:
                    side.step()
                    peak = peak_of(side)
                    speed = timed(side, shape.tokens, seconds)
                    say({"variant": name, **asdict(shape), "tps": speed, "peak": peak})
                finally:
                    side.close()


def _packed_products(folder: Path, shape: Shape) -> Side:
    """MLX's own product with packed weights in place of unpacking them."""
    side = Ours(folder, shape)
    side.trainable.blocks = list(side.decoder.blocks)
    return side


def _optimizer_as_it_comes(folder: Path, shape: Shape) -> Side:
    """Not put through MLX's compiler."""
    from mlxone.training.optimizer import Optimizer

    side = Ours(folder, shape)
    with side.work():
        side.learner.optimizer = Optimizer(side.recipe, side.learner.params, compiled=False)
    return side


def _read_at_once(folder: Path, shape: Shape) -> Side:
    """Each step is waited for before the next is submitted."""
    side = Ours(folder, shape)
    side.ahead = False
    return side


def _cache_kept(folder: Path, shape: Shape) -> Side:
    """Freed memory is never given back between steps."""
    side = Ours(folder, shape)
    side.cache = 1 << 62
    return side


class GradientsCompiled(Ours):
    """Loss and gradients as one compiled graph. It holds for one batch only: what compiling could give."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        super().__init__(folder, shape)
        self._graph = mx.compile(self._gradients)

    def _gradients(self, params: dict[str, mx.array]) -> tuple[mx.array, mx.array, dict[str, mx.array]]:
        found, gradients = gradients_of(self, params)
        return found.total, found.weight, gradients

    def step(self) -> float:
        with self.work():
            total, weight, gradients = self._graph(self.learner.params)
            gradients = {name: g / weight for name, g in gradients.items()}
            self.learner.params, norm = self.learner.optimizer.step(
                self.learner.params, gradients, total / weight, RATE
            )
            mx.eval(self.learner.params, self.learner.optimizer.state, norm)
        return 0.0


VARIANTS: dict[str, Callable[[Path, Shape], Side]] = {
    "as it is": Ours,
    "packed products": _packed_products,
    "each step waited for": _read_at_once,
    "cache kept": _cache_kept,
    "optimizer not compiled": _optimizer_as_it_comes,
    "gradients compiled": GradientsCompiled,
}


# Whether it computes what it should ----------------------------------------------------


def check(folder: Path, say: Say) -> None:
    """Gradients of a small model with and without recomputation, and the loss beside mlx-lm's."""
    whole, parts = (Ours(folder, Shape(2, 96, segment)) for segment in (0, 2))
    losses = {}
    for name, side in {"mlxone": whole, "mlxone, recomputed": parts}.items():
        side.step()
        losses[name] = side.finish()
    params = whole.learner.params  # after a step both factors have gradients
    found = []
    for side in (whole, parts):
        with side.work():
            found.append(gradients_of(side, params)[1])
            mx.eval(found[-1])
    theirs = SIDES["mlx-lm"](folder, Shape(2, 96))
    losses["mlx-lm"] = theirs.step()
    for each in (whole, parts, theirs):
        each.close()
    worst = max(_largest(found[0][n] - found[1][n]) / (_largest(found[0][n]) + 1e-12) for n in found[0])
    away = max(abs(loss / losses["mlx-lm"] - 1) for loss in losses.values())
    good = worst < 0.05 and away < 0.005
    say({"check": "good" if good else "BAD", "worst gradient, relative": worst, "losses": losses})


def gradients_of(side: Ours, params: dict[str, mx.array]) -> tuple[Any, dict[str, mx.array]]:
    from mlxone.training.gradients import loss_and_gradients

    return loss_and_gradients(
        side.decoder, side.trainable, params, side.lots[0].batch, side.objective, segment=side.recipe.segment
    )


def _largest(array: mx.array) -> float:
    return cast(float, mx.abs(array).max().item())
