import numpy as np

from msseg_lightning.core.pair_words import unpack_pair


def test_bits_by_hand():
    # follow-up 3, baseline 7, and the target's bit, which belongs to neither
    words = np.full((1, 1, 2), 1 << 31 | 3 << 16 | 7, np.uint32)
    words[0, 0, 1] = 0xFFFFFFFF
    values = np.full((2, 1, 1, 2), np.nan, np.float32)
    unpack_pair(words, np.float32([5, 1]), np.float32([0.5, 10]), values)
    assert values[0].ravel().tolist() == [1.0, (65535 - 5) / 2]
    assert values[1].ravel().tolist() == [20.0, (32767 - 1) * 10]


def test_any_part_of_an_array_gives_what_plain_numpy_gives():
    generator = np.random.default_rng(0)
    words = generator.integers(0, 1 << 32, (6, 7, 9), dtype=np.uint32)
    zeros, scales = np.float32([31000, 12.0]), np.float32([1e-3, 0.37])
    words.flags.writeable = False  # as a memory map is
    for part in (words, words[1:4, 2:7, 3:4], words[:0]):
        values = np.empty((2, *part.shape), np.float32)
        unpack_pair(part, zeros, scales, values)
        first = ((part & 0xFFFF).astype(np.float32) - zeros[0]) * scales[0]
        second = ((part >> 16 & 0x7FFF).astype(np.float32) - zeros[1]) * scales[1]
        np.testing.assert_array_equal(values, [first, second])
