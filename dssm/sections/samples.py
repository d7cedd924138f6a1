"""What build_samples makes of the rows: negatives, splits, vocabularies, files."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, FiniteFloat, PositiveInt, model_validator

from dssm.strict import StrictModel


class _Negatives(StrictModel):
    from_lists: ClassVar[bool] = False  # drawn from a list of items of each row, not from the catalogue

    count: int = Field(4, ge=1, le=1000, description="Negatives of each positive, drawn independently.")
    weight: FiniteFloat = Field(1.0, ge=0, description="Factor on the positive's sample weight.")

    # What a build has to read for them; the rest of it asks no further which kind they are.

    @property
    def group(self) -> str | None:
        """Column of the catalogue whose values part the items into groups."""
        return None

    @property
    def logs(self) -> tuple[str, ...]:
        """Event sources that are named."""
        return ()

    @property
    def published(self) -> dict[str, str]:
        """Places of a model's published vectors, by setting."""
        return {}


class UniformNegatives(_Negatives):
    """Uniform over the catalogue's items that existed at the event's time."""

    kind: Literal["uniform"] = "uniform"


class PopularityNegatives(_Negatives):
    """In proportion to popularity^exponent, popularity being the item's positives in the training window.

    0.75 is word2vec's. Below 0, the rarer an item the likelier it is. An item without positives is never drawn.
    """

    kind: Literal["popularity"] = "popularity"
    exponent: FiniteFloat = Field(0.75, ge=-4, le=4)


class SuppressedNegatives(_Negatives):
    """In proportion to popularity, with that of the most popular items suppressed by word2vec's rule.

    An item with share f of the positives has the weight f · min(1, √(t/f) + t/f) (Mikolov et al., 2013, as in
    the published code), so that negatives follow the positives that the same threshold leaves.
    """

    kind: Literal["suppressed"] = "suppressed"
    threshold: FiniteFloat = Field(1e-3, gt=0, le=1, description="t: items with a smaller share are not suppressed.")


class GroupNegatives(_Negatives):
    """Hard: uniform over the items of the positive's group that existed at the event's time."""

    kind: Literal["group"] = "group"
    column: str = Field(description="Column of the catalogue that names the group, such as city or author.")

    @property
    def group(self) -> str:
        return self.column


class UnclickedNegatives(_Negatives):
    """Shown and not clicked: drawn from the user's newest unclicked impressions at or before the event."""

    kind: Literal["unclicked"] = "unclicked"
    from_lists: ClassVar[bool] = True
    sources: tuple[str, ...] = Field((), description="Event sources that they come from; default: all.")
    pool: int = Field(50, ge=1, le=1000, description="Impressions drawn from, each equally likely; the newest.")

    @property
    def logs(self) -> tuple[str, ...]:
        return self.sources


class HardNegatives(_Negatives):
    """Hard: from ranks a…b of a previous model's ranking of the catalogue for the user (Huang et al., KDD 2020).

    The user's vector is the published one, where `users` names such a table and has the user; else the mean
    of the published vectors of what the user clicked in the training window.
    """

    kind: Literal["hard"] = "hard"
    from_lists: ClassVar[bool] = True
    items: str = Field(
        description="The model's published item vectors: a Parquet folder, or table:NAME, whose newest partition dt "
        "before the run's date is read. With {date} in the folder's path, that of the newest day before the run's "
        "date is read, at most 60 days back."
    )
    users: str | None = Field(None, description="Its user vectors, in the same way.")
    id: str = Field("item_id", description="Column of the item id.")
    user_id: str = Field("user_id", description="Column of the user id.")
    values: str = Field("vector", description="Column of the numbers.")
    ranks: tuple[PositiveInt, PositiveInt] = Field((101, 500), description="First and last rank drawn from.")

    @property
    def published(self) -> dict[str, str]:
        return {"items": self.items} | ({} if self.users is None else {"users": self.users})

    @model_validator(mode="after")
    def _ranks_ascend(self) -> HardNegatives:
        if self.ranks[0] > self.ranks[1]:
            raise ValueError(f"ranks: {self.ranks[0]} is above {self.ranks[1]}; expected [first, last]")
        if self.users is None and self.changed("user_id"):
            raise ValueError(f"user_id: '{self.user_id}' is a column of 'users'; name that table, or remove user_id")
        return self


