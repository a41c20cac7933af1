"""Measured numbers as a terminal shows them."""

from ddpm_ext.evaluation.estimates import Estimate
from ddpm_ext.evaluation.records import Measurement, as_text


DRAWN = {"weights": "averaged", "num_images": 1000, "sampler": "ddim", "steps": 50}


def test_what_all_numbers_share_is_said_once():
    fid = Measurement("fid", "FID", Estimate(12.5, 12.0, 13.0), {**DRAWN, "features": "pixels"})
    kid = Measurement("kid", "KID", Estimate(0.25), {**DRAWN, "features": "pixels"}, "Times 1,000.")
    bits = Measurement("bits_per_dim", "bits/dim", Estimate(4.5), {"weights": "averaged", "num_images": 360})
    assert as_text([fid, kid, bits]).splitlines() == [
        "FID       12.50 [12.00, 13.00]",
        "KID       0.2500",
        "    num images: 1,000; sampler: ddim; steps: 50; features: pixels",
        "  Times 1,000.",
        "",
        "bits/dim  4.500",
        "    num images: 360",
        "",
        "    all of these: weights: averaged",
    ]


def test_a_number_alone_has_its_whole_protocol():
    bits = Measurement("bits_per_dim", "bits/dim", Estimate(4.5), {"weights": "averaged", "num_images": 360})
    assert as_text([bits]).splitlines() == ["bits/dim  4.500", "", "    weights: averaged; num images: 360"]
