"""Files that come with the project, found from a checkout and from a wheel."""

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

from cress_svcd import shipped

ROOT = Path(__file__).parents[1]


@pytest.fixture
def from_wheel(tmp_path):
    """The module as a wheel installs it, with a policy ``decoder`` of its own; else no files."""
    package = tmp_path / "site-packages" / "cress_svcd"
    (package / "shipped_files" / "quant").mkdir(parents=True)
    (package / "shipped_files" / "quant" / "decoder.yaml").write_text("rules: []\n")
    shutil.copy(shipped.__file__, package)
    spec = importlib.util.spec_from_file_location("shipped_of_a_wheel", package / "shipped.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, package


@pytest.mark.parametrize("kind", shipped.FOLDERS)
def test_a_checkout_has_a_folder_of_each_kind_with_files(kind):
    assert shipped.shipped_folder(kind) == ROOT / shipped.FOLDERS[kind]
    found = shipped.shipped_files(kind)
    assert list(found) == sorted(found) and bool(found) == (kind != "demo")  # which has no YAML
    for name, path in found.items():
        assert path == ROOT / shipped.FOLDERS[kind] / f"{name}.yaml" and path.is_file()


def test_folders_below_and_other_files_are_left_out(from_wheel):
    assert (ROOT / "configs" / "quant" / "published").is_dir()
    assert "published" not in shipped.shipped_files("quant")
    module, package = from_wheel
    (package / "shipped_files" / "quant" / "NOTES.md").touch()
    assert list(module.shipped_files("quant")) == ["decoder"]


def test_an_unknown_kind_is_a_bug_of_ours():
    with pytest.raises(KeyError, match="policies"):
        shipped.shipped_folder("policies")


def test_a_wheel_has_them_inside_the_package(from_wheel):
    module, package = from_wheel
    expected = package / "shipped_files" / "quant" / "decoder.yaml"
    assert module.shipped_files("quant") == {"decoder": expected}
    assert module.file_or_shipped("decoder", "quant") == expected


def test_a_wheel_without_a_kind_has_none_of_it(from_wheel):
    module, package = from_wheel
    assert module.shipped_folder("recipes") == package / "shipped_files" / "recipes"
    assert module.shipped_files("recipes") == {}
    assert module.file_or_shipped("demo", "recipes") == Path("demo")


class TestFileOrShipped:
    @pytest.fixture(autouse=True)
    def elsewhere(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def test_a_name_is_a_shipped_file(self):
        expected = ROOT / "configs" / "quant" / "decoder.yaml"
        assert shipped.file_or_shipped("decoder", "quant") == expected
        assert shipped.file_or_shipped(Path("decoder"), "quant") == expected

    def test_a_file_of_that_name_goes_before(self, tmp_path):
        (tmp_path / "decoder").write_text("rules: []\n")
        assert shipped.file_or_shipped("decoder", "quant") == Path("decoder")

    def test_a_folder_of_that_name_does_not(self, tmp_path):
        (tmp_path / "demo").mkdir()
        expected = ROOT / "scripts" / "recipes" / "demo.yaml"
        assert shipped.file_or_shipped("demo", "recipes") == expected

    @pytest.mark.parametrize("name", ["nowhere", "decoder.yaml", "published/decoder", "demo"])
    def test_what_is_not_there_stays_as_it_was_given(self, name):
        assert shipped.file_or_shipped(name, "quant") == Path(name)


class TestWhatIsMissing:
    @pytest.mark.parametrize("name", ["en-ft", "en-fr.yaml", "recipes/en-fr.yaml", "En-fr"])
    def test_close_names_are_suggested(self, name):
        said = shipped.describe_missing(name, "recipes")
        assert said.startswith(f"{name}: no such file, and nothing of that name comes with")
        assert re.search(r"; did you mean .*\ben-fr\b.*\?$", said)

    def test_else_all_are_listed(self):
        said = shipped.describe_missing("xyzzy", "quant")
        assert said.endswith(f"; there are {', '.join(shipped.shipped_files('quant'))}")

    def test_or_it_says_that_there_are_none(self, from_wheel):
        module, package = from_wheel
        said = module.describe_missing("xyzzy", "recipes")
        assert said.endswith(f"there are none: {package / 'shipped_files' / 'recipes'} is missing")
