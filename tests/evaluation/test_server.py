"""`--server`: answers over real HTTP on the loopback, attention from the local weights, failures that are counted."""

import json

import pytest
import torch

from sayo.client import ChatClient, ServerUnusable
from sayo.evaluation.evaluate import evaluate
from sayo.evaluation.local import LocalModel
from sayo.evaluation.records import Reply
from sayo.evaluation.server import ServerModel
from sayo.rollout import Completions


def asking(server, reader=None, timeout=5.0, **kwargs):
    return ServerModel(ChatClient(server.url, "toy", timeout=timeout, max_retries=0), reader, **kwargs)


def test_attention_is_that_of_the_local_weights(toy_policy, toy_rows, server, tmp_path, lines, monkeypatch):
    """Answers that the model gave itself and the same answers from the server: every figure is the same."""
    rows, local, text = toy_rows.select(range(6)), LocalModel(*toy_policy), "<answer>B</answer>"
    ids = torch.tensor([*toy_policy[1].tokenizer(text)["input_ids"], toy_policy[1].tokenizer.eos_token_id])

    def say(model, processor, inputs, **sampling):
        all_ids = ids.expand(len(inputs["input_ids"]), -1)
        return Completions(all_ids, torch.ones_like(all_ids))

    monkeypatch.setattr("sayo.evaluation.local.generate", say)
    evaluate(local, rows, tmp_path / "local")
    monkeypatch.undo()
    summary = evaluate(asking(server, local), rows, tmp_path / "served")
    assert summary["tas"] is not None and summary["truncated"] == 0
    for served, expected in zip(lines(tmp_path / "served"), lines(tmp_path / "local"), strict=True):
        assert served["completions"] == expected["completions"] == [text] and served["correct"] == expected["correct"]
        for name in ("tas", "vas", "rrar", "entropy", "image_mass"):
            assert served[name] == pytest.approx(expected[name], abs=1e-5)
        assert served["map"] == expected["map"]
        by_layer = expected["responses"][0]["tas_by_layer"]
        assert served["responses"][0]["tas_by_layer"] == pytest.approx(by_layer, abs=1e-5)


def test_a_cut_off_answer_has_no_end(toy_policy):
    replies = [Reply(" red", truncated=True), Reply(" red"), Reply("", truncated=True)]
    completions = LocalModel(*toy_policy)._ids_of(replies)
    tokenizer = toy_policy[1].tokenizer
    (red,) = tokenizer(" red")["input_ids"]
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    assert completions.ids.tolist() == [[red, pad], [red, end], [end, pad]]
    assert completions.mask.tolist() == [[1, 0], [1, 1], [1, 0]]


def test_failures_are_counted_and_asked_again(ten, server, tmp_path, lines):
    server.fault = lambda model, text, attempt: (500, {}, b"oops") if "Number 1?" in text else None
    summary = evaluate(asking(server), ten, tmp_path)
    assert summary["failed"] == {"http 500": 1} and summary["accuracy"] == 1.0 and summary["num_scored"] == 9
    assert lines(tmp_path)[1]["correct"] == [None] and "oops" in lines(tmp_path)[1]["errors"][0]["message"]
    server.fault, asked = lambda model, text, attempt: None, len(server.requests)
    assert evaluate(asking(server), ten, tmp_path)["failed"] == {} and len(server.requests) == asked + 1


def test_what_is_sent(ten, server, tmp_path):
    kwargs = {"num_samples": 2, "temperature": 0.5, "max_new_tokens": 7, "seed": 5}
    evaluate(asking(server, **kwargs), ten.select(range(1)), tmp_path)
    assert [body["seed"] for body in server.requests] == [5, 6]
    body = server.requests[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("toy", 0.5, 7)
    picture, text = body["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,") and text["text"] == "Number 0?"


def test_a_server_that_cannot_be_used_stops_the_run(ten, server, tmp_path, lines):
    server.fault = lambda model, text, attempt: (401, {}, b"no") if "Number 5?" in text else None
    with pytest.raises(ServerUnusable, match="refuses the key"):
        evaluate(asking(server, concurrency=1), ten, tmp_path)
    assert len(lines(tmp_path)) == 5  # what was answered is kept


def test_command_line(toy, server, tmp_path, sayo_command):
    """Failed samples are shown and are no success; the local weights read where the served answers look."""
    server.delay, attempts = 0.01, []
    server.fault = lambda model, text, attempt: (
        attempts.append(text) or ((400, {}, b"picture too large") if len(attempts) == 2 else None)
    )
    words = ("evaluate", toy.policy, "--data", toy.prepared, "--limit", 3, "--num-samples", 1, "--concurrency", 1)
    words += ("--server", server.url, "--server-model", "toy", "--out", tmp_path / "out")
    result = sayo_command(*words)
    assert result.exit_code == 1 and "samples failed: 1 http 400" in result.output
    result = sayo_command(*words)
    assert result.exit_code == 0 and "TAS" in result.output, result.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["server_model"] == "toy" and summary["tas"] is not None and len(server.requests) == 4
    words = ("evaluate", "a-label", "--data", toy.prepared, "--limit", 2, "--no-attention", "--server", server.url)
    words += ("--server-model", "toy", "--num-samples", 1, "--out", tmp_path / "label")
    server.fault = lambda model, text, attempt: (400, {}, b"no") if server.requests[-1]["messages"] == broken else None
    broken = server.requests[0]["messages"]
    for share, status in ((0.4, 1), (0.5, 0)):  # one sample of two fails
        result = sayo_command(*words, "--max-failed", share, "--concurrency", 1)
        assert result.exit_code == status and "a-label" in result.output
        assert ("samples failed: 1 http 400" in result.output) == bool(status)
