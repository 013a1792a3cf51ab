"""What the model card says of the shipped weights is true of them."""

import subprocess
from pathlib import Path

from koren_detector.accident import load_weights, trained_on
from koren_detector.lineage import feature_code_hash

ROOT = Path(__file__).parents[3]
CARD = (ROOT / "docs/model-card.md").read_text()


def test_the_card_is_of_the_shipped_weights_and_measured_with_todays_code() -> None:
    assert trained_on() in CARD
    assert feature_code_hash() in CARD, "measure anew (make bench-detector) and put figures and hash into the card"
    assert f"threshold {float(load_weights()['threshold']):g}" in CARD


def test_the_command_that_measures_is_a_target_and_its_programs_take_its_options() -> None:
    assert "make bench-detector" in CARD
    planned = subprocess.run(
        ["make", "-n", "bench-detector", "KOREN_FOOTAGE=clips"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout

    for program in ("simulate.py", "observe.py", "bench.py"):
        assert f"training/{program}" in planned
    assert "--real 'clips'" in planned


def test_the_command_that_trains_is_a_target_that_replaces_the_shipped_weights() -> None:
    assert "make train" in CARD
    planned = subprocess.run(
        ["make", "-n", "train", "TRAINING_DATA=data"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout

    assert "training/pipeline.py data apps/detector/src/koren_detector/accident.npz" in planned
