"""A run that is killed, refused or cut off resumes without asking twice, and ends with the same data."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from synthesize.conftest import command, row, run_command, write_prepared

from data_prep.examples import PrepareError
from data_prep.synthesize.roles import ReplyJournal


def _files(out):
    return {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "journal.jsonl"}


def _interrupt(arguments, server, number, requests=15):
    """Run the command in a process of its own, and send it a signal after so many requests."""
    line = [sys.executable, "-c", "from sayo.cli import app; app()", *arguments]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while len(server.requests) < requests and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, number)
    return process


def test_kill_9_and_resume_give_the_same_bytes(server, tmp_path):
    prepared = write_prepared([row(index) for index in range(12)], tmp_path / "prepared")
    whole = run_command(command("visual-anchors", prepared, tmp_path / "whole", server.url, "--concurrency", "1"))
    assert whole.summary["kept"] == 12
    server.requests.clear()
    server.delay = 0.03
    line = command("visual-anchors", prepared, tmp_path / "killed", server.url, "--concurrency", "3")
    _interrupt(line, server, signal.SIGKILL).communicate()
    assert 15 <= len(server.requests) < 36 and not (tmp_path / "killed/data").exists()
    resumed = run_command(line)
    assert resumed.exit_code == 0 and "resuming" in resumed.output
    assert len(server.requests) <= 36 + 3, "at most the requests in flight are sent again"
    assert _files(resumed.out) == _files(whole.out)
    assert resumed.summary["tokens"]["total"]["answers"] == 36


def test_ctrl_c_ends_at_once_and_the_same_command_resumes(server, tmp_path):
    prepared = write_prepared([row(index) for index in range(8)], tmp_path / "prepared")
    line = command("visual-anchors", prepared, tmp_path / "out", server.url)
    server.fault = lambda *request: time.sleep(90) if len(server.requests) > 10 else None
    process = _interrupt(line, server, signal.SIGINT, requests=14)
    start = time.monotonic()
    output, _ = process.communicate()
    assert time.monotonic() - start < 10, "it does not wait for running requests"
    assert process.returncode == 130 and "the same command resumes" in output and "Traceback" not in output
    server.fault = lambda *request: None
    assert run_command(line).summary["kept"] == 8


def test_rows_that_failed_at_the_server_are_asked_again(anchors, server):
    rows = [row(index) for index in range(4)]
    server.fault = lambda model, text, attempt: (400, {}, b"no") if model == "reason" and "field 2" in text else None
    first = anchors(rows)
    assert first.exit_code == 1 and "1 rows failed at the server" in first.output
    assert first.summary["rejected_by_reason"] == {"server: http 400": 1}
    assert (first.summary["kept"], first.summary["failed"]) == (3, 1)
    [rejected] = first.rejected
    assert rejected["id"] == "q2" and "reason/0: no" in rejected["detail"]
    assert anchors(rows, "--max-failed", "0.25").exit_code == 0
    server.fault = lambda *request: None
    before = len(server.requests)
    second = anchors(rows)
    assert second.exit_code == 0 and len(server.requests) == before + 2, "reason and anchor of one row"
    assert [line["id"] for line in second.rows] == ["q0", "q1", "q2", "q3"]


def test_a_refused_key_stops_the_run(anchors, server):
    server.fault = lambda *request: (401, {}, b"bad key")
    result = anchors([row(index) for index in range(40)])
    assert result.exit_code == 2 and "refuses the key" in result.output and len(server.requests) <= 8


def test_an_unusable_server_stops_the_run_and_keeps_the_answers(anchors, server):
    served = itertools.count()
    server.fault = lambda *request: (400, {}, b"out of memory") if next(served) >= 9 else None
    result = anchors([row(index) for index in range(40)], "--concurrency", "2")
    assert result.exit_code == 2 and "20 requests failed in a row" in result.output and "resumes" in result.output
    assert len((result.out / "journal.jsonl").read_text().splitlines()) == 9
    assert len(server.requests) < 60 and not (result.out / "data").exists()


def test_another_model_in_one_role_reuses_the_others_and_fewer_rows_leave_no_old_files(anchors, server):
    anchors([row(index) for index in range(4)])
    server.roles["better"] = server.roles["anchor"]
    again = anchors([], "--model", "describe=describe,reason=reason,anchor=better", "--limit", "2")
    assert again.summary["settings"]["models"]["anchor"] == "better"
    assert server.models() == {"describe": 4, "reason": 4, "anchor": 4, "better": 2}
    assert len(again.rows) == 2 and len(list((again.out / "data").iterdir())) == 1


ANSWER = {"id": "a", "role": "r", "key": "k", "text": "t", "prompt_tokens": 1, "completion_tokens": 1}


def test_a_torn_last_line_is_dropped_and_overwritten(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps(ANSWER) + "\n" + json.dumps({**ANSWER, "key": "l"}))
    with ReplyJournal(path) as journal:
        assert list(journal.answers) == ["k"]
        journal.append({**ANSWER, "key": "m", "text": "\ud800"})
    with ReplyJournal(path) as journal:
        assert journal.answers["m"]["text"] == "\ud800" and journal.tokens()["r"]["answers"] == 2


def test_a_journal_that_cannot_be_used_is_named(tmp_path):
    path = tmp_path / "journal.jsonl"
    with ReplyJournal(path), pytest.raises(PrepareError, match="another run"):
        ReplyJournal(path)
    path.write_text(json.dumps(ANSWER) + "\nnonsense\n" + json.dumps(ANSWER) + "\n")
    with pytest.raises(PrepareError, match=r"line 2 is not an answer"):
        ReplyJournal(path)
    assert path.read_text().count("\n") == 3, "nothing was cut off"
