"""Multinomial logistic regression by Newton's method: exact, and small enough to be read."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    normed: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return normed


def fit(
    vectors: Array, classes: NDArray[np.int_], weights: Array, penalty: float, labels: int
) -> tuple[Array, Array]:
    """Weights [labels, width] and bias [labels] that minimise the weighted cross entropy plus
    penalty / 2 x the squared weights. The bias is not penalised.

    The last label's bias is fixed to break the tie between equal shifts; the result is centred.
    """
    inputs = np.hstack([vectors, np.ones((len(vectors), 1))])
    wanted = np.eye(labels)[classes]
    ridge = np.diag(np.append(np.full(vectors.shape[1], penalty), 1e-6))
    theta = np.zeros((labels, inputs.shape[1]))
    for _ in range(50):
        chances = softmax(inputs @ theta.T)
        gradient = (weights[:, None] * (chances - wanted)).T @ inputs + theta @ ridge
        step = np.linalg.solve(
            _hessian(inputs, chances, weights, ridge), gradient.reshape(-1)
        ).reshape(theta.shape)
        theta -= step
        if np.abs(step).max() < 1e-7:
            break
    theta -= theta.mean(axis=0)
    return theta[:, :-1], theta[:, -1]


def _hessian(inputs: Array, chances: Array, weights: Array, ridge: Array) -> Array:
    labels, width = chances.shape[1], inputs.shape[1]
    blocks = np.zeros((labels, width, labels, width))
    for row in range(labels):
        for column in range(row, labels):
            curve = chances[:, row] * ((row == column) - chances[:, column]) * weights
            blocks[row, :, column] = (inputs * curve[:, None]).T @ inputs
            blocks[column, :, row] = blocks[row, :, column].T
        blocks[row, :, row] += ridge
    return blocks.reshape(labels * width, labels * width)
