"""Settings that contradict each other."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from skd_tf.config import augmentations, grammar
from skd_tf.losses.names import LOSS_NAMES, OF_SEVERAL_TEACHERS, facts_of

if TYPE_CHECKING:
    from skd_tf.config.config import Config


def conflicts(config: "Config") -> Iterator[tuple[str, str, str, str]]:
    """(setting, problem, expected, remedy) of each setting that contradicts another one."""
    loss, facts = f"--loss={config.loss}", facts_of(config.loss)
    if facts.needs_teacher and config.label_weight is None and grammar.parse_weight(config.kd_weight).extremes[1] > 1:
        problem = "leaves a negative weight for the labels (1 - kd_weight)"
        expected = "values in [0, 1] without --label_weight"
        yield "kd_weight", problem, expected, "Lower it, or give --label_weight as well"
    if config.gradient_scale != "none" and facts.probabilities != "sphere":
        expected = "none, or --loss=spherical"
        yield "gradient_scale", f"excludes {loss}, which has no sphere", expected, "Drop one of the two"
    if config.label_smoothing and facts.needs_one_class:
        yield "label_smoothing", f"excludes {loss}, which needs one class per image", "0", "Drop one of the two"
    if facts.needs_one_class and augmentations.parse_augmentation(config.augmentation).mixes:
        problem = f"mixes labels, but {loss} needs one class per image"
        yield "augmentation", problem, "a list without mixup and cutmix", "Drop them, or choose another --loss"
    if config.loss in LOSS_NAMES and grammar.parse_loss_settings(config.loss_settings).keys() - set(facts.settings):
        known = ", ".join(facts.settings) or "nothing"
        yield "loss_settings", f"has a name that {loss} does not take", f"{known} for this loss", "Drop it"
    if config.feature_pairs and not config.needs_teacher:
        problem, expected = f"needs a teacher, which {loss} does not use", "a loss with a teacher"
        yield "feature_pairs", problem, expected, "Use --loss=kd --kd_weight=0 for labels and features alone"
    if config.feature_pairs and config.teacher_cache_dir:
        problem = "needs the teacher's layers in every step, and a teacher cache holds only its logits"
        yield "feature_pairs", problem, "no --teacher_cache_dir with it", "Drop one of the two"
    if config.feature_pairs and len(config.teachers) > 1:
        yield "feature_pairs", "works with one teacher only", "one --teacher_checkpoint", "Drop one of the two"
    count = max(len(config.teachers), 1)
    if count > 1 and facts.needs_teacher and not facts.takes_several_teachers:
        expected = f"one, or --loss={', '.join(OF_SEVERAL_TEACHERS)}"
        remedy = "Choose one of the teachers, or another loss"
        yield "teacher_checkpoint", f"names {count} teachers, and {loss} takes one", expected, remedy
    for name in ("teacher_weights", "teacher_precision", "teacher_preprocessing"):
        given = len(getattr(config, name).split(","))
        if getattr(config, name) and given != count and (given > 1 or name == "teacher_weights"):
            expected = f"one for each of {count} in --teacher_checkpoint"
            yield name, "does not fit the teachers", expected, "Give one for each teacher, in the same order"
    for name in ("teacher_cache_epochs", "teacher_cache_top"):
        if getattr(config, name) and not config.teacher_cache_dir:
            yield name, "needs a teacher cache", "--teacher_cache_dir with it", "Add --teacher_cache_dir=DIR"
    if config.micro_batches > config.batch_size:
        expected = f"at most --batch_size={config.batch_size}"
        yield "micro_batches", "is larger than the batch", expected, "Lower it"
    if config.sync_batch_norm and config.jit_compile == "true":
        problem = "excludes --sync_batch_norm: XLA cannot compile sums over replicas"
        yield "jit_compile", problem, "auto or false with --sync_batch_norm", "Drop one of the two"
    if config.unlabelled and not 0 < config.unlabelled_batch < config.batch_size:
        problem = f"is {config.unlabelled_batch} of --batch_size={config.batch_size} images"
        yield "unlabelled_share", problem, "some images of each kind in a batch", "Change it, or --batch_size"
    if config.warmup_epochs is not None and config.warmup_epochs > config.epochs:
        expected = f"at most --epochs={config.epochs}"
        yield "warmup_epochs", "is longer than the run", expected, "Shorten the warm-up, or raise --epochs"
