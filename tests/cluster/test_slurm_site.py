"""Tests that need a Slurm say what is missing where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import slurm_site


def test_a_machine_without_slurm_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(slurm_site, "PROGRAMS", ("ip", "no-such-slurmctld"))
    with (
        pytest.raises(pytest.skip.Exception, match=r"needs .*no-such-slurmctld: apt-get install .*slurm-wlm"),
        slurm_site.slurm_site(tmp_path, tmp_path),
    ):
        pass
