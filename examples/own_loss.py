"""I write my own loss: a function of logits and labels, given to the Distiller.

    python examples/own_loss.py

Here: the Jensen-Shannon divergence between both nets' softmaxes, M their mean,

    distill = T^2 * [ KL(p_t || M) + KL(p_s || M) ] / 2

on the package's digits. CONTRIBUTING.md says how such a function becomes a loss of the package.
"""

import keras
import numpy as np
from keras import ops

import skd_tf
from skd_tf import data


@keras.saving.register_keras_serializable("examples")  # so that a saved Distiller finds it again
def jensen_shannon(student_logits, teacher_logits, labels, *, temperature=4.0, share=0.5):
    """T^2 times the Jensen-Shannon divergence, beside the plain label term.

    Args:
      student_logits: `[batch, classes]`.
      teacher_logits: `[batch, classes]`; receives no gradient.
      labels: class numbers `[batch]`, or one-hot or soft `[batch, classes]`.
      temperature: softmax temperature, > 0; the Distiller passes its own to a loss that names it.
      share: of the teacher in M, in (0, 1); a setting of this loss alone, given in `loss_settings`.

    Returns:
      {"label": `[batch]`, "distill": `[batch]`} float32, nats, not reduced.
    """
    student = ops.log_softmax(student_logits / temperature)
    teacher = ops.log_softmax(ops.stop_gradient(teacher_logits) / temperature)
    mean = ops.logaddexp(teacher + np.log(share), student + np.log(1 - share))
    divergence = share * ops.sum(ops.exp(teacher) * (teacher - mean), axis=-1)
    divergence += (1 - share) * ops.sum(ops.exp(student) * (student - mean), axis=-1)
    return {
        "label": skd_tf.losses.cross_entropy(student_logits, None, labels)["label"],
        "distill": temperature**2 * divergence,
    }


def main(epochs=20):
    digits = data.load(data.DataSettings(dataset="digits", validation_fraction=0))
    net = {"input_shape": digits.image_shape, "num_classes": digits.num_classes, "mean": digits.mean, "std": digits.std}
    training, test = ((split.images, split.labels) for split in (digits.train, digits.test))

    # A teacher: the same Distiller, with the one loss that needs none.
    teacher = skd_tf.networks.build("resnet8", **net, seed=0)
    plain = skd_tf.Distiller(teacher, loss="cross_entropy")
    plain.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    plain.fit(*training, epochs=epochs, verbose=0)

    # With a plain function, the student's probabilities are the softmax of its raw logits. If your loss projects the
    # logits onto the sphere, give skd_tf.losses.Loss(function, "sphere", True, {}): the student is then measured there.
    student = skd_tf.networks.build("cnn_4", **net, seed=1)
    distiller = skd_tf.Distiller(student, teacher, jensen_shannon, kd_weight=0.9, loss_settings={"share": 0.5})
    distiller.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    distiller.fit(*training, epochs=epochs, verbose=0)
    results = [model.evaluate(*test, verbose=0, return_dict=True) for model in (plain, distiller)]
    print(f"teacher {results[0]['accuracy']:.4f}, student {results[1]['accuracy']:.4f}")
    return results


if __name__ == "__main__":
    main()
