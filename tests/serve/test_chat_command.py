"""`h1r chat` as a process: with a checkpoint, with a server, on a terminal and without one."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

from scripted_server import scripted
from served_model import KEY, NAME, QUESTION, Running, eventually

import warm

SAYS = ("<th", "ink>", "let me\x1b]0;owned\x07 see", "</think>", "\n\nfour\x1b[2J")
LEFT = "let me\\x1b]0;owned\\x07 see\n\nfour\\x1b[2J\n"


def test_a_checkpoint_answers_as_the_server_does_and_forgets_when_told(run: Path, server: Running) -> None:
    typed = f"{QUESTION}\nAnd then?\n/new\n{QUESTION}\n/deepconf 9999\n/deepconf 8\n{QUESTION}\n/exit\nnever read\n"
    done = warm.run("chat", run, "--seed", 4, "--set", "chat.system_prompt=", stdin=typed)
    assert done.returncode == 0, done.stderr
    turns: list[dict[str, str]] = []
    told: list[str] = []
    for question in (QUESTION, "And then?"):
        turns.append({"role": "user", "content": question})
        body = {"model": NAME, "messages": turns, "seed": 4}
        message = server.client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
        turns.append({"role": "assistant", "content": message["content"]})
        told.append(message["content"])
    assert done.stdout.startswith("".join(f"{_shown(text)}\n" for text in (*told, told[0])))
    assert re.search(r"\[\d[\d,]* tokens in 8 traces; votes ", done.stderr)
    assert "at most 512 traces vote on an answer here" in done.stderr
    assert "never read" not in done.stdout


def test_a_model_that_learnt_single_questions_is_asked_each_alone_unless_it_is_told_otherwise() -> None:
    question = "What is 12 + 30?"
    typed = f"{question}\n{question}\n/turns\n{question}\n"
    done = warm.run("chat", "h1r:small", "--seed", 1, stdin=typed)
    assert done.returncode == 0, done.stderr
    assert "it has learnt single questions: each is asked alone" in done.stderr
    tokens = [int(one) for one in re.findall(r"\[(\d+) tokens\]", done.stderr)]
    answers = done.stdout.splitlines()
    half = answers[: len(answers) // 3]
    assert answers[: len(half)] == answers[len(half) : 2 * len(half)]
    assert tokens[0] == tokens[1]
    assert "questions are asked with the turns before" in done.stderr


def test_a_server_has_the_whole_turns_and_controls_nothing() -> None:
    with scripted(says=SAYS) as one:
        typed = "What is 2 + 2?\nAnd 3 + 3?\n/deepconf 16\nAnd 4 + 4?\n/unknown\n"
        done = warm.run("chat", one.url, stdin=typed)
        assert done.returncode == 0, done.stderr
        assert done.stdout == 3 * LEFT  # the refused command changes nothing
        roles = ["user", "assistant", "user", "assistant", "user"]
        assert [[turn["role"] for turn in body["messages"]] for body in one.requests] == [roles[:1], roles[:3], roles]
        assert one.requests[1]["messages"][1]["content"] == "four\x1b[2J"
    assert "this server has no DeepConf" in done.stderr
    assert "there is no /unknown" in done.stderr


def test_deepconf_of_a_server_with_a_key(server: Running) -> None:
    options = ("--set", "engine.key_variable=H1R_API_KEY", "--deepconf", 8, "--seed", 1)
    done = warm.run("chat", f"{server.url}/v1", *options, stdin=f"{QUESTION}\n", env={"H1R_API_KEY": KEY})
    assert done.returncode == 0, done.stderr
    assert " in 8 traces" in done.stderr
    most = server.client.get("/v1/models").json()["data"][0]["numbers"]["budget"]["maximum"]
    many = ("--set", "engine.key_variable=H1R_API_KEY", "--deepconf", most + 1)
    done = warm.run("chat", f"{server.url}/v1", *many, stdin=f"{QUESTION}\n", env={"H1R_API_KEY": KEY})
    assert done.returncode == 2
    assert f"at most {most} traces vote on an answer here" in done.stderr
    strange = warm.run("chat", f"{server.url}/v1", stdin=f"{QUESTION}\n")
    assert strange.returncode == 2
    assert "lists no models" in strange.stderr


def test_an_interrupt_ends_the_answer_and_not_the_conversation() -> None:
    with scripted(says=("a", *["b"] * 400), pause_s=0.05) as slow:
        process = warm.start("chat", slow.url, stdin="first\nsecond\n")
        try:
            assert eventually(lambda: "ab" in process.stdout.read_text(), 60), process.stderr.read_text()
            slow.pause_s = 0.0
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()
        assert "stopped; this turn is left out" in process.stderr.read_text()
        assert [turn["content"] for turn in slow.requests[1]["messages"]] == ["second"]


def test_on_a_terminal_thinking_is_dim() -> None:
    with scripted(says=SAYS) as one:
        master, slave = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "PYTHONPATH": os.pathsep.join(sys.path)}
        environment.pop("NO_COLOR", None)
        command = [sys.executable, "-m", "h1r", "chat", one.url]
        process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=subprocess.DEVNULL, env=environment)
        os.close(slave)
        seen = b""
        try:
            while b"> " not in seen:
                seen += os.read(master, 4096)
            os.write(master, b"What is 2 + 2?\n")
            while b"[2J" not in seen:
                seen += os.read(master, 4096)
            os.write(master, b"/exit\n")
            assert process.wait(60) == 0
        finally:
            process.kill()
            os.close(master)
    assert b"\x1b[2mlet me\\x1b]0;owned\\x07 see" in seen
    assert b"\x1b[2mfour" not in seen
    assert b"\x1b[2J" not in seen
    assert b"\x1b]0;" not in seen


def _shown(text: str) -> str:
    from h1r.common.terminal import shown

    return shown(text)
