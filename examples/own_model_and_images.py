"""I have a Keras model and a folder of images: distil it into a small one that ships.

    python examples/own_model_and_images.py --teacher=big.keras --images=classes --output=small

classes/ holds a folder a class, as keras.utils.image_dataset_from_directory reads them. The teacher takes raw pixels of its
own input size (its preprocessing is inside), classes in the folders' alphabetic order. One command does it too, resumable:

    python -m skd_tf.train --dataset=folder:classes --image_size=96 --student=resnet8 --teacher_checkpoint=big.keras \
        --workdir=runs/small
"""

import argparse

import keras

import skd_tf


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="the big model, a .keras file")
    parser.add_argument("--images", required=True, help="a folder with a folder of images for each class")
    parser.add_argument("--output", required=True, help="where the small model goes, as a SavedModel")
    parser.add_argument("--student", default="resnet8", help="a name in skd_tf.networks.NETWORK_NAMES")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch_size", type=int, default=32)
    options = parser.parse_args(arguments)

    teacher = keras.models.load_model(options.teacher, compile=False)  # the Distiller undoes a softmax at its end
    height, width, channels = teacher.input_shape[1:]
    training, validation = keras.utils.image_dataset_from_directory(
        options.images,
        image_size=(height, width),
        batch_size=options.batch_size,
        validation_split=0.2,
        subset="both",
        seed=0,
        color_mode={1: "grayscale", 3: "rgb"}[channels],
    )
    flip = keras.layers.RandomFlip("horizontal", seed=0)
    flipped = training.map(lambda images, labels: (flip(images), labels))

    student = skd_tf.networks.build(
        options.student,
        input_shape=(height, width, channels),
        num_classes=teacher.output_shape[-1],
        mean=[0.5] * channels,
        std=[0.25] * channels,
        seed=0,
    )
    distiller = skd_tf.Distiller(student, teacher)
    steps = options.epochs * len(training)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=0.05, warmup_steps=steps // 20)
    distiller.compile(keras.optimizers.SGD(rate, momentum=0.9, global_clipnorm=5.0))
    distiller.fit(flipped, validation_data=validation, epochs=options.epochs, verbose=2)

    distiller.export(options.output, verbose=False)  # the student alone, in stock layers
    result = distiller.evaluate(validation, verbose=0, return_dict=True)
    print("On images that the student has not trained on; the teacher may have:")
    print(f"teacher {result['teacher_accuracy']:.4f}, {teacher.count_params():,} parameters")
    print(f"student {result['accuracy']:.4f}, {student.count_params():,} parameters, in {options.output}")
    return result


if __name__ == "__main__":
    main()
