"""`sayo synthesize look-back`, and the prompts that training shares with it."""

import pytest
from synthesize.prepared import row
from synthesize.stub_server import pictures_of, response, text_of

from sayo.prompts import USER_SUFFIX, suffix_text, with_suffix
from sayo.rewards import accuracy_reward, look_back_reward


@pytest.mark.parametrize("style", ["semantic", "solution"])
def test_rows_earn_the_rewards_that_rl_will_pay(look_back, server, style):
    result = look_back([row(i) for i in range(6)], "--style", style)
    assert result.exit_code == 0, result.output
    completions = [line["completion"] for line in result.rows]
    assert len(completions) == 6 and look_back_reward(completions) == [1.0] * 6
    assert accuracy_reward(completions, [line["solution"] for line in result.rows]) == [1.0] * 6
    assert [line["prompt"] for line in result.rows] == [
        with_suffix(row(i)["prompt"], suffix_text(f"{style}-back")) for i in range(6)
    ]
    assert all(pictures_of(body) for body in server.requests)
    instructions = [text_of(body) for body in server.requests if body["model"] == "back"]
    assert all(("midst" in text) == (style == "semantic") for text in instructions)


def test_the_rows_own_objects_and_the_questions_words_can_be_seen(look_back, server):
    server.roles["back"] = response("I go over it once more: the zebra is there, and it is striped, as before.")
    region = {"image": 0, "box": [0, 0, 1, 1], "rle": None, "role": "answer", "weight": 1.0, "label": "Zebra"}
    rows = [row(0, regions=[region]), row(3, question="What is the zebra like?"), row(6)]
    assert [line["id"] for line in look_back(rows, "--max-overlap", "1").rows] == ["q0", "q3"]


def test_a_suffix_goes_under_the_question_once():
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    longer = with_suffix(turns, suffix_text("cot"))
    assert longer == [turns[0], {"role": "user", "content": "q\n" + USER_SUFFIX["cot"]}]
    assert turns[1]["content"] == "q" and with_suffix(longer, suffix_text("cot")) == longer
    assert suffix_text("Look twice.") == "Look twice."
    with pytest.raises(ValueError, match="semantic-back, solution-back"):
        suffix_text("semantic")
