"""Train a convolutional network on photos of cats and dogs, and record the training.

Put the photos into one folder for each class:

    python examples/cats_and_dogs.py --data PHOTOS --trace cats_and_dogs.zarr
    steptrace report cats_and_dogs.zarr

where ``PHOTOS/cat`` and ``PHOTOS/dog`` hold JPEG or PNG files. It takes images of 150 x 150 pixels,
batches of 32, shear, zoom and flip, four convolutions, binary cross-entropy, RMSprop.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
from keras import layers

from steptrace_tracer import Tracer

if TYPE_CHECKING:
    import tensorflow as tf

IMAGE_SIZE = (150, 150)
BATCH_SIZE = 32


def load(folder: Path, subset: str) -> tf.data.Dataset:
    """Return four fifths of the photos for ``"training"``, the rest for ``"validation"``."""
    return keras.utils.image_dataset_from_directory(
        folder,
        label_mode="binary",
        image_size=IMAGE_SIZE,
        batch_size=BATCH_SIZE,
        validation_split=0.2,
        subset=subset,
        seed=0,
        verbose=False,
    )


def augmented(photos: tf.data.Dataset) -> tf.data.Dataset:
    """Return the photos rescaled to 0 to 1, sheared, zoomed and flipped at random."""
    augment = keras.Sequential(
        [
            layers.Rescaling(1 / 255),
            layers.RandomShear(x_factor=0.2, y_factor=0.2, seed=1),
            layers.RandomZoom(0.2, seed=2),
            layers.RandomFlip("horizontal", seed=3),
        ]
    )
    return photos.map(lambda x, y: (augment(x, training=True), y)).prefetch(1)


def rescaled(photos: tf.data.Dataset) -> tf.data.Dataset:
    """Return the photos rescaled to 0 to 1."""
    return photos.map(lambda x, y: (x / 255, y)).prefetch(1)


def network() -> Any:
    """Return the network: four convolutions and two dense layers."""
    model = keras.Sequential([keras.Input((*IMAGE_SIZE, 3))], name="cats_and_dogs")
    for filters in (32, 64, 128, 128):
        model.add(layers.Conv2D(filters, 3, activation="relu"))
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(512, activation="relu"))
    model.add(layers.Dense(1, activation="sigmoid"))
    model.compile("rmsprop", "binary_crossentropy", metrics=["accuracy"])
    return model


def main() -> None:
    """Train, and write the trace."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder with cat/ and dog/")
    parser.add_argument("--trace", type=Path, default=Path("cats_and_dogs.zarr"))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, help="steps in an epoch; default: all the photos")
    parser.add_argument("--every", type=int, default=1, help="record every N-th step")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing trace")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(0)
    photos = load(arguments.data, "training")
    training = augmented(photos.repeat() if arguments.steps else photos)
    network().fit(
        training,
        epochs=arguments.epochs,
        steps_per_epoch=arguments.steps,
        validation_data=rescaled(load(arguments.data, "validation")),
        callbacks=[Tracer(arguments.trace, every=arguments.every, overwrite=arguments.overwrite)],
    )


if __name__ == "__main__":
    main()
