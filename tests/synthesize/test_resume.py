"""A run that is killed, refused or cut off goes on without paying twice, and ends with the same data."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from synthesize.conftest import read_out
from synthesize.prepared import anchors_line, row

from data_prep.synthesize.client import ChatClient, ServerUnusable
from data_prep.synthesize.journal import Journal, JournalError
from data_prep.synthesize.pipeline import synthesize
from data_prep.synthesize.roles import Role, Roles
from data_prep.synthesize.visual_anchors import ROLES, VisualAnchors

COMMAND = [sys.executable, "-c", "from data_prep.synthesize.cli import synthesize_app; synthesize_app()"]


def _files(out):
    return {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "journal.jsonl"}


def test_kill_9_and_resume_give_the_same_bytes(prepare, run, server, tmp_path):
    prepared = prepare([row(index) for index in range(12)])
    whole = run(anchors_line(prepared, tmp_path / "whole", server.url, "--concurrency", "1"))
    assert whole.summary["kept"] == 12
    server.requests.clear()
    server.delay = 0.03
    line = anchors_line(prepared, tmp_path / "killed", server.url, "--concurrency", "3")
    process = subprocess.Popen([*COMMAND, *line], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(server.requests) < 15 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 15 <= len(server.requests) < 36 and not (tmp_path / "killed/data").exists()
    with (tmp_path / "killed/journal.jsonl").open("a") as file:
        file.write('{"id": "q7", "key": "torn')
    resumed = run(line)
    assert resumed.exit_code == 0 and "going on" in resumed.output
    assert len(server.requests) <= 36 + 3, "at most the calls in flight are paid for again"
    assert _files(resumed.out) == _files(whole.out)
    assert resumed.summary["cost"]["total"]["calls"] == 36


def _roles(url, journal, **options):
    client = ChatClient(url, backoff=0.01, **options)
    return Roles({name: Role(client, name, 1.0, 1.0) for name in ROLES}, journal)


def test_rows_that_failed_at_the_server_are_asked_again(prepare, server, tmp_path):
    prepared = prepare([row(index) for index in range(4)])
    server.fault = lambda model, text, attempt: (500, {}, b"no") if model == "reason" and "field 2" in text else None
    out = tmp_path / "out"
    out.mkdir()
    with Journal(out / "journal.jsonl") as journal:
        first = synthesize(prepared, out, VisualAnchors(_roles(server.url, journal, attempts=2)))
    assert first["rejected_by_reason"] == {"server_error": 1} and first["kept"] == 3
    assert first["cost"]["by_role"]["reason"]["failed_calls"] == 1
    [reject] = read_out(out).rejects
    assert reject["id"] == "q2" and "reason/0: http 500" in reject["detail"]
    server.fault = lambda *request: None
    before = len(server.requests)
    with Journal(out / "journal.jsonl") as journal:
        second = synthesize(prepared, out, VisualAnchors(_roles(server.url, journal)))
    assert second["kept"] == 4 and len(server.requests) == before + 2, "reason and anchor of one row"
    assert [one["id"] for one in read_out(out).rows] == ["q0", "q1", "q2", "q3"]


def test_a_dead_server_stops_the_run_and_keeps_the_answers(prepare, server, tmp_path):
    prepared = prepare([row(index) for index in range(30)])
    server.fault = lambda model, text, attempt: (500, {}, b"out of memory") if len(server.requests) > 9 else None
    with Journal(tmp_path / "journal.jsonl") as journal:
        with pytest.raises(ServerUnusable, match=r"rows in a row failed.*out of memory"):
            synthesize(prepared, tmp_path, VisualAnchors(_roles(server.url, journal, attempts=1)), concurrency=2)
        assert len(journal) == 9
    assert len(server.requests) < 30 and not (tmp_path / "data").exists()


def test_a_refused_key_ends_the_command(anchors, server):
    server.fault = lambda *request: (401, {}, b"bad key")
    result = anchors([row(index) for index in range(30)])
    assert result.exit_code == 2 and "refuses the key" in result.output and "goes on" in result.output
    assert len(server.requests) <= 16


def test_another_model_in_one_role_reuses_the_others(prepare, run, server, tmp_path):
    prepared = prepare([row(0), row(1)])
    run(anchors_line(prepared, tmp_path / "out", server.url))
    server.roles["better"] = server.roles["anchor"]
    line = anchors_line(prepared, tmp_path / "out", server.url, "--anchor-model", "better")
    assert run(line).summary["settings"]["models"]["anchor"] == "better"
    assert server.models() == {"describe": 2, "reason": 2, "anchor": 2, "better": 2}


def test_fewer_rows_leave_no_old_files(prepare, run, server, tmp_path):
    prepared = prepare([row(index) for index in range(4)])
    run(anchors_line(prepared, tmp_path / "out", server.url))
    assert len(run(anchors_line(prepared, tmp_path / "out", server.url, "--limit", "1")).rows) == 1


CALL = {"id": "a", "role": "r", "key": "k", "text": "t", "prompt_tokens": 1, "completion_tokens": 1, "counted": True}


def test_a_torn_last_line_is_dropped_and_overwritten(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps(CALL) + "\n" + json.dumps({**CALL, "key": "l"}))
    with Journal(path) as journal:
        assert journal.get("k")["text"] == "t" and journal.get("l") is None
        journal.append({**CALL, "key": "m", "text": "\ud800"})
    with Journal(path) as journal:
        assert len(journal) == 2 and journal.get("m")["text"] == "\ud800"
        assert journal.spent["r"]["calls"] == 2


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps(CALL) + "\nnonsense\n" + json.dumps(CALL) + "\n")
    with pytest.raises(JournalError, match=r"line 2 is no call"):
        Journal(path)
    assert path.read_text().count("\n") == 3, "nothing was cut off"


def test_two_runs_do_not_write_to_one_journal(tmp_path):
    with Journal(tmp_path / "journal.jsonl"), pytest.raises(JournalError, match="another run"):
        Journal(tmp_path / "journal.jsonl")
