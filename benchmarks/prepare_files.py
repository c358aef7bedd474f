"""Generated GQA and COCO files of any size, for `benchmarks.prepare`."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (500, 375)
DIFFERENT = 300  # pictures
PER_IMAGE = 10  # questions about one picture, anywhere in the file


def write_images(folder: Path, count: int) -> None:
    """`count` files 0.jpg, 1.jpg, ... of `DIFFERENT` pictures, each with a comment of its own: no two are equal."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    drawn = []
    for _ in range(min(count, DIFFERENT)):
        angle, shade = rng.random() * 6.3, rng.integers(40, 216, 3)
        slope = ((np.cos(angle) * x + np.sin(angle) * y) / 6)[..., None]
        noise = rng.normal(0, 14, (SIZE[1], SIZE[0], 1))
        data = io.BytesIO()
        Image.fromarray(np.clip(shade + slope + noise, 0, 255).astype(np.uint8)).save(data, "JPEG", quality=85)
        drawn.append(data.getvalue())
    for index in range(count):
        start, rest = drawn[index % DIFFERENT][:2], drawn[index % DIFFERENT][2:]
        (folder / f"{index}.jpg").write_bytes(start + b"\xff\xfe\0\6" + index.to_bytes(4, "big") + rest)


def write_gqa(folder: Path, questions: int, images: int) -> None:
    """questions.json and graphs.json with 16 objects a picture; each question names one, two or three of them."""
    for name, records in {"graphs": _graphs(images), "questions": _questions(questions, images)}.items():
        (folder / f"{name}.json").write_text("{" + ",".join(f'"{key}": {json.dumps(r)}' for key, r in records) + "}")


def _graphs(images: int) -> Iterator[tuple[str, dict]]:
    low, high = (0, 0, 10, 10), (400, 300, 150, 120)
    boxes = np.random.default_rng(1).integers(low, high, (images, 16, 4)).tolist()
    for image in range(images):
        relations = [{"name": "to the left of", "object": str(image * 16 + other)} for other in range(3)]
        shared = {"attributes": ["red", "large"], "relations": relations}
        objects = {
            str(image * 16 + number): {"name": f"thing {number}", **dict(zip("xywh", box, strict=True)), **shared}
            for number, box in enumerate(boxes[image])
        }
        yield str(image), {"width": SIZE[0], "height": SIZE[1], "objects": objects}


def _questions(questions: int, images: int) -> Iterator[tuple[str, dict]]:
    for index in np.random.default_rng(3).permutation(questions).tolist():
        image = index // PER_IMAGE % images
        a, b, c = (str(image * 16 + (index + step) % 16) for step in (0, 3, 7))
        steps = [("select", f"thing ({a})"), ("relate", f"_,on,s ({b})"), ("relate", f"_,holding,o ({c})")]
        steps = [*steps[: 1 + index % 3], ("query", "name")]
        program = [
            {"operation": operation, "dependencies": [number - 1] if number else [], "argument": argument}
            for number, (operation, argument) in enumerate(steps)
        ]
        yield f"{index:08d}", {
            "semantic": program, "entailed": [], "equivalent": [str(index)],
            "question": f"What is the thing to the left of the other thing {index} made of?",
            "imageId": str(image), "isBalanced": True, "groups": {"global": "thing", "local": "x"},
            "answer": "wood", "semanticStr": "select: thing->relate: _,on,s->query: name",
            "annotations": {"answer": {"0": c}, "question": {"3": a}, "fullAnswer": {"1": a}},
            "types": {"detailed": "directOf", "semantic": "attr", "structural": "query"},
            "fullAnswer": "The thing is made of wood.",
        }  # fmt: skip


def write_coco(folder: Path, images: int) -> None:
    """instances.json, each object a polygon of 24 points; 80 classes in 12 supercategories.

    On average as many objects (7.7) and classes (3.5) an image as COCO has (Lin et al. 2014, section 5), in no order.
    """
    rng = np.random.default_rng(2)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    objects = []
    for image in range(images):
        for category in rng.choice(80, min(1 + rng.poisson(2.5), 80), replace=False) + 1:
            objects += [(image, int(category))] * rng.geometric(1 / 2.2)
    annotations = []
    for number, index in enumerate(rng.permutation(len(objects))):
        image, category = objects[index]
        cx, cy, rx, ry = rng.uniform((80, 70, 15, 15), (420, 300, 75, 65))
        points = np.stack([cx + rx * np.cos(angles), cy + ry * np.sin(angles)], axis=1).round(2)
        annotations.append({
            "segmentation": [points.ravel().tolist()], "area": round(3.1 * rx * ry, 2), "iscrowd": 0,
            "image_id": image, "id": number, "category_id": category,
            "bbox": [*points.min(0).tolist(), *np.ptp(points, axis=0).round(2).tolist()],
        })  # fmt: skip
    size = {"width": SIZE[0], "height": SIZE[1], "license": 4}
    content = {
        "licenses": [{"id": 4, "name": "Attribution License"}],
        "images": [{"id": index, "file_name": f"{index}.jpg", **size} for index in range(images)],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"thing {i}", "supercategory": f"kind {i % 12}"} for i in range(1, 81)],
    }
    (folder / "instances.json").write_text(json.dumps(content))
