"""The client of a running `vllm serve`: the protocol of `protocol.py` over its completions API, token ids both ways.

    VLLM_USE_V2_MODEL_RUNNER=0 vllm serve CHECKPOINT --host 127.0.0.1 \
        --logits-processors h1r.engine.vllm.worker:SeededSampler

One request is one trace, read token by token (`stream.py`), so that stop strings, cancelling and progress work
while it runs; at most `max_sequences` run at a time. What a server offers is asked for at the start:

* With `SeededSampler` tokens are drawn by `engine/sampling.py`: the same seeds give the tokens of the other engines.
  Without it vLLM samples, with seeds of its own that repeat on one server.
* With the DeepConf plugin (there when this package is installed beside the server) traces stop early.
* With VLLM_SERVER_DEV_MODE=1 and `WorkerExtension` the workers can be asked what they recorded, which the completions
  API has no room for: log-probabilities under the temperature. With our weight-transfer backend it takes new weights.

Left out: `sampling_logprobs` without that extension (not a number but at temperature 0 and 1);
`confidence_top_k` beyond the server's `--max-logprobs` (20).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from h1r.common.servers import Servers, api_key, is_loopback
from h1r.config import EngineSection
from h1r.engine.protocol import SamplingParams
from h1r.engine.server.events import UNKNOWN_ARGUMENT, UNREADABLE, Refused, get_json
from h1r.engine.server.stream import Stream
from h1r.engine.streaming import StreamingEngine
from h1r.engine.vllm.weights import BACKEND, agreed, memory_directory, weight_files
from h1r.errors import UserError
from h1r.models.checkpoint import read_config
from h1r.models.served import foreign_config

if TYPE_CHECKING:
    from torch import Tensor

SAMPLER = "--logits-processors h1r.engine.vllm.worker:SeededSampler"
EXTENSION = "VLLM_SERVER_DEV_MODE=1 and --worker-extension-cls h1r.engine.vllm.worker.WorkerExtension"
TRANSFER = f"""--weight-transfer-config '{{"backend": "{BACKEND}"}}'"""
"""What a server is started with, for what it can do."""


class VLLMServer(StreamingEngine):
    """Generates with the server at `url` ("http://127.0.0.1:8000"), or with several that serve the same checkpoint.

    The traces of a prompt go to one server, which shares their prefill, prompts to the one with the fewest requests;
    one that failed rests for a while. What one server cannot do, none of them is asked for.

    tokenizer: as in `NativeEngine`. eos_token_ids, vocab_size: None takes them from the served checkpoint where its
        directory can be read here. section: `max_sequences` requests at a time; `weights_directory`; `key_variable`.

    Raises `UserError` when a server does not answer, or does not say what is needed, and for a key that is not set.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        tokenizer: Any = None,
        section: EngineSection | None = None,
        eos_token_ids: Sequence[int] | None = None,
        vocab_size: int | None = None,
    ) -> None:
        self.section = section or EngineSection()
        self.servers = Servers([url] if isinstance(url, str) else url)
        self.url = self.servers.all[0].url
        self.key = api_key(self.section.key_variable)
        found = [self._served(server.url) for server in self.servers.all]
        served = found[0]
        for one, server in zip(found, self.servers.all, strict=True):
            for name in ("id", "root"):
                if one.get(name) != served.get(name):
                    raise UserError(f"{server.url} serves {one.get(name)}, and {self.url} {served.get(name)}")
        self.model, positions = str(served["id"]), min(int(one["max_model_len"]) for one in found)
        self.root = str(served.get("root", ""))
        """The checkpoint it was started on, as it was named there."""
        root = Path(self.root)
        foreign = foreign_config(root)
        self.config = read_config(root) if foreign is None and (root / "config.json").exists() else None
        """None where the checkpoint cannot be read from here, or is of a family that vLLM alone knows."""
        own = foreign or self.config
        if own is None and (eos_token_ids is None or vocab_size is None):
            raise UserError(f"{self.url} serves {root}, which is not here; give eos_token_ids and vocab_size")
        super().__init__(
            tokenizer,
            eos_token_ids if eos_token_ids is not None else own.eos_token_ids if own else (),
            vocab_size or (own.vocab_size if own else 0),
            positions,
        )
        self.seeded, self.stops_early = self._known("h1r_key", "deepconf_threshold")
        """Whether the server draws with our sampler, and ends a doubtful trace."""
        self.knows_sampling_logprobs = self.seeded and self._answers_calls()
        """At temperatures other than 0 and 1, too."""

    @property
    def has_other_weights(self) -> bool:
        """Whether a server took weights since it started, so that `root` no longer says what it runs."""
        return any(self._has_other_weights(server.url) for server in self.servers.all)

    def _has_other_weights(self, url: str) -> bool:
        try:
            return bool(self._json(f"{url}/weight_info")["weight_version"] != "default")
        except Refused:  # without its development mode nobody can change them
            return False
        except (OSError, *UNREADABLE) as error:
            raise UserError(f"the server at {url} does not say which weights it has ({error})") from None

    def _served(self, url: str) -> dict[str, Any]:
        """What a server says of its model."""
        try:
            served = self._json(f"{url}/v1/models")["data"][0]
            return {**served, "id": str(served["id"]), "max_model_len": int(served["max_model_len"])}
        except (Refused, OSError, *UNREADABLE) as error:
            raise UserError(
                f"no vLLM server answers at {url} ({error}); start one with `vllm serve`, and give its address "
                "without /v1"
            ) from None

    def _json(self, url: str, body: Any = None) -> Any:
        return get_json(url, body, key=self.key)

    def load_weights(self, weights: Mapping[str, Tensor] | str | Path) -> None:
        """Takes a state dict of the model, or a checkpoint directory of the served configuration, through the
        weight-transfer interface of vLLM's server, which waits for what runs and forgets cached prefixes. Its workers
        read files: a directory must be seen by both; a state dict goes through `[engine] weights_directory`, or through
        the memory of this machine. Raises `UserError` before anything changes for tensors that do not fit, and for a
        server that does not take weights."""
        self._refuse_without_transfer()
        assert self.config is not None
        place = self.section.weights_directory
        if isinstance(weights, Mapping) and place is None:
            if far := [server.url for server in self.servers.all if not _is_here(server.url)]:
                raise UserError(
                    f"{far[0]} is another machine, which reads no memory of this one; set [engine] weights_directory "
                    "to a directory that both see"
                )
            place = memory_directory()
        with weight_files(self.config, weights, place) as files:
            if unseen := [file for worker in self.call("h1r_unreadable", files) for file in worker]:
                raise UserError(
                    f"the server at {self.url} cannot read {unseen[0]}; put it into a directory that both see "
                    "([engine] weights_directory, for those of a trainer)"
                )
            self._post("pause?mode=wait")
            try:
                self._post("start_weight_update", {})
                self._post("update_weights", {"update_info": {"files": files}})
                self._post("finish_weight_update", {"weight_version": "h1r"})
            finally:
                self._post("resume")

    def received(self) -> dict[str, int]:
        """Checksum (`models/checksum.py`) of each tensor of the weights that the servers' workers took last, by name;
        empty before the first `load_weights`."""
        return agreed(self.call("h1r_received"))

    def call(self, method: str, *arguments: Any, url: str | None = None) -> list[Any]:
        """The answers of the workers of the server at `url`, or of all servers, to a method of `WorkerExtension`.
        Raises `Refused`, `OSError`."""
        body = {"method": method, "args": list(arguments)}
        urls = [server.url for server in self.servers.all] if url is None else [url]
        return [answer for one in urls for answer in self._json(f"{one}/collective_rpc", body)["results"]]

    def written(self, prompt_index: int, sample_index: int, first: int = 0) -> list[int]:
        """See `TellsTokens`."""
        return self._stream.written(prompt_index, sample_index, first) if isinstance(self._stream, Stream) else []

    def _open(self) -> Stream:
        return Stream(self)

    def _cannot(self, params: SamplingParams) -> str | None:
        if params.confidence_threshold is not None and not self.stops_early:
            return "confidence_threshold needs a server that has this package installed, for its DeepConf plugin"
        return None

    def _known(self, *arguments: str) -> list[bool]:
        """Of each argument, whether a processor of every server knows it: what it cannot work with is then refused, by
        its name. Unknown ones are ignored, unless a server refuses whatever it is given with what it says."""
        urls = [server.url for server in self.servers.all]
        found = [all(self._refuses(url, argument) for url in urls) for argument in arguments]
        repeats = any(found) and any(self._refuses(url, UNKNOWN_ARGUMENT) for url in urls)
        return [known and not repeats for known in found]

    def _refuses(self, url: str, argument: str) -> bool:
        extra = {argument: "none"}
        body = {"model": self.model, "prompt": [0], "max_tokens": 1, "temperature": 0.0, "vllm_xargs": extra}
        try:
            self._json(f"{url}/v1/completions", body)
        except Refused as refused:
            return argument in str(refused)
        except (OSError, *UNREADABLE) as error:
            raise UserError(f"the server at {url} does not answer completions ({error})") from None
        return False

    def _answers_calls(self) -> bool:
        try:
            return all(
                isinstance(self.call("h1r_sampling_logprobs", [], url=one.url)[0], list) for one in self.servers.all
            )
        except (Refused, OSError, *UNREADABLE):
            return False

    def _refuse_without_transfer(self) -> None:
        if self.config is None:
            raise UserError(
                f"{self.url} serves {self.root}, which is not here, or of a family of vLLM's alone: new weights cannot "
                "be checked against it"
            )
        try:
            self.call("h1r_unreadable", [])
            for server in self.servers.all:
                self._json(f"{server.url}/init_weight_transfer_engine", {"init_info": {}})
        except (Refused, OSError, *UNREADABLE) as error:
            raise UserError(
                f"the server at {self.url} takes no weights ({error}); start it on the new checkpoint, or with "
                f"{EXTENSION} {TRANSFER}"
            ) from None

    def _post(self, path: str, body: Any = None) -> None:
        """To every server, also where one fails at it."""
        failed: UserError | None = None
        for server in self.servers.all:
            try:
                self._json(f"{server.url}/{path}", {} if body is None else body)
            except (Refused, OSError, *UNREADABLE) as error:
                failed = failed or UserError(
                    f"the server at {server.url} failed at /{path} ({error}); its log says more"
                )
        if failed is not None:
            raise failed


def _is_here(url: str) -> bool:
    """Whether the address is this machine's loopback."""
    return is_loopback(urlsplit(url).hostname or "")
