"""`sayo prepare <source>`: one command for each public data set, and one for people's own. Imports stay inside."""

from pathlib import Path
from typing import Annotated

import typer

from data_prep.options import RunOptions, one_line_errors, run_prepare, with_run_options

prepare_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Turn a grounded data set into parquet files that sayo and plain TRL train on.",
    epilog="A run that was stopped goes on when the same line is typed again. Rejected rows are counted in "
    "OUT/summary.json and listed in OUT/rejected.jsonl. Exit status: 0 when rows were kept, 2 when none was or the "
    "input cannot be used.",
)

Out = Annotated[Path, typer.Option(help="folder of the data set to write")]
Images = Annotated[Path, typer.Option(help="folder with the image files")]


@prepare_app.command("gqa")
@with_run_options
def gqa(
    questions: Annotated[str, typer.Option(help="questions JSON, a folder of them or a quoted glob")],
    scene_graphs: Annotated[str, typer.Option(help="scene graphs JSON of the same split, a folder or a glob")],
    images: Annotated[Path, typer.Option(help="folder with <imageId>.jpg (or .png, ...)")],
    out: Out,
    run: RunOptions,
    license: Annotated[str, typer.Option(help="licence of the annotations, if they are not GQA's own")] = "CC-BY-4.0",
) -> None:
    """GQA questions and scene graphs, with answer and evidence regions.

    Files: questions1.2.zip, sceneGraphs.zip and images.zip from
    https://cs.stanford.edu/people/dorarad/gqa/download.html

    Example:

        sayo prepare gqa --questions train_balanced_questions.json \\
            --scene-graphs train_sceneGraphs.json --images images/ \\
            --processor Qwen/Qwen3-VL-4B-Instruct --out data/gqa

    A question about an object that is not there, or about the whole picture, is
    kept with has_region = false.
    """
    with one_line_errors():
        from data_prep.sources.gqa import GqaSource

        run_prepare(lambda: GqaSource(questions, scene_graphs, license), images, out, run)


@prepare_app.command("coco")
@with_run_options
def coco(
    instances: Annotated[str, typer.Option(help="instances JSON, or any file in COCO's format")],
    images: Images,
    out: Out,
    run: RunOptions,
    seed: Annotated[int, typer.Option(help="another seed asks other questions")] = 0,
    per_image: Annotated[int, typer.Option(min=1, help="most questions about one image")] = 6,
    least_area: Annotated[float, typer.Option(help="pixels that an object must have to be asked for")] = 1024,
    license: Annotated[str, typer.Option(help="licence of the annotations")] = "CC-BY-4.0",
) -> None:
    """COCO instances: questions by templates (count, existence, category,
    position, relation, size), with masks.

    Files: annotations_trainval2017.zip, train2017.zip and val2017.zip from
    https://cocodataset.org/#download

    Example:

        sayo prepare coco --instances annotations/instances_train2017.json \\
            --images train2017/ --out data/coco

    Crowds are never counted or referred to; each class has as many "no" as
    "yes"; a token's weight is the share of its cell that the mask covers.
    """
    with one_line_errors():
        from data_prep.sources.coco import CocoSource

        def source() -> CocoSource:
            return CocoSource(instances, seed, per_image, least_area, license, run.num_proc)

        run_prepare(source, images, out, run)


@prepare_app.command("refocus")
@with_run_options
def refocus(
    files: Annotated[str, typer.Option(help="parquet file, a folder of them or a quoted glob")],
    out: Out,
    run: RunOptions,
) -> None:
    """ReFocus_Data: chart questions with the areas that the teacher looked at.

    Files: the parquet files of
    https://huggingface.co/datasets/ReFocus/ReFocus_Data; the images lie inside.

    Example:

        sayo prepare refocus --files ReFocus_Data/data/ --out data/refocus
    """
    with one_line_errors():
        from data_prep.sources.refocus import RefocusSource

        run_prepare(lambda: RefocusSource(files), None, out, run)


