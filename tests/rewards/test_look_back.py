import pytest

from sayo.answers.extract import parse_look_back
from sayo.rewards.look_back import look_back_reward

CHECK = "I look again at the red disc and its blue frame in the corner."
GOOD = rf"<think> first </think> <back> {CHECK} </back> <think> so </think> The answer is \boxed{{red}}"


@pytest.mark.parametrize(
    ("text", "strict", "lenient", "spans"),
    [
        (GOOD, True, True, 1),
        (GOOD.replace("> ", ">"), True, True, 1),
        (r"<back>look</back> \boxed{red}", False, True, 1),
        (GOOD + "<back>again</back>", False, True, 2),
        (r"<back>a<back>b</back>c</back> \boxed{red}", False, True, 1),
        ("Well. " + GOOD, False, True, 1),
        (GOOD.replace("</back> <think>", "</back> hm <think>"), False, True, 1),
        (GOOD.replace("so", " "), False, True, 1),
        (GOOD.replace(r"\boxed{red}", r"\boxed{ }"), False, False, 1),
        (GOOD.replace(r"\boxed{red}", "red"), False, False, 1),
        (r"<think>\boxed{red}</think><back>ok</back><think>so</think>", False, True, 1),
        (r"<think> first </think> \boxed{red}", False, False, 0),
        (r"<back> </back> \boxed{red}", False, False, 1),
        (r"<back>cut off \boxed{red}", False, False, 0),
        (r"</back>x<back> \boxed{red}", False, False, 0),
        ("", False, False, 0),
    ],
)
def test_parser(text, strict, lenient, spans):
    parsed = parse_look_back(text)
    assert (parsed.strict, parsed.lenient, len(parsed.spans)) == (strict, lenient, spans)


def test_reward():
    thin = GOOD.replace(CHECK, "ok")
    loose = rf"<back>{CHECK}</back> \boxed{{red}}"
    messages = [[{"role": "assistant", "content": text}] for text in (GOOD, thin, loose, "")]
    assert look_back_reward(messages) == [1.0, 0.0, 0.0, 0.0]
    assert look_back_reward(messages, strict=False) == [1.0, 0.0, 1.0, 0.0]
    assert look_back_reward(messages, min_words=1) == [1.0, 1.0, 0.0, 0.0]
