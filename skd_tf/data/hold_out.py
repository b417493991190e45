"""Which examples are held out of training: in proportion to the classes or not, and never a part of a group."""

from collections.abc import Sequence

import numpy as np

from skd_tf.data.catalog import has_labels
from skd_tf.data.settings import DataSettings
from skd_tf.errors import counted, input_error

_FEW = 5  # names in a message


def held_out_rows(
    labels: np.ndarray,
    fraction: float,
    random: np.random.Generator,
    *,
    stratified: bool = True,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """The rows to hold out of training, ascending.

    Stratified: each class gives its share, rounded up or down so that the sum is `fraction` of all labelled rows, but never
    its last training row. Otherwise rows are drawn without regard to classes.

    With groups, whole groups are drawn in random order. One is taken if that brings the held-out part closer to its
    target: the share of each class if stratified, else the share of all. The last training rows of a class stay too.

    Args:
      labels: int `[n]`; rows with -1 are unlabelled. They are held out only with their group.
      fraction: of the labelled rows, 0 to 0.5.
      random: draws.
      stratified: whether classes matter.
      groups: int `[n]`, the group of each row; None: each row is its own group.

    Raises:
      InputError: the groups leave nothing to hold out.
    """
    labels = np.asarray(labels)
    labelled = labels >= 0
    count = round(int(labelled.sum()) * fraction)
    if not count:
        return np.zeros([0], np.int64)
    order = random.permutation(len(labels))
    if groups is not None:
        return np.flatnonzero(np.isin(groups, _chosen_groups(labels, count, groups, groups[order], stratified)))
    order = order[labelled[order]]
    if not stratified:
        return np.sort(order[:count])
    by_class = [order[labels[order] == label] for label in np.unique(labels[labelled])]
    quotas = _quotas(np.array([len(rows) for rows in by_class]), count, random)
    return np.sort(np.concatenate([rows[:quota] for rows, quota in zip(by_class, quotas, strict=True)]))


def validation_rows(labels: np.ndarray, settings: DataSettings, groups: np.ndarray | None = None) -> np.ndarray:
    """The rows of the training split that become the validation split; see `held_out_rows`.

    In a dataset without labels all rows count as one class.
    """
    labels = labels if has_labels(settings.dataset) else np.zeros(len(labels), int)
    random = np.random.Generator(np.random.Philox(settings.data_seed))
    stratified = settings.validation_split == "stratified"
    return held_out_rows(labels, settings.validation_fraction, random, stratified=stratified, groups=groups)


def _quotas(sizes, count, random):
    """How many rows of each class are held out: largest remainders, equal ones in random order."""
    exact = sizes * count / sizes.sum()
    quotas = np.minimum(exact.astype(int), sizes - 1)
    left = count - quotas.sum()
    for place in np.lexsort((random.permutation(len(sizes)), quotas - exact)):
        if left and quotas[place] < sizes[place] - 1:
            quotas[place], left = quotas[place] + 1, left - 1
    return quotas


def _chosen_groups(labels, count, groups, order, stratified):
    """The groups to hold out; `order` has the group of each row, in random order."""
    sizes = np.bincount(labels[labels >= 0])
    target = sizes * count / sizes.sum()
    held, chosen, smallest = np.zeros(len(sizes)), [], None
    rows_of = np.split(np.argsort(groups, kind="stable"), np.flatnonzero(np.diff(np.sort(groups))) + 1)
    rows_of = {int(groups[rows[0]]): rows for rows in rows_of}
    for group in dict.fromkeys(order.tolist()):
        mine = labels[rows_of[group]]
        own = np.bincount(mine[mine >= 0], minlength=len(sizes))
        classes = np.flatnonzero(own)
        if not len(classes) or (held[classes] + own[classes] >= sizes[classes]).any():
            continue
        if smallest is None or own.sum() < smallest[0]:
            smallest = own.sum(), group
        if stratified:
            missing, weights = target[classes] - held[classes], 1 / sizes[classes]
            gain = (weights * (missing**2 - (missing - own[classes]) ** 2)).sum()
        else:
            missing = target.sum() - held.sum()
            gain = missing**2 - (missing - own.sum()) ** 2
        if gain > 0:
            held += own
            chosen.append(group)
    if not chosen and smallest is None:
        raise input_error(
            "No group of images can be held out",
            expected="several groups in each class",
            received=f"{counted(len(rows_of), 'group')} with all images of a class in each",
            remedy="Choose smaller groups, or hold out none: --validation_fraction=0, and a test part of your own",
        )
    return chosen or [smallest[1]]


def missing_classes(labels: np.ndarray, class_names: Sequence[str]) -> str:
    """Which classes have no example among some labels, in words; "" if all have one, or no example has a label."""
    present = set(np.unique(labels).tolist()) - {-1}
    missing = [name for label, name in enumerate(class_names) if label not in present]
    if not present or not missing:
        return ""
    more = f" and {len(missing) - _FEW} more" if len(missing) > _FEW else ""
    return f"{len(missing)} of {counted(len(class_names), 'class')}: {', '.join(missing[:_FEW])}{more}"
