"""SFT and RL killed at random moments (`kill -9`), and gone on with: is anything lost, repeated or changed?

    python benchmarks/kill_test.py [--kills 20] [--restarts 10] [--ray 0] [--seed 0] [--json]

A tiny run is trained once without interruption. Then the same is trained again and again while processes of it are
killed: the command itself, which samples, trains and drives, or one of its children, which verify. The moment is a
random step that the run has come to, so that a busy machine gets no fewer kills than an idle one. After a killed
command the same command is given again with `--resume`; a killed child the command has to survive. `restarts`: kills
of a random process under `torchrun --max-restarts` with two processes, which has to go on by itself. `ray`: kills of
RL on a Ray cluster of this machine with a trainer and two engines (needs the extra `ray`): of the driver, which is
given again, and of an actor that trains or samples, which the driver has to survive.

Prints {"kills", "finished", "lost", "repeated", "bit_equal"}, for each kind of victim too: how many runs ended by
themselves, steps that are missing in their metrics, steps that are there twice, and whether weights and metrics (but
for clocks) are those of the run without interruption. Exit status 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from killing import H1R, LIMIT_S, below, comes_to, end, killed, start, wait

CLOCKS = {"time", "tokens_per_s", "sync_seconds", "rollout_seconds", "train_seconds"}
RECIPE = """
name = "kill"
threads = 1
[verify]
workers = 1
[model]
overrides = { hidden_size = 32, intermediate_size = 64, num_hidden_layers = 2, num_attention_heads = 2 }
[tokenizer]
vocab_size = 300
[chat]
system_prompt = ""
[problems]
train = 64
rl = 16
held_out = 8
[[corpus.sources]]
kind = "reasoning_gym"
family = "chain_sum"
knobs = { min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 2 }
[rl_pool]
rollouts = 2
keep_unsolved_share = 1.0
keep_overlong_share = 1.0
[sft]
epochs = 20
batch_size = 4
seq_len = 256
checkpoint_every = 3
[rl]
steps = 24
warmup_steps = 0
batch_size = 2
num_generations = 4
temperature = 1.0
max_tokens = 24
checkpoint_every = 2
"""

ON_RAY = [word for key in ("backend=ray", "trainers=1", "engines=2") for word in ("--set", f"cluster.{key}")]
NOT_STARTED = "Ray did not start on this machine"
ACTORS = {"a trainer": "TrainerActor", "an engine": "EngineActor"}
"""What dies, and what its class is called."""


@dataclass
class Tally:
    """What came of the runs that were killed."""

    kills: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    lost: int = 0
    repeated: int = 0
    bit_equal: bool = True
    why: list[str] = field(default_factory=list)

    def compare(self, stage: str, killed: Path, unbroken: Path) -> None:
        """Counts a run that has ended."""
        self.finished += 1
        there, expected = metrics(killed, stage), metrics(unbroken, stage)
        seen = Counter(row["step"] for row in there)
        steps = {row["step"] for row in expected}
        self.lost += len(steps - seen.keys())
        self.repeated += sum(count - 1 for count in seen.values())
        same = there == expected and weights(killed, stage) == weights(unbroken, stage)
        if not same:
            self.why.append(f"{stage} of {killed.name} differs from the run without interruption")
        self.bit_equal &= same
        print(
            f"{killed.name}: {stage} {'equal' if same else 'differs'}, {dict(self.kills)}", file=sys.stderr, flush=True
        )

    def failed(self, why: str) -> None:
        """A run that did not go on."""
        self.bit_equal = False
        self.why.append(why)

    def numbers(self) -> dict[str, Any]:
        """As they are printed."""
        return {
            "kills": sum(self.kills.values()), "victims": dict(self.kills), "finished": self.finished,
            "lost": self.lost, "repeated": self.repeated, "bit_equal": self.bit_equal, "why": self.why,
        }  # fmt: skip


def metrics(run: Path, stage: str) -> list[dict[str, Any]]:
    """The lines of a stage's metrics, without what a clock says."""
    lines = (run / stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in CLOCKS} for line in lines]


def weights(run: Path, stage: str) -> bytes:
    return (run / stage / "model" / "model.safetensors").read_bytes()


