import numpy as np

from msseg_lightning.augment.resample import copy_layer, resample_layer

NODES = np.zeros((0, 0, 0, 3), np.float32)


def test_interpolation_by_hand():
    words = np.array([[[0, 10]], [[20, 50]]], np.uint16)  # (2, 1, 2)
    out = np.empty((1, 1, 3), np.float32)
    # halfway in x; z = -0.5, 0.25, 1: outside, 0.75 * 10 + 0.25 * 30, 30
    matrix = np.eye(3) * 0.75
    resample_layer(words, np.array([0.5, 0, -0.5]), matrix, NODES, 0, 16, 10, 2.0, False, out)
    assert np.allclose(out[0, 0], [0, (15 - 10) * 2, (30 - 10) * 2])


def test_bits_of_a_plane():
    words = np.array([[[0b01, 0b10, 0b11]]], np.uint8)
    out = np.empty((1, 1, 5), np.float32)
    args = (np.array([0, 0, 1]), np.array([0, 0, 1]), np.array([1, 1, 4]))
    copy_layer(words, -1, *args, 0, 1, 0.0, 1.0, out)
    assert out[0, 0].tolist() == [0, 1, 0, 1, 0]
    copy_layer(words, -1, *args, 1, 1, 0.0, 1.0, out)
    assert out[0, 0].tolist() == [0, 0, 1, 1, 0]
