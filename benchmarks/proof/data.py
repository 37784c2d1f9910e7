"""Real data, and what stands in for it where its files are not there."""

import pathlib

import numpy as np

DATA = pathlib.Path("../shared/data")


def digits(folder=DATA):
    """Images in [0, 1] and labels, train and test: MNIST, or scikit-learn's digits."""
    path = folder / "mnist10k.npz"
    if path.exists():
        with np.load(path) as file:
            images, labels = file["images"] / 255.0, file["labels"]
    else:
        from sklearn.datasets import load_digits

        images, labels = load_digits().images / 16.0, load_digits().target
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order].astype(np.float32), labels[order].astype(np.int32)
    split = len(labels) * 4 // 5
    return (images[:split], labels[:split]), (images[split:], labels[split:])


def characters(folder=DATA):
    """Text as numbers, the last tenth apart, and how many characters there are."""
    path = folder / "tinyshakespeare.txt"
    if path.exists():
        text = path.read_text()
    else:
        from pydoc_data import topics

        text = "\n".join(topics.topics.values())
    known, numbers = np.unique(list(text), return_inverse=True)
    split = len(numbers) * 9 // 10
    numbers = numbers.astype(np.int32)
    return numbers[:split], numbers[split:], len(known)
