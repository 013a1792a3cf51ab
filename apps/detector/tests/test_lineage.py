from pathlib import Path

import numpy as np
import pytest

from koren_detector import accident
from koren_detector.accident import WeightsError, load_weights, trained_on
from koren_detector.lineage import feature_code_hash, feature_modules, hash_of

CODE = 'RING = 40\n"""Frames kept."""\n\ndef gap(a, b):\n    """Metres."""\n    return a - b\n'


def test_the_shipped_weights_were_made_for_todays_feature_code() -> None:
    stored = np.load(Path(accident.__file__).with_name("accident.npz"), allow_pickle=False)

    assert str(stored["feature_code"]) == feature_code_hash(), (
        "the code that makes features, tracks or ground has changed: train the weights again (training/train.py),"
        " or measure them with the new code, put the figures into docs/model-card.md and run training/stamp.py"
    )


def test_all_that_features_come_from_is_in_the_hash() -> None:
    assert feature_modules() == ("boxes", "ground", "motion", "tracking")


def test_comments_documentation_and_formatting_do_not_change_the_hash() -> None:
    other = 'RING   =   40 # frames\ndef gap(\n    a,\n    b,\n):\n    """In metres, of two."""\n    return (a - b)\n'

    assert hash_of({"motion": CODE}) == hash_of({"motion": other})


@pytest.mark.parametrize(
    "changed",
    [
        CODE.replace("40", "41"),
        CODE.replace("a - b", "b - a"),
        CODE.replace("a, b", "a, b=0"),
        CODE.replace("gap", "space"),
        CODE + "RING = 41\n",
    ],
)
def test_whatever_may_change_a_feature_changes_the_hash(changed: str) -> None:
    assert hash_of({"motion": CODE}) != hash_of({"motion": changed})


def test_code_that_moves_to_another_module_changes_the_hash() -> None:
    assert hash_of({"motion": CODE}) != hash_of({"ground": CODE})


@pytest.fixture
def altered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the package's place, with its weights, for a test to alter."""
    (tmp_path / "accident.npz").write_bytes(Path(accident.__file__).with_name("accident.npz").read_bytes())
    monkeypatch.setattr(accident, "files", lambda _package: tmp_path)
    return tmp_path / "accident.npz"


def rewrite(path: Path, **fields: np.ndarray | None) -> None:
    stored = dict(np.load(path, allow_pickle=False)) | fields
    np.savez(path, **{name: value for name, value in stored.items() if value is not None})


def test_weights_for_other_code_are_refused_with_the_remedy(altered: Path) -> None:
    rewrite(altered, feature_code=np.array("0" * 64))

    with pytest.raises(WeightsError, match=r"boxes\.py, ground\.py, motion\.py, tracking\.py.*training/stamp\.py"):
        load_weights()


def test_weights_that_do_not_say_what_they_were_made_for_are_refused(altered: Path) -> None:
    rewrite(altered, feature_code=None)

    with pytest.raises(WeightsError, match="does not say feature_code"):
        load_weights()


def test_stamping_keeps_the_weights_and_what_trained_them(altered: Path) -> None:
    from stamp import save

    before, commit = load_weights(), trained_on()
    rewrite(altered, feature_code=np.array("0" * 64))

    save(altered, dict(np.load(altered, allow_pickle=False)), commit)

    after = load_weights()
    assert after.keys() == before.keys()
    assert all((after[name] == before[name]).all() for name in before)
    assert trained_on() == commit
