from pathlib import Path

import pytest

from agents.cli.project.screenshots import main


def test_a_folder_without_a_study_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), str(tmp_path / "run"), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'run'}: not a run with a study.journal\n"
    )
    assert list(tmp_path.iterdir()) == []
