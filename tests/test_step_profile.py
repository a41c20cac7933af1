import json
import re

from ddpm_ext.training.output_folder import clear_output_folder
from tests.training_helpers import Script


def test_a_profile_says_where_the_time_of_a_step_goes(script: Script, tmp_path):
    said = script.run("train_unconditional", "--output_dir", str(tmp_path), "--use_ema", "--profile", "3")
    assert "profile.md says where the time of a step goes" in said
    page = (tmp_path / "profile" / "profile.md").read_text()
    parts = dict(re.findall(r"\| (\S+) \| [^|]+ \| ([\d.]+) \| [\d.]+% \|", page.split("## Operators")[0]))
    assert list(parts) == ["data", "forward", "backward", "optimizer", "EMA", "other"]
    milliseconds = {name: float(value) for name, value in parts.items()}
    whole = float(re.search(r"\*\*all\*\* \|  \| ([\d.]+)", page)[1])
    assert abs(sum(milliseconds.values()) - whole) < 0.05  # two decimals are written
    assert milliseconds["backward"] > milliseconds["EMA"] > 0
    assert "| `aten::convolution_backward` | 2" in page  # more than twenty calls in a step
    trace = json.loads((tmp_path / "profile" / "trace.json").read_text())
    forwards = [event for event in trace["traceEvents"] if event.get("name") == "part of the step: forward"]
    assert len(forwards) == 3

    clear_output_folder(tmp_path)
    assert not (tmp_path / "profile").exists()


def test_a_profile_of_more_steps_than_there_are_is_refused(script: Script, tmp_path):
    sentence = script.fails("train_unconditional", "--output_dir", str(tmp_path / "run"), "--profile", "8")
    assert sentence == "`profile` is 8, but after the first ones the run has 7 steps: at most that many are accepted."
    assert not (tmp_path / "run").exists()
