"""The residual: what a site has not sent yet of its updates, and adds to the next one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ProtocolError


class Residual:
    """Error feedback of one run at one site: ``total = add(update)``, send some, ``keep(total − sent)``.

    Rounds may be asked again. A round that is, is added to the residual from before it, so that nothing is
    sent twice; an earlier round than the last starts from zero. It lives in memory alone: a site that was
    restarted begins with zero. Both lose updates, which costs accuracy and no privacy; so does a round
    whose sum the site's part did not get into, which counts as sent.

    Privacy. With ``unit = "example"``, every update is private before it comes here, and charged whether it
    is sent or waits: residual and total are functions of such updates alone (post-processing). With
    ``unit = "site"``, updates carry no noise, and what is sent is clipped after the residual was added: the
    bound on a round holds whatever was waiting. Neither is so for a total that leaves the site unclipped.

    ``sent`` is what was chosen to be sent, before clipping: what clipping took away would wait here, grow
    with every round, and be clipped again. Under a random support of share s, an update that is the same
    each round is sent √((2 − s) / s) times as long as it is, 4.4 times at s = 0.1, and independent ones as
    long as they are: a clipping norm has to leave room for that.

    Source: Seide et al. 2014 (Interspeech); Stich et al. 2018 (arXiv:1809.07599), algorithm 1;
    Karimireddy et al. 2019 (arXiv:1901.09847).
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._round = 0
        # From before the round, and from after it; rounds are numbered from 1.
        self._before = self._after = np.zeros(size, np.float32)

    def add(self, update: NDArray[np.float32], *, round_number: int) -> NDArray[np.float32]:
        """A round's update and what waited before it: float32[size], a new vector.

        Raises ProtocolError for a vector of another size.
        """
        self._check(update)
        if round_number > self._round:
            self._before = self._after
        elif round_number < self._round:
            self._before = np.zeros(self._size, np.float32)
        # Until ``keep`` says what was sent, nothing of this round counts.
        self._round, self._after = round_number, self._before
        with np.errstate(over="ignore"):  # what is sent then is not finite, and is refused where it is read
            return self._before + update

    def keep(self, rest: NDArray[np.float32], *, round_number: int) -> None:
        """Let what was not sent of a round's total wait: float32[size].

        A coordinate that is not finite is forgotten: it could never be sent. Raises ProtocolError for a
        vector of another size, or another round than the one that was added last.
        """
        self._check(rest)
        if round_number != self._round:
            raise ProtocolError(
                f"expected the rest of round {self._round}, got that of round {round_number}"
            )
        self._after = np.where(np.isfinite(rest), rest, np.float32(0))

    def _check(self, vector: NDArray[np.float32]) -> None:
        if vector.shape != (self._size,):
            raise ProtocolError(f"expected a vector of {self._size} numbers, got shape {vector.shape}")
