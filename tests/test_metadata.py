"""settings.ini and pyproject.toml tell the same story, and the package carries its data."""
import ast
import configparser
import importlib.metadata
import json
import re
import sys
import tomllib

import pytest
import yaml

import mimo_jax
from conftest import ROOT

SETTINGS = configparser.ConfigParser(interpolation=None)
SETTINGS.read(ROOT / "settings.ini")
SETTINGS = SETTINGS["DEFAULT"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize(
    "ini, toml", [("lib_name", "name"), ("version", "version"), ("description", "description")]
)
def test_name_version_and_description_agree(ini, toml):
    assert SETTINGS[ini] == PROJECT[toml]


def test_requirements_agree():
    assert SETTINGS["requirements"].split() == PROJECT["dependencies"]


def test_scripts_agree():
    assert SETTINGS["console_scripts"].split("=") == ["mimo-jax", PROJECT["scripts"]["mimo-jax"]]


def test_python_and_license_agree():
    assert PROJECT["requires-python"] == f">={SETTINGS['min_python']}"
    assert PROJECT["license"] == "Apache-2.0" and SETTINGS["license"] == "apache2"
    assert (ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")


def test_installed_version_is_this_one():
    assert mimo_jax.__version__ == PROJECT["version"] == importlib.metadata.version("mimo_jax")


def test_nbdev_is_bounded_on_all_four_sides():
    nb = " ".join(PROJECT["optional-dependencies"]["nb"])
    assert "nbdev==2.4.14" in nb and all(
        name in nb for name in ("fastcore>=", "execnb>=", "ghapi>=", "fastgit<")
    )


def modules_of_pages() -> set[str]:
    "Top-level modules that the pages import, anywhere in their code."
    found = set()
    for page in (ROOT / "nbs").rglob("*.ipynb"):
        for cell in json.loads(page.read_text("utf8"))["cells"]:
            if cell["cell_type"] == "code":
                source = re.sub(r"^\s*[%!].*$", "", "".join(cell["source"]), flags=re.M)
                for node in ast.walk(ast.parse(source)):
                    if isinstance(node, ast.Import):
                        found |= {alias.name.split(".")[0] for alias in node.names}
                    if isinstance(node, ast.ImportFrom) and node.module:
                        found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"mimo_jax"}


# Brought by JupyterLab's kernel; not named beside it.
BROUGHT = {"IPython", "matplotlib_inline", "orbax"}
# Extras whose absence the pages announce and step around.
OPTIONAL = {"ai_edge_litert", "ai_edge_quantizer", "litert_converter", "soundfile", "pooch", "ray"}


def test_the_extra_of_make_lab_has_what_the_pages_import():
    named = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["nb"]]
    names = {re.match(r"[\w-]+", requirement)[0].lower().replace("_", "-") for requirement in named}
    owners = importlib.metadata.packages_distributions()
    for module in modules_of_pages() - BROUGHT - OPTIONAL:
        owned = {owner.lower().replace("_", "-") for owner in owners.get(module, [])}
        assert (
            owned & names
        ), f"pages import {module}, of {owned or 'nothing installed'}: add it to nb"


TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf8"), re.M))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflows_run_commands_that_exist(path):
    workflow = yaml.safe_load(path.read_text("utf8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    made = [command.split()[1] for command in commands]
    assert commands and all(command.startswith("make ") for command in commands)
    assert set(made) <= TARGETS
    assert True in workflow, "YAML reads the key `on` as True; without it nothing triggers"


def test_the_two_commands_of_the_readme_run_on_every_python_that_is_promised():
    [job] = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text("utf8"))["jobs"].values()
    versions = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert job["strategy"]["matrix"]["python"] == versions
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make demo", "make test"]


def test_test_files_belong_to_the_folders_they_import():
    import belongs

    assert belongs.folders("import numpy") == {"00_core"}
    assert belongs.folders("from mimo_jax import units") == {"00_core"}
    source = "from mimo_jax.cli import csi\ndef f():\n    import mimo_jax.phy.ofdm"
    assert belongs.folders(source) == {"90_cli", "10_phy"}
    assert belongs.files("csi") == belongs.files("52_csi") != []
    assert {path for folder in belongs.FOLDERS for path in belongs.files(folder)} == set(
        belongs.files()
    )
    with pytest.raises(ValueError, match="no such folder; choose one of 00_core"):
        belongs.files("53")
