r"""Every instruction that a model is given for data synthesis, in one place.

Models are asked to put what counts between tags of our own
(`<description>`, `<reasoning>`, `<response>`), so that a thinking model's own `<think>` never gets mixed up with it.

Sources: the three roles of AVAR (arXiv 2603.03825), whose prompts were not released; the formats of Look-Back (arXiv
2507.03019). The words are ours.
"""

from __future__ import annotations


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
