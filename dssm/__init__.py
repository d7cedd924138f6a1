"""Two-tower (DSSM) retrieval: logs to item table with Spark, Petastorm, Horovod and Keras."""
