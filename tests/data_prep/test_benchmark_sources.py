"""V*Bench, TextVQA and TreeBench: small records in the form of the published files, and what is wrong with others."""

import base64
import csv

import pytest

from data_prep.sources.textvqa import words_of_answer
from tests.data_prep.conftest import png

# V*Bench: the published annotation and question of direct_attributes/sa_4690.jpg, on a smaller picture.
GLOVE = {
    "image": "direct_attributes/sa_4690.jpg", "category": "direct_attributes", "question_id": 0, "label": "A",
    "text": "What is the material of the glove?\n(A) rubber\n(B) cotton\n(C) kevlar\n(D) leather\nAnswer with the "
    "option's letter from the given choices directly.",
}  # fmt: skip
GLOVE_BOX = {"target_object": ["glove"], "bbox": [[56, 14, 155, 157]], "options": ["rubber"]}


def glove_b(**changes) -> dict:
    return {**GLOVE, "image": "direct_attributes/b.jpg", **changes}


def prepare_vstar(bench, first, second):
    """An `annotation` of the second record goes into the file beside its picture, b.jpg."""
    other = second.get("annotation", {}) if isinstance(second, dict) else {}
    for name, annotation in (("sa_4690", GLOVE_BOX), ("b", {**GLOVE_BOX, **other})):
        bench.picture(f"direct_attributes/{name}.jpg")
        bench.json(annotation, f"images/direct_attributes/{name}.json")
    file = bench.lines(first, second, name="test_questions.jsonl")
    return bench.prepare("vstar", "--questions", file, "--images", bench.images, "--split", "test")


def test_vstar_has_the_options_of_the_benchmark_and_the_box_of_each_object(bench):
    two = {"target_object": ["dog", "motorcycle"], "bbox": [[145, 130, 11, 7], [68, 94, 15, 11]]}
    dogs = glove_b(label="B", text="Which side?\n(A) left\n(B) right", annotation=two)
    assert prepare_vstar(bench, GLOVE, dogs).exit_code == 0
    glove, side = bench.rows()
    assert glove["question"] == (
        "What is the material of the glove?\n(A) rubber\n(B) cotton\n(C) kevlar\n(D) leather\n"
        "Answer with the option's letter from the given choices."
    )
    assert (glove["solution"], glove["answers"], glove["question_type"]) == ("A", ["A", "rubber"], "direct_attributes")
    assert [(r["label"], r["role"], r["box"]) for r in glove["regions"]] == [("glove", "answer", [56, 14, 211, 171])]
    assert side["question"].endswith("\n(B) right\nAnswer with the option's letter from the given choices.")
    assert [(r["label"], r["box"]) for r in side["regions"]] == [
        ("dog", [145, 130, 156, 137]),
        ("motorcycle", [68, 94, 83, 105]),
    ]


def ocr(word: str, x: float, y: float, width: float = 0.1, height: float = 0.05) -> dict:
    box = {"width": width, "height": height, "rotation": 0, "roll": 0, "pitch": 0, "yaw": 0.3725101947784424,
           "top_left_x": x, "top_left_y": y}  # fmt: skip
    return {"word": word, "bounding_box": box}


WORDS = [ocr("LESS", 0.1, 0.3), ocr("INTENSE", 0.5, 0.3), ocr("Listerine", 0.6, 0.4), ocr("bad", 0.6, 0.4, width=0)]


def text_question(number: int, answers: list | None, **more) -> dict:
    return {"question_id": number, "image_id": "011e7e629fb9ae7b", "question": "which brand?", "answers": answers,
            "image_width": 1024, "image_height": 702, "set_name": "val", **more}  # fmt: skip


def prepare_textvqa(bench, *records):
    bench.picture("011e7e629fb9ae7b.jpg", (200, 100))
    head = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    questions = bench.json({**head, "data": list(records)}, "questions.json")
    entries = [
        {"image_id": "011e7e629fb9ae7b", "ocr_tokens": [], "ocr_info": WORDS},
        {"image_id": "b", "ocr_info": 5},
        5,
    ]
    file = bench.json({"dataset_version": "0.2", "data": entries}, "ocr.json")
    return bench.prepare("textvqa", "--questions", questions, "--ocr", file, "--images", bench.images)


def test_textvqa_marks_the_ocr_words_of_an_answer_and_keeps_ten_answers(bench):
    answers = ["listerin", "listerine", "unanswerable", *["listerine"] * 7]
    questions = text_question(1, answers), text_question(2, ["less intense"] * 10), text_question(3, ["mint"] * 10)
    assert prepare_textvqa(bench, *questions).exit_code == 0
    brand, two, none = bench.rows()
    assert (brand["id"], brand["solution"], brand["question_type"]) == ("1", "listerine", "text")
    assert brand["answers"] == [*["listerine"] * 8, "listerin", "unanswerable"]
    (region,) = brand["regions"]
    assert (region["label"], region["box"]) == ("Listerine", pytest.approx([120, 40, 140, 45]))
    assert [region["label"] for region in two["regions"]] == ["LESS", "INTENSE"]
    assert none["has_region"] is False


