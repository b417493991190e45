"""Config: every knob of a run exactly once, with its type, default, unit, help and check.

The flags (cli.py), the JSON record and the comparison of two runs all follow from these fields.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from skd_tf.config import grammar, versions
from skd_tf.config.fields import rules_of, setting, validate
from skd_tf.errors import as_text, did_you_mean, flag_error, input_error
from skd_tf.losses.names import LOSS_FACTS, LOSS_NAMES
from skd_tf.networks.names import NETWORK_NAMES
from skd_tf.runtime import user_code

T = TypeVar("T")
PRECISIONS = ("float32", "bfloat16", "float16")
PREPROCESSINGS = ("raw", "unit", "tf", "torch", "caffe", "standard")
_NETWORK = (
    f"one of {', '.join(NETWORK_NAMES)}, keras.applications:NAME, or MODULE:FUNCTION of (input_shape, num_classes)"
)


def _not_empty(name, value):
    if not value:
        raise flag_error(name, "''", "is empty", "a name", f"Leave --{name} out for its default")
    return value


def _network(name, value):
    if value in ("", *NETWORK_NAMES) or user_code.is_reference(value) or user_code.application(value):
        return value if value or name == "teacher" else _not_empty(name, value)
    if value.endswith(".keras") and name == "student":
        return value
    remedy = did_you_mean(value, NETWORK_NAMES, "Take a listed name, or MODULE:FUNCTION for one of your own")
    raise flag_error(
        name, value, "is no network", _NETWORK + (", or a .keras file" if name == "student" else ""), remedy
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one run; immutable, checked at construction, in canonical form.

    Raises:
      InputError: one line for the first value that is not what its knob expects.
    """

    dataset: str = setting(
        "digits",
        "digits, a TFDS image classification set (cifar10, imagenet2012, ...), folder:PATH with a folder of JPEG or PNG "
        "files for each class, in train/ and test/ or split by data_seed, or MODULE:FUNCTION",
        check=_not_empty,
        heading="Data",
    )
    download: bool = setting(False, "let TFDS download a set that is not there", affects_result=False)
    data_seed: int = setting(0, "seed of the validation split and the augmentation", low=0, high=2**31 - 1)
    validation_fraction: float = setting(0.1, "share of the training split held out for validation", low=0, high=0.5)
    image_size: int = setting(0, "side that images are brought to; 0: the set's own", low=0, unit="pixels")
    augmentation: str = setting(
        "auto",
        "of training images: pad_crop (pad, crop, mirror), resized_crop (a window of area 0.1 to 1 and ratio 3/4 to 4/3, "
        "mirror), none; auto: pad_crop, of imagenet2012 resized_crop",
        choices=("auto", "pad_crop", "resized_crop", "none"),
    )
    cache_dataset: str = setting(
        "auto",
        "where decoded images are kept: memory, none (decoded anew each time); auto: in memory where they fit",
        choices=("auto", "memory", "none"),
        affects_result=False,
    )

    student: str = setting(
        "resnet8",
        f"network to train: {_NETWORK}; or a .keras file, with its weights",
        check=_network,
        heading="Networks",
    )
    student_checkpoint: str = setting(
        "", "start weights: a workdir, a .keras file or keras.applications:NAME; a head of another size is made anew"
    )
    student_preprocessing: str = setting(
        "auto",
        "put in front of one's own student: raw (nothing), unit (to [0, 1]), tf (to [-1, 1]), torch, caffe (ImageNet's), "
        "standard (the set's mean and std); auto: standard for a function's network without a layer that scales, else raw",
        choices=("auto", *PREPROCESSINGS),
    )
    student_alone: str = setting(
        "none",
        "the student without a teacher, for comparison: train, none, or the workdir of such a run",
        check=_not_empty,
    )
    teacher: str = setting(
        "",
        "network to train as the teacher, named as a student is; or one of ours to check a loaded one against",
        check=_network,
    )
    teacher_checkpoint: str = setting(
        "", "the teacher: a workdir of a run, a .keras file, a SavedModel folder, or keras.applications:NAME"
    )
    teacher_preprocessing: str = setting(
        "auto",
        "of a loaded teacher that has it not inside, as of a student; auto: raw",
        choices=("auto", *PREPROCESSINGS),
    )
    teacher_flagfile: str = setting("", "settings to train the teacher with, in <workdir>/teacher")

    teacher_cache_dir: str = setting(
        "", "folder for the teacher's logits: computed once per augmented image, shared by runs", affects_result=bool
    )
    teacher_cache_dtype: str = setting("float16", "of the cached training logits", choices=("float16", "float32"))
    teacher_cache_epochs: int = setting(
        0,
        "epochs of augmentation that are cached and trained on in turn, by any loss; 0: as many as the run has",
        low=0,
        unit="epochs",
    )

    loss: str = setting("spherical", "distillation method", choices=LOSS_NAMES, heading="Loss")
    temperature: float = setting(4.0, "softmax temperature of the distill term", above=0)
    kd_weight: float | str = setting(
        0.9, "weight of the distill term", low=0, grammar=grammar.WEIGHT, check=grammar.canonical_weight
    )
    label_weight: float | str | None = setting(
        None,
        "weight of the label term; none: 1 - kd_weight, which then stays in [0, 1]",
        low=0,
        grammar=grammar.WEIGHT,
        check=grammar.canonical_weight,
    )
    radius: float | str = setting(
        "auto",
        "L2 norm that logits are projected to; auto: 2 * sqrt(classes)",
        above=0,
        choices=("auto", "teacher_mean", "teacher_sample"),
    )
    center: bool = setting(True, "subtract each logit vector's mean before projecting")
    loss_settings: str = setting(
        "",
        "what else the loss takes (dkd: alpha, beta)",
        grammar=grammar.LOSS_SETTINGS,
        check=grammar.canonical_loss_settings,
    )

    epochs: int = setting(30, "passes over the training split", low=1, high=10_000, heading="Training")
    batch_size: int = setting(64, "global, over all replicas", low=1, unit="examples")
    learning_rate: float = setting(0.05, "global, at its peak", above=0)
    lr_schedule: str = setting(
        "cosine", "after the warm-up", grammar=grammar.LR_SCHEDULE, check=grammar.canonical_lr_schedule
    )
    warmup_epochs: float | None = setting(
        None, "linear warm-up of the learning rate; none: 5% of the run", low=0, unit="epochs"
    )
    optimizer: str = setting("sgd", "optimizer", choices=("sgd", "adamw"))
    momentum: float = setting(0.9, "of sgd", low=0, below=1)
    nesterov: bool = setting(False, "Nesterov's momentum, of sgd")
    weight_decay: float = setting(5e-4, "sgd: L2, added to the gradient before momentum; adamw: decoupled", low=0)
    clip_norm: float = setting(0.0, "limit of the gradient's global norm; 0: off", low=0)
    ema_momentum: float = setting(
        0.0, "of a moving average of the student's weights, which is evaluated and exported; 0: off", low=0, below=1
    )
    label_smoothing: float = setting(0.0, "share of each label spread over all classes", low=0, below=1)
    seed: int = setting(0, "seed of the student's initial weights and the shuffle order", low=0, high=2**31 - 1)

    strategy: str = setting(
        "auto",
        "replicas; auto: multi_worker where TF_CONFIG names several workers, mirrored where there are several devices",
        choices=("auto", "one_device", "mirrored", "multi_worker"),
        heading="Machine",
    )
    virtual_devices: int = setting(
        0, "split the first device into so many, to try replicas; 0: leave it as it is", low=0
    )
    sync_batch_norm: bool = setting(
        False, "BatchNorm's statistics over the global batch, not each replica's part of it; without XLA then"
    )
    precision: str = setting("float32", "that the student computes in", choices=PRECISIONS)
    teacher_precision: str = setting("float32", "that the teacher computes in", choices=PRECISIONS)
    jit_compile: str = setting("auto", "XLA; auto: by device", choices=("auto", "true", "false"))
    steps_per_call: int = setting(8, "training steps per host call", low=1, unit="steps", affects_result=False)
    checkpoint_every: str = setting(
        "epoch",
        "how often to save what a resumed run needs",
        grammar=grammar.INTERVAL,
        check=grammar.canonical_interval,
        affects_result=False,
    )
    keep_checkpoints: int = setting(2, "newest checkpoints that stay, beside the best one", low=1, affects_result=False)
    profile_steps: str = setting(
        "",
        "training steps to trace for TensorBoard's profiler, in <workdir>/tensorboard; the first step is 1",
        grammar=grammar.STEP_RANGE,
        check=grammar.canonical_step_range,
        affects_result=False,
    )
    report: bool = setting(True, "write report.html at the end", affects_result=False)
    dry_run: bool = setting(False, "print what would run, and stop", affects_result=False)
    overwrite: bool = setting(False, "begin anew in a workdir that holds another run", affects_result=False)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, validate(field, getattr(self, field.name)))
        if self.needs_teacher and self.label_weight is None and grammar.parse_weight(self.kd_weight).extremes[1] > 1:
            remedy = "Lower it, or give --label_weight as well"
            raise flag_error(
                "kd_weight",
                self.kd_weight,
                "leaves a negative weight to the labels (1 - kd_weight)",
                "values in [0, 1] where --label_weight is not given",
                remedy,
            )
        if self.label_smoothing and LOSS_FACTS[self.loss].needs_one_class:
            raise flag_error(
                "label_smoothing",
                self.label_smoothing,
                f"does not go with --loss={self.loss}, which needs one class an image",
                "0",
                "Leave it out",
            )
        foreign = set(grammar.parse_loss_settings(self.loss_settings)) - set(LOSS_FACTS[self.loss].settings)
        if foreign:
            known = ", ".join(LOSS_FACTS[self.loss].settings) or "nothing"
            raise flag_error(
                "loss_settings",
                self.loss_settings,
                f"names what --loss={self.loss} does not take",
                f"{known} for this loss",
                "Leave it out",
            )
        if self.teacher_cache_epochs and not self.teacher_cache_dir:
            raise flag_error(
                "teacher_cache_epochs",
                self.teacher_cache_epochs,
                "needs a teacher cache",
                "--teacher_cache_dir beside it",
                "Add --teacher_cache_dir=DIR",
            )
        if self.sync_batch_norm and self.jit_compile == "true":
            raise flag_error(
                "jit_compile",
                "true",
                "excludes --sync_batch_norm: XLA compiles no sum over replicas",
                "auto or false beside --sync_batch_norm",
                "Leave out one of the two",
            )
        if self.warmup_epochs is not None and self.warmup_epochs > self.epochs:
            raise flag_error(
                "warmup_epochs",
                self.warmup_epochs,
                "is longer than the run",
                f"at most --epochs={self.epochs}",
                "Shorten the warm-up, or raise --epochs",
            )

    @property
    def needs_teacher(self):
        return LOSS_FACTS[self.loss].needs_teacher

    @property
    def teacher_source(self):
        """(flag, value) that says where the teacher comes from: the most specific one given, or None."""
        sources = ("teacher_checkpoint", "teacher_flagfile", "teacher")
        return next(((name, getattr(self, name)) for name in sources if getattr(self, name)), None)

    def require_teacher(self):
        """Raises InputError where the loss needs a teacher and no flag says where one comes from."""
        if self.needs_teacher and not self.teacher_source:
            raise input_error(
                f"--loss={self.loss} needs a teacher",
                expected="--teacher_checkpoint, --teacher_flagfile or --teacher",
                received="none of them",
                remedy="Add one, or choose --loss=cross_entropy",
            )

    def replace(self, **changes):
        """A copy with other values, checked as a whole."""
        names = _names()
        for name, value in changes.items():
            if name not in names:
                raise flag_error(
                    name, value, "is no setting", "a flag of --help", did_you_mean(name, names, "Leave it out")
                )
        return dataclasses.replace(self, **changes)

    def pick(self, kind: type[T]) -> T:
        """The values of the settings that a dataclass names, as an instance of it.

        Rooms below this one take such values in place of a Config.

        Example:
          `config.pick(DataSettings)`, with fields dataset, data_seed, ...
        """
        return kind(**{field.name: getattr(self, field.name) for field in dataclasses.fields(kind)})

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values with its "version"; `from_json` reads it back as an equal Config."""
        return {"version": versions.VERSION} | dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Config":
        """Reads the dict of `to_json`, as written by this version or an earlier one.

        A setting that the writing version did not have takes the value that reproduces what it did (`versions`).

        Raises:
          InputError: unknown or missing settings, or a record of a later version.
        """
        settings, names = versions.upgrade(record), _names()
        unknown, missing = sorted(settings.keys() - set(names)), [name for name in names if name not in settings]
        if unknown or missing:
            raise input_error(
                "The recorded settings do not fit this version of skd_tf",
                expected="each setting once",
                received=f"unknown={','.join(unknown) or 'none'} missing={','.join(missing) or 'none'}",
                remedy="Run it again from its flags, or with the version that wrote it",
            )
        return cls(**settings)

    def differences(self, other):
        """Lines "--flag: this -> other" over the knobs whose value could change a number in the result."""
        lines = []
        for field in dataclasses.fields(self):
            affects = rules_of(field).affects_result
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            same = affects(mine) == affects(theirs) if callable(affects) else not affects or mine == theirs
            if not same:
                lines.append(f"--{field.name}: {as_text(mine)} -> {as_text(theirs)}")
        return lines


def _names():
    return [field.name for field in dataclasses.fields(Config)]
