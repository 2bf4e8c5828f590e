"""Rivals of a lesion, counted on images made by hand."""

from __future__ import annotations

import numpy as np

from benchmarks.studies.rivals import count_rivals


def pair():
    """A flat baseline and a follow-up with a lesion of 3x3 voxels and three other bright spots."""
    generator = np.random.default_rng(0)
    baseline = 100 + generator.normal(0, 0.01, (60, 60, 3))
    followup = baseline.copy()
    labels = np.zeros(baseline.shape, np.int32)
    labels[10:13, 10:13, 1] = 1
    followup[10:13, 10:13, 1] += 20  # the lesion
    followup[40:43, 10:13, 1] += 40  # brighter
    followup[40:43, 40:43, 0] += 25  # brighter, another slice
    followup[10:13, 40:43, 2] += 5  # fainter: no rival
    return baseline, followup, labels


def test_brighter_places_are_rivals_and_fainter_ones_are_not():
    baseline, followup, labels = pair()
    brain = np.ones(baseline.shape, bool)
    assert count_rivals(baseline, followup, brain, labels, 1).tolist() == [2]


def test_places_outside_the_brain_and_other_lesions_are_no_rivals():
    baseline, followup, labels = pair()
    brain = np.ones(baseline.shape, bool)
    brain[38:45, 38:45, 0] = False
    assert count_rivals(baseline, followup, brain, labels, 1).tolist() == [1]
    labels[40:43, 10:13, 1] = 2
    assert count_rivals(baseline, followup, brain, labels, 2).tolist() == [0, 0]


def test_a_lesion_that_does_not_rise_has_many_rivals():
    baseline, followup, labels = pair()
    labels[:] = 0
    labels[25:28, 25:28, 1] = 1
    brain = np.ones(baseline.shape, bool)
    assert count_rivals(baseline, followup, brain, labels, 1)[0] > 10


def test_a_smooth_field_changes_nothing():
    baseline, followup, labels = pair()
    brain = np.ones(baseline.shape, bool)
    field = np.linspace(0, 6, 60)[:, None, None]
    assert count_rivals(baseline, followup + field, brain, labels, 1).tolist() == [2]
