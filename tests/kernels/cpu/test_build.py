"""Compiling the C kernels, and what happens where that is not possible."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cress_svcd import kernels
from cress_svcd.kernels.cpu import build, sign_gemm

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "no-such-compiler --flag")
    with pytest.raises(build.BuildError, match=r"no C compiler \(no-such-compiler\)"):
        build.build(tmp_path)
    assert not list(tmp_path.iterdir())


@needs_compiler
def test_a_failing_compiler_is_quoted(monkeypatch, tmp_path):
    monkeypatch.setenv("CFLAGS", "-fno-such-option")
    with pytest.raises(build.BuildError, match="no-such-option"):
        build.build(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_library_from_other_sources_is_not_used(monkeypatch):
    if not kernels.backends()["cpu"].available:
        pytest.skip("the C kernels are not built")
    monkeypatch.setattr(build, "source_digest", lambda: "other")
    sign_gemm.library.cache_clear()
    try:
        with pytest.raises(
            sign_gemm.UnavailableError, match="built from other sources; run python -m"
        ):
            sign_gemm.library()
    finally:
        monkeypatch.undo()
        sign_gemm.library.cache_clear()
    assert sign_gemm.library()


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(sanitizer, tmp_path):
    """All instruction sets over odd shapes, checked against the formula in C (sanitize.c)."""
    here = Path(__file__).parent
    flags = ["-O1", "-g", "-std=gnu11", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    try:
        compiler = build.compiler()
    except build.BuildError as error:
        pytest.skip(str(error))
    probe = tmp_path / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    command = [*compiler, *flags, probe, "-o", tmp_path / "probe"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(f"{compiler[0]} has no -fsanitize={sanitizer}")
    sources = [*sorted(build.SOURCES.glob("*.c")), here / "sanitize.c"]
    made = tmp_path / "sanitize"
    subprocess.run(
        [*compiler, *flags, "-pthread", f"-I{build.SOURCES}", *sources, "-lm", "-o", made],
        check=True,
    )
    result = subprocess.run([made], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("0 ") and result.stdout.endswith("checked\n")
