"""The sections of the settings: every key, documented where it is defined."""

from dssm.sections.evaluation import Evaluate
from dssm.sections.indexing import Index
from dssm.sections.losses import Loss, LossKind
from dssm.sections.model import Model, Objective, Scorer, Tower, TowerKind
from dssm.sections.observing import Observe
from dssm.sections.optimizers import Optimizer, OptimizerKind, Schedule, ScheduleKind
from dssm.sections.publishing import Gate, ItemTable, PublishedTable, UserTable
from dssm.sections.reporting import Report, Tracking
from dssm.sections.samples import (
    Frozen,
    GroupNegatives,
    HardNegatives,
    Negatives,
    PopularityNegatives,
    Samples,
    Split,
    SuppressedNegatives,
    UnclickedNegatives,
    UniformNegatives,
)
from dssm.sections.spark import Spark
from dssm.sections.tables import (
    Catalogue,
    Counter,
    EventSource,
    History,
    KeyedTable,
    ProfileTable,
    Table,
    Target,
    TimeUnit,
    VectorTable,
    Window,
)
from dssm.sections.train import Elastic, Recent, Staging, Train

__all__ = [
    "Catalogue", "Counter", "Elastic", "Evaluate", "EventSource", "Frozen", "Gate", "GroupNegatives",
    "HardNegatives", "History", "Index", "ItemTable", "KeyedTable", "Loss", "LossKind", "Model", "Negatives",
    "Objective", "Observe", "Optimizer", "OptimizerKind", "PopularityNegatives", "ProfileTable", "PublishedTable",
    "Recent", "Report", "Samples", "Schedule", "ScheduleKind", "Scorer", "Spark", "Split", "Staging",
    "SuppressedNegatives", "Table", "Target", "TimeUnit", "Tower", "TowerKind", "Tracking", "Train",
    "UnclickedNegatives", "UniformNegatives", "UserTable", "VectorTable", "Window",
]  # fmt: skip
