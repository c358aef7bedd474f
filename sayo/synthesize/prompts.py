r"""Every instruction that a model is given, in one place: for data synthesis, and for the user's turn in RL.

Imports nothing, so that recipes and evaluation may use it. Models are asked to put what counts between tags of our own
(`<description>`, `<reasoning>`, `<response>`), so that a thinking model's own `<think>` never gets mixed up with it.

Sources: the three roles of AVAR (arXiv 2603.03825), whose prompts were not released; the formats of Look-Back (arXiv
2507.03019). The words are ours.
"""

from __future__ import annotations

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
}
"""What goes under the question in the user's turn, in SFT and RL alike.

`semantic-back` checks in the midst of the reasoning, `solution-back` after a preliminary answer. Two controls: `cot`
has no check; `text-back` has one of the same length that does not look at the image.
"""

YES_NO_SUFFIX = "Answer with \\boxed{yes} or \\boxed{no}."
"""For yes/no benchmarks such as HallusionBench, after the suffix above."""


def suffix_text(name_or_text: str) -> str:
    """The text of a format of `USER_SUFFIX`, or a text of one's own.

    Raises:
        ValueError: a single word that names no format.
    """
    if name_or_text not in USER_SUFFIX and " " not in name_or_text.strip():
        raise ValueError(f"unknown format {name_or_text!r}; there are: {', '.join(USER_SUFFIX)}, or write a text")
    return USER_SUFFIX.get(name_or_text, name_or_text)


def with_suffix(prompt: list[dict], suffix: str) -> list[dict]:
    """The prompt with `suffix` under its last user turn (plain text content), unless that ends with it already."""
    last = max(index for index, turn in enumerate(prompt) if turn["role"] == "user")
    if prompt[last]["content"].endswith(suffix):
        return prompt
    return [*prompt[:last], {**prompt[last], "content": f"{prompt[last]['content']}\n{suffix}"}, *prompt[last + 1 :]]


def describe(question: str) -> str:
    """AVAR's first role: everything that the image shows, in four steps, without an answer."""
    return (
        "Describe the image so completely and exactly that somebody who never sees it can answer questions about it, "
        "among them the one below. Do not answer the question and do not guess: say what is unreadable or hidden.\n"
        "Work in four steps, each between its own tags:\n"
        "<scan> what kind of image it is, its layout and what strikes the eye first </scan>\n"
        "<elements> every element by itself: objects, people, marks, labels, all text and numbers word for word, with "
        "colour, shape, size and place </elements>\n"
        "<links> how the elements relate: position, connection, order, which label belongs to what, what the numbers "
        "measure </links>\n"
        "<description> one coherent description that brings all of this together </description>\n\n"
        f"Question: {question}"
    )


def reason(question: str, description: str) -> str:
    """AVAR's second role: reflective reasoning by a model that has the text only."""
    return (
        "Answer a question about an image. You are given what the image shows; reason as somebody who looks at it.\n"
        "Think aloud, in plain prose: gather what matters, derive, doubt your intermediate results, go back and check "
        "them, mend what is wrong. Do not skip from the question to the answer.\n"
        "Write the reasoning between <reasoning> and </reasoning>, then only the final answer, as short as it can be, "
        "between <answer> and </answer>.\n\n"
        f"What the image shows:\n{description}\n\nQuestion: {question}"
    )


def anchor(question: str, reasoning: str, answer: str) -> str:
    """AVAR's third role: the same reasoning, with visual anchors where it depends on the image."""
    return (
        "Below is a question about an image and somebody's reasoning. Rewrite the reasoning as that of a person who "
        "has the image before them all the time and keeps going back to it.\n"
        'Insert visual anchors, such as "let me look back at the triangle" or "checking the image again", where the '
        "reasoning needs or verifies something that is seen; at least one in the middle part and one towards the end, "
        "and after each what is seen there.\n"
        "Keep every step, fact and number, and the answer. Add no fact that is not there. Never mention a "
        "description, a caption, a text or these instructions: all knowledge comes from looking.\n"
        "Write the rewritten reasoning between <reasoning> and </reasoning>, then the unchanged answer between "
        "<answer> and </answer>.\n\n"
        f"Question: {question}\n\nReasoning:\n{reasoning}\n\nAnswer: {answer}"
    )


_INSERT = {
    "semantic": (
        "Insert one check into the midst of it, at the point where it depends most on what is seen. The result has "
        "this form:\n<response><think> the reasoning up to there </think>\n<back> the check </back>\n<think> the rest "
        "of the reasoning, in the light of the check </think>\n\\boxed{the answer}</response>"
    ),
    "solution": (
        "Keep it whole, up to its preliminary result, and append one check. The result has this form:\n<response>"
        "<think> the whole reasoning </think>\n<back> the check </back>\n<think> a second thought in the light of the "
        "check </think>\n\\boxed{the answer}</response>"
    ),
}
STYLES = tuple(_INSERT)
"""Styles of Look-Back's training data; the prompt of `<style>` carries the suffix of `<style>-back`."""


def look_back(question: str, answer: str, reasoning: str, style: str) -> str:
    """Look-Back's data: put a check against the image into a chain of thought."""
    return (
        "Above is an image; below a question about it, somebody's reasoning and, for your eyes only, the right "
        "answer. Turn the reasoning into one that looks back at the image.\n"
        f"{_INSERT[style]}\n"
        "In the check the person looks at the image again and says in two or more sentences what is there: which "
        "objects, marks or numbers, where they are, and whether that agrees with the reasoning so far. Where the "
        "reasoning is wrong, the check notices by looking, and the second part mends it.\n"
        "Leave the wording of the reasoning as it is elsewhere. Write as somebody who does not know the answer "
        "beforehand: nothing may hint that it was given. Use each tag exactly as shown.\n\n"
        f"Question: {question}\n\nReasoning:\n{reasoning}\n\nRight answer: {answer}"
    )
