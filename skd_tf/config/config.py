"""Config: every setting of a run exactly once, with its type, default, unit, help and check.

The flags (`skd_tf.config.flags`), the JSON record and the comparison of two runs follow from these fields.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from skd_tf.config import augmentations, checks, grammar, recipes, versions
from skd_tf.config.conflicts import conflicts
from skd_tf.config.fields import effect_of, setting, validate
from skd_tf.errors import as_text, did_you_mean, flag_error, input_error
from skd_tf.losses.names import LOSS_NAMES, facts_of
from skd_tf.runtime import local_paths

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
PRECISIONS = ("float32", "bfloat16", "float16")
PREPROCESSINGS = ("raw", "unit", "tf", "torch", "caffe", "standard")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one run: immutable, checked at construction, each in one canonical form.

    `python -m skd_tf.train --help` describes every setting.

    Raises:
      InputError: one line about the first bad value.

    Examples:
      >>> config = Config(student="resnet20", epochs="10", kd_weight="0.9, 0.5 from  epoch 5.0")
      >>> config.epochs, config.kd_weight
      (10, '0.9, 0.5 from epoch 5')
      >>> config.replace(temperature=2).differences(config)
      ['--temperature: 2.0 -> 4.0']
      >>> config.replace(epochs=0)
      Traceback (most recent call last):
      skd_tf.errors.InputError: --epochs is out of range. Expected a whole number >= 1 and <= 10000. Received --epochs=0. \
Leave it out for the default, 30.
    """

    recorded_version: ClassVar[int] = versions.VERSION  # of the record that `from_json` read

    dataset: str = setting(
        "digits",
        "the images: digits or fashion_mnist_10k, which are in the package; a TFDS image classification dataset (cifar10, "
        "imagenet2012, ...); folder:PATH with a folder of images per class, in train/ and test/ or split by data_seed; "
        "images:PATH with images without labels, whose classes are the teacher's; or MODULE:FUNCTION",
        check=checks.not_empty,
        heading="Data",
        affects_result=local_paths.same_place,
    )
    download: bool = setting(
        False, "let TFDS, Keras and KerasHub download the data and weights that are missing", affects_result=False
    )
    data_seed: int = setting(
        0,
        "seed of the validation split, of a test split that is drawn from a folder, and of the augmentation",
        low=0,
        high=2**31 - 1,
    )
    validation_fraction: float = setting(
        0.1, "fraction of the training split that is held out for validation", low=0, high=0.5
    )
    validation_split: str = setting(
        "stratified",
        "how the validation images are drawn. stratified: from each class in proportion, and never its last training "
        "image; uniform: without regard to classes",
        choices=("stratified", "uniform"),
    )
    group: str = setting(
        "",
        "regular expression for file names, as ^(patient[0-9]+)_ or ^(.*)_frame: images with equal matches stay on one side "
        "of every split that is drawn",
        check=checks.pattern,
    )
    unlabelled: str = setting(
        "",
        "more training images, whose labels are unknown or not used; the student learns the teacher's answers to them",
        grammar="images:PATH or folder:PATH, or nothing",
        check=checks.unlabelled,
        affects_result=local_paths.same_place,
    )
    unlabelled_share: float = setting(0.5, "fraction of each batch taken from --unlabelled", above=0, below=1)
    image_size: int = setting(0, "side to resize images to; 0: the dataset's own size", low=0, unit="pixels")
    augmentation: str = setting(
        "auto",
        "how training images are augmented, as a list. auto: resized_crop for imagenet2012, else pad_crop. pad_crop: crop, "
        "mirror. resized_crop: resized_crop:0.1-1, mirror. Neither mirrors digits, mnist, svhn_cropped or your own grey "
        "images. Parts of a list: crop[:PIXELS], pad and crop; resized_crop:LOW-HIGH, the range of the area; mirror; trivial, "
        "TrivialAugment; erase[:PROBABILITY]; mixup[:ALPHA]; cutmix[:ALPHA]",
        grammar=augmentations.AUGMENTATION,
        check=augmentations.canonical_augmentation,
    )
    calibrate: str = setting(
        "auto",
        "divide the logits of the shipped student by one temperature, fitted on the validation images at the end. auto: if "
        "there are at least 80 of them; none. No predicted class changes",
        choices=("auto", "none"),
    )
    cache_dataset: str = setting(
        "auto",
        "where decoded images are kept. memory; none: nowhere, they are decoded again each time; auto: memory if they fit",
        choices=("auto", "memory", "none"),
        affects_result=False,
    )

    data_rules: int = setting(
        2,
        "rules by which files become splits and pixels. 2: the current ones (docs/data.md); 1: those of skd_tf 0.1, for runs that it started",
        low=1,
        high=2,
        affects_result=False,
    )

    student: str = setting(
        "resnet8",
        f"the network to train: {checks.NETWORK}; or a .keras file, with its weights",
        check=checks.network,
        heading="Networks",
    )
    student_checkpoint: str = setting(
        "",
        "initial weights: a workdir, a .keras file, released:NAME, keras.applications:NAME or keras_hub:PRESET; for another number of "
        "classes a new head is drawn",
        affects_result=local_paths.without_slash,
    )
    student_preprocessing: str = setting(
        "auto",
        "preprocessing in front of your own student. raw: none; unit: to [0, 1]; tf: to [-1, 1]; torch, caffe: as for their "
        "ImageNet networks; standard: by the dataset's mean and std; auto: standard for a MODULE:FUNCTION network "
        "without a scaling layer, else raw",
        choices=("auto", *PREPROCESSINGS),
    )
    custom_layers: str = setting(
        "",
        "modules of your own layers, with commas between: they are imported before models are loaded that have such layers. "
        "The modules of --student and --teacher are imported in any case",
        check=checks.modules,
        affects_result=False,
    )
    freeze: str = setting(
        "",
        "regular expression for names of the student's layers (--list_layers) that are not trained; BatchNorm among them keeps "
        "its statistics",
        check=checks.pattern,
    )
    layer_rates: str = setting(
        "",
        "factors of the learning rate and its weight decay, for the student's layers whose names (--list_layers) contain a match; "
        "the first match counts, other layers have 1",
        grammar=grammar.LAYER_RATES,
        check=grammar.canonical_layer_rates,
    )
    student_alone: str = setting(
        "none",
        "the same student without a teacher, for comparison. train: train it too, for as many epochs; matched: train it "
        "twice, for as many epochs and for the computation that distilling took; none; or the workdir of such a run",
        check=checks.not_empty,
        affects_result=local_paths.without_slash,
    )
    teacher: str = setting(
        "",
        "the network to train as the teacher, named as a student is; with a loaded teacher, the network of the package to "
        "check it against",
        check=checks.network,
    )
    teacher_checkpoint: str = setting(
        "",
        "the teacher: the workdir of a run, a .keras file, a SavedModel folder, keras.applications:NAME or keras_hub:PRESET; or several, "
        "separated by commas: the target is then the mean of their softmaxes at the temperature",
        check=checks.teachers,
        affects_result=local_paths.without_slash,
    )
    teacher_weights: str = setting(
        "",
        "weights of several teachers in the target, in their order, as 2,1; they are divided by their sum; empty: equal",
        grammar=grammar.TEACHER_WEIGHTS,
        check=grammar.canonical_teacher_weights,
        affects_result=grammar.shares_of,
    )
    teacher_preprocessing: str = setting(
        "auto",
        "preprocessing in front of a loaded teacher that does not contain its own, as for the student; auto: raw; for "
        "several teachers one for all, or one for each, as unit,torch",
        grammar=checks.each_of_words(("auto", *PREPROCESSINGS)),
        check=checks.each_of(("auto", *PREPROCESSINGS)),
    )
    teacher_flagfile: str = setting(
        "",
        "settings to train the teacher with, in <workdir>/teacher: a flagfile, or recipe:NAME",
        affects_result=recipes.same_name,
    )

    teacher_cache_dir: str = setting(
        "", "folder for the teacher's logits: computed once per augmented image, shared by runs", affects_result=bool
    )
    teacher_cache_dtype: str = setting("float16", "dtype of the cached training logits", choices=("float16", "float32"))
    teacher_cache_epochs: int = setting(
        0,
        "epochs of augmented images to cache; training repeats them, with any loss; 0: as many as the run has",
        low=0,
        unit="epochs",
    )
    teacher_cache_top: int = setting(
        0,
        "largest logits of each image to cache, with mean and norm of all; the rest is filled in to match these, which can cost accuracy "
        "(docs/top_logits.md); 0: all",
        low=0,
    )

    loss: str = setting("kd", "the distillation method", grammar=checks.LOSS, check=checks.loss, heading="Loss")
    temperature: float = setting(4.0, "softmax temperature of the distillation term", above=0)
    kd_weight: float | str = setting(
        0.9, "weight of the distillation term", low=0, grammar=grammar.WEIGHT, check=grammar.canonical_weight
    )
    label_weight: float | str | None = setting(
        None,
        "weight of the label term; none: 1 - kd_weight, which requires kd_weight in [0, 1]",
        low=0,
        grammar=grammar.WEIGHT,
        check=grammar.canonical_weight,
    )
    radius: float | str = setting(
        "auto",
        "L2 norm that logits are projected to; auto: 2 * sqrt(classes); teacher_mean: the mean norm of the teacher's "
        "logits; teacher_sample: their norm for each image",
        above=0,
        choices=("auto", "teacher_mean", "teacher_sample"),
    )
    center: bool = setting(True, "subtract the mean of each logit vector before projecting it")
    gradient_scale: str = setting(
        "none",
        "factor of the gradient, with the spherical loss. student_norm: the mean norm of the student's logits in the batch, "
        "divided by the radius, so that steps are as large as without the sphere. Regularizers of the student's layers are "
        "scaled too. none: 1",
        choices=("none", "student_norm"),
    )
    loss_settings: str = setting(
        "",
        f"further arguments of the loss ({checks.LOSS_ARGUMENTS})",
        grammar=grammar.LOSS_SETTINGS,
        check=grammar.canonical_loss_settings,
    )
    feature_pairs: str = setting(
        "",
        "pairs of layers (--list_layers) whose outputs are compared too, teacher first; a trained projector, which no export "
        "contains, maps the student's to the teacher's width",
        grammar=grammar.FEATURE_PAIRS,
        check=grammar.canonical_feature_pairs,
    )
    feature_weight: float | str = setting(
        1.0,
        "weight of the feature term, which is the sum over --feature_pairs",
        low=0,
        grammar=grammar.WEIGHT,
        check=grammar.canonical_weight,
    )
    feature_loss: str = setting(
        "mse",
        "how features are compared. mse: mean squared error; cosine: squared distance of the features scaled to norm 1",
        choices=("mse", "cosine"),
    )

    epochs: int = setting(30, "passes over the training split", low=1, high=10_000, heading="Training")
    batch_size: int = setting(64, "global batch size, over all replicas", low=1, unit="examples")
    learning_rate: float = setting(0.05, "peak learning rate, for the global batch", above=0)
    lr_schedule: str = setting(
        "cosine", "learning rate after the warm-up", grammar=grammar.LR_SCHEDULE, check=grammar.canonical_lr_schedule
    )
    warmup_epochs: float | None = setting(
        None,
        "linear warm-up of the learning rate; none: 5% of the run, but at least --min_warmup_steps",
        low=0,
        unit="epochs",
    )
    min_warmup_steps: int = setting(
        100, "fewest steps of the warm-up, or half of the run if that is less; unused with --warmup_epochs", low=0
    )
    optimizer: str = setting("sgd", "the optimizer", choices=("sgd", "adamw"))
    momentum: float = setting(0.9, "momentum of sgd", low=0, below=1)
    nesterov: bool = setting(False, "use Nesterov momentum, with sgd")
    weight_decay: float = setting(5e-4, "sgd: L2, added to the gradient before momentum; adamw: decoupled", low=0)
    clip_norm: float = setting(0.0, "maximum of the gradient's global norm; 0: off", low=0)
    ema_momentum: float = setting(
        0.0,
        "momentum of a moving average of the student's weights, which is evaluated and exported; 0: off",
        low=0,
        below=1,
    )
    label_smoothing: float = setting(0.0, "fraction of each label that is spread over all classes", low=0, below=1)
    early_stopping_patience: int = setting(
        0,
        "stop after this many epochs without a better accuracy (without labels: agreement with the teacher) on the validation "
        "images; 0: train all epochs",
        low=0,
        unit="epochs",
    )
    ship: str = setting(
        "last",
        "which weights are measured and exported. last: those after the last epoch; best: those of the epoch with the best "
        "accuracy (without labels: agreement with the teacher) on the validation images",
        choices=("last", "best"),
    )
    seed: int = setting(0, "seed of the student's initial weights and the shuffle order", low=0, high=2**31 - 1)

    strategy: str = setting(
        "auto",
        "which devices train together; auto: multi_worker if TF_CONFIG names several workers, mirrored if there are several "
        "devices, else one_device. Several devices give the results of one up to rounding; with BatchNorm, Dropout or DIST only "
        "statistically (docs/devices.md)",
        choices=("auto", "one_device", "mirrored", "multi_worker"),
        heading="Machine",
    )
    virtual_devices: int = setting(
        0, "number of devices to split the first one into, to try replicas; 0: do not split it", low=0
    )
    sync_batch_norm: bool = setting(
        False, "compute BatchNorm's statistics over the global batch, not per replica; excludes XLA"
    )
    precision: str = setting("float32", "dtype that the student computes in", choices=PRECISIONS)
    teacher_precision: str = setting(
        "float32",
        "dtype that the teacher computes in; for several teachers one for all, or one for each, as float32,bfloat16",
        grammar=checks.each_of_words(PRECISIONS),
        check=checks.each_of(PRECISIONS),
    )
    jit_compile: str = setting("auto", "compile with XLA; auto: on a GPU", choices=("auto", "true", "false"))
    deterministic: str = setting(
        "auto",
        "whether a GPU uses deterministic kernels, without TF32 and autotuning, which is slower; auto: no. A CPU repeats a run "
        "bit for bit anyway",
        choices=("auto", "true", "false"),
    )
    micro_batches: int = setting(
        1,
        "number of pieces into which each replica splits its part of a batch, computed one after the other; more pieces "
        "take less memory; BatchNorm sees one piece at a time",
        low=1,
    )
    steps_per_call: int = setting(
        8, "training steps per call from Python to TensorFlow", low=1, unit="steps", affects_result=False
    )
    checkpoint_every: str = setting(
        "epoch",
        "how often to save a checkpoint",
        grammar=grammar.INTERVAL,
        check=grammar.canonical_interval,
        affects_result=False,
    )
    keep_checkpoints: int = setting(
        2, "number of newest checkpoints to keep, in addition to the best one", low=1, affects_result=False
    )
    profile_steps: str = setting(
        "",
        "training steps to trace for TensorBoard's profiler, in <workdir>/tensorboard; the first step is 1",
        grammar=grammar.STEP_RANGE,
        check=grammar.canonical_step_range,
        affects_result=False,
    )
    verbosity: str = setting(
        "normal",
        "how much is printed. normal: one line per stage, which a terminal updates in place and a log repeats after each "
        "tenth; full: every epoch, and what the run does",
        choices=("normal", "full"),
        affects_result=False,
    )
    callback: str = setting(
        "",
        "your function MODULE:FUNCTION of one dict, for a tracker: it is called with the record of each epoch, and at the end "
        "with the result",
        check=checks.function,
        affects_result=False,
    )
    report: bool = setting(True, "write report.html at the end", affects_result=False)
    report_images: int = setting(
        48,
        "number of test images in the report: the worst mistakes and the disagreements with the teacher; 0: no image",
        low=0,
        high=48,
        affects_result=False,
    )
    show_augmentation: str = setting(
        "",
        "write a PNG file of training images, as they are and augmented in several epochs, and stop",
        check=checks.png,
        affects_result=False,
    )
    list_layers: bool = setting(
        False,
        "print the layers of student and teacher with the shapes of their outputs, and stop",
        affects_result=False,
    )
    dry_run: bool = setting(False, "print what would run, and stop", affects_result=False)
    overwrite: bool = setting(False, "restart from scratch in a workdir that holds another run", affects_result=False)

    def __post_init__(self) -> None:
        for name, field in FIELDS.items():
            object.__setattr__(self, name, validate(field, getattr(self, name)))
        for name, problem, expected, remedy in conflicts(self):
            raise flag_error(name, getattr(self, name), problem, expected, remedy)

    @property
    def needs_teacher(self) -> bool:
        """Whether the loss uses a teacher. A loss of your own does if you name one."""
        return facts_of(self.loss).needs_teacher and (self.loss in LOSS_NAMES or bool(self.teacher_source))

    @property
    def unlabelled_batch(self) -> int:
        """How many images of each batch come from --unlabelled."""
        return round(self.unlabelled_share * self.batch_size) if self.unlabelled else 0

    @property
    def labelled_batch(self) -> int:
        """How many images of each batch come from --dataset."""
        return self.batch_size - self.unlabelled_batch

    @property
    def cached_epochs(self) -> int:
        """How many epochs of augmented images a teacher cache holds for this run: none that it does not reach."""
        return min(self.teacher_cache_epochs or self.epochs, self.epochs)

    @property
    def teacher_source(self) -> tuple[str, str] | None:
        """(flag, value) that says where the teacher comes from, the most specific one given; None without any."""
        sources = ("teacher_checkpoint", "teacher_flagfile", "teacher")
        return next(((name, getattr(self, name)) for name in sources if getattr(self, name)), None)

    @property
    def teachers(self) -> tuple[str, ...]:
        """The teachers in --teacher_checkpoint."""
        return local_paths.split_paths(self.teacher_checkpoint)

    @property
    def for_each_teacher(self) -> "tuple[Config, ...]":
        """These settings with each of several teachers alone; themselves with one teacher or none."""
        count = len(self.teachers)
        if count < 2:
            return (self,)
        of_each = {"teacher_checkpoint": self.teachers}
        for name in ("teacher_precision", "teacher_preprocessing"):
            given = getattr(self, name).split(",")
            of_each[name] = tuple(given if len(given) > 1 else given * count)
        return tuple(
            self.replace(teacher_weights="", **dict(zip(of_each, values, strict=True)))
            for values in zip(*of_each.values(), strict=True)
        )

    def require_teacher(self) -> None:
        """Raises InputError if the loss needs a teacher and no flag says where one comes from."""
        if self.needs_teacher and not self.teacher_source:
            raise input_error(
                f"--loss={self.loss} needs a teacher",
                expected="--teacher_checkpoint, --teacher_flagfile or --teacher",
                received="none of them",
                remedy="Add one, or choose --loss=cross_entropy",
            )

    def replace(self, **changes: Any) -> "Config":
        """A copy with other values, checked as a whole.

        Raises:
          InputError: a bad value, or a name that is not a setting.
        """
        for name, value in changes.items():
            if name not in FIELDS:
                remedy = did_you_mean(name, FIELDS, "Drop it")
                raise flag_error(name, value, "is not a setting", "a flag of --help", remedy)
        return dataclasses.replace(self, **changes)

    def pick(self, kind: type[T]) -> T:
        """An instance of a dataclass whose fields are named like settings, with their values.

        Rooms below `config` take such an instance instead of a Config.

        Examples:
          >>> Pixels = dataclasses.make_dataclass("Pixels", ["dataset", "image_size"])
          >>> Config(image_size=32).pick(Pixels)
          Pixels(dataset='digits', image_size=32)
        """
        return kind(**{field.name: getattr(self, field.name) for field in dataclasses.fields(kind)})

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values with its "version"; `from_json` reads it back as an equal Config."""
        return {"version": versions.VERSION} | dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Config":
        """Reads a dict that `to_json` of this version or an earlier one returned.

        A setting that did not exist yet gets the value that reproduces what that version did (`skd_tf.config.versions`).

        Raises:
          InputError: a setting is unknown or missing, or a later version wrote the record.
        """
        settings = versions.upgrade(record)
        unknown, missing = sorted(settings.keys() - FIELDS.keys()), [name for name in FIELDS if name not in settings]
        if unknown or missing:
            raise input_error(
                "The recorded settings do not fit this version of skd_tf",
                expected="each setting once",
                received=f"unknown={','.join(unknown) or 'none'} missing={','.join(missing) or 'none'}",
                remedy="Run it again from its flags, or with the version that wrote it",
            )
        config = cls(**settings)
        object.__setattr__(config, "recorded_version", record.get("version", 1))
        return config

    def differences(self, other: "Config") -> list[str]:
        """Lines "--flag: this -> other", one for each setting whose values could lead to other results."""
        lines = []
        for name, field in FIELDS.items():
            mine, theirs = getattr(self, name), getattr(other, name)
            if effect_of(field, mine) != effect_of(field, theirs):
                lines.append(f"--{name}: {as_text(mine) or 'empty'} -> {as_text(theirs) or 'empty'}")
        return lines


FIELDS = {field.name: field for field in dataclasses.fields(Config)}
