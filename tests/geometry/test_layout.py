"""VisualLayout: what is read from files and from live objects, and what it says when it cannot."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_models import image_processor_class
from transformers import AutoImageProcessor, Gemma3Config, Qwen2_5_VLConfig, Qwen2VLConfig, Qwen3VLConfig
from transformers.utils import is_torchvision_available

from sayo.geometry import LayoutError, VisualLayout
from sayo.processors import set_limits

Gemma3ImageProcessor, Qwen2VLImageProcessor = map(
    image_processor_class, ("Gemma3ImageProcessor", "Qwen2VLImageProcessor")
)
REFUSED = yaml.safe_load(Path(__file__).with_name("refused.yaml").read_text())
QWEN3 = {"patch_size": 16, "merge_size": 2, "size": {"shortest_edge": 65536, "longest_edge": 16777216}}


def write(directory, config, preprocessor=None, processor=None):
    """Model and processor files as published; returns the directory."""
    (directory / "config.json").write_text(json.dumps(config))
    if preprocessor is not None:
        (directory / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    if processor is not None:
        (directory / "processor_config.json").write_text(json.dumps(processor))
    return directory


def test_worked_example_of_qwen2_5_vl_and_what_it_refuses():
    layout = VisualLayout.from_processor(Qwen2VLImageProcessor(), Qwen2_5_VLConfig())
    cells = layout.cells(500, 375)  # 500 / 28 = 17.9 -> 18 columns, 375 / 28 = 13.4 -> 13 rows
    assert cells.grid == (18, 13)
    assert len(cells) == 234
    np.testing.assert_allclose(cells.footprints[19], [500 / 18, 375 / 13, 2 * 500 / 18, 2 * 375 / 13])
    assert (cells.views == 0).all()
    assert len(layout.cells(500, 375, count=234)) == 234
    for size, count, message in (
        ((500, 375), 235, "map the data set again"),
        ((0, 5), None, "at least 1"),
        ((5, -1), None, "at least 1"),
        ((4200, 20), None, "200 times"),
    ):
        with pytest.raises(LayoutError, match=message):
            layout.cells(*size, count=count)


def test_files_and_live_objects_give_one_fingerprint(tmp_path):
    image_processor = Qwen2VLImageProcessor(**QWEN3)
    live = VisualLayout.from_processor(image_processor, Qwen3VLConfig())
    nested = image_processor.to_dict()
    config = {"model_type": "qwen3_vl"}
    for name, files in {"old": {"preprocessor": nested}, "new": {"processor": {"image_processor": nested}}}.items():
        (tmp_path / name).mkdir()
        layout = VisualLayout.from_pretrained(write(tmp_path / name, config, **files))
        assert layout.fingerprint == live.fingerprint
    torchvision = {**nested, "image_processor_type": "Qwen2VLImageProcessor", "resample": 0, "device": "cpu"}
    (tmp_path / "torchvision").mkdir()
    write(tmp_path / "new", config, {**nested, "patch_size": 14}, {"image_processor": nested})  # the nested one wins
    assert VisualLayout.from_pretrained(tmp_path / "new").fingerprint == live.fingerprint
    assert VisualLayout.from_fingerprint(live.fingerprint) == live
    for unknown in ('{"family": "qwen3_vl", "patch_size": 16}', '{"family": "gemma3", "columns": 8, "rows": 8}'):
        with pytest.raises(LayoutError, match="does not know"):
            VisualLayout.from_fingerprint(unknown)
    layout = VisualLayout.from_pretrained(write(tmp_path / "torchvision", config, torchvision))
    assert layout.fingerprint == live.fingerprint
    assert json.loads(live.fingerprint) == {
        "family": "qwen3_vl",
        "patch_size": 16,
        "merge_size": 2,
        "min_pixels": 65536,
        "max_pixels": 16777216,
    }


def test_legacy_pixel_limits_are_read_as_the_image_processor_reads_them(tmp_path):
    legacy = {"min_pixels": 3136, "max_pixels": 100352, "size": {"min_pixels": 1, "max_pixels": 2}, "patch_size": 14}
    layout = VisualLayout.from_pretrained(write(tmp_path, {"model_type": "qwen2_vl"}, legacy))
    image_processor = Qwen2VLImageProcessor(min_pixels=3136, max_pixels=100352)
    assert len(layout.cells(900, 700)) == image_processor.get_number_of_image_patches(700, 900) // 4
    assert layout.fingerprint == VisualLayout.from_processor(image_processor, Qwen2VLConfig()).fingerprint
    for limits in ({"longest_edge": 9000}, {"shortest_edge": 5000}):
        set_limits(image_processor, limits)
    both = VisualLayout.from_pretrained(tmp_path, size={"longest_edge": 9000, "shortest_edge": 5000})
    assert both.fingerprint == VisualLayout.from_processor(image_processor, Qwen2VLConfig()).fingerprint


def test_the_fingerprint_follows_every_setting_that_moves_cells():
    base = VisualLayout.from_processor(Qwen2VLImageProcessor(), Qwen2_5_VLConfig()).fingerprint
    other = Qwen2VLImageProcessor(max_pixels=1280 * 28)
    assert VisualLayout.from_processor(other, Qwen2_5_VLConfig()).fingerprint != base
    same = Qwen2VLImageProcessor(image_mean=[0.1, 0.1, 0.1])
    assert VisualLayout.from_processor(same, Qwen2_5_VLConfig()).fingerprint == base
    changed = VisualLayout.from_processor(
        Qwen2VLImageProcessor(), Qwen2_5_VLConfig(), images_kwargs={"size": {"shortest_edge": 4, "longest_edge": 9}}
    )
    assert changed.fingerprint != base


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        VisualLayout.from_pretrained(tmp_path)
    write(tmp_path, {"model_type": "qwen3_vl"})
    with pytest.raises(FileNotFoundError, match="preprocessor_config"):
        VisualLayout.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a directory nor a hub id"):
        VisualLayout.from_pretrained(tmp_path / "not there")


def test_a_hub_id_is_read_from_the_cache(tmp_path):
    """In a process of its own: the hub's cache directory and offline mode are read at import."""
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    write(snapshot, {"model_type": "qwen3_vl"}, QWEN3)
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text("abc")
    code = "from sayo.geometry import VisualLayout; print(VisualLayout.from_pretrained({!r}).cells(640, 480).grid)"
    offline = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code.format("org/name")], capture_output=True, text=True, env=offline)
    assert done.stdout.strip() == "(20, 15)", done.stderr
    done = subprocess.run([sys.executable, "-c", code.format("org/none")], capture_output=True, text=True, env=offline)
    assert "FileNotFoundError: org/none is not a local directory" in done.stderr


