"""One GRPO step against TRL's `GRPOTrainer`: same checkpoint, prompts, lengths, groups, rewards, loss and threads.

    pip install --no-deps --target DIR trl==1.16.0
    python benchmarks/rl_step.py --peer DIR [--threads N] [--geometry tiny] [--repeats 5] [--json FILE]

prints one JSON list of rows. TRL also needs accelerate, datasets and pandas; add to the first line what is not
installed. Each trainer runs its own loop (`train_rl`, `GRPOTrainer.train`) in a process of its own, and they take
turns, step by step. A step is everything from weights to new weights: prompts, sampling, decoding, rewards,
advantages, forward, backward, clipping, AdamW and logging. TRL samples with transformers' `generate`, which is what it
has on a processor.

| column | what |
|---|---|
| processor_s, seconds | medians of a step, in processor and in wall time; the first step of each is left out |
| rollout_s, update_s | processor seconds before the rewards and after |
| cpu_ratio, ratio | how many times TRL's processor and wall time are these |
| peak_mb | most memory that the process held |
| grad_norm, ours_on_same | TRL's gradient norm at its first step, and ours on the same rollouts from the same weights |

No trace ends early: the end token is one that the model has no row for. So all have `--new-tokens` tokens, and every
prompt has the same length: no padding, which would cost TRL alone. Both take `--micro` sequences a pass, and neither
computes activations twice. The loss is DAPO's token mean with clip-higher, no KL and no cross-entropy. Gradient norms
that differ by more than 0.1 % end the run with an error.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import torch

from answering import Answering
from h1r.config import ChatSection, EngineSection, EnvironmentSection, RLSection
from h1r.data.tokenizer import load_tokenizer, train_tokenizer, with_chat_format
from h1r.engine.choose import open_engine
from h1r.kernels.selection import select
from h1r.models import build, load, save
from h1r.records import Problem, Trace, Verdict
from h1r.rollout.prompts import prompts_for
from h1r.train.batch import set_norms, to_rollouts
from h1r.train.memory import keep_freed_memory
from h1r.train.policy_update import accumulate_gradients, response_logprobs
from h1r.train.rl import train_rl
from h1r.train.rollouts import Group
from peers import GEOMETRIES

Row = dict[str, Any]
ENDLESS = "<|endless|>"
FOREVER = 1_000_000
CLOCKS = ("seconds", "processor_s", "rollout_s", "update_s")


@dataclass(frozen=True)
class Task:
    """What both do, step by step. prompts: groups; group: traces of each; micro: sequences of a pass."""

    checkpoint: str
    prompts: int = 8
    group: int = 8
    new_tokens: int = 128
    micro: int = 16
    threads: int = 1
    learning_rate: float = 1e-5
    keep: bool = False
    peer: str = ""

    @property
    def section(self) -> RLSection:
        """The same as a recipe's [rl]."""
        length = len(prompt_of(self)) + self.new_tokens
        return RLSection.model_validate(
            {
                "steps": FOREVER, "warmup_steps": 0, "checkpoint_every": FOREVER, "batch_size": self.prompts,
                "num_generations": self.group, "temperature": 1.0, "max_tokens": self.new_tokens, "positive_ce": 0.0,
                "rewards": {"format": 0.0}, "optimizer": {"learning_rate": self.learning_rate},
                "micro_batch_tokens": self.micro * length,
            }
        )  # fmt: skip

    @property
    def questions(self) -> list[str]:
        """As many as prompts, of equal length: the tokenizer writes each digit as a token."""
        draw = random.Random(0)
        return ["".join(draw.choices("0123456789", k=24)) for _ in range(self.prompts)]


def prompt_of(task: Task, number: int = 0) -> list[int]:
    """Token ids of a prompt, as training sees them."""
    problem = Problem(str(number), task.questions[number], "")
    return list(prompts_for(load_tokenizer(task.checkpoint), [problem], None, EnvironmentSection())[0])


def reward_of(text: str) -> float:
    """Vowels: hardly ever equal in a whole group, and far apart beside the 1e-4 that TRL adds to a deviation."""
    return float(sum(map(text.count, "aeiou")))


def make_checkpoint(geometry: str, place: Path) -> int:
    """Random weights, a tokenizer of all their rows and one token more, the end; the number of parameters."""
    config = GEOMETRIES[geometry]
    draw = random.Random(0)
    words = [" ".join("".join(draw.choices("abcdefghij", k=draw.randint(2, 7))) for _ in range(40)) for _ in range(600)]
    tokenizer = with_chat_format(train_tokenizer(words, config.vocab_size), ChatSection(system_prompt=""))
    if len(tokenizer) != config.vocab_size:
        raise SystemExit(f"the tokenizer has {len(tokenizer)} tokens, and the model {config.vocab_size}")
    tokenizer.add_special_tokens({"eos_token": ENDLESS})
    model = build(config.replaced(eos_token_id=None), 0)
    save(model, place, tokenizer)
    return sum(parameter.numel() for parameter in model.parameters())


