"""A file that is written appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from auditkit._files import write_whole


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_whole_or_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    file = tmp_path / "figures.json"
    write_whole(file, b"first", durable=durable)
    write_whole(file, b"second", durable=durable)
    assert file.read_bytes() == b"second"

    def full(self: Path, target: Path) -> None:
        assert self.read_bytes() == b"third"
        assert target.read_bytes() == b"second"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(file, b"third", durable=durable)
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
    assert file.read_bytes() == b"second"
