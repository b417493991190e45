"""Arrays of data functions: moved without a second copy if nothing else refers to them, else left alone."""

import mmap
import pathlib
import sys

import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data
from skd_tf.data import function_source, memory_budget, own_memory
from skd_tf.errors import InputError

SHAPE = (300, 8, 8, 3)


def numbers(shape=SHAPE):
    """A new array whose memory starts where TensorFlow cannot read it in place."""
    tried = [np.empty(shape, np.uint8)]
    while memory_budget.is_aligned(tried[-1]):
        tried.append(
            np.empty((len(tried) + shape[0], *shape[1:]), np.uint8)
        )  # keeps its place, so the next has another
        tried[-1].resize(shape, refcheck=False)
    array = tried.pop()
    array[:] = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return array


MADE = {
    "an array": numbers,
    "a reshaped array": lambda: numbers((300, 192)).reshape(SHAPE),
    "channels moved to the end": lambda: numbers((300, 3, 8, 8)).transpose(0, 2, 3, 1),
}


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("piece", [1, 7 * 192, 10**6])
def test_an_array_of_nobody_else_is_moved_piece_by_piece(kind, piece, monkeypatch):
    monkeypatch.setattr(own_memory, "_PIECE_BYTES", piece)
    holder = [MADE[kind]()]
    expected = np.array(holder[0])
    images, own = own_memory.taken_over(holder)
    assert own and not holder and memory_budget.is_aligned(images) and np.array_equal(images, expected)


@pytest.mark.parametrize("type_of_memory", ["uint32", "S192"])
def test_the_bytes_of_another_type_are_read_as_bytes(type_of_memory):
    packed = np.frombuffer(numbers().tobytes(), type_of_memory).copy()  # copy: of its own memory
    expected = packed.view(np.uint8).reshape(SHAPE).copy()
    for take in (
        lambda holder: own_memory.taken_over(holder)[0],
        lambda holder: own_memory.converted(holder, SHAPE[1:], 7, lambda images: images),
    ):
        holder = [packed.copy().view(np.uint8).reshape(SHAPE)]
        assert np.array_equal(take(holder), expected) and not holder


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_an_array_is_converted_piece_by_piece_and_a_kept_one_stays(kind, step):
    halved = lambda images: images[:, ::2, ::2] // 2  # noqa: E731
    kept = MADE[kind]()
    expected, holders = halved(kept), ([kept], [MADE[kind]()])
    for holder in holders:
        images = own_memory.converted(holder, (4, 4, 3), step, halved)
        assert not holder and memory_budget.is_aligned(images) and np.array_equal(images, expected)
    assert np.array_equal(halved(kept), expected)


@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="needs /proc")
def test_converting_an_array_of_nobody_else_takes_little_more_than_the_array():
    def resident():
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    def convert(images):
        taken.append(resident() - before)
        return images[:, 1:]

    before, taken = resident(), []
    holder = [np.ones((2000, 180, 180, 3), np.uint8)]
    given = holder[0].nbytes
    images = own_memory.converted(holder, (179, 180, 3), 10, convert)
    assert max(taken) < 1.3 * given and (images[::100] == 1).all()


def test_an_array_that_something_else_refers_to_is_left_alone():
    kept, buffer = numbers(), bytes(range(192)) * 300
    makers = [
        lambda: kept,
        lambda: kept[...],
        lambda: kept[:100],
        lambda: numbers()[::-1],
        lambda: np.frombuffer(buffer, np.uint8).reshape(SHAPE),
    ]
    for make in makers:
        expected, holder = make().copy(), [make()]
        images, own = own_memory.taken_over(holder)
        assert not own and images.shape == expected.shape and np.array_equal(images, expected)
    assert np.array_equal(kept, numbers())