class Turns:
    """The side of a trainer: it takes a step for each line of its standard input, and answers what it took."""

    def __init__(self, answers: IO[str]) -> None:
        self._answers = answers
        self._began: tuple[float, float] | None = None
        self._sampled = 0.0

    def sampled(self) -> None:
        """Called before the rewards of a step."""
        self._sampled = time.process_time()

    def wait(self, **found: Any) -> None:
        """Called before the first step, and after each with what is to be said of it. Ends the process when no more
        are asked for."""
        if self._began is not None:
            wall, processor = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
            rollout = self._sampled - self._began[1]
            found |= {"seconds": wall, "processor_s": processor, "rollout_s": rollout, "update_s": processor - rollout}
            found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps(found), file=self._answers, flush=True)
        if not sys.stdin.readline():
            raise SystemExit
        self._began = time.perf_counter(), time.process_time()


class Told:
    """A tracker that waits for the next turn."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        self._turns.wait(tokens=values["mean_tokens"], rollouts=values["groups"], grad_norm=values["grad_norm"])

    def close(self) -> None: ...


def work_as_h1r(task: Task, turns: Turns) -> None:
    """`train_rl` as `h1r rl` calls it, with rewards of a function in the place of verifiers."""
    keep_freed_memory()
    tokenizer = load_tokenizer(task.checkpoint)
    model = load(task.checkpoint).train().use(select("auto"))
    problems = [Problem(str(number), question, "") for number, question in enumerate(task.questions)]

    def verify(problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        turns.sampled()
        return [Verdict(0.0, {"correct": reward_of(text)}) for text in texts]

    section = EngineSection(max_sequences=task.prompts * task.group)
    with tempfile.TemporaryDirectory() as place, open_engine(section, tokenizer, model) as engine:
        turns.wait()
        told = Told(turns)
        train_rl(model, engine, verify, problems, task.section, told, tokenizer=tokenizer, directory=Path(place))


def work_as_trl(task: Task, turns: Turns) -> None:
    """`GRPOTrainer.train`, which answers its first step with the rollouts too."""
    if task.peer:
        sys.path.append(task.peer)
    if task.keep:
        keep_freed_memory()
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    said: dict[str, Any] = {}

    def vowels(prompts: list[Any], completions: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
        turns.sampled()
        rewards = [reward_of(one[0]["content"]) for one in completions]
        said.clear()
        said.update(tokens=statistics.mean(map(len, completion_ids)), rollouts=len(completion_ids) / task.group)
        said["same"] = [
            {"question": prompt[0]["content"], "ids": ids, "reward": reward}
            for prompt, ids, reward in zip(prompts, completion_ids, rewards, strict=True)
        ]
        return rewards

    class Waits(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            assert logs is not None
            same = {"same": said["same"]} if state.global_step == 1 else {}
            turns.wait(**{**said, "same": None, **same}, grad_norm=logs["grad_norm"])

    section = task.section
    with tempfile.TemporaryDirectory() as place:
        settings = GRPOConfig(
            output_dir=place, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
            save_strategy="no", disable_tqdm=True, logging_steps=1, max_steps=FOREVER, shuffle_dataset=False,
            per_device_train_batch_size=task.micro, gradient_accumulation_steps=task.prompts * task.group // task.micro,
            num_generations=task.group, max_completion_length=task.new_tokens, temperature=section.temperature,
            beta=section.kl_coef, epsilon=section.epsilon_low, epsilon_high=section.epsilon_high, loss_type="dapo",
            scale_rewards="group", optim="adamw_torch_fused", learning_rate=task.learning_rate,
            lr_scheduler_type="constant", weight_decay=section.optimizer.weight_decay,
            adam_beta1=section.optimizer.betas[0], adam_beta2=section.optimizer.betas[1],
            adam_epsilon=section.optimizer.eps, max_grad_norm=section.optimizer.grad_clip,
            model_init_kwargs={"dtype": "float32"},
        )  # fmt: skip
        trainer = GRPOTrainer(
            task.checkpoint,
            vowels,
            settings,
            Dataset.from_list([{"prompt": [{"role": "user", "content": one}]} for one in task.questions]),
            processing_class=load_tokenizer(task.checkpoint),
            callbacks=[Waits()],
        )
        turns.wait()
        trainer.train()


class Worker(Answering):
    """The other side: a trainer in a process of its own."""

    def __init__(self, engine: str, task: Task) -> None:
        environment = {"OMP_NUM_THREADS": str(task.threads), "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, __file__, "--work-as", engine, json.dumps(asdict(task))]
        super().__init__(engine, command, environment)

    def step(self) -> dict[str, Any]:
        """Of one step, what it took and what it did; the times go to standard error too."""
        answer: dict[str, Any] = self.ask("step")
        said = {name: round(answer[name], 3) for name in CLOCKS}
        print(json.dumps({"engine": self.name, **said}), file=sys.stderr)
        return answer


def gradient_norm(task: Task, rollouts: Iterable[Mapping[str, Any]]) -> float:
    """Of our loss on recorded rollouts, from the checkpoint's weights: {question, ids, reward}, group by group."""
    model, section, recorded = load(task.checkpoint).train().use(select("auto")), task.section, list(rollouts)
    prompts = {question: prompt_of(task, number) for number, question in enumerate(task.questions)}
    groups = []
    for start in range(0, len(recorded), task.group):
        mine = recorded[start : start + task.group]
        traces = [Trace(0, n, one["ids"], "", [], [], [], "length") for n, one in enumerate(mine)]
        rewards = [one["reward"] for one in mine]
        no = [False] * len(mine)
        groups.append(Group(mine[0]["question"], prompts[mine[0]["question"]], traces, rewards, no, [*no], 0))
    batch = [rollout for group in groups for rollout in to_rollouts(group, section)]
    set_norms(batch, section)
    with torch.no_grad():  # sampled from these weights: each importance weight is 1
        logprobs, _, lengths = response_logprobs(model, batch, section)
    for rollout, own in zip(batch, logprobs.split(lengths), strict=True):
        rollout.sampling_logprobs = own.tolist()
    accumulate_gradients(model, batch, section)
    return float(torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf")))


def compared(task: Task, engines: Sequence[str], repeats: int) -> list[Row]:
    """A row for each engine: medians of `repeats` steps in turns, after one of each."""
    workers = [Worker(engine, task) for engine in engines]
    try:
        first = {worker.name: worker.step() for worker in workers}
        rows = [{worker.name: worker.step() for worker in workers} for _ in range(repeats)]
    finally:
        for worker in workers:
            worker.end()
    same: Row = {}
    if "trl" in first:
        same = {"grad_norm": first["trl"]["grad_norm"], "ours_on_same": gradient_norm(task, first["trl"]["same"])}
        check_equal(same["grad_norm"], same["ours_on_same"])
    table = [row_of(engine, [first[engine], *(row[engine] for row in rows)], task) for engine in engines]
    for row in table:
        row["ratio"] = round(table[-1]["seconds"] / row["seconds"], 2)
        row["cpu_ratio"] = round(table[-1]["processor_s"] / row["processor_s"], 2)
    return [{**row, **same} for row in table]


def check_equal(theirs: float, ours: float) -> None:
    """Ends the run when two gradient norms of one batch are apart."""
    if not abs(theirs - ours) < 1e-3 * theirs:
        raise SystemExit(f"on the same rollouts TRL's gradient norm is {theirs}, and ours {ours}")


def row_of(engine: str, steps: Sequence[Mapping[str, Any]], task: Task) -> Row:
    """Of the steps of one engine. Ends the run where one did other work than was asked for."""
    done = {(step["rollouts"], step["tokens"]) for step in steps}
    if done != {(task.prompts, task.new_tokens)}:
        raise SystemExit(f"{engine} took steps of (groups, tokens) {sorted(done)}")
    medians = {name: round(statistics.median(step[name] for step in steps[1:]), 4) for name in CLOCKS}
    return {
        "engine": engine, "prompts": task.prompts, "group": task.group, "prompt_tokens": len(prompt_of(task)),
        "new_tokens": task.new_tokens, "micro": task.micro, "threads": task.threads, **medians,
        "peak_mb": steps[-1]["peak_mb"], "repeats": len(steps) - 1,
    }  # fmt: skip


def work_as(engine: str, given: str) -> NoReturn:
    """The process of a `Worker`. What a library prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    task = Task(**json.loads(given))
    torch.set_num_threads(task.threads)
    {"h1r": work_as_h1r, "trl": work_as_trl}[engine](task, Turns(answers))
    raise SystemExit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default="", metavar="DIR", help="where TRL is, if not in this environment")
    parser.add_argument("--geometry", action="append", choices=[*GEOMETRIES], help="repeat for more; default: all")
    parser.add_argument("--engines", default="h1r,trl", help="ratios are to the last one")
    parser.add_argument("--prompts", type=int, default=Task.prompts)
    parser.add_argument("--group", type=int, default=Task.group)
    parser.add_argument("--new-tokens", type=int, default=Task.new_tokens)
    parser.add_argument("--micro", type=int, default=Task.micro, help="sequences of a pass, of both")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--keep", action="store_true", help="TRL's process keeps freed memory too, as ours does")
    parser.add_argument("--repeats", type=int, default=5, help="steps of each after the first")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--work-as", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work_as:
        work_as(*asked.work_as)
    table: list[Row] = []
    for geometry in asked.geometry or GEOMETRIES:
        with tempfile.TemporaryDirectory(prefix="h1r-rl-step-") as place:
            parameters = make_checkpoint(geometry, Path(place))
            task = Task(
                place, asked.prompts, asked.group, asked.new_tokens, asked.micro, asked.threads, keep=asked.keep,
                peer=asked.peer,
            )  # fmt: skip
            rows = compared(task, asked.engines.split(","), asked.repeats)
        table += [{"geometry": geometry, "parameters": parameters, **row} for row in rows]
        print(json.dumps(table[-len(rows) :]), file=sys.stderr)
    text = json.dumps(table, indent=1)
    if asked.json:
        asked.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