@prepare_app.command("refcoco")
@with_run_options
def refcoco(
    refs: Annotated[Path, typer.Option(help="'refs(unc).p', 'refs(google).p' or 'refs(umd).p', or a .jsonl file")],
    images: Annotated[Path, typer.Option(help="folder with COCO_train2014_*.jpg")],
    out: Out,
    run: RunOptions,
    instances: Annotated[Path | None, typer.Option(help="instances.json beside the refs file")] = None,
) -> None:
    """RefCOCO, RefCOCO+ and RefCOCOg: "Give the box of ..." with the object's
    mask.

    Files: the zips of https://github.com/lichengunc/refer and train2014.zip of
    https://cocodataset.org/#download

    Example:

        sayo prepare refcoco --refs 'refcoco/refs(unc).p' --instances refcoco/instances.json \\
            --images train2014/ --split train --out data/refcoco

    --split chooses the expressions (train, val, testA, testB). The refs file is
    a pickle: only plain lists, dicts, texts and numbers are read from it,
    anything else is refused without being executed.
    """
    with one_line_errors():
        from data_prep.sources.refcoco import RefcocoSource

        run_prepare(lambda: RefcocoSource(refs, instances, run.split), images, out, run)


@prepare_app.command("visual-cot")
@with_run_options
def visual_cot(
    questions: Annotated[str, typer.Option(help=".jsonl or LLaVA .json file, a folder of .jsonl files or a glob")],
    images: Images,
    out: Out,
    run: RunOptions,
) -> None:
    """Visual-CoT: questions with the box to look at, from its jsonl, benchmark
    or conversation files.

    Files: https://huggingface.co/datasets/deepcs233/Visual-CoT

    Example:

        sayo prepare visual-cot --questions viscot_dataset/gqa_cot_train.jsonl \\
            --images cot_image_data/gqa/ --out data/visual-cot
    """
    with one_line_errors():
        from data_prep.sources.visual_cot import VisualCotSource

        run_prepare(lambda: VisualCotSource(questions), images, out, run)


@prepare_app.command("visual-genome")
@with_run_options
def visual_genome(
    questions: Annotated[str, typer.Option(help="question_answers.json")],
    image_data: Annotated[str, typer.Option(help="image_data.json")],
    images: Annotated[Path, typer.Option(help="folder with VG_100K/ and VG_100K_2/, or with all pictures")],
    out: Out,
    run: RunOptions,
) -> None:
    """Visual Genome questions, with the objects that question and answer name.

    Files: question_answers.json.zip, image_data.json.zip and the images from
    https://homes.cs.washington.edu/~ranjay/visualgenome/api.html

    Example:

        sayo prepare visual-genome --questions question_answers.json \\
            --image-data image_data.json --images vg/ --out data/vg
    """
    with one_line_errors():
        from data_prep.sources.visual_genome import VisualGenomeSource

        run_prepare(lambda: VisualGenomeSource(questions, image_data, images), images, out, run)


@prepare_app.command("jsonl")
@with_run_options
def jsonl(
    questions: Annotated[str, typer.Option(help=".jsonl file, a folder of them or a quoted glob")],
    images: Images,
    out: Out,
    run: RunOptions,
    masks: Annotated[Path | None, typer.Option(help="folder with the mask pictures that `mask` names")] = None,
    license: Annotated[str, typer.Option(help="licence of rows that name none")] = "unknown",
) -> None:
    """Your own questions: one JSON object a line, with boxes or masks in pixels
    of the original picture.

    Example of three lines (box, polygons, no region):

        {"image": "1.jpg", "question": "What is this?", "answer": "cake", "regions": [{"box": [20, 30, 90, 99]}]}
        {"image": "1.jpg", "question": "Any cup?", "answer": "yes", "regions": [{"polygons": [[5, 5, 40, 5, 20, 50]]}]}
        {"image": "2.png", "question": "Is it raining?", "answer": ["no", "not raining"]}

    A region's place is one of: box [x1, y1, x2, y2], box_xywh, box_normalised
    (shares of width and height), polygons, rle (COCO) or mask (a picture below
    --masks); beside it may stand role ("answer", or "evidence" for what only
    helps), weight, label and image (index into images).

        sayo prepare jsonl --questions mine.jsonl --images photos/ --out data/mine
    """
    with one_line_errors():
        from data_prep.sources.jsonl import JsonlSource

        run_prepare(lambda: JsonlSource(questions, masks, license), images, out, run)
