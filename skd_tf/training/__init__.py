"""A run from its settings to a student that ships.

experiment     run(): data, teacher, student, training, measurement, export, one step after the other
preflight      what can be checked before anything is loaded; without TensorFlow
workdir_place  whether a workdir lies among the pictures of its run
dry_run        what a run would do, as text; without TensorFlow
look           --show_augmentation and --list_layers: augmented images, the layers of the networks
layers         these layers, as --list_layers prints and --feature_pairs names them
nested_runs    the settings of the runs that a run starts: its teacher, and the student alone
teacher        the teacher's logits, live or from the cache
teacher_check  whether it is good enough to teach
ensemble       several teachers as one: each has its own cache, and the mean of their softmaxes teaches
teacher_pass   computes its logits of augmented images, shard by shard, shared by several processes
resources      what several students can share: data, replicas, teacher
train_student  one student: built, compiled, trained to its last step
announcement   what a run prints before its first step
short_runs     warnings of runs that are too short for their settings
sphere_limits  warnings of spheres that are too small or too large
no_effect      settings that change nothing in a run
loop           host calls of k steps, cut at epoch ends and checkpoints, resumable at any step
run_outputs    what a finished run writes and prints
trackers       the user's functions that are given each epoch's record and the result
run_callbacks  what happens while it trains: metrics, checkpoints, resuming, a post-mortem
checkpoints    the state of a run on disk, written in the background
"""
