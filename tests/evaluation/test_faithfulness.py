"""Does the model use what it looks at? Worked numbers, and a policy that is known to use one place."""

import json

import numpy as np
import pytest
from PIL import Image

from sayo.evaluation.faithfulness import blank, curves, elsewhere, faithfulness, pointing
from sayo.evaluation.local import LocalModel
from sayo.evaluation.records import FAITHFULNESS, Reply


def test_pointing_games_by_hand():
    seen, region = np.array([0.4, 0.1, 0.3, 0.0]), np.array([0.0, 0.5, 1.0, 0.0])
    sinks = np.array([True, False, False, False])
    values = pointing(seen, region, sinks)
    assert values["region_share"] == 1.5 / 4
    assert (values["pointing"], values["pointing_sink_free"]) == (0.0, 1.0)
    assert values["energy"] == pytest.approx(0.35 / 0.8) and values["energy_sink_free"] == pytest.approx(0.35 / 0.4)
    assert "energy_sink_free" not in pointing(seen, np.array([1.0, 0, 0, 0]), sinks)  # all of the region is a sink


def test_blank():
    picture = Image.new("RGB", (8, 4), "black")
    picture.paste("white", (4, 0, 8, 4))
    pixels = np.asarray(blank(picture, [(4.0, 0.0, 6.0, 4.0)]))[..., 0]
    assert (pixels[:, :4] == 0).all() and (pixels[:, 4:6] == 128).all() and (pixels[:, 6:] == 255).all()
    kept = np.asarray(blank(picture, [(4.0, 0.0, 6.0, 4.0)], keep=True))[..., 0]
    assert (kept[:, 4:6] == 255).all() and (np.delete(kept, [4, 5], axis=1) == 128).all()


def test_elsewhere_is_as_large_and_touches_nothing():
    boxes = [(0.0, 0.0, 30.0, 20.0), (60.0, 60.0, 80.0, 100.0)]
    for seed in range(20):
        found = elsewhere(boxes, (100, 100), np.random.default_rng(seed))
        sides = np.array([(x2 - x1, y2 - y1) for x1, y1, x2, y2 in found])
        assert sides == pytest.approx(np.array([(30, 20), (20, 40)]))
        picture = np.zeros((100, 100), int)
        for x1, y1, x2, y2 in [*boxes, *found]:
            picture[round(y1) : round(y2), round(x1) : round(x2)] += 1
        assert picture.max() == 1 and min(min(box) for box in found) >= 0 and max(max(box) for box in found) <= 100
    assert elsewhere([(0, 0, 100, 60)], (100, 100), np.random.default_rng(0)) is None


class RedSeer:
    """Answers 1 where it sees red pixels, else 0, and is as sure of its answer as the picture's centre is red."""

    layout = None

    def answer(self, rows):
        for row in rows:
            red = (np.asarray(row["images"][0])[..., 0] > 200) & (np.asarray(row["images"][0])[..., 1] < 50)
            yield row, [Reply(f"<answer>{int(red.any())}</answer>")]

    def log_probs(self, rows, reply):
        return np.log([np.asarray(row["images"][0])[8, 8, 0] / 255 for row in rows])


def test_curves_by_hand():
    """A picture that is red in its centre alone: the first cell that is blanked, or shown, decides."""
    picture = Image.new("RGB", (16, 16), "black")
    picture.paste((255, 0, 0), (4, 4, 12, 12))
    cells = [(x, y, x + 8, y + 8) for x, y in ((4, 4), (0, 0), (8, 0), (0, 8))] + [(12, 12, 16, 16)] * 4
    mean = 64 / 255
    values = curves(RedSeer(), {}, Reply("1"), picture, cells)
    assert values["deletion"] == pytest.approx((1 / 2 + 7 * mean + mean / 2) / 8, abs=1e-3)
    assert values["insertion"] == pytest.approx((mean / 2 + 7 + 1 / 2) / 8, abs=1e-3)


@pytest.fixture
def asked(toy_policy, toy_rows):
    local = LocalModel(*toy_policy, num_samples=2, temperature=1.0, max_new_tokens=4)
    row = dict(next(row for row in toy_rows if row["has_region"]), index=0)
    ((row, replies),) = local.answer([row], attention=True)
    return local, row, replies


def test_a_real_policy(asked):
    """An untrained one: all is defined and in its range, and the same again."""
    local, row, replies = asked
    values = faithfulness(local, row, replies)
    assert set(values) == set(FAITHFULNESS) and None not in values.values()
    assert values["use"] == values["accuracy_other_blank"] - values["accuracy_region_blank"]
    assert all(0 <= values[name] <= 1 for name in FAITHFULNESS if name != "use")
    assert faithfulness(local, row, replies) == values
    nothing = faithfulness(local, {**row, "regions": []}, replies)
    assert set(nothing.values()) == {None}


def test_log_probs_are_those_of_generation(asked):
    """Whole pictures: the probability of the reply is that of its tokens, however many rows are asked at once."""
    local, row, replies = asked
    found = local.log_probs([row, row], replies[0])
    assert found[0] == pytest.approx(found[1], abs=1e-5) and -20 < found[0] < 0
    changed = {**row, "images": [Image.new("RGB", row["images"][0].size, "white")]}
    assert local.log_probs([row, changed], replies[0])[1] != pytest.approx(found[0], abs=1e-4)


def test_command(toy, tmp_path, sayo_command):
    words = ("evaluate", toy.policy, "--data", toy.prepared, "--limit", 6, "--num-samples", 1, "--max-new-tokens", 4)
    done = sayo_command(*words, "--faithfulness", "--out", tmp_path / "out")
    assert done.exit_code == 0 and "use of the region" in done.output, done.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert 0 <= summary["energy"] <= 1 and len(summary["intervals"]["use"]) == 2
    refused = sayo_command(*words, "--faithfulness", "--no-attention", "--out", tmp_path / "no")
    assert refused.exit_code == 2 and "leave --no-attention out" in refused.stderr