@pytest.mark.parametrize(
    ("answers", "words", "expected"),
    [
        (["coca-cola"], ["drink", "COCA", "COLA", "coca"], [1, 2]),  # in a row, signs and case apart
        (["22"], ["22", "10", "22"], [0, 2]),  # wherever it stands
        (["nokia 3310", "nokia"], ["NOKIA"], [0]),  # a rarer answer that is there goes before a part
        (["the red bull"], ["THE", "BULL"], [1]),  # a part; "the" is none
        (["it is"], ["it"], []),  # too short for a part
        (["5:10"], ["5", "", ":", "10"], [0, 1, 2, 3]),
        (["--", "yes"], ["--"], []),
        (["a"], [], []),
    ],
)
def test_which_words_are_an_answer(answers: list[str], words: list[str], expected: list[int]):
    assert words_of_answer(answers, words) == expected


def tree_row(number: int, **more) -> dict:
    image = base64.b64encode(png()).decode()
    return {"index": number, "image": image, "question": "What is the boy's hat made of?", "A": "straw", "B": "wool",
            "multi-choice options": "A. straw\nB. wool", "answer": "B", "category": "Perception/Material",
            "target_instances": "[[10, 20, 60, 80], [100, 20, 130, 40]]", **more}  # fmt: skip


def write_treebench(bench, rows: list[dict]):
    file = bench.root / "TreeBench.tsv"
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return file


def prepare_treebench(bench, *rows):
    return bench.prepare("treebench", "--file", write_treebench(bench, rows), "--split", "test")


def test_treebench_embeds_its_pictures_and_shows_its_options_once(bench):
    ocr = {"question": "Which word? A. STOP\nB. GO", "multi-choice options": "A. STOP\nB. GO", "A": "", "B": "B"}
    assert prepare_treebench(bench, tree_row(0), tree_row(1, **ocr)).exit_code == 0
    hat, word = bench.rows()
    suffix = "\nAnswer with the option's letter from the given choices."
    assert hat["question"] == "What is the boy's hat made of? Options:\nA. straw\nB. wool" + suffix
    assert (hat["id"], hat["solution"], hat["answers"], hat["question_type"]) == (
        "0", "B", ["B", "wool"], "Perception/Material")  # fmt: skip
    assert [region["box"] for region in hat["regions"]] == [[10, 20, 60, 80], [100, 20, 130, 40]]
    assert hat["images"][0]["bytes"] == png()
    assert word["question"] == ocr["question"] + suffix
    assert word["answers"] == ["B"]  # an option "B" that is no letter of an option would accept any answer


BAD = {
    prepare_vstar: (GLOVE, [
        (glove_b(label="E"), "malformed_record"),
        (glove_b(label=None), "malformed_record"),
        (glove_b(text="What?"), "malformed_record"),
        (glove_b(image="direct_attributes/none.jpg"), "missing_annotation"),
        (glove_b(image="../images/direct_attributes/b.jpg"), "path_outside_image_dir"),
        (glove_b(annotation={"bbox": []}), "malformed_record"),
        (glove_b(annotation={"bbox": [[1, 2, 3, 4]] * 2}), "malformed_record"),
        (glove_b(annotation={"bbox": [[400, 50, 20, 20]]}), "box_outside_image"),
        ("[]", "malformed_record"),
    ]),
    prepare_textvqa: (text_question(1, ["mint"]), [
        (text_question(9, None), "no_answer"),
        (text_question(9, []), "no_answer"),
        (text_question(9, "listerine"), "malformed_record"),
        (text_question(9, ["x", 5]), "malformed_record"),
        (text_question(9, ["bad"]), "zero_area_box"),
        (text_question(9, ["x"], image_id=None), "malformed_record"),
        (text_question(9, ["x"], image_id="b"), "missing_image"),
        (text_question(1, ["x"]), "duplicate_id"),
        ("question", "malformed_record"),
    ]),
    prepare_treebench: (tree_row(0), [
        (tree_row(1, target_instances=""), "malformed_record"),
        (tree_row(1, target_instances="[]"), "malformed_record"),
        (tree_row(1, target_instances="__import__('os').getcwd()"), "malformed_record"),
        (tree_row(1, target_instances="[" * 5000), "malformed_record"),
        (tree_row(1, target_instances="[[60, 20, 10, 80]]"), "reversed_box"),
        (tree_row(1, image="no base64"), "unreadable_image"),
        (tree_row(1, image="YWJj"), "unreadable_image"),
        (tree_row(1, answer="wool"), "malformed_record"),
        (tree_row(1, **{"multi-choice options": ""}), "malformed_record"),
        (tree_row(0), "duplicate_id"),
    ]),
}  # fmt: skip
