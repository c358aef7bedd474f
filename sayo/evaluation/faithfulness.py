"""Does the model use what it looks at? Attention beside what happens to the answer when pixels are taken away.

Attention is no proof of use (arXiv 2605.08200, 2606.17389), so a reward for looking may buy looks alone. What is
measured for a question about one picture with a region, of the first response and its map (`sayo.draw.response_map`):

- `pointing`: is the visual token with the most attention in the region (the pointing game)? `pointing_sink_free`:
  of the tokens that are no sinks: the 2% (at least one) that are looked at most when the picture is to be described,
  whatever the question.
- `energy`: the region's share of the attention on the image (the energy-based pointing game), and
  `energy_sink_free`; beside it `region_share`, its share of the visual tokens, which a model that looks everywhere
  alike reaches.
- `deletion`, `insertion`: area under the curve of the response's probability (geometric mean over its tokens) as the
  visual tokens with the most attention are blanked first, or shown first in a blank picture (Petsiuk et al. 2018). A
  map that shows what is used has a low deletion and a high insertion.
- `accuracy_region_blank`, `accuracy_other_blank`: accuracy when the region is blanked, and when as large rectangles
  elsewhere are; `use`: the second minus the first. A model that uses the region needs it.

Blank is the picture's mean colour.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from sayo.draw import response_map
from sayo.evaluation.local import LocalModel
from sayo.evaluation.records import FAITHFULNESS, Reply, question_record
from sayo.evaluation.server import ServerModel
from sayo.metrics.sinks import sink_tokens

STEPS = 8
"""Equal steps of the two curves."""

TRIES = 200
"""Places that are tried for a rectangle beside the region."""

Box = Sequence[float]


def faithfulness(
    answerer: LocalModel | ServerModel, row: Mapping[str, Any], replies: Sequence[Reply], whole_text: bool = False
) -> dict[str, float | None]:
    """The values of `records.FAITHFULNESS` for one question; None where they are not defined.

    Args:
        row: as `answerer` located it, with its pictures.
        replies: to the row as it is, with traces.
        whole_text: as of `rewards.accuracy_reward`.
    """
    values: dict[str, float | None] = dict.fromkeys(FAITHFULNESS)
    reply, regions = replies[0], row.get("regions") or []
    if len(row["images"]) != 1 or not regions or reply.trace is None or len(reply.trace) == 0:
        return values
    picture, seen = row["images"][0].convert("RGB"), response_map(reply.trace)
    region = np.zeros(len(seen))
    region[row["region_tokens"]] = row["region_weights"]
    reader = getattr(answerer, "reader", answerer)
    cells = reader.layout.cells(*picture.size).footprints
    order = [cells[index] for index in np.argsort(-seen, kind="stable") if np.isfinite(cells[index]).all()]
    neutral = {**row, "prompt": [{"role": "user", "content": "Describe the image."}]}
    (described,) = reader.read(neutral, [Reply("The image shows")])
    sinks = sink_tokens(response_map(described.trace))
    values |= {**pointing(seen, region, sinks), **curves(reader, row, reply, picture, order)}
    boxes = [entry["box"] for entry in regions]
    other = elsewhere(boxes, picture.size, np.random.default_rng(int(row["index"])))
    for name, blanked in (("region", boxes), ("other", other)) if other else ():
        changed = {**row, "images": [blank(picture, blanked)]}
        ((_, answers),) = answerer.answer([changed])
        values[f"accuracy_{name}_blank"] = question_record(changed, answers, whole_text)["accuracy"]
    if None not in (pair := (values["accuracy_other_blank"], values["accuracy_region_blank"])):
        values["use"] = pair[0] - pair[1]
    return values


def pointing(seen: np.ndarray, region: np.ndarray, sinks: np.ndarray) -> dict[str, float | None]:
    """Both pointing games, of `(N,)` attention on the visual tokens, coverage weights of the region, bool sinks."""
    values: dict[str, float | None] = {"region_share": float(region.sum() / len(region))}
    for name, keep in (("", np.ones(len(seen), dtype=bool)), ("_sink_free", ~sinks)):
        left = np.where(keep, seen, 0.0)
        if (region[keep] > 0).any() and left.sum() > 0:
            values[f"pointing{name}"] = float(region[left.argmax()] > 0)
            values[f"energy{name}"] = float(left @ region / left.sum())
    return values


def curves(
    answerer: LocalModel, row: Mapping[str, Any], reply: Reply, picture: Image.Image, order: Sequence[Box]
) -> dict[str, float]:
    """`insertion` and `deletion`: means, by the trapezoid rule, of `STEPS + 1` probabilities of the response each."""
    counts = [round(len(order) * step / STEPS) for step in range(STEPS + 1)]
    deleted = [blank(picture, order[:count]) for count in counts]
    inserted = [blank(picture, order[:count], keep=True) for count in counts]
    chances = np.exp(answerer.log_probs([{**row, "images": [image]} for image in (*deleted, *inserted)], reply))
    areas = [float(np.trapezoid(part) / STEPS) for part in np.split(chances, 2)]
    return {"deletion": areas[0], "insertion": areas[1]}


def blank(picture: Image.Image, boxes: Sequence[Box], keep: bool = False) -> Image.Image:
    """The picture with its mean colour in boxes, xyxy in pixels; with `keep` everywhere but there."""
    flat = Image.new("RGB", picture.size, tuple(np.asarray(picture).reshape(-1, 3).mean(axis=0).round().astype(int)))
    mask = Image.new("1", picture.size)
    for box in boxes:
        left, top, right, bottom = map(round, box)
        ImageDraw.Draw(mask).rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), 1)  # with its border
    return Image.composite(picture, flat, mask) if keep else Image.composite(flat, picture, mask)


def elsewhere(boxes: Sequence[Box], size: tuple[int, int], rng: np.random.Generator) -> list[Box] | None:
    """As large boxes as the given ones at random places that touch none of them; None where there is no room."""
    found = []
    for x1, y1, x2, y2 in boxes:
        width, height = x2 - x1, y2 - y1
        places = rng.uniform(size=(TRIES, 2)) * (size[0] - width, size[1] - height)
        free = (place for place in places if not any(_overlap(*place, width, height, box) for box in (*boxes, *found)))
        if (place := next(free, None)) is None:
            return None
        found.append((place[0], place[1], place[0] + width, place[1] + height))
    return found


def _overlap(x: float, y: float, width: float, height: float, box: Box) -> bool:
    return x < box[2] and box[0] < x + width and y < box[3] and box[1] < y + height
