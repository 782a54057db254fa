"""Our engines as a model of lm_eval (EleutherAI's harness, 0.4.13): a checkpoint, run or hub id.

    python -m h1r.delegate.lm_eval_model run --model h1r --model_args pretrained=CHECKPOINT --tasks gsm8k
    ... --model_args pretrained=CHECKPOINT,engine.kind=vllm,threads=8 --apply_chat_template

It is lm_eval's own command line, which knows no entry points of other packages, with this model registered. In Python:

    lm_eval.simple_evaluate(model=H1RLM("CHECKPOINT"), tasks=["gsm8k"])

Arguments of the model, besides `pretrained`, are keys of the recipe. Their `engine.max_sequences` takes
the place of --batch_size, which is passed over, as --device is. Generation runs on the recipe's engine, with its
policy for traces that fail. Log-likelihoods are those of the training forward, on documents laid end to end without
padding, so that no score depends on the batch; they want the model in this process (`engine.kind=native`).

What differs from lm_eval's own models, since it gave wrong scores in silence:

- thinking is no answer: with `--apply_chat_template` a reply is what stands after `</think>`, and the task's stop
  strings are looked for there. A reply that ends while it thinks is empty, and counted in a note.
- a trace that the engine failed at ends the evaluation, instead of being graded as an empty answer.
- text of a task never becomes the chat template's special tokens. Only chats that lm_eval kept in its cache of requests
  are read with their markers, since they are text there.
- the continuation of a chat is scored by itself; lm_eval's models score the line break before it too.
- each request draws from a stream of its own, and the same one asked again (`repeats`) from the next.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

if __name__ == "__main__" and find_spec("lm_eval") is None:
    sys.exit("h1r: tasks of lm_eval need that package; run `pip install 'open-h1r[lm_eval]'`")

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import model_registry
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from pydantic import TypeAdapter

from h1r.common.progress import note, progress
from h1r.common.prose import counted
from h1r.common.terminal import shown
from h1r.data.chat import conversation_ids
from h1r.data.control_tokens import guard, token_ids
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.evals.answers import open_checkpoint, recipe_of
from h1r.kernels.layout import Layout
from h1r.models import CausalLM
from h1r.records import Message
from h1r.response.extract import split_response
from h1r.rollout.pipeline import RolloutPipeline
from h1r.scaling.run import problem_seed

MAX_GEN_TOKS = 256
"""Tokens of an answer where the task says nothing, as in lm_eval's other models."""
TOKENS_AT_ONCE = 8192
"""Tokens of the documents whose log-likelihoods are computed together; our choice."""
_MESSAGE = TypeAdapter(Message)
_SAMPLING: dict[str, Callable[[Any], int | float]] = {"top_p": float, "top_k": int, "min_p": float, "seed": int}
_ASKED = "?"
_ROWS = 1024
"""Tokens whose logits are held at once; our choice."""
_WITHOUT_EFFECT = ("do_sample", "num_return_sequences", "skip_special_tokens")
"""Read elsewhere, or of other libraries and without a meaning here."""


