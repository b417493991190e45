"""How good models are, and what they cost.

evaluate_models      measures finished models side by side; fits temperatures
measured_runs        what the runs of measured models say: data, pixels, what they have seen
predict_images       classifies the images of a folder, as a CSV file
image_files          the image files of any folder, brought to a model's size
final_measurements   what is measured of one model, and of the models of a run
metrics              accuracy, NLL, Brier score, ECE, closeness to a teacher, from logits
bootstrap            confidence intervals of these
temperature_scaling  one temperature fitted on validation data, and its file in a workdir
cost                 operations, bytes, latency and throughput
predictor            the logits of a whole split
"""
