"""The arms of protocol.json: what each of them trains with, and which cells of a set it needs."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

FOLDER = pathlib.Path(__file__).parent
PROTOCOL = json.loads((FOLDER / "protocol.json").read_text())
TEMPERATURES = PROTOCOL["temperatures"]
OPTIMIZERS = ("sgd", "adamw")
FACTORS = (0.5, 1.0, 2.0)
_SHARES = {"skd_auto_25": 0.25, "skd_auto_50": 0.50, "skd_auto_75": 0.75}


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train a student.

    Attributes:
      loss: a name in LOSSES or of a function in losses.py; "label_scale" is a learned radius.
      settings: of the loss function.
      factor: the student's probabilities are on the sphere of `factor` R; 0 for raw logits, None for the learned radius.
      kd_weight, label_weight: of the two terms.
      radius: a number, "auto" or "teacher_mean".
      clip_norm, warmup_steps: of the optimizer and its schedule; `warmup_steps` is the least number.
      temperature_factor: the loss gets this times the cell's temperature.
      share: T is measured: the entropy of the targets is this fraction of ln C. None: T is the cell's.
      equal_entropy: T is measured: the raw targets have the entropy that the projected ones have at the cell's T.
      weighted: kd_weight is multiplied by 4 C / R^2.
      has_temperature: whether T matters at all.
    """

    loss: str
    settings: tuple[tuple[str, float], ...] = ()
    factor: float | None = 1.0
    kd_weight: float = 0.9
    label_weight: float = 0.1
    radius: float | str = "auto"
    clip_norm: float = 0.0
    warmup_steps: int = 0
    temperature_factor: float = 1.0
    share: float | None = None
    equal_entropy: bool = False
    weighted: bool = False
    has_temperature: bool = True

    @property
    def step(self) -> tuple:
        """Arms with equal `step` share one compiled training step."""
        return self.loss, self.settings, self.clip_norm


