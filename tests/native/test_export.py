"""The file that ``cress-svcd export`` writes."""

from cress_svcd.cli.main import main
from tests.native.conftest import EXAMPLES


def test_a_model_is_exported_to_the_same_file_each_time(exampled, tmp_path):
    for number, model in enumerate((EXAMPLES / "en-de.pt", exampled, EXAMPLES / "en-de.pt")):
        path = tmp_path / f"{number}.cress"
        assert main(["export", str(model), "-o", str(path)]) == 0
        assert path.read_bytes() == exampled.read_bytes()
