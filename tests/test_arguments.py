"""The command line: what is accepted, what wins over what, and the sentence that a mistake gets."""

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ddpm_ext.diffusion import BETA_SCHEDULES, PREDICTION_TYPES, VARIANCE_TYPES, canonical_beta_schedule
from ddpm_ext.training.argument_parser import GROUPS
from ddpm_ext.training.arguments import Arguments, ProcessArguments, TrainingArguments
from ddpm_ext.training.command_line import parse, run_script
from ddpm_ext.training.recipes import flatten, to_yaml


KINDS = ("unconditional", "class_conditional")
ON_DIGITS = ["--dataset_name", "digits"]  # without it the digits recipe, not the defaults, would be read

# The flags of diffusers' examples/unconditional_image_generation/train_unconditional.py, each with a value it takes.
FLAGS_OF_DIFFUSERS = """
    --dataset_name a --dataset_config_name b --model_config_name_or_path c --train_data_dir d --output_dir e
    --overwrite_output_dir --cache_dir f --resolution 64 --center_crop --random_flip --train_batch_size 8
    --eval_batch_size 4 --dataloader_num_workers 2 --num_epochs 3 --save_images_epochs 2 --save_model_epochs 2
    --gradient_accumulation_steps 2 --learning_rate 1e-3 --lr_scheduler constant --lr_warmup_steps 10 --adam_beta1 0.9
    --adam_beta2 0.99 --adam_weight_decay 0.01 --adam_epsilon 1e-7 --use_ema --ema_inv_gamma 2 --ema_power 0.5
    --ema_max_decay 0.99 --push_to_hub --hub_token t --hub_model_id me/x --hub_private_repo --logger wandb
    --logging_dir l --mixed_precision bf16 --prediction_type sample --ddpm_num_steps 200 --ddpm_num_inference_steps 100
    --ddpm_beta_schedule linear --checkpointing_steps 9 --checkpoints_total_limit 1 --resume_from_checkpoint latest
    --preserve_input_precision --local_rank 0 --enable_xformers_memory_efficient_attention
""".split()


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe and returns the flags that name it."""

    def write(text: str) -> list[str]:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return ["--config", str(path)]

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_every_flag_of_diffusers_script_is_accepted_with_its_meaning(kind, capsys):
    arguments = parse(kind, FLAGS_OF_DIFFUSERS)
    flat = flatten(arguments)
    assert (flat["dataset_name"], flat["resolution"], flat["use_ema"], flat["hub_private_repo"]) == (
        "a",
        "64",
        True,
        True,
    )
    assert (flat["num_train_timesteps"], flat["num_inference_steps"], flat["beta_schedule"]) == (200, 100, "linear")
    assert arguments.training.resume_from_checkpoint == "latest"
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 2 and "`--local_rank` has no effect" in notes[0] and "xformers" in notes[1]


@pytest.mark.parametrize("kind", KINDS)
def test_without_arguments_it_is_the_digits_recipe(kind):
    arguments = parse(kind, [])
    assert arguments.data.dataset_name == "digits"
    assert arguments.process.beta_schedule == "cosine"
    assert arguments == parse(kind, ["--config", {KINDS[0]: "digits", KINDS[1]: "digits_class_conditional"}[kind]])


def test_points_keep_their_recipe_whichever_they_are():
    arguments = parse("points", ["--dataset_name", "circles"])
    assert arguments.data.dataset_name == "circles"
    assert arguments.training == parse("points", ["--config", "points"]).training


def test_an_argument_of_other_scripts_is_told_whose_it_is():
    with pytest.raises(ValueError, match="`--label_dropout` is .* of class-conditional training and points training"):
        parse("unconditional", ["--label_dropout", "0.1"])
    with pytest.raises(ValueError, match="`--resolution` is .* of unconditional training and class-conditional"):
        parse("points", ["--resolution", "64"])
    with pytest.raises(ValueError, match="`dataset_name` is 'swiss': .*'swiss_roll'"):
        parse("points", ["--dataset_name", "swiss"])


@pytest.mark.parametrize("flag", ["--dataset_name", "--train_data_dir", "--model_config_name_or_path"])
def test_naming_data_or_model_leaves_the_digits_recipe_aside(flag):
    assert parse("unconditional", [flag, "mine"]).training.learning_rate == TrainingArguments().learning_rate


@pytest.mark.parametrize("before", [True, False])
def test_flags_override_the_recipe_wherever_they_stand(recipe, before):
    config, flags = recipe("learning_rate: 2e-3\nseed: 5\n"), ["--learning_rate", "0.5"]
    training = parse("unconditional", flags + config if before else config + flags).training
    assert (training.learning_rate, training.seed) == (0.5, 5)


def test_a_flag_equal_to_the_default_overrides_the_recipe_too(recipe):
    assert parse("unconditional", [*recipe("seed: 5"), "--seed", "0"]).training.seed == 0


def test_a_flag_takes_back_what_the_recipe_says_in_another_way(recipe):
    config = recipe("dataset_name: digits\nmax_train_steps: 10\nsave_images_steps: 5\nblock_out_channels: [32]\n")
    flags = "--train_data_dir d --num_epochs 3 --save_images_epochs 1 --model_config_name_or_path m".split()
    arguments = parse("unconditional", config + flags)
    assert arguments.data.dataset_name is None and arguments.model.block_out_channels is None
    assert arguments.training.max_train_steps is None and arguments.logging.save_images_steps is None


def test_recipe_values_are_read_as_flags_are(recipe):
    text = "learning_rate: 2e-3\nmixed_precision: no\nblock_out_channels: [64, 128]\nattention_resolutions: 4\n"
    text += "use_ema: true\nresolution: 96x160\nrun_name: '1e3'\nmax_train_steps: null\nclip_sample: false\n"
    text += "ddpm_num_steps: 50\n"
    flat = flatten(parse("unconditional", recipe(text)))
    assert (flat["learning_rate"], flat["mixed_precision"], flat["use_ema"]) == (2e-3, "no", True)
    assert (flat["block_out_channels"], flat["attention_resolutions"]) == ([64, 128], [4])
    assert (flat["resolution"], flat["run_name"], flat["max_train_steps"]) == ("96x160", "1e3", None)
    assert (flat["clip_sample"], flat["num_train_timesteps"]) == (False, 50)


@pytest.mark.parametrize("kind", KINDS)
def test_resolved_configuration_parses_back_to_itself(kind, recipe):
    odd = [
        "--run_name",
        "null",
        "--project_name",
        "no: yes # é",
        "--resolution",
        "40",
        "--adam_epsilon",
        "1e-9",
        "--max_grad_norm",
        "inf",
    ]
    for argv in (
        [],
        [*ON_DIGITS, *odd, "--block_out_channels", "32", "64", "--mixed_precision", "no", "--no_clip_sample"],
    ):
        arguments = parse(kind, argv)
        assert parse(kind, recipe(to_yaml(arguments))) == arguments


def test_hub_token_and_how_a_run_started_are_never_written():
    arguments = parse("unconditional", "--hub_token secret --resume --overwrite_output_dir".split())
    assert arguments.logging.hub_token == "secret" and arguments.training.resume
    assert "secret" not in to_yaml(arguments) and "secret" not in map(str, flatten(arguments).values())
    assert not {"hub_token", "resume", "overwrite_output_dir", "resume_from_checkpoint"} & set(
        yaml.safe_load(to_yaml(arguments))
    )


@pytest.mark.parametrize("off", [["--clip_sample", "false"], ["--clip_sample=no"], ["--no_clip_sample"]])
def test_a_switch_that_is_on_can_be_turned_off(off):
    assert parse("unconditional", ON_DIGITS).process.clip_sample
    assert not parse("unconditional", ON_DIGITS + off).process.clip_sample


def test_loss_and_sampling_steps_follow_from_the_process():
    def resolved(*flags: str) -> tuple[str | None, int | None]:
        arguments = parse("unconditional", [*ON_DIGITS, *flags])
        return arguments.training.loss, arguments.logging.num_inference_steps

    assert resolved() == ("simple", 1000)
    assert resolved("--variance_type", "learned", "--num_train_timesteps", "4000") == ("hybrid", 1000)
    assert resolved("--num_train_timesteps", "50", "--loss", "simple") == ("simple", 50)


def test_process_arguments_construct_the_scheduler():
    from ddpm_ext import ImprovedDDPMScheduler

    process = parse("class_conditional", []).process
    scheduler = ImprovedDDPMScheduler(**dataclasses.asdict(process))
    assert scheduler.config.variance_type == process.variance_type
    assert set(dataclasses.asdict(process)) <= set(inspect.signature(ImprovedDDPMScheduler).parameters)


def test_choices_are_those_of_the_mathematics_and_of_diffusers():
    from diffusers.optimization import SchedulerType

    hints = ProcessArguments.__annotations__
    assert hints["prediction_type"].__args__ == PREDICTION_TYPES
    assert hints["variance_type"].__args__ == VARIANCE_TYPES
    assert {canonical_beta_schedule(name) for name in hints["beta_schedule"].__args__} == set(BETA_SCHEDULES)
    assert set(TrainingArguments.__annotations__["lr_scheduler"].__args__) < {kind.value for kind in SchedulerType}


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--lerning_rate", "1"], ["`--lerning_rate`", "`--learning_rate`"]),
        (["--learning-rat=1"], ["`--learning-rat`", "`--learning_rate`"]),
        (["--learn", "1"], ["`--learn`"]),  # no abbreviations: a later argument could change what they mean
        (["--xyzzy"], ["`--xyzzy`", "`--help`"]),
        (["7"], ["'7'"]),
        (["--train_batch_size", "many"], ["`train_batch_size`", "'many'", "a whole number of at least 1"]),
        (["--train_batch_size", "0"], ["`train_batch_size`", "0", "a whole number of at least 1"]),
        (["--learning_rate", "nan"], ["`learning_rate`", "nan", "above 0"]),
        (["--learning_rate"], ["`learning_rate`", "expected one argument"]),
        (["--use_ema", "maybe"], ["`use_ema`", "maybe"]),
        (["--dropout", "1"], ["`dropout`", "1.0", "below 1"]),
        (["--resolution", "64x"], ["`resolution`", "'64x'", "96x160"]),
        (["--image_channels", "4"], ["`image_channels`", "4", "1 or 3"]),
        (["--block_out_channels", "64", "0"], ["`block_out_channels`", "[64, 0]"]),
        (["--beta_schedule", "cosin"], ["`beta_schedule`", "'cosin'", "squaredcos_cap_v2", "Did you mean 'cosine'?"]),
        (["--prediction_type", "eps"], ["`prediction_type`", "'eps'", "epsilon"]),
        (["--ddpm_num_steps", "x"], ["`num_train_timesteps`", "'x'"]),
        (["--output_dir", ""], ["`output_dir`", "''"]),
        (["--output_dir", __file__], ["`output_dir`", "a folder, new or existing,"]),
        (["--output_dir", f"{__file__}/run"], ["`output_dir`", "not below a file"]),
        (["--loss", "hybrid"], ["`loss`", "`variance_type`", "'learned_range'"]),
        (["--num_train_timesteps", "10", "--num_inference_steps", "20"], ["`num_inference_steps`", "20", "10"]),
        (["--guidance_scale", "2"], ["`--guidance_scale`", "class-conditional"]),
        (["--label_dropout=0.2"], ["`--label_dropout`", "class-conditional"]),
        (["--config", "nowhere.yaml"], ["`config`", "'nowhere.yaml'", "digits_class_conditional"]),
    ],
)
def test_a_mistake_gets_one_sentence_that_names_it(argv, words):
    with pytest.raises(ValueError) as caught:
        parse("unconditional", argv)
    message = str(caught.value)
    assert "\n" not in message and [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    "text, words",
    [
        ("seed: 1\nlerning_rate: 1\n", ["line 2", "`lerning_rate`", "did you mean `learning_rate`?"]),
        ("config: x\n", ["`config`"]),
        ("seed: 1\nseed: 2\n", ["line 2", "`seed`", "line 1"]),
        ("beta_schedule: linear\nddpm_beta_schedule: linear\n", ["`beta_schedule`", "line 1"]),
        ("seed: one\n", ["recipe.yaml", "`seed`", "'one'"]),
        ("seed: [1, 2]\n", ["recipe.yaml", "'2'"]),
        ("seed: {a: 1}\n", ["line 1", "`seed`"]),
        ("- seed\n", ["recipe.yaml", "not a recipe"]),
        ("seed: [1\n", ["recipe.yaml", "not a YAML file"]),
        ("guidance_scale: 2\n", ["`guidance_scale`"]),
    ],
)
def test_a_mistake_in_a_recipe_names_the_file_and_the_line(recipe, text, words):
    with pytest.raises(ValueError) as caught:
        parse("unconditional", recipe(text))
    message = str(caught.value)
    assert "\n" not in message and [word for word in words if word not in message] == []


def test_guidance_without_label_dropout_is_refused():
    with pytest.raises(ValueError, match="`guidance_scale` is 2.0 but `label_dropout` is 0"):
        parse("class_conditional", ["--guidance_scale", "2", "--label_dropout", "0"])


def test_groups_made_in_python_are_checked_as_flags_are():
    with pytest.raises(ValueError, match="`train_batch_size` is '16'"):
        TrainingArguments(train_batch_size="16")
    with pytest.raises(ValueError, match="`seed` is True"):
        TrainingArguments(seed=True)
    assert TrainingArguments(learning_rate=1).learning_rate == 1


def test_help_tells_groups_choices_defaults_and_aliases(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("class_conditional", ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0
    assert "--num_train_timesteps, --ddpm_num_steps T" in text
    assert "{epsilon,sample,v_prediction,mean}" in text
    assert "(default: true; --no_clip_sample turns it off)" in text
    assert "--guidance_scale W" in text and "--learning-rate" not in text
    for group in GROUPS["class_conditional"]:
        assert group._argument_group_name.split(" (")[0] in text


def test_a_script_ends_a_users_mistake_with_one_line_and_code_2(monkeypatch, capsys):
    def main() -> None:
        raise ValueError("`seed` is -1: a whole number of at least 0 is accepted.")

    waited = []
    monkeypatch.setattr("ddpm_ext.training.command_line.time.sleep", waited.append)
    for rank, waits in (("0", 0), ("1", 1)):  # the others give the launcher time to end them before they speak too
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as caught:
            run_script(main)
        assert caught.value.code == 2
        assert capsys.readouterr().err == "error: `seed` is -1: a whole number of at least 0 is accepted.\n"
        assert len(waited) == waits


def test_a_script_does_not_hide_our_own_bugs():
    def main() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        run_script(main)


def test_recipes_are_found_from_any_folder(tmp_path):
    code = "from ddpm_ext.training.command_line import parse; print(parse('unconditional', []).data.dataset_name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "digits", done.stderr


def test_every_shipped_recipe_can_be_read():
    import ddpm_ext.train_scripts

    recipes = sorted(Path(ddpm_ext.train_scripts.__path__[0], "recipes").glob("*.yaml"))
    assert len(recipes) >= 2
    for path in recipes:
        kind = next((kind for kind in ("class_conditional", "points") if kind in path.stem), "unconditional")
        assert isinstance(parse(kind, ["--config", str(path)]), Arguments)
