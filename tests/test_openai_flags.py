"""OpenAI's command lines mean here what they mean there."""

import pytest

from ddpm_ext import ImprovedDDPMScheduler
from ddpm_ext.sharing.convert_openai import empty_unet
from ddpm_ext.sharing.openai_command_line import read_flags
from ddpm_ext.sharing.openai_network import network_config, scheduler_config


GUIDED = (
    "--attention_resolutions 32,16,8 --learn_sigma True --num_channels 256 --num_res_blocks 2 --resblock_updown True"
)
IMPROVED = "--num_channels 128 --learn_sigma True --noise_schedule cosine --diffusion_steps 4000"

# What the code of each library builds for the flags of the models that it was published with.
PUBLISHED = {
    "guided 128": ("guided", f"{GUIDED} --image_size 128 --num_heads 4 --class_cond True", 421_529_606),
    "guided 256": ("guided", f"{GUIDED} --image_size 256 --num_head_channels 64 --class_cond False", 552_814_086),
    "guided 512": ("guided", f"{GUIDED} --image_size 512 --num_head_channels 64 --class_cond True", 558_997_638),
    "improved 32": ("improved", f"{IMPROVED} --image_size 32 --num_res_blocks 3 --dropout 0.3", 52_546_438),
    "improved 64": ("improved", f"{IMPROVED} --image_size 64 --num_res_blocks 3", 121_063_942),
    "improved lsun": (
        "improved",
        "--image_size 256 --num_channels 128 --num_heads 1 --learn_sigma True --use_scale_shift_norm False "
        "--attention_resolutions 16",
        113_676_678,
    ),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_networks_have_their_number_of_parameters(model):
    library, text, expected = PUBLISHED[model]
    flags = read_flags(text, library)
    unet = empty_unet(flags, 3, 1000 if flags.class_cond else None)
    of_null_class = 4 * flags.num_channels if flags.class_cond else 0
    assert sum(parameter.numel() for parameter in unet.parameters()) - of_null_class == expected


@pytest.mark.parametrize(
    "text, library",
    [
        ("", "improved"),  # either
        ("--sigma_small True", "improved"),
        ("--image_size 32", "improved"),
        ("--image_size 128", "guided"),
        ("--num_head_channels 64", "guided"),
        ("--diffusion_steps 4000 --resblock_updown False", "guided"),
        ("--diffusion_steps 4000 --rescale_timesteps False", "improved"),
    ],
)
def test_flags_tell_their_library(text, library):
    assert read_flags(text).library == library


def test_the_libraries_differ_in_whether_they_rescale_timesteps():
    assert read_flags("--diffusion_steps 4000", "improved").rescale_timesteps
    assert not read_flags("--diffusion_steps 4000", "guided").rescale_timesteps
    assert network_config(read_flags("--diffusion_steps 4000", "improved"), 3, None)["num_train_timesteps"] == 4000
    assert "num_train_timesteps" not in network_config(read_flags("--diffusion_steps 4000", "guided"), 3, None)
    assert "num_train_timesteps" not in network_config(read_flags("", "improved"), 3, None)


@pytest.mark.parametrize(
    "written",
    [
        "--image_size 32 --learn_sigma True",
        "--image_size=32 --learn_sigma=1",
        "mpiexec -n 8 python scripts/image_train.py --data_dir 'my images' --lr 1e-4 --image_size 32 --learn_sigma y",
        "--image_size 64 \\\n --image_size 32 \\\n --learn_sigma true",
    ],
)
def test_ways_of_writing(written):
    assert read_flags(written) == read_flags("--learn_sigma True --image_size 32 --use_fp16 True --use_kl True")


CHAINS = [
    ("", {"variance_type": "fixed_large", "prediction_type": "epsilon", "beta_end": 0.02}),
    ("--sigma_small True --predict_xstart True", {"variance_type": "fixed_small", "prediction_type": "sample"}),
    ("--learn_sigma True --sigma_small True", {"variance_type": "learned_range", "clip_sample": True}),
    (
        "--image_size 32 --diffusion_steps 4000",
        {"beta_start": 0.000025, "beta_end": 0.005, "num_train_timesteps": 4000},
    ),
    ("--noise_schedule cosine --clip_denoised False", {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False}),
    ("--timestep_respacing ddim25", {"num_train_timesteps": 1000}),
]


@pytest.mark.parametrize("text, expected", CHAINS)
def test_the_chain(text, expected):
    config = ImprovedDDPMScheduler(**scheduler_config(read_flags(text))).config
    assert {name: config[name] for name in expected} == pytest.approx(expected)


REFUSED = {
    "misspelt": (
        "--num_chanels 128",
        "holds --num_chanels, which is no flag of OpenAI's: did you mean --num_channels?",
    ),
    "unknown": ("--zzz 1", "holds --zzz, .* those of improved-diffusion and guided-diffusion are accepted"),
    "no value": ("--class_cond --image_size 64", "holds --class_cond without a value"),
    "nothing after": ("--image_size", "holds --image_size without a value"),
    "two values": ("--channel_mult 1 2", "holds '2' where a flag"),
    "open quote": ("--image_size '64", "cannot be read: no closing quotation"),
    "no number": ("--image_size big", "says --image_size big: a whole number is accepted"),
    "no switch": ("--class_cond maybe", "says --class_cond maybe: True or False is accepted"),
    "no list": ("--attention_resolutions 16;8", "says --attention_resolutions 16;8: numbers above 0"),
    "zero": ("--num_heads 0", "says --num_heads 0: a whole number from 1 to"),
    "slip": ("--num_res_blocks 33333", "says --num_res_blocks 33333: a whole number from 1 to 64"),
    "size": ("--image_size 48", "says --image_size 48: improved has a --channel_mult for 32, 64, 256 only"),
    "halving": ("--image_size 20 --channel_mult 1,2,3,4", "says --image_size 20: .* 4 levels needs a multiple of 8"),
    "groups": ("--num_channels 40", "says --num_channels 40: a level has 40 channels, and multiples of 32"),
    "wide": ("--channel_mult 1,1e9", "says --channel_mult 1,1e9: a level has 128000000000 channels"),
    "heads": ("--num_heads 3 --num_channels 160", "says --num_heads 3: .* 640 channels"),
    "head channels": ("--num_head_channels 50", "says --num_head_channels 50: .* 384 channels"),
    "heads on the way up": ("--num_heads_upsample 8", "says --num_heads_upsample 8: .* cannot be expressed"),
    "super-resolution": ("--large_size 256 --small_size 64", "holds --large_size: networks for super-resolution"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_is_a_sentence_about_flags(mistake):
    text, sentence = REFUSED[mistake]
    with pytest.raises(ValueError, match=f"^`flags` {sentence}"):
        read_flags(text)


def test_a_library_is_asked_for_where_it_matters():
    with pytest.raises(ValueError, match="`library` must be given, .* --diffusion_steps 4000 it matters"):
        read_flags("--diffusion_steps 4000")


def test_other_names_are_refused():
    with pytest.raises(ValueError, match="`library` is 'guide': .* Did you mean 'guided'?"):
        read_flags("", "guide")
    with pytest.raises(ValueError, match="`noise_schedule` is 'cosin': .* Did you mean 'cosine'?"):
        read_flags("--noise_schedule cosin")
