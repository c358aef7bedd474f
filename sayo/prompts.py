r"""What is written under a question in the user's turn, in supervised tuning, in RL and in evaluation alike.

Source: the formats of Look-Back (arXiv 2507.03019), whose prompts were not released; the words are ours.
"""

from collections.abc import Sequence

USER_SUFFIX = {
    "semantic-back": (
        "Think before you answer, as an inner monologue between <think> and </think>. Stop at the point where the "
        "answer hangs on something that you saw, and check it against the image between <back> and </back>: look "
        "again and say what is really there. Then think on, in a second <think> and </think>, in the light of that "
        "check. Give the final answer after the tags as \\boxed{answer}."
    ),
    "solution-back": (
        "First work out a complete solution between <think> and </think>. Then look at the image again and check the "
        "solution against it between <back> and </back>: name what you see and whether the solution agrees with it. "
        "Then think it over once more in a second <think> and </think>, and correct what was wrong. Give the final "
        "answer after the tags as \\boxed{answer}."
    ),
    "cot": "Think step by step between <think> and </think>, then give the final answer after it as \\boxed{answer}.",
    "text-back": (
        "First work out a complete solution between <think> and </think>. Then read your solution again and check its "
        "wording and its steps, without the image, between <back> and </back>. Then think it over once more in a "
        "second <think> and </think>, and correct what was wrong. Give the final answer after the tags as "
        "\\boxed{answer}."
    ),
    "box-pixels": (
        "The image is {width} pixels wide and {height} pixels high. Give the box in pixels of it, as [x1, y1, x2, y2] "
        "between <answer> and </answer>."
    ),
    "box-thousand": (
        "Give the box as [x1, y1, x2, y2] between <answer> and </answer>, where x runs from 0 at the left edge of the "
        "image to 1000 at its right edge, and y from 0 at the top to 1000 at the bottom."
    ),
}
"""`semantic-back` checks in the midst of the reasoning, `solution-back` after a preliminary answer. Two controls:
`cot` has no check; `text-back` has one of the same length that does not look at the image.
The last two say how boxes count (`rewards.iou_reward`)."""


def suffix_text(name_or_text: str) -> str:
    """The text of a format of `USER_SUFFIX`, or a text of one's own; a single other word is a ValueError."""
    if name_or_text not in USER_SUFFIX and " " not in name_or_text.strip():
        raise ValueError(f"unknown format {name_or_text!r}; there are: {', '.join(USER_SUFFIX)}, or write a text")
    return USER_SUFFIX.get(name_or_text, name_or_text)


def with_suffix(prompt: list[dict], suffix: str, size: Sequence[int] | None = None) -> list[dict]:
    """The prompt with `suffix` under its last user turn (plain text content), unless that ends with it already.

    `{width}` and `{height}` become those of the picture, in pixels; a suffix with them and no size is a ValueError.
    """
    if "{width}" in suffix or "{height}" in suffix:
        if size is None:
            raise ValueError("names the picture's size, which is in the column image_sizes of `sayo prepare`'s rows")
        suffix = suffix.replace("{width}", str(size[0])).replace("{height}", str(size[1]))
    last = max(index for index, turn in enumerate(prompt) if turn["role"] == "user")
    if prompt[last]["content"].endswith(suffix):
        return prompt
    return [*prompt[:last], {**prompt[last], "content": f"{prompt[last]['content']}\n{suffix}"}, *prompt[last + 1 :]]