_SKD = Arm("spherical")
_RAW = {"factor": 0.0}
ARMS: dict[str, Arm] = {  # in the order in which they are screened: the protocol drops from the end
    "alone": Arm("cross_entropy", **_RAW, has_temperature=False),
    "kd": Arm("kd", **_RAW),
    "skd": _SKD,
    "skd_batch_scale": Arm("batch_scale"),
    **{name: dataclasses.replace(_SKD, share=share) for name, share in _SHARES.items()},
    "dist": Arm("dist", **_RAW, kd_weight=2.0, label_weight=1.0, has_temperature=False),
    "label_raw": Arm("label_raw", **_RAW),
    "skd_label_scale": Arm("label_scale", factor=None),
    "skd_label_radius_double": Arm("label_radius", (("factor", 2.0),), factor=2.0),
    "teacher_on_sphere": Arm("teacher_on_sphere", **_RAW),
    "skd_teacher_mean_weighted": dataclasses.replace(_SKD, radius="teacher_mean", weighted=True),
    "skd_teacher_mean": dataclasses.replace(_SKD, radius="teacher_mean"),
    "kd_equal_entropy": Arm("kd", **_RAW, equal_entropy=True),
    "skd_clip": dataclasses.replace(_SKD, clip_norm=1.0),
    "skd_warmup": dataclasses.replace(_SKD, warmup_steps=100),
    "skd_label_radius_half": Arm("label_radius", (("factor", 0.5),), factor=0.5),
    "student_on_sphere": Arm("student_on_sphere"),
    "logit_standardization": Arm("logit_standardization", **_RAW, kd_weight=3.6, temperature_factor=0.5),
}
# Added after all arms had run at their own T (see the amendments): they only say what a warm-up and clipping do by
# themselves, and are never the default.
CONTROLS: dict[str, Arm] = {
    "alone_warmup": dataclasses.replace(ARMS["alone"], warmup_steps=100),
    "kd_warmup": dataclasses.replace(ARMS["kd"], warmup_steps=100),
    "dist_warmup": dataclasses.replace(ARMS["dist"], warmup_steps=100),
    "skd_batch_scale_warmup": dataclasses.replace(ARMS["skd_batch_scale"], warmup_steps=100),
    "alone_clip": dataclasses.replace(ARMS["alone"], clip_norm=1.0),
    "kd_clip": dataclasses.replace(ARMS["kd"], clip_norm=1.0),
}
# The candidates if no arm passes the primary test (see the amendments): screened with the warm-up that all arms have from
# CIFAR-10 on. There the arm has its plain name.
CANDIDATES: dict[str, Arm] = {
    f"{name}_warmup": dataclasses.replace(ARMS[name], warmup_steps=100)
    for name in ("kd", "dist", "logit_standardization")
}
ALL_ARMS = ARMS | CONTROLS | CANDIDATES
# Dropped first by the protocol, and not built: skd_sgdp, skd_head_decay.


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training: an arm at a temperature and a rate, with a seed. `factor` is the rate over the common one."""

    arm: str
    optimizer: str
    temperature: float
    rate: float
    seed: int

    def key(self) -> str:
        """Names the cell in the records."""
        return f"{self.arm} {self.optimizer} T={self.temperature:g} rate={self.rate:g} seed={self.seed}"


def least_label_scale(classes: int, probability: float = 0.9) -> float:
    """The least radius at which every class can reach `probability` if class weights are spread evenly.

        (C - 1) / C ln((C - 1) P / (1 - P))

    Source: CosFace, arXiv:1801.09414, equation 6 without a margin.
    """
    return (classes - 1) / classes * math.log((classes - 1) * probability / (1 - probability))


def rate_cells(
    seeds: list[int],
    names: list[str] | None = None,
    temperatures: list[float] | None = None,
    only: list[float] | None = None,
) -> Iterator[Cell]:
    """Arms at every candidate rate and their own T. Alone by default: the common rates are chosen from it.

    Args:
      seeds: of every cell.
      names: the arms.
      temperatures: these T in place of each arm's own.
      only: those candidate rates alone.
    """
    for optimizer, rates in PROTOCOL["common_rate"]["candidates"].items():
        for name in names or ["alone"]:
            for rate in (rate for rate in rates if not only or rate in only):
                own = own_temperature(ALL_ARMS[name])
                for temperature in temperatures if own and temperatures else [own]:
                    yield from (Cell(name, optimizer, temperature, rate, seed) for seed in seeds)


def control_cells(common: dict[str, float], seeds: list[int], names: list[str] | None = None) -> Iterator[Cell]:
    """The controls at their own T and the common rates."""
    for name in names or CONTROLS:
        for optimizer in OPTIMIZERS:
            yield from (Cell(name, optimizer, own_temperature(ALL_ARMS[name]), common[optimizer], s) for s in seeds)


def screening_cells(common: dict[str, float], seeds: list[int], names: list[str] | None = None) -> Iterator[Cell]:
    """The screening of protocol.json, each arm at the common rates: first all arms at their own T, then arm by arm the rest.

    Args:
      common: {optimizer: rate}.
      seeds: of every cell.
      names: arms; all but "alone" by default.
    """
    names = names or [name for name in ARMS if name != "alone"]
    stages: tuple[Callable[[Arm], list[tuple[float, float]]], ...] = (
        lambda arm: [(own_temperature(arm), 1.0)],
        lambda arm: [
            *((float(t), 1.0) for t in TEMPERATURES if _varies(arm)),
            *((own_temperature(arm), factor) for factor in FACTORS),
        ],
    )
    done: set[Cell] = set()
    for stage in stages:
        for name in names:
            for optimizer in OPTIMIZERS:
                for temperature, factor in stage(ALL_ARMS[name]):
                    for seed in seeds:
                        cell = Cell(name, optimizer, temperature, common[optimizer] * factor, seed)
                        if cell not in done:
                            done.add(cell)
                            yield cell


def own_temperature(arm: Arm) -> float:
    """The T that an arm is compared at: 4; 0 stands for one that is measured or does not matter."""
    return 4.0 if _varies(arm) else 0.0


def _varies(arm: Arm) -> bool:
    return arm.has_temperature and arm.share is None


def as_record(cell: Cell) -> dict[str, Any]:
    """The cell as the first entries of its record."""
    return dataclasses.asdict(cell)


def carried_cells(
    common: dict[str, float], seeds: list[int], names: list[str] | None = None, own: dict[str, float] | None = None
) -> Iterator[Cell]:
    """The second stage: the own temperature at the common rate, then T 1, 4 and 16, then half and twice the rate.

    Args:
      common: {optimizer: rate}.
      seeds: of every cell.
      names: the arms that were carried on; alone and kd always come along.
      own: {arm: its own T by the protocol's rule}; that of `own_temperature` by default.
    """
    names = ["alone", "kd", *(names or [])]
    chosen = {name: (own or {}).get(name, own_temperature(ARMS[name])) for name in names}
    settings = [
        *((name, chosen[name], 1.0) for name in names),
        *((name, float(t), 1.0) for t in (1, 4, 16) for name in names if _varies(ARMS[name])),
        *((name, chosen[name], factor) for factor in (0.5, 2.0) for name in names),
    ]
    for name, temperature, factor in dict.fromkeys(settings):
        for seed in seeds:
            yield from (Cell(name, o, temperature, common[o] * factor, seed) for o in OPTIMIZERS)


def of_first_condition(cells: list[Cell], common: dict[str, float], own: dict[str, float]) -> list[Cell]:
    """Those cells of the primary test in which alone, and each arm but kd at its own T, trains at the common rate.

    Args:
      cells: of `primary_cells`.
      common, own: as there.
    """

    def needed(cell):
        at = 0.0 if cell.arm == "alone" else own.get(cell.arm, own_temperature(ARMS[cell.arm]))
        return cell.arm != "kd" and (cell.temperature, cell.rate) == (at, common[cell.optimizer])

    return [cell for cell in cells if needed(cell)]


def primary_cells(
    common: dict[str, float], seeds: list[int], names: list[str] | None = None, own: dict[str, float] | None = None
) -> Iterator[Cell]:
    """The primary test of a set: first what the first condition needs, then every T at every rate.

    Args:
      common: {optimizer: rate}.
      seeds: of every cell.
      names: the arm that is to be the default; others are exploratory. Alone and kd always come along.
      own: {arm: its own T by the protocol's rule}; that of `own_temperature` by default.
    """
    names = ["kd", *(names or [])]
    chosen = {name: (own or {}).get(name, own_temperature(ARMS[name])) for name in names}
    settings = [("alone", 0.0, 1.0), *((name, chosen[name], 1.0) for name in names)]
    for factor in (1.0, 0.5, 2.0):
        for name in names:
            varied = TEMPERATURES if _varies(ARMS[name]) else [chosen[name]]
            settings.extend((name, float(t), factor) for t in varied)
    for name, temperature, factor in dict.fromkeys(settings):
        for seed in seeds:
            yield from (Cell(name, o, temperature, common[o] * factor, seed) for o in OPTIMIZERS)
