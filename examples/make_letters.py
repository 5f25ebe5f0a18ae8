"""Writes letters.jsonl, made-up letters to hospitals, beside this file: for the three jobs letters-*.toml.

    python examples/make_letters.py

Each line has ``words`` and as many ``labels``, which say what names, places and days there are; the same as
``text``; ``topics``, of which a letter has none to three; and ``urgency``, from 0 to 10.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

TO = Path(__file__).with_name("letters.jsonl")
COUNT = 4000

FIRST = (
    "Ada Amir Bela Chen Dora Emil Fatou Goran Hana Ivo Jana Kofi Lena Milan Nora Omar Petra Rosa Sven Tara"
)
LAST = "Abel Bauer Costa Dahl Evans Fuchs Garcia Haas Ito Jansen Keller Lopez Maier Novak Okoye Peters"
PLACES = "Aachen Bergen Cork Delft Essen Faro Ghent Hull Izmir Jena Kiel Lund Malmo Nantes Oslo Porto"
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
MONTHS = "January February March April May June July August September October November December"

TOPICS = {
    "heart": [
        "my heart races when I climb stairs",
        "the chest pain came back",
        "my blood pressure is high",
    ],
    "lungs": ["I cough all night", "breathing is hard for me", "the inhaler does not help any more"],
    "bones": [
        "my knee hurts when I walk",
        "the cast on my arm is loose",
        "my back is stiff in the morning",
    ],
    "bill": ["the bill was sent twice", "my insurance did not pay", "I was charged for a test I never had"],
}
# How urgent a letter is by one of its sentences.
TONES = {
    "please call an ambulance , it is getting worse by the minute": 10.0,
    "please call me today , I am very worried": 8.0,
    "I would like to be seen this week": 5.0,
    "could we talk about it at my next visit": 3.0,
    "there is no hurry at all": 1.0,
}
Words = list[tuple[str, str]]


def plain(text: str) -> Words:
    """Words that name nothing."""
    return [(word, "other") for word in text.split()]


def named(text: str, label: str) -> Words:
    """Words that name something."""
    return [(word, label) for word in text.split()]


def make_letter(draw: random.Random) -> dict[str, object]:
    """One letter."""

    def person() -> str:
        return f"{draw.choice(FIRST.split())} {draw.choice(LAST.split())}"

    day = draw.choice([draw.choice(DAYS.split()), f"{draw.randint(1, 28)} {draw.choice(MONTHS.split())}"])
    topics = sorted(draw.sample(sorted(TOPICS), draw.choice([0, 1, 1, 2, 3])))
    tone, urgency = draw.choice(list(TONES.items()))
    sentences = [
        plain("my name is")
        + named(person(), "name")
        + plain("from")
        + named(draw.choice(PLACES.split()), "place"),
        plain("doctor") + named(draw.choice(LAST.split()), "name") + plain("saw me on") + named(day, "day"),
        *(plain(draw.choice(TOPICS[topic])) for topic in topics),
        plain(tone),
    ]
    draw.shuffle(sentences)
    words = [pair for sentence in sentences for pair in (*sentence, (".", "other"))]
    return {
        "words": [word for word, _ in words],
        "labels": [label for _, label in words],
        "text": " ".join(word for word, _ in words),
        "topics": topics,
        "urgency": round(min(10.0, max(0.0, urgency + draw.gauss(0, 0.5))), 1),
    }


if __name__ == "__main__":
    draw = random.Random(0)  # noqa: S311  # made-up letters
    with TO.open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(make_letter(draw))}\n" for _ in range(COUNT))
    print(f"Wrote {COUNT} letters to {TO}")
