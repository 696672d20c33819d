"""The bundle of Vega's scripts: kept, made again where it was changed, and never a condition."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from legw.report import bundle

pytest.importorskip("vl_convert")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of the test's own, and no script in memory."""
    import vl_convert

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(vl_convert, "javascript_bundle", lambda code: f"x('</script>'); {code}")
    bundle.bundle.cache_clear()
    yield tmp_path / "legw" / f"vega-{version('vl-convert-python')}.js"
    bundle.bundle.cache_clear()


SCRIPT = "x('<\\/script>'); window.vegaEmbed = vegaEmbed;"


def again() -> str:
    bundle.bundle.cache_clear()
    return bundle.bundle()


def test_it_is_made_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vl_convert

    assert bundle.bundle() == SCRIPT
    assert cache.exists()
    monkeypatch.delattr(vl_convert, "javascript_bundle")
    assert again() == SCRIPT


@pytest.mark.parametrize("damage", [b"", b"\xff", b"0\nalert(1)", b"no line"])
def test_what_was_changed_is_made_again(cache: Path, damage: bytes) -> None:
    bundle.bundle()
    cache.write_bytes(damage)
    assert again() == SCRIPT
    assert cache.read_bytes() != damage


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path) -> None:
    cache.parent.write_text("a file in its place")
    assert bundle.bundle() == SCRIPT
