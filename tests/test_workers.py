from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dssm.workers import IMPORTS, is_sparks

PROJECT = Path(__file__).parents[1]
# Says, when Spark closes its side, what a worker that is forked then would have.
SAID = """
import atexit, gc, sys
from dssm import workers

def say():
    import pyspark
    searched = [path for path in sys.path_importer_cache if "/pyspark/" in path and path[-4:] in (".zip", ".jar")]
    print(pyspark.__file__, "dssm.samples.items" in sys.modules, "tensorflow" in sys.modules, gc.get_freeze_count(),
          len(searched), file=sys.stderr)

atexit.register(say)
workers.main()
"""


def test_sparks_archives_are_told_from_all_others() -> None:
    own = ["", "/project", "/usr/lib/python311.zip", "/venv/site-packages", "/jobs/files.zip", "/jobs/spark-core_x.jar"]
    spark = "/venv/site-packages/pyspark"
    sparks = [f"{spark}/python/lib/pyspark.zip", f"{spark}/python/lib/py4j-0.10.9.7-src.zip"]
    sparks.append(f"{spark}/jars/spark-core_2.12-3.5.9.jar")
    assert [path for path in [*own, *sparks] if is_sparks(path)] == sparks


def test_workers_are_forked_with_their_imports_done() -> None:
    import pyspark

    package = Path(pyspark.__file__)
    archives = sorted(map(str, (package.parent / "python" / "lib").glob("*.zip")))
    assert len(archives) == 2
    archives += map(str, (package.parent / "jars").glob("spark-core_*.jar"))
    assert len(archives) == 3
    path = os.pathsep.join([*archives, str(PROJECT)])
    environment = {**os.environ, "PYTHONPATH": path, IMPORTS: "dssm.samples.items,pyarrow"}
    ended = subprocess.run([sys.executable, "-c", SAID], input=b"", capture_output=True, env=environment, check=False)
    assert 0 < int.from_bytes(ended.stdout, "big") < 2**16  # the port that workers are asked for at
    place, imported, tensorflow, frozen, searched = ended.stderr.decode().split()
    assert (Path(place), imported, tensorflow) == (package, "True", "False")
    assert searched == "0"  # what has been searched once is read anew at each task
    assert int(frozen) > 50_000
