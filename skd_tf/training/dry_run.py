"""What a run would do, as text. TensorFlow is not imported."""

import os

from skd_tf import schedules
from skd_tf.config import Config, grammar
from skd_tf.config.flags import FIELDS
from skd_tf.data import folder_index
from skd_tf.data.catalog import augmentation_of, size_and_resize
from skd_tf.data.settings import DataSettings
from skd_tf.errors import as_text
from skd_tf.losses import sphere_geometry
from skd_tf.losses.names import facts_of
from skd_tf.losses.teacher_shares import teacher_shares
from skd_tf.runs.run_record import read_result, recorded_config, settings_record, with_recorded_rules
from skd_tf.runs.workdir import refuse_differences
from skd_tf.runtime import cluster, devices
from skd_tf.runtime.console import counted
from skd_tf.runtime.local_paths import require_folder
from skd_tf.runtime.user_code import is_reference
from skd_tf.training import nested_runs, no_effect, preflight, short_runs, sphere_limits, unlabelled, workdir_place
from skd_tf.training.preflight import Sizes


def describe(
    config: Config, workdir: str | os.PathLike | None = None, data_dir: str | os.PathLike | None = None
) -> str:
    """The resolved settings of a run and what follows from them, as text of several lines.

    Args:
      config: a `Config`.
      workdir: where the run would write.
      data_dir: the TFDS data folder; None is TFDS' default.

    Raises:
      InputError: a dataset, teacher, student or flagfile does not exist; the workdir belongs to another run; the
        replicas do not divide the global batch, or it is larger than the training split; TF_CONFIG is malformed.
    """
    unlabelled.check(config)
    if workdir:
        workdir_place.check(config, workdir)
    preflight.check_files(config)
    nested_runs.check_student_alone(config)
    config = with_recorded_rules(config, lambda: recorded_config(workdir) if workdir else None)
    preflight.check_dataset(config, data_dir)
    sizes = preflight.dataset_sizes(config, data_dir)
    preflight.check_classes(config, sizes)
    if sizes:
        preflight.require_validation(config, bool(sizes.held_out(config.validation_fraction) or sizes.validation))
    sections = {
        "Settings (* is not the default)": _settings(config),
        "Machine": _machine(config),
        f"Data: {config.dataset}": _data(config, sizes),
        "Schedule": _schedule(config, sizes),
        "Loss": _loss(config, sizes),
        "Workdir": [_workdir(config, workdir)],
    }
    unchecked = [f"--{name}" for name in ("feature_pairs", "freeze", "layer_rates") if getattr(config, name)]
    when = "is checked when the run starts, before it trains"
    later = [f"{', '.join(unchecked)}: whether these layers exist {when}"] if unchecked else []
    if is_reference(config.loss):
        later.append(f"--loss={config.loss}: what the function takes and returns {when}")
    if later:
        sections["Not checked here"] = later
    if no_effect.lines(config):
        sections["Without effect"] = no_effect.lines(config)
    steps = config.epochs * _steps_per_epoch(config, sizes) if sizes else 0
    consider = short_runs.few_steps(config, steps) + short_runs.warnings(config, steps) if sizes else []
    if sizes and sizes.num_classes:
        radius = sphere_geometry.auto_radius(sizes.num_classes) if config.radius == "auto" else config.radius
        if not isinstance(radius, str):  # others are measured on the teacher
            consider += sphere_limits.warnings(config, radius, sizes.num_classes)
    if consider:
        sections["To consider"] = consider
    looks = config.show_augmentation or config.list_layers
    lines = [f"Dry run: nothing is {'trained' if looks else 'loaded, trained or written'}."]
    for title, body in sections.items():
        lines += [title, *(f"  {line}" for line in body)]
    return "\n".join(lines)


def _settings(config: Config) -> list[str]:
    values = [(name, getattr(config, name), field.default) for name, field in FIELDS.items()]
    return [f"{' ' if value == default else '*'} --{name}={as_text(value)}" for name, value, default in values]


def _machine(config: Config) -> list[str]:
    gpus = devices.gpu_count()
    me = cluster.member(config.strategy)
    strategy, replicas = devices.replicas(config.strategy, virtual_devices=config.virtual_devices, gpus=gpus, member=me)
    share = devices.per_replica_batch(config.batch_size, replicas, config.micro_batches)
    unlabelled.check_replicas(config, replicas)
    collective = config.sync_batch_norm and replicas > 1
    xla, reason = devices.jit_compile_choice(config.jit_compile, "GPU" if gpus else "CPU", collective=collective)
    place = f", worker {me.index} of {me.workers}{'' if me.index else ', the chief'}" if me else ""
    split = f", the first split into {config.virtual_devices} virtual devices" if config.virtual_devices else ""
    found = (
        f"{gpus} GPU, used if TensorFlow's CUDA libraries are installed"
        if gpus
        else f"CPU, cores: {devices.cpu_count()}"
    )
    return [
        f"devices        {found}{split}",
        f"strategy       {strategy}, replicas: {replicas}{place}",
        f"batch          {config.batch_size} global, {share} per replica",
        f"XLA            {'on' if xla else 'off'} ({reason})",
        f"deterministic  {'yes' if config.deterministic == 'true' or not gpus else 'no: a GPU may differ by rounding'}",
        f"precision      {config.precision} student, {config.teacher_precision} teacher",
    ]


