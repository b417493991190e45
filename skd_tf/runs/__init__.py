"""What a run's folder (its workdir) holds: written, read back and shown.

run_files      the name of every file and folder in a workdir
workdir        Workdir: claims the folder for one run, and refuses another run's
run_record     reads a run's settings and result
metrics_log    metrics.jsonl and TensorBoard, one record per epoch
class_names    the names of a model's classes
data_identity  whether the data is still what the run started with
provenance     package versions, device and source commit of a result
columns        rows and columns of every table of metrics
result_tables    tables of results as text
report         the HTML report
"""
