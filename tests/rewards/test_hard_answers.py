"""Responses as policies write them (`hard/*.yaml`), judged by hand: rates, because no reader gets all right."""

from pathlib import Path

import pytest
import yaml

from sayo.rewards.accuracy import accuracy_reward

FOLDER = Path(__file__).parent / "hard"


def judged(name: str) -> list[tuple[str, str, str, bool, bool]]:
    """(kind, gold, response, whether it should be paid, whether it is paid) of every response of a file."""
    cases = []
    for kind, questions in yaml.safe_load((FOLDER / f"{name}.yaml").read_text()).items():
        for question in questions:
            responses = [(text, True) for text in question["right"]] + [(text, False) for text in question["wrong"]]
            texts = [text for text, _ in responses]
            options = {"whole_text": not question.get("marked", False)}
            if "question" in question:
                options["prompts"] = [[{"role": "user", "content": question["question"]}]] * len(texts)
            scores = accuracy_reward(texts, [question["gold"]] * len(texts), **options)
            cases += [
                (kind, question["gold"], *case, score == 1.0) for case, score in zip(responses, scores, strict=True)
            ]
    return cases


@pytest.mark.parametrize(("name", "least"), [("tuned", 0.97), ("held_back", 0.9)])
def test_hard_answers(name, least):
    cases = judged(name)
    wrong = [case for case in cases if case[3] != case[4]]
    false = [case for case in wrong if case[4]]
    assert len(wrong) <= (1 - least) * len(cases), "\n".join(map(str, wrong))
    assert len(false) <= 0.02 * sum(not case[3] for case in cases), "\n".join(map(str, false))


def test_strings_of_math_verify():
    cases = [case for cases in yaml.safe_load((FOLDER / "math_verify.yaml").read_text()).values() for case in cases]
    golds, texts, expected = map(list, zip(*cases, strict=True))
    paid = [score == 1.0 for score in accuracy_reward(texts, golds, whole_text=True)]
    assert not [case for case, is_paid in zip(cases, paid, strict=True) if is_paid and not case[2]]
    assert sum(map(bool.__eq__, paid, expected)) >= 0.8 * len(cases)
