"""`sayo synthesize visual-anchors` and `look-back` against a real server on loopback."""

import base64
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset
from PIL import Image
from synthesize import stub_server
from synthesize.conftest import command, picture, row, run_command, write_prepared
from synthesize.stub_server import LATE, completion, pictures_of, reasoned, response, text_of
from trl import is_conversational

from sayo.prompts import suffix_text, with_suffix
from sayo.rewards import accuracy_reward, look_back_reward

TEXTS = yaml.safe_load(Path(__file__).with_name("texts.yaml").read_text())


def test_rows_become_sft_data_with_the_prepared_columns(anchors):
    result = anchors([row(index) for index in range(6)])
    assert result.exit_code == 0, result.output
    data = load_dataset("parquet", data_files=str(result.out / "data/train-*.parquet"), split="train")
    assert data["id"] == [f"q{index}" for index in range(6)]
    assert is_conversational(data[0])
    assert data[0]["prompt"] == [{"role": "user", "content": row(0)["question"]}]
    assert data[0]["completion"][0]["role"] == "assistant"
    text = data[0]["completion"][0]["content"]
    assert text.startswith("<think>\n") and text.endswith("</think>\n<answer>red</answer>")
    assert "checking the image again" in text and "my own thoughts" not in text
    assert isinstance(data[0]["images"][0], Image.Image) and data[1]["images"][0].getpixel((0, 0)) == (0, 0, 255)
    assert (data[0]["solution"], data[0]["license"]) == ("red", "CC-BY-4.0")
    assert (result.out / "README.md").read_text().startswith("---\ntask_categories")


def test_only_the_describing_model_sees_the_image(anchors, server):
    server.delay = 0.02
    anchors([row(index) for index in range(8)], "--concurrency", "4")
    assert server.models() == {"describe": 8, "reason": 8, "anchor": 8} and server.most_at_once == 4
    assert all(bool(pictures_of(body)) == (body["model"] == "describe") for body in server.requests)
    assert not any("Answer: red" in text_of(body) for body in server.requests if body["model"] != "anchor")


def test_pictures_are_sent_as_they_are_but_upright(anchors, server):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    straight, turned = picture("blue", "JPEG"), picture("red", "JPEG", exif=exif)
    images = [{"bytes": straight, "path": "0.jpg"}, {"bytes": turned, "path": "1.jpg"}]
    anchors([row(0, images=images)])
    [body] = [body for body in server.requests if body["model"] == "describe"]
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    assert url == "data:image/jpeg;base64," + base64.b64encode(straight).decode()
    assert [image.size for image in pictures_of(body)] == [(8, 6), (6, 8)]


def test_tokens_add_up_and_nothing_is_asked_for_twice(anchors, server):
    rows = [row(index) for index in range(4)]
    tokens = anchors(rows).summary["tokens"]
    counts = {"answers": 4, "prompt_tokens": 400, "completion_tokens": 40, "answers_without_counts": 0}
    assert tokens["describe"] == tokens["anchor"] == counts
    assert tokens["total"] == {name: 3 * count for name, count in counts.items()}
    again = anchors(rows)
    assert again.summary["tokens"] == tokens and len(server.requests) == 12
    assert "12 answers so far, 1,200 prompt and 120 completion tokens" in again.output
    server.usage = None
    assert "3 answers came without counts" in anchors(rows, "--limit", "1", "--seed", "1").output


def test_a_second_sample_saves_a_row_and_a_question_about_a_caption_may_be_answered(anchors, server):
    late = f"The caption names red. {LATE}"
    server.roles["anchor"] = lambda body: reasoned(late, "red" if body["seed"] == 8 else "blue")(body)
    result = anchors([row(0, question="What colour does the caption name?")], "--seed", "7")
    assert result.summary["kept"] == 1 and server.models()["anchor"] == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images": []}, "image"),
        ({"images": [{"bytes": b"no picture", "path": "x.png"}]}, "image"),
        ({"images": [{"bytes": None, "path": "/nowhere/x.png"}]}, "image"),
        ({"solution": "", "answers": []}, "no_solution"),
    ],
)
def test_rows_that_cannot_be_asked_cost_nothing(anchors, server, changes, reason):
    result = anchors([row(0, **changes), row(1)])
    assert result.summary["rejected_by_reason"] == {reason: 1}
    assert len(server.requests) == 3


def test_near_duplicates_keep_the_first(anchors):
    rows = [row(0), row(1), row(0, id="again"), row(0, id="nearly", question="Say: " + row(0)["question"])]
    result = anchors(rows)
    assert [line["id"] for line in result.rows] == ["q0", "q1"]
    assert result.summary["rejected_by_reason"] == {"near_duplicate": 2}
    assert all("q0 (row 0)" in rejected["detail"] for rejected in result.rejected)


def test_a_cut_off_answer_rejects_the_row(anchors, server):
    cut_off = 200, {}, completion("<reasoning>It is", "length")
    server.fault = lambda model, text, attempt: cut_off if model == "reason" else None
    result = anchors([row(0)])
    assert result.exit_code == 2 and "nothing was kept" in result.output
    assert result.summary["rejected_by_reason"] == {"truncated": 1} and result.rows == []
    assert not list((result.out / "data").iterdir())


def test_limit_extra_and_keys(anchors, server, monkeypatch):
    monkeypatch.setenv("A_KEY", "secret-a")
    monkeypatch.setenv("B_KEY", "secret-b")
    keys = ("--api-key-env", "describe=A_KEY,reason=B_KEY,anchor=NO_KEY")
    extra = ("--extra", '{"temperature": null, "max_completion_tokens": 7}')
    result = anchors([row(index) for index in range(6)], "--limit", "4", *keys, *extra)
    assert (result.summary["read"], result.summary["kept"]) == (4, 4)
    sent = zip(server.requests, server.headers, strict=True)
    assert {body["model"]: headers["Authorization"] for body, headers in sent} == {
        "describe": "Bearer secret-a",
        "reason": "Bearer secret-b",
        "anchor": "Bearer none",
    }
    assert all("temperature" not in body and body["max_completion_tokens"] == 7 for body in server.requests)
    assert not any(b"secret-" in path.read_bytes() for path in result.out.rglob("*") if path.is_file())


def test_hostile_characters_in_questions(anchors):
    question = '{0} {answer} %s </description></reasoning>\nQuestion: "\\u0000" <think> \u202e ' + "🐈" * 100
    result = anchors([row(0, question=question), row(1)])
    assert result.exit_code == 0 and "q1" in [line["id"] for line in result.rows]


@pytest.mark.parametrize(("more", "message"), TEXTS["options"])
def test_wrong_options_say_what_to_do(anchors, more, message):
    result = anchors([row(0)], *more)
    assert result.exit_code == 2 and message in result.output


def test_other_data_are_not_overwritten(server, tmp_path):
    prepared = write_prepared([row(0), row(1)], tmp_path / "prepared")
    before = {path: path.read_bytes() for path in prepared.rglob("*.parquet")}
    result = run_command(command("visual-anchors", prepared, prepared, server.url))
    assert result.exit_code == 2 and "choose another --out" in result.output
    assert {path: path.read_bytes() for path in prepared.rglob("*.parquet")} == before


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


@pytest.mark.parametrize(("role", "kind", "fields", "reason"), TEXTS["rejections"])
def test_what_comes_back_is_checked(anchors, look_back, server, role, kind, fields, reason):
    answer = (lambda body: fields) if kind == "text" else getattr(stub_server, kind)(**fields)
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
