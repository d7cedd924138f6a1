"""Whether Horovod was built with Gloo, seen without a process that imports TensorFlow for it: ranks start sooner."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

from horovod.common.util import get_ext_suffix, gloo_built
from horovod.runner import launch

OF_GLOO = b"GlooController"  # a class of a library with it


def has_gloo(verbose: bool = False) -> bool:
    """Returns whether Horovod was built with Gloo.

    Horovod's own look, in a process that imports TensorFlow for it, comes second: where the library does not tell. One
    that can't be loaded is found by the ranks.
    """
    horovod = find_spec("horovod")
    assert horovod is not None
    for folder in horovod.submodule_search_locations or ():
        library = Path(folder, "tensorflow", f"mpi_lib{get_ext_suffix()}")
        try:
            content = library.read_bytes()
        except FileNotFoundError:
            continue
        if OF_GLOO in content:
            return True
    return bool(gloo_built(verbose=verbose))


@contextlib.contextmanager
def gloo_seen() -> Iterator[None]:
    """Has Horovod's launchers ask `has_gloo`."""
    askers = (launch, sys.modules.get("horovod.spark.runner"))
    with contextlib.ExitStack() as patched:
        for asker in filter(None, askers):
            patched.enter_context(mock.patch.object(asker, "gloo_built", has_gloo))
        yield
