"""The settings in groups: which of a run's settings the runs that it starts itself have. Each setting is in one of four."""

# Of the data and the machine: a teacher that the run trains has the run's value, also with a flagfile of its own.
DATA_AND_MACHINE = (
    *("dataset", "download", "data_seed", "validation_fraction", "validation_split", "group", "data_rules"),
    *("image_size", "augmentation", "cache_dataset", "calibrate"),
    *("custom_layers", "strategy", "virtual_devices", "jit_compile", "deterministic", "steps_per_call"),
    *("checkpoint_every", "keep_checkpoints", "overwrite", "verbosity", "report", "report_images"),
)
# How a network is trained: that teacher and the student alone have the run's value.
RECIPE = (
    *("student", "loss", "epochs", "batch_size", "micro_batches", "precision", "sync_batch_norm"),
    *("learning_rate", "lr_schedule", "warmup_epochs", "min_warmup_steps"),
    *("optimizer", "momentum", "nesterov", "weight_decay", "clip_norm", "ema_momentum", "label_smoothing"),
    *("early_stopping_patience", "ship", "show_augmentation", "list_layers", "dry_run"),
)
# Of the student: that teacher has the default. So every seed of the student has the same teacher.
OF_THE_STUDENT = ("student_checkpoint", "student_preprocessing", "freeze", "layer_rates", "seed")
# Of distilling: the student alone has the default, and so has that teacher.
DISTILLING = (
    *("teacher", "teacher_checkpoint", "teacher_weights", "teacher_flagfile"),
    *("teacher_precision", "teacher_preprocessing"),
    *("teacher_cache_dir", "teacher_cache_dtype", "teacher_cache_epochs", "teacher_cache_top"),
    *("temperature", "kd_weight", "label_weight", "radius", "center", "gradient_scale", "loss_settings"),
    *("feature_pairs", "feature_weight", "feature_loss", "unlabelled", "unlabelled_share"),
    *("student_alone", "callback", "profile_steps"),
)

# Beside these four: no value changes the graph of a training step, or its memory.
SAME_GRAPH = (
    *("temperature", "kd_weight", "label_weight", "radius", "learning_rate", "lr_schedule", "warmup_epochs"),
    *("min_warmup_steps", "weight_decay", "seed"),
)
