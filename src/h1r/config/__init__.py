"""The recipe tree: typed, read from TOML, unknown keys refused. Imports no torch.

Every number of the paper's recipe is a field here; where the paper is silent the default is our choice and says so.
Section numbers refer to arXiv 2601.02346.
"""

from h1r.config.base import Section
from h1r.config.corpus import (
    CorpusBenchmark,
    CorpusSection,
    CorpusSource,
    GeneratedSource,
    MixtureSection,
    Source,
    TraceSection,
)
from h1r.config.curriculum import CurriculumSection
from h1r.config.data import (
    ChatSection,
    ClassifierSection,
    CurateSection,
    ProblemsSection,
    RLPoolSection,
    TokenizerSection,
)
from h1r.config.end_early import EndEarlySection
from h1r.config.generate import (
    BenchmarkSection,
    CaseSection,
    EndpointSection,
    EngineSection,
    EvalSection,
    GuardSection,
    InspectSection,
    SafetySection,
    ScalingSection,
)
from h1r.config.judge import JudgeSection
from h1r.config.prices import PriceSection
from h1r.config.recipe import Recipe, find_recipe, load_recipe, resolve
from h1r.config.rollout import EnvironmentSection, RolloutSection
from h1r.config.trackers import (
    MlflowSection,
    OwnTrackerSection,
    TensorboardSection,
    TrackerSection,
    TrackioSection,
    WandbSection,
)
from h1r.config.train import (
    BackfillSection,
    ClusterSection,
    LoraSection,
    MixedDataSection,
    ModelSection,
    OptimizerSection,
    ParallelSection,
    RLSection,
    SFTSection,
    ValidationSection,
)
from h1r.config.verify import ControlsSection, VerifySection

__all__ = [
    "BackfillSection",
    "BenchmarkSection",
    "CaseSection",
    "ChatSection",
    "ClassifierSection",
    "ClusterSection",
    "ControlsSection",
    "CorpusBenchmark",
    "CorpusSection",
    "CorpusSource",
    "CurateSection",
    "CurriculumSection",
    "EndEarlySection",
    "EndpointSection",
    "EngineSection",
    "EnvironmentSection",
    "EvalSection",
    "GeneratedSource",
    "GuardSection",
    "InspectSection",
    "JudgeSection",
    "LoraSection",
    "MixedDataSection",
    "MixtureSection",
    "MlflowSection",
    "ModelSection",
    "OptimizerSection",
    "OwnTrackerSection",
    "ParallelSection",
    "PriceSection",
    "ProblemsSection",
    "RLPoolSection",
    "RLSection",
    "Recipe",
    "RolloutSection",
    "SFTSection",
    "SafetySection",
    "ScalingSection",
    "Section",
    "Source",
    "TensorboardSection",
    "TokenizerSection",
    "TraceSection",
    "TrackerSection",
    "TrackioSection",
    "ValidationSection",
    "VerifySection",
    "WandbSection",
    "find_recipe",
    "load_recipe",
    "resolve",
]
