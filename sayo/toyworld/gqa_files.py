"""Writes the toy world as GQA files: images, questions and scene graphs."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from sayo.toyworld.questions import make_questions, scene_graph
from sayo.toyworld.scenes import Scene, draw, make_scene

SPLITS = {"train": 0.8, "val": 0.1, "test": 0.1}
"""Share of the images in each split: `val` is for tuning, `test` is held out."""


def split_scenes(num_images: int, seed: int, prior: float | None = None) -> dict[str, list[tuple[int, Scene]]]:
    """split -> (image id, scene); no image is in two splits. A prior holds in `train` and `val`, `test` breaks it.

    Raises:
        ValueError: too few images for one in each split.
    """
    starts = np.cumsum([round(num_images * share) for share in SPLITS.values()])[:-1]
    parts = np.split(np.arange(1, num_images + 1), starts)
    if not all(map(len, parts)):
        raise ValueError(f"{num_images} images do not fill the splits {list(SPLITS)}; ask for at least 10")
    priors = {split: prior if prior is None or split != "test" else 0.0 for split in SPLITS}
    return {
        split: [(int(i), make_scene(seed, int(i), priors[split])) for i in part]
        for split, part in zip(SPLITS, parts, strict=True)
    }


def write_gqa(out: Path, num_images: int, seed: int, prior: float | None = None) -> Iterator[int]:
    """Writes `images/<id>.png`, `{split}_questions.json` and `{split}_sceneGraphs.json`; yields each id written.

    With a `prior` (`make_scene`), only what it is about is asked: the colour of a disc.
    """
    (out / "images").mkdir(parents=True, exist_ok=True)
    for split, scenes in split_scenes(num_images, seed, prior).items():
        questions, graphs = {}, {}
        for image_id, scene in scenes:
            Image.fromarray(draw(scene)).save(out / "images" / f"{image_id}.png")
            # A separate random stream, so that changing the questions does not change the pictures.
            asked = make_questions(scene, image_id, np.random.default_rng([seed, image_id, 1]))
            questions |= {
                i: record for i, record in asked.items() if prior is None or record["types"]["semantic"] == "attr"
            }
            graphs[str(image_id)] = scene_graph(scene, image_id)
            yield image_id
        (out / f"{split}_questions.json").write_text(json.dumps(questions))
        (out / f"{split}_sceneGraphs.json").write_text(json.dumps(graphs))
