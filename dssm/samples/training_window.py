"""What the training window says of tokens and numbers."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from dssm.config import Settings
from dssm.features import AnyFeature, EmbeddedFeature, embedded
from dssm.manifest import EVENT_TIME, ITEM_INDEX, Statistics
from dssm.samples.log import EVENTS, LAST, Log
from dssm.samples.raw_columns import HISTORY, USER
from dssm.samples.sources import ID
from dssm.samples.tables import VALID_FROM
from dssm.samples.vocabulary import has_tokens, needs_statistics, number_statistics, token_counts


class TrainingWindow:
    """Tables and columns weighted by the training events that carry them.

    Attributes:
      items: of `Log.item_counts`; users: of `Log.train_users`.
    """

    def __init__(
        self,
        settings: Settings,
        log: Log,
        tasks: int,
        catalogue: DataFrame,
        profiles: Mapping[str, DataFrame],
        providers: Mapping[str, str],
    ) -> None:
        self._settings, self._providers, self._log = settings, providers, log
        self.items = log.item_counts().cache()
        trained = self.items.filter(F.col(EVENTS) > 0).select(ITEM_INDEX, EVENTS)
        self._by_item = catalogue.select(ID, ITEM_INDEX).join(trained, ITEM_INDEX)
        self.users = log.train_users(tasks).cache()
        self._frames: dict[str, DataFrame] = {"catalogue": catalogue.join(trained, ITEM_INDEX)}
        for name, profile in profiles.items():
            self._frames[f"profiles.{name}"] = self._of_profile(name, profile)

    def _of_profile(self, name: str, profile: DataFrame) -> DataFrame:
        """A user's events count for its newest snapshot among those that its events see."""
        if self._settings.profiles[name].has_snapshots:
            seen = profile.join(self.users, ID).filter(F.col(VALID_FROM) <= F.col(LAST))
            newest = Window.partitionBy(ID).orderBy(F.desc(VALID_FROM))
            return seen.withColumn("__rank", F.row_number().over(newest)).filter("__rank = 1").drop("__rank")
        if self._settings.profiles[name].available_from is None:
            return profile.join(self.users, ID)
        rows = profile.select(ID, VALID_FROM).join(self._log.train_events(), ID)
        counts = rows.filter(F.col(EVENT_TIME) >= F.col(VALID_FROM)).groupBy(ID).agg(F.count("*").alias(EVENTS))
        return profile.join(counts, ID)

    def _frame(self, feature: AnyFeature) -> DataFrame:
        if feature.side == "item":
            return self._frames["catalogue"]
        provider = self._providers[feature.source_column]
        if provider == USER:
            return self.users.withColumn(feature.source_column, F.col(ID))
        if provider == HISTORY:
            return self._by_item.withColumn(feature.source_column, F.col(ID))
        return self._frames[provider]

    def token_counts(self) -> list[DataFrame]:
        """Counts, for each feature with tokens, the training events that carry each token."""
        of_table: dict[str, list[EmbeddedFeature]] = {}
        owners = {feature.name: feature for feature in embedded(self._settings.features)}
        for feature in embedded(self._settings.features):
            if not has_tokens(feature) or not has_tokens(owners[feature.vocabulary]):
                continue
            provider = "catalogue" if feature.side == "item" else self._providers[feature.source_column]
            if provider == HISTORY and feature.share_embedding is not None:
                continue  # its tokens are events themselves: the table's owner counts them
            # The user's own column, and that of a history, take the feature's name: one table a column.
            own = provider in (USER, HISTORY)
            of_table.setdefault(f"{provider}.{feature.source_column}" if own else provider, []).append(feature)
        return [token_counts(self._frame(features[0]), features, EVENTS) for features in of_table.values()]

    def statistics_needed(self) -> list[str]:
        return [feature.name for feature in self._settings.features.values() if needs_statistics(feature)]

    def statistics(self) -> dict[str, Statistics]:
        """Returns the statistics of the numbers whose features ask for them."""
        asked: dict[str, list[AnyFeature]] = {}
        for feature in self._settings.features.values():
            if needs_statistics(feature):
                provider = "catalogue" if feature.side == "item" else self._providers[feature.source_column]
                asked.setdefault(provider, []).append(feature)
        found: dict[str, Statistics] = {}
        for features in asked.values():
            found |= number_statistics(self._frame(features[0]), features, EVENTS)
        return {name: found[name] for name in self._settings.features if name in found}
