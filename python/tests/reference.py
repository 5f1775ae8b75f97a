"""Gradients as plain loops over triplets in float64, by the equations of docs/math.md."""

import numpy as np


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def batch(pairs, dim, seed=0, dtype=np.float32):
    random = np.random.default_rng(seed)
    x = random.standard_normal((pairs, dim))
    y = x + 1.5 * random.standard_normal((pairs, dim))
    return unit(x).astype(dtype), unit(y).astype(dtype)


def _directions(s):
    """Each direction's similarities with anchors as rows."""
    return [s, s.T]


def _hardest(row, i, ids):
    others = [j for j in range(len(row)) if j != i and (ids is None or ids[j] != ids[i])]
    return max(others, key=lambda j: (row[j], -j)) if others else None


def hinge(x, y, margin=0.2, ids=None):
    x, y = x.astype(np.float64), y.astype(np.float64)
    s = x @ y.T
    a, loss = np.zeros_like(s), 0.0
    for direction, m in enumerate(_directions(s)):
        field = a if direction == 0 else a.T
        for i in range(len(m)):
            h = _hardest(m[i], i, ids)
            if h is None:
                continue
            cost = margin + m[i, h] - m[i, i]
            if cost > 0:
                loss += cost
                field[i, h] += 1
                field[i, i] -= 1
    return loss, a @ y, a.T @ x


def cir_sig_ms(x, y, tau=1.0, alpha=2.0, beta=10.0, lam=0.5, kappa=0.1, m_circle=0.5, ids=None):
    x, y = x.astype(np.float64), y.astype(np.float64)
    s = x @ y.T
    p = np.diag(s)
    a, loss = np.zeros_like(s), 0.0
    for direction, m in enumerate(_directions(s)):
        field = a if direction == 0 else a.T
        for i in range(len(m)):
            h = _hardest(m[i], i, ids)
            if h is None:
                continue
            n = m[i, h]
            loss += n - p[i]
            u = [np.exp(alpha * (p[i] - p[j])) for j in range(len(m)) if j != i and p[j] <= n + kappa]
            v = [
                np.exp(-beta * (n - m[i, k]))
                for k in range(len(m))
                if k not in (i, h) and m[i, k] >= p.min() - kappa and (ids is None or ids[k] != ids[i])
            ]
            positive = 1 / (np.exp(alpha * (p[i] - lam)) + (np.mean(u) if u else 0))
            negative = 1 / (np.exp(-beta * (n - lam)) + (np.mean(v) if v else 0))
            t = 1 / (1 + np.exp(-tau * ((1 - p[i]) ** 2 + n**2 - 2 * m_circle**2)))
            field[i, i] -= t * positive
            field[i, h] += t * negative
    return loss, a @ y, a.T @ x


def infonce(x, y, temperature=0.07):
    x, y = x.astype(np.float64), y.astype(np.float64)
    s = x @ y.T / temperature
    a, loss = np.zeros_like(s), 0.0
    n = len(s)
    for i in range(n):
        row, column = np.exp(s[i] - s[i].max()), np.exp(s[:, i] - s[:, i].max())
        loss -= (np.log(row[i] / row.sum()) + np.log(column[i] / column.sum())) / (2 * n)
        a[i] += row / row.sum() / (2 * n)
        a[:, i] += column / column.sum() / (2 * n)
        a[i, i] -= 1 / n
    dt = -(a * s).sum() / temperature
    return loss, a @ y / temperature, a.T @ x / temperature, dt