def _data(config: Config, sizes: Sizes | None) -> list[str]:
    settings = config.pick(DataSettings)
    size, _ = size_and_resize(settings)
    images = [
        f"images         {f'{size}x{size}' if size else 'their own size'}",
        f"augmentation   {augmentation_of(settings)}",
    ]
    if sizes is None:
        return ["examples       unknown until it is loaded", "steps          unknown until it is loaded", *images]
    held_out, steps = sizes.held_out(config.validation_fraction), _steps_per_epoch(config, sizes)
    train, validation = sizes.train - held_out, held_out if sizes.validation is None else sizes.validation
    return [
        f"examples       {train} to train, {validation} to validate, {sizes.test} to test",
        *_unlabelled(config),
        f"classes        {sizes.num_classes or 'unknown until it is loaded'}",
        f"steps          {steps} per epoch, {steps * config.epochs} in all",
        f"dropped        {train - steps * config.labelled_batch} examples per epoch, the last short batch",
        *images,
    ]


def _unlabelled(config: Config) -> list[str]:
    if not config.unlabelled:
        return []
    images = len(folder_index.unlabelled_paths(config.unlabelled))
    share = f"{config.unlabelled_batch} of each batch of {config.batch_size}"
    return [f"unlabelled     {images}, {share}"]


def _schedule(config: Config, sizes: Sizes | None) -> list[str]:
    rate = f"{config.lr_schedule}, peak {config.learning_rate}"
    never = [epoch for epoch in grammar.parse_lr_schedule(config.lr_schedule).epochs if epoch >= config.epochs]
    if never:
        rate += f"; never reached: epoch {', '.join(f'{epoch:g}' for epoch in never)}"
    warmup = _warmup(config, None)
    if sizes:
        steps = _steps_per_epoch(config, sizes)
        warmup = f"{counted(schedules.warmup_steps(config, steps), 'step')}: {_warmup(config, steps)}"
        rate += f"; last step {schedules.learning_rate(config, steps)[-1]:.3g}"
    return [
        f"epochs         {config.epochs}",
        f"learning rate  {rate}",
        f"warm-up        {warmup}",
        f"optimizer      {config.optimizer}",
    ]


def _warmup(config: Config, steps_per_epoch: int | None) -> str:
    """The rule that decides how long the warm-up is; all of them if the number of steps is not known."""
    if config.warmup_epochs is not None:
        return f"{config.warmup_epochs:g} epochs"
    share, least = f"{schedules.DEFAULT_WARMUP:.0%} of the run", config.min_warmup_steps
    if not least:
        return share
    if steps_per_epoch is None:
        return f"{share}, at least {least} steps, at most half of the run"
    steps = schedules.warmup_steps(config, steps_per_epoch)
    if steps == round(schedules.DEFAULT_WARMUP * config.epochs * steps_per_epoch):
        return share
    return "the least that it takes" if steps == least else "half of the run, the most that it may take"


def _loss(config: Config, sizes: Sizes | None) -> list[str]:
    if not config.needs_teacher:
        return [f"{config.loss:14} label term only, weight 1, no teacher"]
    label = "1 - kd" if config.label_weight is None else config.label_weight
    source = config.teacher_source
    lines = [
        f"{config.loss:14} temperature {config.temperature:g}",
        f"weights        kd {config.kd_weight}, label {label}",
        f"teacher        {f'--{source[0]}={source[1]}' if source else 'none given'}",
    ]
    if len(config.teachers) > 1:
        shares = teacher_shares(grammar.parse_teacher_weights(config.teacher_weights) or None, len(config.teachers))
        lines += [
            f"               {one.teacher_checkpoint}: weight {share:.4g}, {one.teacher_precision}, preprocessing "
            f"{one.teacher_preprocessing}"
            for one, share in zip(config.for_each_teacher, shares, strict=True)
        ]
    if config.feature_pairs:
        pairs = config.feature_pairs.replace(":", " -> ")
        lines.append(f"features       {pairs}, {config.feature_loss}, weight {config.feature_weight}")
    if facts_of(config.loss).probabilities == "sphere":
        lines.append(f"radius         {_radius(config.radius, sizes)}")
        lines.append(f"gradient       {'times norm / radius' if config.gradient_scale != 'none' else 'as it is'}")
    return lines


def _radius(radius: float | str, sizes: Sizes | None) -> str:
    if radius == "auto":
        classes = sizes and sizes.num_classes
        number = f"{sphere_geometry.auto_radius(classes):.4f}" if classes else "known with the classes"
        return f"{number} (auto: 2 * sqrt(classes))"
    return f"{radius}, measured on the teacher before training" if isinstance(radius, str) else f"{radius}"


def _workdir(config: Config, workdir: str | os.PathLike | None) -> str:
    if not workdir:
        return "not given"
    require_folder(workdir, "workdir")
    if config.overwrite:
        return f"{workdir}{', restarted from scratch' if settings_record(workdir) else ''}"
    before = recorded_config(workdir)
    if before is None:
        return f"{workdir}"
    refuse_differences(workdir, before, config)
    finished = read_result(workdir) is not None
    return f"{workdir}, {'finished: nothing would run' if finished else 'with these settings: it would resume'}"


def _steps_per_epoch(config: Config, sizes: Sizes) -> int:
    return preflight.steps_per_epoch(config, sizes.train - sizes.held_out(config.validation_fraction))
