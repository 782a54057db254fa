"""The recipe tree: typed, read from TOML, unknown keys refused. Imports no torch.

Every number of the paper's recipe is a field here; where the paper is silent the default is our choice and says so.
Section numbers refer to arXiv 2601.02346.
"""

from h1r.config.base import Section
from h1r.config.data import (
    ChatSection,
    CurateSection,
    FileSource,
    GeneratedSource,
    ProblemsSection,
    RLPoolSection,
    Source,
    TokenizerSection,
)
from h1r.config.generate import EngineSection, EvalSection, ScalingSection
from h1r.config.judge import JudgeSection
from h1r.config.recipe import Recipe, load_recipe, resolve
from h1r.config.train import BackfillSection, ModelSection, OptimizerSection, ParallelSection, RLSection, SFTSection

__all__ = [
    "BackfillSection",
    "ChatSection",
    "CurateSection",
    "EngineSection",
    "EvalSection",
    "FileSource",
    "GeneratedSource",
    "JudgeSection",
    "ModelSection",
    "OptimizerSection",
    "ParallelSection",
    "ProblemsSection",
    "RLPoolSection",
    "RLSection",
    "Recipe",
    "SFTSection",
    "ScalingSection",
    "Section",
    "Source",
    "TokenizerSection",
    "load_recipe",
    "resolve",
]
