"""Evaluation sets and their readers."""

from hwsparse.data.corruptions import Corruption
from hwsparse.data.dataset import Dataset
from hwsparse.data.images import ImagePreprocess, read_image_csv, read_image_folder
from hwsparse.data.npz import read_npz, write_npz
from hwsparse.data.read import read_corrupted, read_dataset, read_samples
from hwsparse.data.samples import Samples
from hwsparse.data.text_pairs import read_text_pairs

__all__ = [
    "Corruption",
    "Dataset",
    "ImagePreprocess",
    "Samples",
    "read_corrupted",
    "read_dataset",
    "read_image_csv",
    "read_image_folder",
    "read_npz",
    "read_samples",
    "read_text_pairs",
    "write_npz",
]
