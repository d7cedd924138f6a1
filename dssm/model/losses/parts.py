"""What losses are composed of. One function, one idea."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from dssm.model.observed import observe

# Far below any logit, yet finite: exp gives 0, and a row of masked candidates alone gives no NaN.
MASKED = -1e9
SMALLEST_PROBABILITY = 1e-9
SMALLEST_CHANCE = 1e-30  # of a softmax whose logarithm still has all its digits in float32
BLOCK_ROWS = 256  # of a softmax's matrix at once on processors: beside 4,096 candidates 4 MB, which their caches hold


def known_labels(labels: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Makes rows whose label is NaN rows of label 0 and weight 0.

    To weigh them 0 is not enough: 0 · NaN is NaN, in the loss as in its gradient.

    Args: labels, weights: (batch,) each. Returns: labels and weights, (batch,) each.
    """
    known = tf.logical_not(tf.math.is_nan(labels))
    return tf.where(known, labels, 0.0), tf.where(known, weights, 0.0)


def positives(labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Finds the rows with a positive label and a weight. Args: (batch,) each. Returns: (batch,) bool."""
    return tf.logical_and(labels > 0, weights > 0)


def sampling_bias(probability: tf.Tensor, strength: float = 1.0) -> tf.Tensor:
    """Returns what is added to each candidate's logit, −strength · log q (Yi et al., RecSys 2019, eq. 3).

    Args:
      probability: (candidates,), chance of each candidate to be drawn; 0 counts as 1e-9.
      strength: factor on log q.
    Returns: (candidates,), for logits that are divided by the temperature already.
    """
    return -strength * tf.math.log(tf.maximum(probability, SMALLEST_PROBABILITY))


def batch_probability(items: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """Estimates each candidate's sampling probability by its share of the batch.

    Args:
      items: (candidates,) int64 keys of the items.
      valid: (candidates,) bool; padding and negatives are no draws.
    Returns: (candidates,) float32.
    """
    unique, place = tf.unique(items)
    draws = tf.cast(valid, tf.float32)
    counts = tf.math.unsorted_segment_sum(draws, place, tf.size(unique))
    return tf.gather(counts, place) / tf.maximum(tf.reduce_sum(draws), 1.0)


def accidental_pairs(
    users: tf.Tensor,
    items: tf.Tensor,
    candidate_users: tf.Tensor,
    candidate_items: tf.Tensor,
    own: tf.Tensor,
    rows: tf.Tensor,
    valid: tf.Tensor,
    targets: tf.Tensor,
) -> tf.Tensor:
    """Finds candidates that are no negatives for a row: its own item again, or an item of its user's other targets.

    An item of the user's is one wherever it comes from: another user's row and a uniform draw included. Hits are few:
    they are found by joins over sorted keys, not by comparing all with all.

    Args:
      users: (batch,) keys of the rows' users.
      items: (batch,) keys of the rows' items.
      candidate_users: (candidates,) keys of the users of the candidates' rows.
      candidate_items: (candidates,) keys of the candidates.
      own: (batch,) column of each row's own item, which is never a hit.
      rows: (batch,) bool, whose hits are wanted.
      valid: (candidates,) bool, which candidates can be hits; targets are among them.
      targets: (candidates,) bool, the candidates that are rows with a loss: their users acted on them.
    Returns: (pairs, 2) int32, row and column, each pair once.
    """
    rows, valid, targets = (tf.cast(tf.where(wanted)[:, 0], tf.int32) for wanted in (rows, valid, targets))
    own, items = tf.cast(own, tf.int32), tf.gather(items, rows)
    # Which of its user's other targets a row has, and which candidates have the item of one of them.
    row, target = _equal_keys(tf.gather(users, rows), tf.gather(candidate_users, targets))
    liked, row_item = tf.gather(candidate_items, tf.gather(targets, target)), tf.gather(items, row)
    others = tf.where(tf.not_equal(liked, row_item))[:, 0]
    row, liked = _distinct(tf.gather(row, others), tf.gather(liked, others))
    keys = tf.concat([items, liked], axis=0)
    of_row = tf.concat([rows, tf.gather(rows, row)], axis=0)
    pair, column = _equal_keys(keys, tf.gather(candidate_items, valid))
    row, column = tf.gather(of_row, pair), tf.gather(valid, column)
    return tf.boolean_mask(tf.stack([row, column], axis=1), tf.not_equal(tf.gather(own, row), column))


def _equal_keys(left: tf.Tensor, right: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Joins keys. Args: (n,) and (m,). Returns: the places of each pair of equal keys, (pairs,) int32 each."""
    order = tf.argsort(right)
    ascending = tf.gather(right, order)
    first = tf.searchsorted(ascending, left, side="left")
    count = tf.searchsorted(ascending, left, side="right") - first
    pair = tf.repeat(tf.range(tf.size(left)), count)
    before = tf.cumsum(count, exclusive=True)
    place = tf.range(tf.size(pair)) - tf.gather(before, pair) + tf.gather(first, pair)
    return pair, tf.gather(order, place)


def _distinct(numbers: tf.Tensor, keys: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns each pair once. Args: (n,) int32, at least 0, and (n,) int64. Returns: as given, (distinct,) each."""
    values, place = tf.unique(keys)
    size = tf.maximum(tf.size(values, tf.int64), 1)
    codes, _ = tf.unique(tf.cast(numbers, tf.int64) * size + tf.cast(place, tf.int64))
    return tf.cast(codes // size, numbers.dtype), tf.gather(values, codes % size)


def observe_hits(count: Callable[[], tf.Tensor], target: tf.Tensor, valid: tf.Tensor) -> None:
    """Lets the share of accidental hits be seen among the candidates of the rows with a loss.

    Args:
      count: makes the number of those hits, a scalar; it is called where somebody observes.
      target: (batch,) bool, rows with a loss.
      valid: (candidates,) bool, those that can be hits.
    """

    def share() -> tf.Tensor:
        rows, columns = (tf.cast(tf.math.count_nonzero(of), tf.float32) for of in (target, valid))
        return tf.math.divide_no_nan(tf.cast(count(), tf.float32), rows * columns)

    observe("accidental_hits", share)


def in_batch_loss(
    users: tf.Tensor, vectors: tf.Tensor, bias: tf.Tensor, own: tf.Tensor, hits: tf.Tensor | None
) -> tf.Tensor:
    """Negative log softmax of each row's own candidate over ⟨u, v⟩ + bias, without its accidental hits.

    It is `softmax_loss` of `mask_candidates`, values and gradient, in fewer passes over the matrix P of the softmax,
    a block of rows after the other: the loss is −log of its own numbers, and ∂u = P V − v_own, ∂v = Pᵀ U less the u
    whose own it is.

    Args:
      users: (batch, dim), u / τ.
      vectors: (candidates, dim).
      bias: (candidates,), −log q, and MASKED where a candidate is none; no gradient reaches it.
      own: (batch,) int32, column of each row's positive.
      hits: (pairs, 2) int32; None: none are left out.
    Returns: (batch,), at least 0.
    """
    own = tf.cast(own, tf.int32)
    sizes = _block_sizes(users.shape[0])
    hits_of_block = _by_block(hits, len(sizes))

    @tf.custom_gradient
    def loss(users: tf.Tensor, vectors: tf.Tensor) -> tuple[tf.Tensor, object]:
        chances, own_chances, expected = [], [], []
        blocks = list(zip(tf.split(users, sizes), tf.split(own, sizes), hits_of_block, strict=True))
        for rows, own_of_rows, left_out in blocks:
            of_block = tf.nn.softmax(_masked_logits(rows, vectors, bias, left_out))
            chances.append(of_block)
            own_chances.append(tf.gather(of_block, own_of_rows, batch_dims=1))
            expected.append(tf.matmul(of_block, vectors))  # of the gradient, while the block is in the caches
        own_chance, is_masked = tf.concat(own_chances, axis=0), tf.gather(bias, own) <= MASKED

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            weighed = upstream[:, None] * users
            of_block = zip(chances, tf.split(weighed, sizes), strict=True)
            # All products are there at once, dim / 256 of P in memory.
            of_vectors = tf.add_n([tf.matmul(chance, of_rows, transpose_a=True) for chance, of_rows in of_block])
            of_vectors = tf.tensor_scatter_nd_sub(of_vectors, own[:, None], weighed)
            of_users = upstream[:, None] * (tf.concat(expected, axis=0) - tf.gather(vectors, own))
            return of_users, of_vectors

        def of_small_chances() -> tf.Tensor:
            losses = []
            for rows, own_of_rows, left_out in blocks:
                logits = _masked_logits(rows, vectors, bias, left_out)
                losses.append(tf.reduce_logsumexp(logits, axis=1) - tf.gather(logits, own_of_rows, batch_dims=1))
            return tf.concat(losses, axis=0)

        enough = tf.reduce_all(tf.logical_or(own_chance > SMALLEST_CHANCE, is_masked))
        of_chances = -tf.math.log(tf.clip_by_value(own_chance, SMALLEST_CHANCE, 1.0))
        return tf.cond(enough, lambda: of_chances, of_small_chances), gradient

    return loss(users, vectors)


def _masked_logits(users: tf.Tensor, vectors: tf.Tensor, bias: tf.Tensor, hits: tf.Tensor | None) -> tf.Tensor:
    """Returns ⟨u, v⟩ + bias, MASKED at the hits: (rows, candidates). Args: as of `in_batch_loss`, of some rows."""
    # The bias as one more dimension of the product: a pass over the matrix less.
    of_rows = tf.concat([users, tf.ones_like(users[:, :1])], axis=1)
    logits = tf.matmul(of_rows, tf.concat([vectors, bias[:, None]], axis=1), transpose_b=True)
    if hits is None:
        return logits
    return tf.tensor_scatter_nd_update(logits, hits, tf.fill(tf.shape(hits)[:1], MASKED))


def _block_sizes(rows: int | None) -> list[int]:
    """Returns how many rows of a softmax's matrix are computed at once; -1 for all, where their number is not known.

    >>> _block_sizes(600)
    [256, 256, 88]
    """
    if not rows or tf.config.list_logical_devices("GPU"):  # which would start more and smaller kernels
        return [-1]
    blocks, rest = divmod(rows, BLOCK_ROWS)
    return [BLOCK_ROWS] * blocks + [rest] * (rest > 0)


def _by_block(hits: tf.Tensor | None, blocks: int) -> list[tf.Tensor | None]:
    """Returns the accidental hits of each block of rows, whose first row is their row 0."""
    if hits is None or blocks == 1:
        return [hits] * blocks
    row, column = tf.unstack(hits, axis=1)
    in_block = tf.stack([row % BLOCK_ROWS, column], axis=1)
    parts: list[tf.Tensor | None] = tf.dynamic_partition(in_block, row // BLOCK_ROWS, blocks)
    return parts


def own_columns(own: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
    """Marks each row's own candidate. Args: own: (batch,) int32 columns. Returns: (batch, candidates) bool."""
    return tf.equal(own[:, None], tf.range(candidates, dtype=own.dtype)[None, :])


def mask_candidates(logits: tf.Tensor, masked: tf.Tensor) -> tf.Tensor:
    """Takes candidates out of the softmax. Args: logits, masked: (batch, candidates). Returns: (batch, candidates)."""
    return tf.where(masked, tf.constant(MASKED, logits.dtype), logits)


def softmax_loss(logits: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
    """Negative log softmax of each row's own candidate.

    Args:
      logits: (batch, candidates).
      own: (batch,) int32, column of each row's positive.
    Returns: (batch,), at least 0.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=own, logits=logits)


def weighted_bce(logits: tf.Tensor, labels: tf.Tensor, positive_weight: float) -> tf.Tensor:
    """−[w₊ y log p + (1 − y) log(1 − p)] with p = sigmoid(s).

    Args:
      logits: (batch,) scores s.
      labels: (batch,), 0…1.
      positive_weight: w₊.
    Returns: (batch,).
    """
    # Not tf.nn.weighted_cross_entropy_with_logits: at a score of exactly 0 its gradient is off by half.
    return positive_weight * labels * tf.math.softplus(-logits) + (1.0 - labels) * tf.math.softplus(logits)
