"""Generated GQA and COCO files of any size, for `bench_prepare.py`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (500, 375)
DIFFERENT = 300  # picture files with contents of their own
PER_IMAGE = 10  # questions about one picture, one after the other


def write_images(folder: Path, count: int) -> None:
    """`count` names 0.jpg, 1.jpg, ... for `DIFFERENT` different files (hard links: copies would fill the disk)."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    for index in range(count):
        path = folder / f"{index}.jpg"
        if index >= DIFFERENT:
            os.link(folder / f"{index % DIFFERENT}.jpg", path)
            continue
        angle, shade = rng.random() * 6.3, rng.integers(40, 216, 3)
        slope = ((np.cos(angle) * x + np.sin(angle) * y) / 6)[..., None]
        noise = rng.normal(0, 14, (SIZE[1], SIZE[0], 1))
        Image.fromarray(np.clip(shade + slope + noise, 0, 255).astype(np.uint8)).save(path, quality=85)


def write_gqa(folder: Path, questions: int, images: int) -> None:
    """questions.json and graphs.json with 16 objects a picture; each question names one, two or three of them."""
    rng = np.random.default_rng(1)
    with (folder / "graphs.json").open("w") as file:
        file.write("{")
        for index in range(images):
            objects = {}
            for number in range(16):
                x, y = int(rng.integers(0, 400)), int(rng.integers(0, 300))
                w, h = int(rng.integers(10, 150)), int(rng.integers(10, 120))
                relations = [{"name": "to the left of", "object": f"{index * 16 + other}"} for other in range(3)]
                objects[str(index * 16 + number)] = {
                    "name": f"thing {number}", "x": x, "y": y, "w": w, "h": h,
                    "attributes": ["red", "large"], "relations": relations,
                }  # fmt: skip
            graph = {"width": SIZE[0], "height": SIZE[1], "objects": objects}
            file.write(("," if index else "") + f'"{index}": {json.dumps(graph)}')
        file.write("}")
    with (folder / "questions.json").open("w") as file:
        file.write("{")
        for index in range(questions):
            image = index // PER_IMAGE % images
            a, b, c = (str(image * 16 + (index + step) % 16) for step in (0, 3, 7))
            program = [{"operation": "select", "dependencies": [], "argument": f"thing ({a})"}]
            if index % 3:
                program.append({"operation": "relate", "dependencies": [0], "argument": f"_,on,s ({b})"})
            if index % 3 == 2:
                program.append({"operation": "relate", "dependencies": [1], "argument": f"_,holding,o ({c})"})
            program.append({"operation": "query", "dependencies": [len(program) - 1], "argument": "name"})
            record = {
                "semantic": program, "entailed": [], "equivalent": [str(index)],
                "question": f"What is the thing to the left of the other thing {index} made of?",
                "imageId": str(image), "isBalanced": True, "groups": {"global": "thing", "local": "x"},
                "answer": "wood", "semanticStr": "select: thing->relate: _,on,s->query: name",
                "annotations": {"answer": {"0": c}, "question": {"3": a}, "fullAnswer": {"1": a}},
                "types": {"detailed": "directOf", "semantic": "attr", "structural": "query"},
                "fullAnswer": "The thing is made of wood.",
            }  # fmt: skip
            file.write(("," if index else "") + f'"{index:08d}": {json.dumps(record)}')
        file.write("}")


def write_coco(folder: Path, images: int) -> None:
    """instances.json, each object a polygon of 24 points; 80 classes in 12 supercategories.

    On average as many objects (7.7) and classes (3.5) an image as COCO has (Lin et al. 2014, section 5), in no order.
    """
    rng = np.random.default_rng(2)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    classes = [rng.choice(80, min(1 + rng.poisson(2.5), 80), replace=False) + 1 for _ in range(images)]
    objects = [
        (image, int(one)) for image in range(images) for one in classes[image] for _ in range(rng.geometric(1 / 2.2))
    ]
    with (folder / "instances.json").open("w") as file:
        names = ", ".join(
            json.dumps({"id": index, "file_name": f"{index}.jpg", "width": SIZE[0], "height": SIZE[1], "license": 4})
            for index in range(images)
        )
        file.write(
            f'{{"licenses": [{{"id": 4, "name": "Attribution License"}}], "images": [{names}], "annotations": ['
        )
        for number, which in enumerate(rng.permutation(len(objects))):
            image, category = objects[which]
            cx, cy, rx, ry = rng.uniform(80, 420), rng.uniform(70, 300), rng.uniform(15, 75), rng.uniform(15, 65)
            points = np.stack([cx + rx * np.cos(angles), cy + ry * np.sin(angles)], axis=1).round(2)
            entry = {
                "segmentation": [points.ravel().tolist()], "area": round(3.1 * rx * ry, 2), "iscrowd": 0,
                "image_id": image, "id": number, "category_id": category,
                "bbox": [round(float(v), 2) for v in (*points.min(0), *np.ptp(points, axis=0))],
            }  # fmt: skip
            file.write(("," if number else "") + json.dumps(entry))
        kinds = [
            {"id": index, "name": f"thing {index}", "supercategory": f"kind {index % 12}"} for index in range(1, 81)
        ]
        file.write(f'], "categories": {json.dumps(kinds)}}}')
