"""Two-sided sketches of matrices: they add up as matrices do, and tell one of low rank exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SketchSize:
    """What a sketch has of matrices [rows, columns]: ``size`` mixtures of columns, 2 · size + 1 of rows.

    Nothing is lost of a matrix whose rank is at most ``size``. Of any other, the expected squared error is
    at most four times that of the best matrix of rank (size - 1) / 2, for normal mixtures. Where mixtures
    would be no fewer numbers than the matrix has, the matrix itself is its sketch.

    Source: Tropp, Yurtsever, Udell and Cevher 2017 (arXiv:1609.00048), theorem 4.3 for l = 2k + 1.
    """

    rows: int
    columns: int
    size: int

    @property
    def co_size(self) -> int:
        """How many mixtures of rows there are, l."""
        return 2 * self.size + 1

    @property
    def whole(self) -> bool:
        """Whether the matrix itself is sent."""
        return self.size * self.rows + self.co_size * self.columns >= self.rows * self.columns

    @property
    def numbers(self) -> int:
        """How many numbers a sketch is."""
        if self.whole:
            return self.rows * self.columns
        return self.size * self.rows + self.co_size * self.columns

    def drawn(self, seed: int) -> Sketch:
        """The sketch of a seed, the same on every machine.

        Its numbers are uniform, with mean zero: unlike normal ones they take no logarithm, whose last bit
        machines disagree about. They are scaled so that a mixture is about as long as the matrix.
        """
        if self.whole:
            return Sketch(form=self, omega=np.eye(self.columns), psi=np.zeros((0, self.rows)))
        generator = np.random.Generator(np.random.PCG64(seed))

        def uniform(rows: int, columns: int, mixtures: int) -> Matrix:
            found = generator.random((rows, columns), np.float32).astype(np.float64)
            found -= 0.5
            found *= np.sqrt(12.0 / mixtures)
            return found

        return Sketch(
            form=self,
            omega=uniform(self.columns, self.size, self.size),
            psi=uniform(self.co_size, self.rows, self.co_size),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Sketch:
    """A linear map of matrices M [rows, columns] to Y = M·Ω and W = Ψ·M.

    ``omega`` is float64[columns, k], ``psi`` float64[l, rows].
    """

    form: SketchSize
    omega: Matrix
    psi: Matrix

    def of(self, left: Matrix, right: Matrix) -> Matrix:
        """The sketch of left · right, float64[numbers], for which the product is not formed."""
        mixed = left @ (right @ self.omega)
        return np.concatenate([mixed.ravel(), ((self.psi @ left) @ right).ravel()])

    def factors(self, sketch: Matrix) -> tuple[Matrix, Matrix]:
        """Q, float64[rows, k], with orthonormal columns, and X, float64[k, columns], of sketch [numbers].

        Q·X is the matrix where its rank is at most ``size``: then the columns of Y span those of M, but for
        a set of Ω of measure zero, so that M = Q·C for some C; W = (Ψ·Q)·C, and Ψ·Q, [2k + 1, k], has full
        rank: so its least squares solution X is C. Of another matrix it is an approximation.

        Source: Tropp et al. 2017 (arXiv:1609.00048), algorithm 4.
        """
        form, split = self.form, self.form.rows * self.omega.shape[1]
        mixed = sketch[:split].reshape(form.rows, -1)
        if form.whole:
            return np.eye(form.rows), mixed
        q = np.linalg.qr(mixed)[0]
        inner, triangle = np.linalg.qr(self.psi @ q)
        x: Matrix = np.linalg.solve(triangle, inner.T) @ sketch[split:].reshape(-1, form.columns)
        return q, x
