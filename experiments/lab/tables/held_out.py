"""What study 1 and 2 say of larger teachers and of temperatures, a second time: by the held-out images."""

from experiments.lab import definitions
from experiments.lab.formatting import interval_text, label, markdown
from experiments.lab.statistics import group_of, seed_changes, seed_means, seed_ranges

MEASURES = {"test split": lambda group: group.accuracies, "held-out images": lambda group: group.held_out}


def held_out(records):
    gap, temperature = definitions.STUDIES["capacity_gap"], definitions.STUDIES["temperature"]
    smallest, largest = next(iter(gap.pairs)), next(reversed(gap.pairs))
    several = [t for t in definitions.TEMPERATURES if len(temperature.seeds_for(f"kd_t{t}", largest)) > 1]
    lines = {}

    for measure in MEASURES.values():

        def taught(method, pair, measure=measure):
            return measure(group_of(gap, pair, method, records))

        def at(method, t, measure=measure):
            return measure(group_of(temperature, largest, f"{method}_t{t}", records))

        found = {
            f"{label(method)}: {largest} minus {smallest} as the teacher": seed_changes(
                taught(method, largest), taught(method, smallest)
            )
            for method in ("kd", "skd")
        }
        found["SKD - KD, mean of the four teachers"] = dict(
            enumerate(seed_means([seed_changes(taught("skd", pair), taught("kd", pair)) for pair in gap.pairs]))
        )
        ranges = {method: seed_ranges([at(method, t) for t in several]) for method in definitions.BY_TEMPERATURE}
        for method, its in ranges.items():
            found[f"{label(method)}: range over T = {', '.join(map(str, several))}"] = its
        found["SKD's range minus KD's"] = seed_changes(ranges["skd"], ranges["kd"])
        equal = [(t, 4 * t) for t in several if 4 * t in several]  # SKD's T and KD's, of about the same R / T
        for t, kd_t in equal:
            found[f"SKD at T = {t} minus KD at T = {kd_t}"] = seed_changes(at("skd", t), at("kd", kd_t))
        found["between these two: SKD's range minus KD's"] = seed_changes(
            seed_ranges([at("skd", t) for t, _ in equal]), seed_ranges([at("kd", t) for _, t in equal])
        )
        for method in ("kd", "skd"):
            found[f"{label(method)}: T = {several[-1]} minus T = {several[-2]}"] = seed_changes(
                at(method, several[-1]), at(method, several[-2])
            )
        for what, by_seed in found.items():
            lines.setdefault(what, [str(len(by_seed))]).append(interval_text(list(by_seed.values())))
    head = ["top-1, paired by seed", "seeds", *MEASURES]
    return (
        f"{markdown(head, [[what, *texts] for what, texts in lines.items()])}\n\nMean, and 95% interval by Student's t."
    )


TABLES = {"held_out": held_out}
