"""New multiple-sclerosis lesions between two FLAIR scans: train, track and compare systems."""

__version__ = "0.1.0"
