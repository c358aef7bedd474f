"""What the models answer is checked, by both methods: rows whose answers do not pass are left out, with a reason."""

import pytest
from synthesize.prepared import row
from synthesize.stub_server import LATE, reasoned, response, text_of

LOOK = "I look again: the left edge and the right edge show the same colour everywhere."
UNSEEN = "I go through everything once more and am now quite certain about that."


@pytest.mark.parametrize(
    ("role", "answer", "reason"),
    [
        ("reason", reasoned(LATE, "blue"), "wrong_answer"),
        ("reason", reasoned(LATE, ""), "tags"),
        ("reason", lambda body: "I refuse.", "tags"),
        ("describe", lambda body: "It is red.", "tags"),
        ("anchor", reasoned(LATE, "blue"), "wrong_answer"),
        ("anchor", reasoned("It is red, and I am sure of it."), "no_anchor"),
        ("anchor", reasoned("I look back at the field. " + "Then I think about it. " * 20), "anchor_too_early"),
        ("anchor", reasoned(f"According to the description it is red. {LATE}"), "leak"),
        ("anchor", reasoned(f"Although I cannot see the image, it is red. {LATE}"), "leak"),
        ("anchor", reasoned(f"{LATE} </think> <answer>red"), "tags"),
        ("anchor", reasoned(f"{LATE} <|image_pad|>"), "special_tokens"),
        ("anchor", reasoned(f"{LATE} <image>"), "special_tokens"),
        ("anchor", reasoned(f"{LATE} \ud800"), "not_unicode"),
        ("back", response(LOOK, boxed="blue"), "wrong_answer"),
        ("back", response(LOOK, boxed=""), "tags"),
        ("back", response(f"{LOOK}</back><back>{LOOK}"), "tags"),
        ("back", response("the left edge is the same"), "back_too_short"),
        ("back", response(UNSEEN), "back_names_nothing_visible"),
        ("back", response(LOOK, after="Since the correct answer is red, it stays."), "leak"),
        ("back", response(f"I cannot see the image, but {LOOK}"), "leak"),
        ("back", response(f"{LOOK} <|vision_start|>"), "special_tokens"),
        ("back", lambda body: response(LOOK)(body).replace("</response>", ""), "tags"),
    ],
)
def test_what_comes_back_is_checked(anchors, look_back, server, role, answer, reason):
    good, name = server.roles[role], row(0)["question"]
    server.roles[role] = lambda body: answer(body) if name in text_of(body) else good(body)
    result = (look_back if role == "back" else anchors)([row(0), row(1)])
    assert [line["id"] for line in result.rows] == ["q1"], "the other row is untouched"
    [rejected] = result.rejected
    assert (rejected["id"], rejected["index"], rejected["split"], rejected["reason"]) == ("q0", 0, "train", reason)
    assert role in rejected["detail"]
    assert result.summary["rejected_by_reason"] == {reason: 1} and result.summary["rejected"] == 1
    tries = sum(body["model"] == role and name in text_of(body) for body in server.requests)
    assert tries == (1 if role == "describe" else 2), "all but the description are sampled again"
