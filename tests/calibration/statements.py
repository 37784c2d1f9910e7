"""SparseGPT and least squares in NumPy's float64, one step after the other."""

import numpy as np


def upper_root(gram, rows, damping=0.01):
    """U with U^T U = H^-1, and which inputs are dead."""
    hessian = 2 / rows * np.array(gram, np.float64)
    dead = np.diag(hessian) == 0
    hessian[dead, dead] = 1
    hessian += np.eye(len(hessian)) * damping * np.diag(hessian).mean()
    return np.linalg.cholesky(np.linalg.inv(hessian)).T, dead


def sparsegpt(weights, gram, rows, choose, *, group=None, damping=0.01, block=128):
    """SparseGPT of one matrix [out, in].

    Args:
        weights: The matrix.
        gram: The sums of products of each pair of inputs.
        rows: Over how many positions.
        choose: From scores [out, columns] and the number of the first column, which are kept.
        group: How many columns are chosen together; a block, if not given.
        damping: Of the mean diagonal.
        block: How many columns a block has.
    """
    root, dead = upper_root(gram, rows, damping)
    weights = np.where(dead, 0, np.array(weights, np.float64))
    kept = np.ones(weights.shape, bool)
    inputs = weights.shape[1]
    for start in range(0, inputs, block):
        end = min(start + block, inputs)
        errors = np.zeros((len(weights), end - start))
        for j in range(start, end):
            if (j - start) % (group or block) == 0:
                at = slice(j, min(j + (group or block), end))
                kept[:, at] = choose((weights[:, at] / np.diag(root)[at]) ** 2, j)
            errors[:, j - start] = np.where(kept[:, j], 0, weights[:, j]) / root[j, j]
            weights[:, j:end] -= np.outer(errors[:, j - start], root[j, j:end])
        weights[:, start:end] *= kept[:, start:end]
        weights[:, end:] -= errors @ root[start:end, end:]
    return weights, kept


def lowest_of_leaf(sparsity):
    """All rows of a block share its part of the leaf's budget; the lower input goes first."""

    def choose(scores, start):
        rows, columns = scores.shape
        before, by_now = (_lost(sparsity, rows * n) for n in (start, start + columns))
        kept = np.ones(scores.size, bool)
        kept[np.argsort(scores.T.reshape(-1), kind="stable")[: by_now - before]] = False
        return kept.reshape(columns, rows).T

    return choose


def lowest_of_rows(sparsity):
    """Each row has a budget of its own."""

    def choose(scores, start):
        lost = _lost(sparsity, start + scores.shape[1]) - _lost(sparsity, start)
        return np.argsort(np.argsort(scores, 1, kind="stable"), 1, kind="stable") >= lost

    return choose


def highest_of_groups(n):
    """`n` of each group; the lower input is kept first."""

    def choose(scores, start):
        return np.argsort(np.argsort(-scores, 1, kind="stable"), 1, kind="stable") < n

    return choose


def above_threshold(sparsity):
    """What the authors' code keeps of a block."""

    def choose(scores, start):
        return scores > np.sort(scores.reshape(-1))[int(scores.size * sparsity)]

    return choose


def refit(weights, gram, kept, damping=0.0):
    """The least squares for the weights that stay, of one matrix [out, in]."""
    gram = np.array(gram, np.float64)
    gram = gram + np.eye(len(gram)) * damping * np.diag(gram).mean()
    new = np.zeros(weights.shape)
    for row, (old, keep) in enumerate(zip(weights.astype(np.float64), kept, strict=True)):
        lost = gram[np.ix_(keep, ~keep)] @ old[~keep]
        new[row, keep] = old[keep] + np.linalg.solve(gram[np.ix_(keep, keep)], lost)
    return new


def layer_errors(new, old, gram):
    """The squared error of each output, summed over positions."""
    change = np.asarray(new, np.float64) - np.asarray(old, np.float64)
    return np.einsum("oi,ij,oj->o", change, np.array(gram, np.float64), change)


def _lost(sparsity, size):
    return int(np.floor(np.float32(sparsity) * np.float32(size)))
