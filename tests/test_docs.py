"""Every command of the documents runs as it is written, or says here which test runs it, or why none can."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.serve import health
from dssm.cli import JOBS, TOOLS, VIEWS
from tests.checkout import copy_of_project, of_no_make, shrink
from tests.documents import DOCUMENTS, PROJECT, Command, Fence, anchors, commands, fences, inline_code, links
from tests.kuairand_log import write_download
from tests.pipeline import write_small_demo

COMMANDS = [command for document in DOCUMENTS for command in commands(document)]

# Command → the file that runs it in CI in the same form, and the words in that file that do.
ELSEWHERE = {
    "make setup": (".ci/run", "make setup"),
    "make demo": ("tests/test_pipeline.py", '["make", "demo"]'),
    "make check": (".ci/run", "ended check"),
    "make test": (".ci/run", "ended test-one-process", "ended test-ranks"),  # its two parts
    "make test-unit": (".ci/run", "ended test-one-process"),  # a part of it
}
# Beginning of a command → why CI can't run it.
NOT_IN_CI = {
    "make bench-ablation": (
        "needs the KuaiRand log and hours; tests/test_bench_ablation.py tests all but the trainings and their ranking"
    ),
    "jq ": "jq is no part of the environment",
}
LANGUAGES = {"sh", "text", "yaml", "python", "json"}


def why_not(command: Command) -> str | None:
    return next((why for beginning, why in NOT_IN_CI.items() if command.text.startswith(beginning)), None)


RUN_HERE = [command for command in COMMANDS if command.text not in ELSEWHERE and why_not(command) is None]


def test_every_block_says_what_it_holds() -> None:
    found = {fence.place: fence.language for document in DOCUMENTS for fence in fences(document)}
    assert {place: language for place, language in found.items() if language not in LANGUAGES} == {}


def test_commands_are_found_whole() -> None:
    texts = [command.text for command in COMMANDS]
    assert "make demo" in texts
    assert any(text.startswith("for job in ") and text.endswith("\ndone") for text in texts)
    assert not any(text.startswith("--") for text in texts)


def test_what_does_not_run_here_stands_in_a_document_and_in_the_file_that_runs_it() -> None:
    texts = [command.text for command in COMMANDS]
    assert [text for text in ELSEWHERE if text not in texts] == []
    assert [beginning for beginning in NOT_IN_CI if not any(text.startswith(beginning) for text in texts)] == []
    for file, *words in ELSEWHERE.values():
        text = (PROJECT / file).read_text(encoding="utf-8")
        assert [word for word in words if word not in text] == [], file


def test_targets_and_jobs_that_the_text_names_exist() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    targets |= {
        f"bench-{path.stem.removesuffix('.py').replace('_', '-')}" for path in (PROJECT / "benchmarks").iterdir()
    }
    targets |= {"bench-NAME"}
    known = {*JOBS, *VIEWS, *TOOLS}
    for document in DOCUMENTS:
        for code in inline_code(document):
            words = code.split()
            if words[0] == "make" and len(words) > 1:
                named = next(word for word in words[1:] if "=" not in word)
                assert named in targets, f"{document.name}: {code}"
            if words[0].endswith("spark-submit.sh") and len(words) > 1 and words[1].isidentifier():
                assert words[1] in known | {"JOB", "VIEW"}, f"{document.name}: {code}"


def test_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in set(links(document)):
            file, _, anchor = target.partition("#")
            place = (document.parent / file).resolve() if file else document
            assert place.exists(), f"{document.name}: {target}"
            assert not anchor or anchor in anchors(place), f"{document.name}: {target}"


OTHERS_YAML = "groups:"  # Prometheus' rules
EXAMPLES = [
    fence
    for document in DOCUMENTS
    for fence in fences(document)
    if fence.language == "yaml" and not fence.text.startswith(OTHERS_YAML)
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.place)
def test_an_example_of_yaml_is_a_config(example: Fence, tmp_path: Path) -> None:
    """By itself, or over that of the demo. In a process of its own: a plugin of the text registers a kind."""
    given = yaml.safe_load(example.text)
    over = {} if "name" in given else {"extends": str(PROJECT / "conf" / "demo.yaml")}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**over, **given}), encoding="utf-8")
    for document in DOCUMENTS:
        for fence in fences(document):
            if fence.language == "python" and (name := re.match(r"# (\w+\.py)\n", fence.text)):
                (tmp_path / name.group(1)).write_text(fence.text, encoding="utf-8")
    code = "import sys; from dssm.config import load_settings; load_settings(sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), str(tmp_path)])}
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "config.yaml")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr.splitlines()[-1]


# The commands ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with this one's environment, small settings, and a small download of KuaiRand."""
    copy = copy_of_project(tmp_path_factory.mktemp("docs"))
    samples = {"rows_per_file": 1000, "shuffle_partitions": 2}
    write_small_demo(copy / "data" / "demo")  # as `make demo` leaves it
    shrink(copy / "conf" / "demo.yaml", samples=samples, train={"batch_size": 256, "epochs": 8})
    shrink(
        copy / "conf" / "kuairand_full.yaml",
        samples=samples,
        train={"batch_size": 512, "epochs": 4, "learning_rate": 0.01},
    )
    write_download(copy / "KuaiRand-Pure" / "data", users=200, videos=100, earlier_rows=6000, rows=14_000)
    return copy


@pytest.mark.spark
@pytest.mark.timeout(900)
@pytest.mark.parametrize("command", RUN_HERE, ids=lambda command: f"{command.place} {command.text.split()[1]}")
def test_a_command_of_the_documents_runs(checkout: Path, command: Command) -> None:
    """In the order of the documents, each on what the ones before it have left."""
    if " serve " in command.text:
        answers(checkout, f"{command.text} --port 0")  # the port that is written may be taken
        return
    line = ["bash", "-euo", "pipefail", "-c", command.text]
    with subprocess.Popen(
        line, cwd=checkout, env=of_no_make(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            printed, _ = process.communicate(timeout=850)
        finally:
            with contextlib.suppress(ProcessLookupError):  # where it ended, as it should
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, f"{command.place}: {command.text}\n{printed}"
    assert "Traceback" not in printed


def answers(checkout: Path, service: str) -> None:
    """Starts a service, asks for its health, and ends it."""
    line = ["bash", "-c", f"exec {service}"]
    with subprocess.Popen(line, cwd=checkout, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = next(found for text in process.stdout if (found := re.search(r"http://\S+:\d+", text)))
            assert health(told.group())["version"]
        finally:
            process.terminate()
    assert process.returncode == 0
