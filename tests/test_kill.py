"""A short run of benchmarks/kill_test.py: processes that are killed outright, and resumed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forks")
def test_runs_that_are_killed_resume_to_the_same_weights():
    command = [sys.executable, str(ROOT / "benchmarks" / "kill_test.py"), "--kills", "3", "--no_result"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert "3 of 3 killed runs resumed to the same weights" in ended.stdout, ended.stdout + ended.stderr[-2000:]
    assert ended.returncode == 0
