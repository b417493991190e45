"""The process and the machine: files, printing, signals, workers, replicas, devices and user code.

atomic_files  files that are written whole or not at all
files         text and JSON files, and locks on folders that several processes share
local_paths   refuses URLs where folders and files are expected
console       lines, warnings and progress
signals       SIGTERM and SIGINT, at once or after the running step
cluster       the processes that train together; the chief decides, writes and prints
slurm         the cluster of a Slurm job step
claims        claims on files that several processes make
devices       devices, replicas and the choice of XLA, without TensorFlow
replicas      the distribution strategy, and the collective of a training step
streams       tf.data pipelines without the autotuner, which can delay the end of a run
compat        private API of Keras and TensorFlow, in one place
tf_logging    TensorFlow without its start-up notes
user_code     a user's function, given as MODULE:FUNCTION
lazy_imports  packages that import their modules at first use
"""
