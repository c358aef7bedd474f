"""Several responses to each question: pass@k and majority@k by hand."""

from sayo.evaluation.summary import of_several


def test_pass_and_majority():
    samples = [
        {"correct": [1.0, 0.0, 1.0, 0.0], "answers": ["B", "A", "(B)", "C"]},
        {"correct": [0.0, 0.0, 1.0, 0.0], "answers": ["A", "a.", "B", None]},
        {"correct": [None, 1.0, 1.0, 1.0], "answers": [None, "B", "B", "B"]},  # a failed one: left out
    ]
    figures = of_several(samples)
    assert figures["pass_at"] == {"1": (2 + 1) / 8, "2": (5 / 6 + 1 / 2) / 2, "4": 1.0}
    assert figures["majority_at"] == {"1": 0.5, "2": 0.5, "4": 0.5}
    assert of_several([{"correct": [1.0], "answers": ["B"]}])["pass_at"] is None