def test_call_settings_come_before_the_processors_own():
    config = Gemma3Config()
    image_processor = Gemma3ImageProcessor(do_pan_and_scan=True)  # the processor's own default, off, comes before
    assert len(VisualLayout.from_processor(image_processor, config).cells(1000, 500)) == 256
    scanned = VisualLayout.from_processor(image_processor, config, images_kwargs={"do_pan_and_scan": True})
    assert len(scanned.cells(1000, 500)) == 768


BACKENDS = ("pil", "torchvision") if is_torchvision_available() else ("pil",)


@pytest.mark.parametrize("written_by", BACKENDS)
def test_one_folder_has_one_layout_whichever_back_end_wrote_and_reads_it(family, written_by, tmp_path):
    """Every family of the table, alone and with what its processor adds at each call."""
    config, layout = family.make_config(), family.layout()
    config.save_pretrained(tmp_path)
    family.make_image_processor(written_by).save_pretrained(tmp_path)
    saved = VisualLayout.from_pretrained(tmp_path, family.changed)
    assert saved == layout == VisualLayout.from_fingerprint(saved.fingerprint)
    assert f'"family": "{config.model_type}"' in saved.fingerprint
    for backend in filter(family.image_processor_class, BACKENDS):
        image_processor = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
        assert image_processor.backend == backend
        assert VisualLayout.from_processor(image_processor, config, family.changed) == layout
    for size in family.sizes:
        np.testing.assert_array_equal(saved.cells(*size).footprints, layout.cells(*size).footprints)


def test_limits_on_files_and_on_objects_give_one_fingerprint(family, tmp_path):
    """An edge that is not given keeps its saved value; one that the processor lacks is refused."""
    config, saved = family.make_config(), dict(family.make_image_processor().size or {})
    config.save_pretrained(tmp_path)
    family.make_image_processor().save_pretrained(tmp_path)

    def read(limits, live):
        try:
            if not live:
                return VisualLayout.from_pretrained(tmp_path, size=limits).fingerprint
            set_limits(image_processor := family.make_image_processor(), limits)
            return VisualLayout.from_processor(image_processor, config).fingerprint
        except LayoutError as error:  # such as a side that the vision tower does not take
            return str(error)

    if not saved:
        assert all("has no size" in read({"longest_edge": 9}, live) for live in (True, False))
        return
    for edges in (list(saved)[:1], list(saved)[1:], list(saved), ["depth"]):
        limits = {edge: 2 * saved.get(edge, 1) for edge in edges}
        assert read(limits, live=True) == read(limits, live=False)
    assert "has no depth, only" in read({"depth": 3}, live=False)


@pytest.mark.parametrize("case", REFUSED["layouts"].values(), ids=REFUSED["layouts"])
def test_files_that_make_no_layout_say_what_to_do(tmp_path, case):
    write(tmp_path, case["config"], case["preprocessor"])
    if case["preprocessor"] is None:
        (tmp_path / "preprocessor_config.json").write_text('{"patch_size": 16')
    with pytest.raises(LayoutError, match=case["message"]) as error:
        VisualLayout.from_pretrained(tmp_path)
    if case["config"] == {"model_type": "qwen3_vl"}:
        assert str(tmp_path) in str(error.value)
