"""What a run's model said to held-out prompts before it was trained and after, as ``answers.json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from privacy.durable import BY_UMASK, write_durably
from privacy.errors import RunError
from runs.run_folder import RunFolder
from tasks.answers import Answer, exact_match, mean_over, rouge_l

FILE = "answers.json"
_SCORES: Mapping[str, Callable[[str, str], float]] = {"ROUGE-L": rouge_l, "exact match": exact_match}


@dataclass(frozen=True, kw_only=True)
class KeptAnswers:
    """Answers to the same prompts in one order, with the first adapter and with the last."""

    before: tuple[Answer, ...]
    after: tuple[Answer, ...]

    @property
    def pairs(self) -> list[tuple[Answer, Answer]]:
        """What was said to each prompt before, and after."""
        return list(zip(self.before, self.after, strict=True))

    @property
    def scores(self) -> dict[str, tuple[float, float]]:
        """By its title, what a score is before and after, as a mean over the likeliest answers."""
        return {
            title: (mean_over(self.before, score), mean_over(self.after, score))
            for title, score in _SCORES.items()
        }


def save_answers(folder: RunFolder, before: Sequence[Answer], after: Sequence[Answer]) -> None:
    """Write a run's answers down. They are of the coordinator's own examples, and leave no site."""
    table = {"before": [asdict(one) for one in before], "after": [asdict(one) for one in after]}
    write_durably(folder.path / FILE, json.dumps(table, indent=1).encode(), mode=BY_UMASK)


def read_answers(folder: RunFolder) -> KeptAnswers | None:
    """A run's answers, None if it has none. Raises RunError if they cannot be read."""
    path = folder.path / FILE
    if not path.exists():
        return None
    try:
        table = json.loads(path.read_bytes())
        found = {key: tuple(Answer(**one) for one in table[key]) for key in ("before", "after")}
        kept = KeptAnswers(**found)
        if not kept.after or [one.prompt for one in kept.before] != [one.prompt for one in kept.after]:
            raise ValueError("other prompts before than after")
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read: {error!r}") from error
    return kept
