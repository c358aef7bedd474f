"""V*Bench, TextVQA and TreeBench: small records in the form of the published files, and what is wrong with others."""

import base64
import csv

import pytest

from data_prep.sources.textvqa import words_of_answer

# V*Bench: the published annotation and question of direct_attributes/sa_4690.jpg, on a smaller picture.
GLOVE = {
    "image": "direct_attributes/sa_4690.jpg", "category": "direct_attributes", "question_id": 0, "label": "A",
    "text": "What is the material of the glove?\n(A) rubber\n(B) cotton\n(C) kevlar\n(D) leather\nAnswer with the "
    "option's letter from the given choices directly.",
}  # fmt: skip
GLOVE_BOX = {"target_object": ["glove"], "bbox": [[56, 14, 155, 157]], "options": ["rubber"]}


def prepare_vstar(bench, *records, annotation=GLOVE_BOX):
    for name in ("direct_attributes/sa_4690", "direct_attributes/b"):
        bench.picture(f"{name}.jpg")
        bench.json(GLOVE_BOX if name.endswith("4690") else annotation, f"images/{name}.json")
    file = bench.lines(*records, name="test_questions.jsonl")
    return bench.prepare("vstar", "--questions", file, "--images", bench.images, "--split", "test")


def test_vstar_has_the_options_of_the_benchmark_and_the_box_of_each_object(bench):
    dogs = {**GLOVE, "image": "direct_attributes/b.jpg", "label": "B", "text": "Which side?\n(A) left\n(B) right"}
    two = {"target_object": ["dog", "motorcycle"], "bbox": [[145, 130, 11, 7], [68, 94, 15, 11]]}
    result = prepare_vstar(bench, GLOVE, dogs, annotation=two)
    assert result.exit_code == 0, result.output
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


@pytest.mark.parametrize(
    ("change", "annotation", "reason"),
    [
        ({"label": "E"}, {}, "malformed_record"),
        ({"label": None}, {}, "malformed_record"),
        ({"text": "What?"}, {}, "malformed_record"),
        ({"image": "direct_attributes/none.jpg"}, {}, "missing_annotation"),
        ({"image": "../images/direct_attributes/b.jpg"}, {}, "path_outside_image_dir"),
        ({}, {"bbox": []}, "malformed_record"),
        ({}, {"bbox": [[1, 2, 3, 4]] * 2}, "malformed_record"),
        ({}, {"bbox": [[400, 50, 20, 20]]}, "box_outside_image"),
    ],
)
def test_bad_vstar_records_are_named(bench, change: dict, annotation: dict, reason: str):
    bad = {**GLOVE, "image": "direct_attributes/b.jpg", **change}
    assert prepare_vstar(bench, GLOVE, bad, "[]", annotation={**GLOVE_BOX, **annotation}).exit_code == 0
    expected = {"malformed_record": 2} if reason == "malformed_record" else {reason: 1, "malformed_record": 1}
    assert bench.summary()["rejected_by_reason"] == expected


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
    result = prepare_textvqa(bench, text_question(1, answers), text_question(2, ["less intense"] * 10),
                             text_question(3, ["mint"] * 10))  # fmt: skip
    assert result.exit_code == 0, result.output
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


def tree_row(bench, number: int, **more) -> dict:
    image = base64.b64encode(bench.picture(f"{number}.jpg").read_bytes()).decode()
    return {"index": number, "image": image, "question": "What is the boy's hat made of?", "A": "straw", "B": "wool",
            "multi-choice options": "A. straw\nB. wool", "answer": "B", "category": "Perception/Material",
            "target_instances": "[[10, 20, 60, 80], [100, 20, 130, 40]]", **more}  # fmt: skip


def prepare_treebench(bench, *rows, more=()):
    file = bench.root / "TreeBench.tsv"
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return bench.prepare("treebench", "--file", file, "--split", "test", *more)


def test_treebench_embeds_its_pictures_and_shows_its_options_once(bench):
    ocr = {"question": "Which word? A. STOP\nB. GO", "multi-choice options": "A. STOP\nB. GO", "A": "", "B": "B"}
    result = prepare_treebench(bench, tree_row(bench, 0), tree_row(bench, 1, **ocr))
    assert result.exit_code == 0, result.output
    hat, word = bench.rows()
    suffix = "\nAnswer with the option's letter from the given choices."
    assert hat["question"] == "What is the boy's hat made of? Options:\nA. straw\nB. wool" + suffix
    assert (hat["id"], hat["solution"], hat["answers"], hat["question_type"]) == (
        "0", "B", ["B", "wool"], "Perception/Material")  # fmt: skip
    assert [region["box"] for region in hat["regions"]] == [[10, 20, 60, 80], [100, 20, 130, 40]]
    assert hat["images"][0]["bytes"] == (bench.images / "0.jpg").read_bytes()
    assert word["question"] == ocr["question"] + suffix
    assert word["answers"] == ["B"]  # an option "B" that is no letter of an option would accept any answer


BAD_ANSWERS = [
    (text_question(9, None), "no_answer"),
    (text_question(9, []), "no_answer"),
    (text_question(9, "listerine"), "malformed_record"),
    (text_question(9, ["x", 5]), "malformed_record"),
    (text_question(9, ["bad"]), "zero_area_box"),
    (text_question(9, ["x"], image_id=None), "malformed_record"),
    (text_question(9, ["x"], image_id="b"), "missing_image"),
    (text_question(1, ["x"]), "duplicate_id"),
    ("question", "malformed_record"),
]
BAD_ROWS = [
    ({"target_instances": ""}, "malformed_record"),
    ({"target_instances": "[]"}, "malformed_record"),
    ({"target_instances": "__import__('os').getcwd()"}, "malformed_record"),
    ({"target_instances": "[" * 5000}, "malformed_record"),
    ({"target_instances": "[[60, 20, 10, 80]]"}, "reversed_box"),
    ({"image": "no base64"}, "unreadable_image"),
    ({"image": "YWJj"}, "unreadable_image"),
    ({"answer": "wool"}, "malformed_record"),
    ({"multi-choice options": ""}, "malformed_record"),
    ({"index": 0}, "duplicate_id"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_ANSWERS)
def test_bad_textvqa_records_are_named(bench, bad, reason: str):
    assert prepare_textvqa(bench, text_question(1, ["mint"]), bad).exit_code == 0
    assert bench.summary()["rejected_by_reason"] == {reason: 1}


@pytest.mark.parametrize(("change", "reason"), BAD_ROWS)
def test_bad_treebench_rows_are_named(bench, change: dict, reason: str):
    assert prepare_treebench(bench, tree_row(bench, 0), tree_row(bench, 1, **change)).exit_code == 0
    assert bench.summary()["rejected_by_reason"] == {reason: 1}


@pytest.mark.parametrize("content", ["a\tb\n1\t2\n", "", "\xff", "index\timage\n\0\t1\n"])
def test_other_tables_are_one_line(bench, content: str):
    file = bench.root / "TreeBench.tsv"
    file.write_bytes(content.encode("latin1"))
    result = bench.prepare("treebench", "--file", file)
    assert result.exit_code == 2
    assert "TreeBench.tsv" in result.output and "Traceback" not in result.output
