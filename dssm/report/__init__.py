"""What a person looks at. Reads a run's files; needs no engine.

- `profile.html`, the report on the data: `profile` (which `page`, `page_features` and `remarks` write out) of what
  `measures`, `feature_counts`, `popularity` and `drift` find, as `figures` has it.
- `report.html`, the report of a run: `run_report` and `run_page`, of `run_facts`, by the `run_*` modules,
  `pipeline_picture` and, for the item vectors, `vectors`, `vector_map` and `kept_map`. `tracking` gives it to MLflow.
- `model.html`, a model's card: `dssm.model.card_page`, which shares `card_parts` with the report of a run.
- In the terminal: `show`, samples in words, and `status`.
- Of all pages: `html`, `style`, `plots`. Of all readers: `runs`, `dataset`, `decoding`, `counting`, `item_words`.
"""
