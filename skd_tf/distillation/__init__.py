"""The Distiller: a Keras model that trains a student from a teacher, on one device or many.

    distiller.py         Distiller: compile, fit, evaluate, predict, save and export as in Keras
    train_step.py        StepModel: one training or test step: both networks, the gradient, one collective, the optimizer
    objective.py         Objective: from logits and labels to the loss of each example and the logged means
    loss_function.py     which function a loss is, which arguments it takes, and what it returns
    features.py          Features: the term that compares layers of student and teacher, and its projectors
    hyperparameters.py   temperature, loss weights and radius as variables, checked when assigned
    guarded_models.py    checks of the two models and the data, before anything is trained
    inputs.py            the structure of x and y that a Distiller accepts
    labels.py            checks of labels on the host
    sample_weights.py    checks of sample weights on the host
    batches.py           a model's logits; sample weights from class weights; the teacher's mean norm
    mean_metrics.py      MeanMetrics: the means over an epoch, exact across checkpoints
    multi_step.py        MultiStepFunction: many training steps in one call from Python
    nonfinite_guard.py   NonFiniteGuard: skips the update and stops the loop if the loss or a gradient is not finite
    layer_rates.py       factors of the learning rate, by the names of the student's layers
    optimizers.py        SGD with the L2 penalty of published recipes; make_optimizer; averages of the weights

It needs only the losses and `skd_tf.models`. The commands, their data and their files are in other packages.
"""