class H1RLM(TemplateLM):
    """See the module. `UserError` for a checkpoint that cannot be opened, and for a key of the recipe that is none."""

    def __init__(
        self,
        pretrained: str,
        max_gen_toks: int = MAX_GEN_TOKS,
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: Any = None,
        **keys: Any,
    ) -> None:
        super().__init__()
        self._name, self._max_gen_toks = pretrained, int(max_gen_toks)
        self._recipe = recipe_of(pretrained, keys)
        self._things = ExitStack()
        self._engine, self.tokenizer = self._things.enter_context(open_checkpoint(pretrained, self._recipe))
        self._rollouts = RolloutPipeline(self._engine, self.tokenizer, section=self._recipe.rollout).engine
        self._chats: dict[str, list[int]] = {}
        asked = conversation_ids(self.tokenizer, [Message("user", _ASKED)])
        self._header = str(self.tokenizer.decode(asked, skip_special_tokens=False)).rpartition(_ASKED)[2]

    def close(self) -> None:
        """Ends the engine; nothing can be asked after it."""
        self._things.close()

    # What lm_eval asks of every model

    @property
    def eot_token_id(self) -> int:
        """What ends a document."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context: what begins a document, or else what ends one."""
        begins = self.tokenizer.bos_token_id
        return self.eot_token_id if begins is None else int(begins)

    @property
    def max_length(self) -> int:
        """Positions of the model, prompt and answer together."""
        return self._model.config.max_position_embeddings

    @property
    def max_gen_toks(self) -> int:
        """Tokens of an answer where the task says nothing."""
        return self._max_gen_toks

    @property
    def tokenizer_name(self) -> str:
        """For lm_eval's caches of requests."""
        return self._name.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a text; those of a chat are the ones it was rendered to."""
        found = self._chats.get(string)
        if found is not None:
            return list(found)
        return token_ids(self.tokenizer, [string if self._header in string else guard(self.tokenizer, string)])[0]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as the checkpoint was trained on it, up to where the model writes (or, without
        `add_generation_prompt`, through the last turn, which stays open)."""
        *before, last = chat_history
        opened = "" if add_generation_prompt else last["content"]
        turns = chat_history if add_generation_prompt else before
        ids = conversation_ids(self.tokenizer, [_MESSAGE.validate_python(turn) for turn in turns])
        text = str(self.tokenizer.decode(ids, skip_special_tokens=False)) + opened
        self._chats[text] = ids + (self.tok_encode(opened) if opened else [])
        return text

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answers, in order. `UserError` where the engine fails at one, or for sampling that it does not have."""
        seen: Counter[str] = Counter()
        prompts, params, stops = [], [], []
        for request in requests:
            context, asked = request.args
            repeat = seen[repr(request.args)]
            seen[repr(request.args)] += 1
            one, stop = self._sampling(context, dict(asked), repeat)
            prompts.append(self.tok_encode(context))
            params.append(one)
            stops.append(stop)
        texts = [""] * len(requests)
        empty = 0
        with progress("Generate", total=len(requests), unit="answer") as bar:
            for trace in self._rollouts.stream(prompts, params):
                if trace.finish_reason == "error":
                    raise UserError(f"the engine failed at a request of lm_eval: {trace.error}")
                number = trace.prompt_index
                text, request = trace.text, requests[number]
                if self._thinks(request.args[0]):
                    text = _answer(text, stops[number])
                    empty += not text
                texts[number] = text
                self.cache_hook.add_partial("generate_until", request.args, text)
                bar.advance()
        if empty:
            note(f"{counted(empty, 'answer')} of {len(texts)} have no text after their thinking, or end in it")
        return texts

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of each whole text in nats, in windows of the model's positions; each token is predicted
        once."""
        pieces: list[tuple[list[int], list[int]]] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1):
                pieces.append(make_disjoint_window(window))
                owners.append(number)
        sums = [0.0] * len(requests)
        for number, (logprob, _) in zip(owners, self._scores(pieces), strict=True):
            sums[number] += logprob
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **others: Any
    ) -> list[tuple[float, bool]]:
        found = self._scores([(context, continuation) for _, context, continuation in requests])
        for (texts, _, _), score in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, score)
        return found

    # How

    @property
    def _model(self) -> CausalLM:
        if not isinstance(self._engine, NativeEngine):
            raise UserError(
                "log-likelihoods want the model in this process: engine.kind=native, or lm_eval's own `vllm` model"
            )
        return self._engine.model

    def _thinks(self, context: str) -> bool:
        """Whether a context ends where a turn of the model begins, which may think first."""
        return context.endswith(self._header)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if self._header not in context:
            found: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
            return found
        return self.tok_encode(context), token_ids(self.tokenizer, [guard(self.tokenizer, continuation)])[0]

    def _sampling(self, context: str, asked: dict[str, Any], repeat: int) -> tuple[SamplingParams, tuple[str, ...]]:
        """Of one request: what the engine draws by, and the stop strings that only what follows the thinking has."""
        until = asked.pop("until", None) or ()
        stop = tuple(one for one in ((until,) if isinstance(until, str) else until) if one)
        limits = [asked.pop(name) for name in ("max_gen_toks", "max_new_tokens", "max_tokens") if name in asked]
        greedy = asked.get("do_sample") is False or not (asked.get("do_sample") or asked.get("temperature"))
        temperature = 0.0 if greedy else float(asked.get("temperature", 1.0))
        asked.pop("temperature", None)
        for name in _WITHOUT_EFFECT:
            asked.pop(name, None)
        if unknown := sorted(set(asked) - set(_SAMPLING)):
            raise UserError(f"the engine has no {' or '.join(unknown)}; leave it out of the task's generation_kwargs")
        given: dict[str, Any] = {
            name: kind(asked[name]) for name, kind in _SAMPLING.items() if asked.get(name) is not None
        }
        given["seed"] = problem_seed(given.get("seed", self._recipe.seed), context) + repeat
        thinks = self._thinks(context)
        params = SamplingParams(
            temperature=temperature,
            max_tokens=int(limits[0]) if limits else self._max_gen_toks,
            stop=() if thinks else stop,
            **given,
        )
        return params, stop if thinks else ()

    def _scores(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Of each (context, continuation): its log-probability in nats, and whether greedy decoding writes it. Contexts
        lose their beginning where both are longer than the model's positions."""
        found: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
        order = sorted(
            (n for n in range(len(pairs)) if pairs[n][1]), key=lambda n: -len(pairs[n][0]) - len(pairs[n][1])
        )
        with progress("Log-likelihoods", total=len(order), unit="text") as bar:
            for numbers in _batches(order, pairs):
                for number, score in zip(numbers, self._forward([pairs[n] for n in numbers]), strict=True):
                    found[number] = score
                    bar.advance()
        return found

    @torch.inference_mode()
    def _forward(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        model, most = self._model, self.max_length
        kept = [((context + continuation)[:-1][-most:], continuation[-most:]) for context, continuation in pairs]
        lengths = [len(ids) for ids, _ in kept]
        flat = torch.tensor([token for ids, _ in kept for token in ids], device=model.device)
        hidden = model.model(flat, Layout.of(lengths, model.device))
        scores, end = [], 0
        for (_, continuation), length in zip(kept, lengths, strict=True):
            end += length
            total, greedy = 0.0, True
            targets = torch.tensor(continuation, device=model.device)
            rows = hidden[end - len(continuation) : end]
            for part, wanted in zip(rows.split(_ROWS), targets.split(_ROWS), strict=True):
                logits = model.logits(part).float()
                total += float(logits.log_softmax(-1).gather(1, wanted[:, None]).double().sum())
                greedy &= bool((logits.argmax(-1) == wanted).all())
            scores.append((total, greedy))
        return scores


def _answer(text: str, stop: Sequence[str]) -> str:
    """What follows the thinking, up to the first stop string."""
    answer = (split_response(text).answer or "").lstrip()
    return answer[: min((at for one in stop if (at := answer.find(one)) >= 0), default=len(answer))]


def _batches(order: Sequence[int], pairs: Sequence[tuple[list[int], list[int]]]) -> Iterator[list[int]]:
    """Numbers of pairs in groups of at most `TOKENS_AT_ONCE` tokens, or of one."""
    group: list[int] = []
    tokens = 0
    for number in order:
        size = len(pairs[number][0]) + len(pairs[number][1])
        if group and tokens + size > TOKENS_AT_ONCE:
            yield group
            group, tokens = [], 0
        group.append(number)
        tokens += size
    if group:
        yield group


def register() -> None:
    """Makes `h1r` known to lm_eval in this process."""
    import lm_eval.models  # noqa: F401 (registers its own first: it does so only while nothing is there)

    if "h1r" not in model_registry:
        model_registry.register("h1r")(H1RLM)


def main() -> None:
    """lm_eval's command line, with `h1r` among its models."""
    from lm_eval.__main__ import cli_evaluate

    register()
    try:
        cli_evaluate()
    except UserError as error:
        print(f"h1r: {shown(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
