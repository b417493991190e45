"""What images without labels exclude: --dataset=images:PATH, and --unlabelled beside a labelled dataset. No TensorFlow."""

from collections.abc import Iterator

from skd_tf.config import Config, grammar
from skd_tf.config.augmentations import parse_augmentation
from skd_tf.data.catalog import IMAGES, has_labels
from skd_tf.errors import flag_error, input_error
from skd_tf.losses.names import facts_of


def check(config: Config) -> None:
    """Raises InputError for the first setting that needs labels, if the dataset or a part of each batch has none."""
    found = _without_labels(config) if not has_labels(config.dataset) else _beside_labels(config)
    for name, problem, expected, remedy in found:
        raise flag_error(name, getattr(config, name), problem, expected, remedy)


def check_replicas(config: Config, replicas: int) -> None:
    """Raises InputError if the replicas do not divide the two parts of a batch as training needs it."""
    count = config.unlabelled_batch
    labelled = config.labelled_batch // replicas
    if count and config.student_alone in ("train", "matched") and labelled < config.micro_batches:
        raise input_error(
            "There are more micro-batches than labelled images of a batch on each replica, which --student_alone trains on",
            expected=f"at most {labelled}",
            received=f"--micro_batches={config.micro_batches}",
            remedy="Lower it",
        )
    if count % replicas:
        raise input_error(
            "The replicas do not divide the unlabelled part of a batch",
            expected=f"a multiple of {replicas} images",
            received=f"{count} of --batch_size={config.batch_size} with --unlabelled_share={config.unlabelled_share:g}",
            remedy="Change --unlabelled_share",
        )


def _without_labels(config: Config) -> Iterator[tuple[str, str, str, str]]:
    """(setting, problem, expected, remedy) of each setting that a dataset without labels excludes."""
    none, loss = f"and {IMAGES}PATH has none", "one of spherical, kd, logit_standardization, dist, wttm"
    if not config.needs_teacher:
        yield "loss", f"learns from labels alone, {none}", loss, "Choose --loss=spherical or kd"
    yield from _of_loss(config, f"needs the class of each image, {none}", loss)
    flag, _ = config.teacher_source or ("", "")
    if flag in ("teacher_flagfile", "teacher"):
        problem, remedy = f"trains a teacher, which needs labels, {none}", "Train it on labelled images first"
        yield flag, problem, "--teacher_checkpoint with a trained teacher", remedy
    if config.unlabelled:
        yield "unlabelled", "needs a labelled --dataset as well", f"'' with --dataset={IMAGES}PATH", "Omit it"
    if config.student_alone != "none":
        yield "student_alone", f"trains on labels, {none}", "none", "Omit it"
    if config.label_smoothing:
        yield "label_smoothing", f"smooths labels, {none}", "0", "Omit it"
    name, weight, whole = "label_weight", config.label_weight, 0
    if weight is None:  # it is 1 - kd_weight
        name, weight, whole = "kd_weight", config.kd_weight, 1
    if grammar.parse_weight(weight).extremes != (whole, whole):
        yield name, f"leaves a part of the loss to labels, {none}", str(whole), f"Add --{name}={whole}"
    elif not grammar.parse_weight(config.kd_weight).extremes[1]:
        yield "kd_weight", "leaves no loss", "more than 0", "Add --kd_weight=1"


def _beside_labels(config: Config) -> Iterator[tuple[str, str, str, str]]:
    """The same for --unlabelled."""
    if not config.unlabelled:
        return
    if not config.needs_teacher:
        expected = "a loss with a teacher"
        yield "loss", "learns nothing from the images of --unlabelled", expected, "Drop one of the two"
    yield from _of_loss(config, "needs the class of each image, and those of --unlabelled have none", "another loss")


def _of_loss(config: Config, problem: str, loss: str) -> Iterator[tuple[str, str, str, str]]:
    if facts_of(config.loss).needs_one_class:
        yield "loss", problem, loss, "Choose --loss=spherical or kd"
    if parse_augmentation(config.augmentation).mixes:
        problem = "mixes labels, and there are images without any"
        yield "augmentation", problem, "a list without mixup and cutmix", "Drop these two"
