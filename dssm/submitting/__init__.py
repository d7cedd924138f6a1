"""What spark-submit.sh hands to Spark: the command line, its settings, and what is sent along."""
