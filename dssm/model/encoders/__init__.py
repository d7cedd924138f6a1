"""Sequence encoders: lists of embeddings to one vector. Each module holds the builders of one kind or two.

A builder takes its settings (`dssm.encoders`), the embeddings' width and the layer's name.
"""