def h1r(*arguments: str | Path) -> None:
    """Runs a command to its end."""
    subprocess.run([*H1R, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def steps_done(run: Path, stage: str) -> int:
    """Lines in a stage's metrics, the last of which may be half written."""
    path = run / stage / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def killed_runs(kills: int, base: Path, unbroken: Path, draw: random.Random) -> Tally:
    """SFT and RL in turns, each with kills until it ends, until `kills` are done."""
    tally, number = Tally(), 0
    while sum(tally.kills.values()) < kills and len(tally.why) < 3:
        stage = ("sft", "rl")[number % 2]
        run = base / f"killed-{number}"
        shutil.copytree(unbroken, run)
        number += 1
        for later in ("rl",) if stage == "rl" else ("sft", "rl_pool", "rl"):
            shutil.rmtree(run / later, ignore_errors=True)
            (run / "done" / f"{'pool' if later == 'rl_pool' else later}.json").unlink(missing_ok=True)
        _until_it_ends(tally, stage, run, kills, steps_done(unbroken, stage), draw)
        if not tally.why:
            tally.compare(stage, run, unbroken)
        shutil.rmtree(run)
    return tally


def _until_it_ends(
    tally: Tally, stage: str, run: Path, kills: int, steps: int, draw: random.Random, most: int = 6
) -> None:
    """At most `most` kills of a run, so that it ends some time."""
    begun, done = time.monotonic(), partial(steps_done, run, stage)
    for attempt in range(most + 1):
        process = start([*H1R, stage, "--resume", str(run)], run.with_suffix(".log"))
        try:
            if attempt == most or sum(tally.kills.values()) >= kills:
                wait(process, done)
            elif comes_to(process, done, draw.randint(min(done(), steps), steps), draw):
                children = below(process.pid)
                if children and draw.random() < 0.3:
                    tally.kills[f"{stage}, a child"] += killed(draw.choice(children))
                    wait(process, done)
                else:
                    process.kill()
                    process.wait()
                    tally.kills[f"{stage}, the command"] += 1
        except subprocess.TimeoutExpired:
            tally.failed(f"{stage}: no step in {LIMIT_S} s, {time.monotonic() - begun:.0f} s after its start")
            return
        finally:
            end(process)
        if process.returncode == 0:
            return
        if process.returncode != -signal.SIGKILL:
            tally.failed(f"{stage} ended with {process.returncode}: {run.with_suffix('.log').read_text()[-400:]}")
            return
    tally.failed(f"{stage} did not end")


def restarted_runs(kills: int, base: Path, curated: Path, draw: random.Random) -> Tally:
    """SFT by two processes under torchrun, which starts them again when one has been killed."""
    tally, number = Tally(), 0
    unbroken = base / "unbroken-2"
    shutil.copytree(curated, unbroken)
    subprocess.run(launched(unbroken, 0), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    steps = steps_done(unbroken, "sft")
    while sum(tally.kills.values()) < kills and not tally.why:
        run = base / f"restarted-{number}"
        done = partial(steps_done, run, "sft")
        shutil.copytree(curated, run)
        number += 1
        wanted = min(3, kills - sum(tally.kills.values()))
        process = start(launched(run, wanted), run.with_suffix(".log"))
        try:
            for moment in sorted(draw.sample(range(1, steps), wanted)):
                if not comes_to(process, done, moment, draw):
                    break
                ranks = [one for one in below(process.pid) if _is_rank(one)]
                if ranks:
                    tally.kills["a rank under torchrun"] += killed(draw.choice(ranks))
            wait(process, done)
        except subprocess.TimeoutExpired:
            tally.failed(f"torchrun: no step in {LIMIT_S} s")
        finally:
            end(process)
        if process.returncode:
            tally.failed(f"torchrun ended with {process.returncode}: {run.with_suffix('.log').read_text()[-400:]}")
        else:
            tally.compare("sft", run, unbroken)
        shutil.rmtree(run)
    return tally


def ray_runs(kills: int, base: Path, unbroken: Path, draw: random.Random) -> Tally:
    """RL on Ray with kills until it ends, held against RL in one process, until `kills` are done."""
    tally, number = Tally(), 0
    while sum(tally.kills.values()) < kills and not tally.why:
        run = base / f"ray-{number}"
        number += 1
        shutil.copytree(unbroken, run)
        shutil.rmtree(run / "rl")
        (run / "done" / "rl.json").unlink(missing_ok=True)
        try:
            _on_ray_until_it_ends(tally, run, kills, steps_done(unbroken, "rl"), draw)
        except subprocess.TimeoutExpired:
            tally.failed(f"rl on Ray: no step in {LIMIT_S} s: {run.with_suffix('.log').read_text()[-400:]}")
        if not tally.why:
            tally.compare("rl", run, unbroken)
        shutil.rmtree(run)
    return tally


def _on_ray_until_it_ends(
    tally: Tally, run: Path, kills: int, steps: int, draw: random.Random, most: int = 3, apart: int = 4
) -> None:
    """At most `most` kills of a run, so that it ends some time, and so many steps apart: a trainer that dies twice
    since a checkpoint is a fault of the run's own."""
    done, here, free, slow = partial(steps_done, run, "rl"), 0, 1, 0
    while True:
        process = start([*H1R, "rl", "--resume", str(run), *ON_RAY], run.with_suffix(".log"))
        victim = ""
        try:
            while victim != "the driver":
                moment = draw.randint(free, free + apart)
                over = here == most or sum(tally.kills.values()) >= kills or moment >= steps
                if over or not comes_to(process, done, moment, draw):
                    wait(process, done)
                    break
                victim, free = draw.choice([*ACTORS, "the driver"]), done() + apart
                ones = [one for one in below(process.pid) if is_actor(one, victim)]
                if victim == "the driver" or ones:
                    hit = killed(draw.choice(ones) if ones else process.pid)
                    tally.kills[f"{victim} on Ray"] += hit
                    here += hit
        finally:
            if victim == "the driver":
                process.wait()
            end(process)
        if process.returncode == 0:
            return
        if process.returncode == 2 and NOT_STARTED in run.with_suffix(".log").read_text()[-400:] and slow < most:
            slow += 1
            continue
        if process.returncode != -signal.SIGKILL:
            tally.failed(f"rl on Ray ended with {process.returncode}: {run.with_suffix('.log').read_text()[-400:]}")
            return


def is_actor(process: int, kind: str) -> bool:
    """Whether a process of a Ray cluster is an actor of a kind (`ACTORS`), by the title that Ray gives it."""
    try:
        title = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
    return kind in ACTORS and title.startswith(f"ray::{ACTORS[kind]}".encode())


def launched(run: Path, restarts: int) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "--max-restarts", str(restarts), "-m", "h1r", "sft", "--resume", str(run),
    ]  # fmt: skip


def _is_rank(process: int) -> bool:
    """A process of torchrun's that runs h1r, and not a child of one."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        return b"h1r" in words and b"RANK=" in Path(f"/proc/{process}/environ").read_bytes()
    except OSError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of commands and their children")
    parser.add_argument("--restarts", type=int, default=10, help="of processes under torchrun")
    parser.add_argument("--ray", type=int, default=0, help="of the driver and actors of RL on Ray")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="h1r-kill-") as place:
        base = Path(place)
        recipe, unbroken = base / "kill.toml", base / "unbroken"
        recipe.write_text(RECIPE, encoding="utf-8")
        h1r("curate", recipe, "--out", unbroken)
        curated = base / "curated"
        shutil.copytree(unbroken, curated)
        h1r("sft", unbroken)
        h1r("curate", "--pool", "rl", unbroken)
        h1r("rl", unbroken)
        tallies = {"resumed": killed_runs(options.kills, base, unbroken, draw)}
        if options.restarts:
            tallies["restarted"] = restarted_runs(options.restarts, base, curated, draw)
        tallies["on_ray"] = ray_runs(options.ray, base, unbroken, draw)
    found = {name: tally.numbers() for name, tally in tallies.items()}
    total = {key: sum(one[key] for one in found.values()) for key in ("kills", "finished", "lost", "repeated")}
    result = {**total, "bit_equal": all(one["bit_equal"] for one in found.values()), **found}
    print(json.dumps(result) if options.json else json.dumps(result, indent=1))
    return int(not result["bit_equal"] or bool(result["lost"] or result["repeated"]))


if __name__ == "__main__":
    sys.exit(main())
