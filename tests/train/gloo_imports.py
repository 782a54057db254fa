"""What the processes of `gloo_workers` have imported before they are forked, and which no collection looks at again.

Functions import some of it: an optimizer torch's compiler, and a tokenizer most of transformers.
"""

import gc
import importlib

NAMES = (
    "hypothesis",
    "pytest",
    "h1r.data.curate.plan",
    "h1r.models.falcon_h1.decode",
    "h1r.models.falcon_h1.family",
    "h1r.train.rl",
    "h1r.train.sft",
    "tiny_training",
    "torch._dynamo",
    "transformers.convert_slow_tokenizer",
    "transformers.models.auto.tokenization_auto",
    "transformers.tokenization_utils_tokenizers",
)
gc.disable()
for name in NAMES:
    importlib.import_module(name)
gc.freeze()
gc.enable()
