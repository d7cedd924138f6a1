"""The work that both sides do: one two-tower, one loss, one optimizer. Standard library alone: the peer reads it too.

The towers are those of DeepMatch's own example on MovieLens 1M, 64 wide, with the optimizer that it takes: embeddings
side by side, one hidden layer, a linear one, unit norm; softmax over the batch's items, each logit less log q.
"""

from __future__ import annotations

USERS, ITEMS = 6_040, 3_700
HISTORY = 50
DIM, HIDDEN, VECTOR = 64, 128, 64
TEMPERATURE, LEARNING_RATE, INITIAL_ACCUMULATOR = 0.05, 0.05, 0.1
BATCHES = (256, 4096)
THREADS = {256: 1}  # train.threads of this project: two cost more than they save on small products
ROWS = 4096 * 244  # of whole batches of either size, about a million

USER_ID, ITEM_ID, HISTORY_IDS, HISTORY_LENGTH = "user_id", "movie_id", "history", "history_length"
# Known values of each feature; an encoded id is 2 and above.
USER_SIZES = {USER_ID: USERS, "gender": 2, "age": 7, "occupation": 21, "zip": 3_439, "region": 100}
ITEM_SIZES = {ITEM_ID: ITEMS, "genres": 301}
SIZES = USER_SIZES | ITEM_SIZES
FIRST_ID = 2
