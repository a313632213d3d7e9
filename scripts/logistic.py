"""Multinomial logistic regression by Newton's method: exact, and small enough to be read."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    normed: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return normed


def fit(vectors: Array, wanted: Array, weights: Array, penalty: float) -> tuple[Array, Array]:
    """Weights [labels, width] and bias [labels] that minimise the weighted cross entropy plus
    penalty / 2 x the squared weights. The bias is hardly penalised.

    wanted: the share of each label in each row [rows, labels]. Equal shifts of all labels change
    nothing, so the result is centred.
    """
    inputs = np.hstack([vectors, np.ones((len(vectors), 1))])
    rough = inputs.astype(np.float32)  # the curvature need not be exact, only the gradient
    ridge = np.diag(np.append(np.full(vectors.shape[1], penalty), 0.01))
    theta = np.zeros((wanted.shape[1], inputs.shape[1]))
    for _ in range(50):
        chances = softmax(inputs @ theta.T)
        gradient = (weights[:, None] * (chances - wanted)).T @ inputs + theta @ ridge
        step = np.linalg.solve(
            _hessian(rough, chances, weights, ridge), gradient.reshape(-1)
        ).reshape(theta.shape)
        theta -= step - step.mean(axis=0)
        if np.abs(step - step.mean(axis=0)).max() < 1e-4:
            break
    return theta[:, :-1], theta[:, -1]


def _hessian(inputs: NDArray[np.float32], chances: Array, weights: Array, ridge: Array) -> Array:
    labels, width = chances.shape[1], inputs.shape[1]
    blocks = np.zeros((labels, width, labels, width))
    for row in range(labels):
        for column in range(row, labels):
            curve = chances[:, row] * ((row == column) - chances[:, column]) * weights
            curve = curve.astype(np.float32)
            blocks[row, :, column] = (inputs * curve[:, None]).T @ inputs
            blocks[column, :, row] = blocks[row, :, column].T
        blocks[row, :, row] += ridge
    return blocks.reshape(labels * width, labels * width)
