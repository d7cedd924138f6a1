"""Makes pip forget the packages that an interrupted run left half installed in this environment.

pip writes a package's files one by one and takes it for installed once its metadata is there. It writes the
list of files last, itself among them, so a package without that list, or without one of its files, is not whole.
Only the metadata goes; pip then installs over whatever files are left.
"""

from __future__ import annotations

import shutil
import sysconfig
from importlib.metadata import Distribution
from pathlib import Path


def is_whole(package: Distribution) -> bool:
    files = [file for file in package.files or () if file.suffix != ".pyc"]
    return any(file.name == "INSTALLER" for file in files) and all(Path(str(f.locate())).exists() for f in files)


def drop_incomplete(folder: Path) -> list[str]:
    """Removes the metadata of packages that are not whole, and what interrupted upgrades moved aside.

    Returns: the names of what it removed.
    """
    broken = [path for path in folder.glob("*.dist-info") if not is_whole(Distribution.at(path))]
    broken += folder.glob("~*")
    for path in broken:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return sorted(path.name for path in broken)


if __name__ == "__main__":
    for name in drop_incomplete(Path(sysconfig.get_paths()["purelib"])):
        print(f"dropped {name}: not whole")
