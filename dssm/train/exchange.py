"""What a training's step looks up of each table, and so how its gradients travel: see `dssm.train.traffic`."""

from __future__ import annotations

from dssm.config import Settings
from dssm.model.sharded import ShardedEmbedding
from dssm.model.two_tower import TwoTowerModel
from dssm.train.traffic import ExchangePlan, TableUse, lookups_of, plan_exchange


def exchange_of(settings: Settings, model: TwoTowerModel, ranks: int) -> ExchangePlan:
    """Returns the plan of a training: the same on all ranks, as it depends on the settings and the tables alone."""
    lookups = lookups_of(settings)
    uses, spread = [], []
    for vocabulary, table in model.towers.tables.items():
        held, dim = table.embeddings.shape
        is_spread = isinstance(table, ShardedEmbedding) and table.is_spread
        uses.append(TableUse(table.name, table.rows if is_spread else held, dim, lookups[vocabulary]))
        if is_spread:
            spread.append(table.name)
    tables = {id(table) for table in model.towers.embeddings}
    weights = sum(int(v.shape.num_elements()) for v in model.trainable_variables if id(v) not in tables)
    return plan_exchange(uses, spread, weights, ranks)