FUNCTIONS = """
import numpy as np, tensorflow as tf
KEPT = {}
def images(n): return np.random.default_rng(n).integers(0, 256, (n, 8, 8, 1), np.uint8)
def spec(train, test=50):
    return {"class_names": ["a", "b"], "train": train, "test": (images(test), np.arange(test) % 2)}
def fresh(data_dir): return spec((images(200), np.arange(200) % 2))
def kept(data_dir): return KEPT.setdefault("spec", fresh(data_dir))
def stream(data_dir):
    return spec(tf.data.Dataset.from_tensor_slices((images(200), np.arange(200) % 2)).filter(lambda *_: True))
def sized(data_dir): return spec((images(200)[:, ::2, ::2], np.arange(200) % 2)) | {"test": (images(50), np.arange(50) % 2)}
"""


def test_a_function_s_own_arrays_stay_as_they_are_and_all_forms_give_the_same_split(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_memory_data.py").write_text(FUNCTIONS)
    load = lambda name, **more: data.load(data.DataSettings(dataset=f"own_memory_data:{name}", **more))  # noqa: E731
    fresh, kept, stream = load("fresh"), load("kept"), load("stream")
    assert fresh.train.own_memory and stream.train.own_memory and not kept.train.own_memory
    for other in (kept, stream):
        for split in ("train", "validation", "test"):
            one, two = getattr(fresh, split), getattr(other, split)
            assert np.array_equal(one.images, two.images) and np.array_equal(one.labels, two.labels)
    again = load("kept")  # what the module keeps is as it was
    assert (
        np.array_equal(again.train.images, fresh.train.images) and len(sys.modules["own_memory_data"].KEPT["spec"]) == 3
    )
    small = load("sized", image_size=4)
    assert small.train.images.shape[1:] == small.test.images.shape[1:] == (4, 4, 1)
    expected = tf.image.resize(fresh.test.images[3], (4, 4), antialias=True)
    assert np.abs(small.test.images[3] - expected.numpy()).max() <= 1


@pytest.mark.parametrize("known", [True, False])
def test_a_stream_is_collected_into_room_for_all_of_it(known, monkeypatch):
    """Without growing: NumPy copies a large array that grows, so both would be in memory."""
    numbers = tf.data.Dataset.range(600).map(lambda n: (tf.fill([4, 4, 1], tf.cast(n % 256, tf.uint8)), n % 2))
    stream, room = numbers if known else numbers.filter(lambda *_: True), []
    make = function_source._room_for
    monkeypatch.setattr(
        function_source, "_room_for", lambda count, shape: room.extend((count, make(count, shape))) or room[1]
    )
    found, labels = function_source._collected(data.DataSettings(dataset="m:f"), "train split", stream)
    assert (found[:, 0, 0, 0] == np.arange(600) % 256).all() and (labels == np.arange(600) % 2).all()
    assert found is room[1] and (room[0] == 600 if known else room[0] > 10**6)


def test_a_stream_that_says_it_is_too_large_is_refused_at_once():
    numbers = tf.data.Dataset.range(600).map(lambda n: (tf.fill([4, 4, 1], tf.cast(n % 256, tf.uint8)), n % 2))
    with pytest.raises(InputError, match="fits in memory"):
        function_source._collected(data.DataSettings(dataset="m:f"), "train split", numbers.repeat(2**40))


def test_a_stream_is_collected_where_little_memory_is_promised(monkeypatch):
    empty, tried = np.empty, []

    def meagre(shape, *options):
        tried.append(shape)
        if len(shape) == 4 and shape[0] > 100:
            raise MemoryError
        return empty(shape, *options)

    monkeypatch.setattr(function_source.np, "empty", meagre)
    stream = tf.data.Dataset.range(600).map(lambda n: (tf.fill([4, 4, 1], tf.cast(n % 256, tf.uint8)), n % 2))
    found, labels = function_source._collected(data.DataSettings(dataset="m:f"), "train split", stream)
    assert (found[:, 0, 0, 0] == np.arange(600) % 256).all() and len(labels) == 600 and len(tried) > 3
