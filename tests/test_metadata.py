"""settings.ini and pyproject.toml tell the same story, and the package carries its data."""
import configparser
import importlib.metadata
import tomllib

import pytest

import mimo_jax
from conftest import ROOT

SETTINGS = configparser.ConfigParser(interpolation=None)
SETTINGS.read(ROOT / "settings.ini")
SETTINGS = SETTINGS["DEFAULT"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("ini, toml", [("lib_name", "name"), ("version", "version"), ("description", "description")])
def test_name_version_and_description_agree(ini, toml):
    assert SETTINGS[ini] == PROJECT[toml]


def test_requirements_agree():
    assert SETTINGS["requirements"].split() == PROJECT["dependencies"]


def test_scripts_agree():
    assert SETTINGS["console_scripts"].split("=") == ["mimo-jax", PROJECT["scripts"]["mimo-jax"]]


def test_python_and_licence_agree():
    assert PROJECT["requires-python"] == f">={SETTINGS['min_python']}"
    assert PROJECT["license"] == "Apache-2.0" and SETTINGS["license"] == "apache2"
    assert (ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")


def test_installed_version_is_this_one():
    assert mimo_jax.__version__ == PROJECT["version"] == importlib.metadata.version("mimo_jax")


def test_nbdev_is_bounded_on_all_four_sides():
    nb = " ".join(PROJECT["optional-dependencies"]["nb"])
    assert "nbdev==2.4.14" in nb and all(name in nb for name in ("fastcore>=", "execnb>=", "ghapi>=", "fastgit<"))