Negatives = Annotated[
    UniformNegatives | PopularityNegatives | SuppressedNegatives | GroupNegatives | UnclickedNegatives | HardNegatives,
    Field(discriminator="kind"),
]


class Split(StrictModel):
    """Which events are tested on.

    time: [D, D + test_days). Nothing from after D trains, as in production. Its weakness: one window is one
    season and one set of trends, and users or items new in it are cold.

    leave_last_out: each user's last `rows` positives before D are tested on, with at least one positive left
    to train on. Its weakness: other users' later events train the model that is tested on earlier ones, so that
    item popularity and fashions leak from the future; recall is flattered. Use it to compare with papers. What
    is left out of a user may be drawn as its negative in training: to exclude it would tell training of the test.
    """

    kind: Literal["time", "leave_last_out"] = "time"
    rows: int = Field(1, ge=1, description="Positives left out of each user (leave_last_out).")
    drop_cold: tuple[Literal["users", "items"], ...] = Field(
        (),
        description="Leaves out test rows whose user or item has no training row. The test then knows no newcomers, "
        "whom production must serve: results are flattered.",
    )

    @model_validator(mode="after")
    def _rows_are_left_out(self) -> Split:
        if self.kind != "leave_last_out" and self.changed("rows"):
            raise ValueError(f"rows: {self.rows} goes with kind: leave_last_out; set it, or remove rows")
        return self


class Frozen(StrictModel):
    """An earlier run whose vocabularies and statistics are used.

    Its ids stay the same, so that vectors and models of both runs can be compared, and a later model can start
    from the tables of an earlier one.
    """

    run: str | None = Field(None, description="Its folder, or NAME/DATE below root. Given by --vocabularies too.")
    grow: bool = Field(
        False,
        description="New tokens go behind the known ones, whose ids stay; else they are unknown. Buckets can't grow: "
        "hash_buckets, boundaries and quantiles have to be those of the earlier run. Also --grow.",
    )


class Samples(StrictModel):
    train_rows: Literal["positives", "all"] = Field(
        "positives",
        description="Rows of the training window that become samples; in-batch losses need positives only.",
    )
    unclicked_share: FiniteFloat = Field(
        1.0, gt=0, le=1, description="With train_rows all: share of the rows without a positive label that is kept."
    )
    unclicked_weight: FiniteFloat = Field(1.0, ge=0, description="Factor on those rows' sample weight.")
    negatives: dict[str, Negatives] = Field(
        default_factory=dict, description="Drawn for each positive of the training window, by name of your choice."
    )
    popular_threshold: FiniteFloat | None = Field(
        None,
        gt=0,
        le=1,
        description="Positives of an item with share f of them are kept with probability min(1, √(t/f) + t/f), "
        "word2vec's rule with this t; null: all.",
    )
    max_positives_per_user: int | None = Field(
        None, ge=1, description="At most so many training positives of a user, drawn at random; null: all."
    )
    split: Split = Split()
    users: Literal["window", "all"] = Field(
        "window",
        description="Users in samples/users, whose vectors score_users publishes and serve answers with. Window: those "
        "with a positive in the test window, for whom evaluate ranks; all: those with an event before it, too.",
    )
    vocabularies: Frozen = Frozen()
    rows_per_file: int = Field(
        16384,
        ge=1,
        description="Rows of a sample file at most, which is one row group; of items and users between half of them "
        "and all, since the number of their files is a power of two.",
    )
    rows_per_task: int = Field(
        500_000, ge=1, description="Events that a task orders by user and time in memory: about 100 bytes each."
    )
    broadcast_mb: int = Field(
        256,
        ge=0,
        description="An encoded catalogue above this size is joined to the samples by a shuffle instead of being "
        "looked up in each worker's memory; a table of vectors above it is mapped from a file on the worker's disk.",
    )
    max_quarantine_share: FiniteFloat = Field(
        0.01, ge=0, le=1, description="Share of a source's rows that may be unreadable before the job stops."
    )
    shuffle_partitions: int = Field(8, ge=1, description="Tasks of each Spark shuffle.")

    @property
    def weighs_negatives(self) -> bool:
        """Whether there are negatives that count in a loss."""
        return any(kind.weight > 0 for kind in self.negatives.values())
