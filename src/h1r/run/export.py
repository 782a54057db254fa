"""A trained model for others: a directory for transformers and vLLM, a GGUF file for llama.cpp, a hub repository.

A directory has the weights, the tokenizer with its chat template, the sampling defaults, and a card that says where the
model comes from. GGUF is written by llama.cpp's own `convert_hf_to_gguf.py`, which lies in its source tree and in no
package: what it cannot convert is its to say.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from h1r.common.files import atomic, replace_directory
from h1r.common.prose import markdown_table
from h1r.errors import UserError
from h1r.run.listing import listed

CONVERTER = "convert_hf_to_gguf.py"
_LEFT_OUT = shutil.ignore_patterns(".*", "*.partial")


def export_directory(model: Path, target: Path) -> Path:
    """Copies a checkpoint, with a card where it has none, readable as the umask says. `UserError` for a target that is
    there, unless it is an empty directory."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already; give another --out")
    replace_directory(target, lambda place: _copy(model, place))
    return target


def _copy(model: Path, place: Path) -> None:
    shutil.copytree(model, place, dirs_exist_ok=True, ignore=_LEFT_OUT, copy_function=shutil.copyfile)
    if not (place / "README.md").exists():
        (place / "README.md").write_text(card(model), encoding="utf-8")


def card(model: Path) -> str:
    """The card of a model of a run (RUN/STAGE/model), in the hub's form: what made it, and what it scored."""
    run = model.parent.parent
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [open-h1r]", "---", ""]
    if not (run / "recipe.json").exists():
        return "\n".join([*lines, f"# {model.name}", "", "A checkpoint of Open-H1R.", ""])
    found = listed(run)
    lines += [f"# {run.name}", "", f"Made by Open-H1R: stage `{model.parent.name}` of the run `{run.name}`.", ""]
    if found.model == model.parent.name:
        rows = [(name, f"{100 * score:.1f} %") for name, score in found.scores.items()]
        lines += [markdown_table(["asked", "pass@1"], rows), ""]
    lines += ["System prompt, chat template and sampling defaults are those that it was trained and measured with.", ""]
    return "\n".join(lines)


def export_gguf(model: Path, target: Path, converter: Path | None, kind: str) -> Path:
    """Has llama.cpp's script write a GGUF file. converter: the script, or a source tree of llama.cpp; None: that of
    $LLAMA_CPP, or on the path. kind: `--outtype`. `UserError` where there is none, and where it fails."""
    script = _converter(converter)
    if target.exists():
        raise UserError(f"{target} is there already; give another --out")
    with atomic(target) as partial:
        command = [sys.executable, str(script), str(model), "--outfile", str(partial), "--outtype", kind]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not partial.exists():
            last = (done.stderr.strip() or done.stdout.strip() or "it wrote no file").splitlines()[-1]
            raise UserError(f"{script} did not convert {model}: {last}")
    return target


def _converter(given: Path | None) -> Path:
    places = [given] if given else [Path(os.environ["LLAMA_CPP"])] if os.environ.get("LLAMA_CPP") else []
    for place in places:
        script = place / CONVERTER if place.is_dir() else place
        if script.is_file():
            return script
        raise UserError(f"{script} is missing; give llama.cpp's source tree, or its {CONVERTER}")
    if found := shutil.which(CONVERTER):
        return Path(found)
    package = "is installed" if find_spec("gguf") else "is not installed either (`pip install gguf`)"
    raise UserError(
        f"GGUF is written by llama.cpp's {CONVERTER}, which is not on the path; the package gguf, which it needs, "
        f"{package}. Get llama.cpp's source tree, and give it as --converter or in LLAMA_CPP"
    )


def push(source: Path, repository: str, private: bool, kind: Literal["model", "dataset"] = "model") -> str:
    """Uploads a checkpoint, or a directory of a data set, as one commit to OWNER/NAME on the hub, which is made
    where it is missing; its address. The hub's own environment applies: HF_TOKEN, HF_ENDPOINT. `UserError` with the
    hub's reason."""
    import tempfile

    from huggingface_hub import HfApi, get_token

    if not (token := os.environ.get("HF_TOKEN") or get_token()):
        raise UserError("the hub wants a key to write; put a token of yours into HF_TOKEN, or run `hf auth login`")
    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if kind == "model":
                _copy(source, Path(folder))
            hub.create_repo(repository, private=private, exist_ok=True, repo_type=kind)
            given = folder if kind == "model" else source
            message = f"{'Model' if kind == 'model' else 'Data'} of Open-H1R"
            hub.upload_folder(repo_id=repository, folder_path=given, commit_message=message, repo_type=kind)
    except Exception as error:
        # The hub's are of these two kinds; the network's are those of its HTTP client, whichever that is.
        if not (isinstance(error, OSError | ValueError) or type(error).__module__.startswith(("httpx", "requests"))):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{repository} was not pushed: {reason}") from None
    return f"{hub.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repository}"
