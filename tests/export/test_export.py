"""Checkpoints (full, LoRA, FSDP's shards) become model folders that compute the same logits."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, GenerationConfig

from sayo.export.checkpoint import ExportError, tensor_names
from sayo.export.package import export_checkpoint
from sayo.recipes import trained_layers
from sayo.training.start import weights_digest

WEIGHTS = "model.safetensors"
ONE_FAMILY = pytest.mark.parametrize("family", ["qwen3_vl"], indirect=True)


def edit(file: Path, change) -> None:
    """Apply `change` to the dictionary of tensors of a safetensors file."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def mangle(tensors) -> None:
    """transformers 5.23 saves `model.layers` as `model.model.layers` under ZeRO-3 (Qwen2.5-VL)."""
    for name in [k for k in tensors if k.startswith(("model.layers", "model.embed_tokens", "model.norm"))]:
        tensors["model." + name] = tensors.pop(name)


@pytest.mark.parametrize("change", [None, mangle])
def test_full_checkpoint_keeps_its_logits_and_names(full_checkpoint, base, tmp_path, logits_of, change):
    expected = logits_of(full_checkpoint)
    if change:
        edit(full_checkpoint / WEIGHTS, change)
    result = export_checkpoint(full_checkpoint, tmp_path / "out")
    assert (result.kind, result.logit_difference, result.merge_difference) == ("full", 0.0, None)
    np.testing.assert_array_equal(logits_of(tmp_path / "out"), expected)
    assert np.abs(expected - logits_of(base)).max() > 0.1
    assert tensor_names(tmp_path / "out") == tensor_names(base)
    assert result.num_tensors == len(tensor_names(base))
    assert trained_layers(tmp_path / "out") == trained_layers(full_checkpoint) == [-1] and trained_layers(base) is None
    assert "hf_secret" not in (tmp_path / "out/recipe.yaml").read_text()


@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["merger"]}], ids=["lora", "lora and full modules"])
def test_lora_is_merged_into_the_base(base, make_lora, tmp_path, logits_of, options):
    checkpoint = make_lora(base, **options)
    result = export_checkpoint(checkpoint, tmp_path / "out")
    assert result.kind == "adapter" and result.merge_difference < 1e-4
    expected = logits_of(base, adapter=checkpoint)
    np.testing.assert_allclose(logits_of(tmp_path / "out"), expected, atol=1e-4)
    assert np.abs(expected - logits_of(base)).max() > 0.1  # the adapter does something
    before, after = load_file(base / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    assert before.keys() == after.keys() and not (tmp_path / "out" / "adapter_config.json").exists()
    changed = [name for name in before if ".merger." in name and not torch.equal(before[name], after[name])]
    assert bool(changed) == bool(options)


@ONE_FAMILY
def test_bfloat16_base_stays_bfloat16_and_reports_the_rounding(base, make_lora, tmp_path):
    half = tmp_path / "half"
    export_checkpoint(base, half, dtype="bfloat16")
    result = export_checkpoint(make_lora(half), tmp_path / "out")
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / WEIGHTS).values()} == {torch.bfloat16}
    assert result.dtype == "bfloat16"
    assert result.merge_difference < 1e-4 < result.logit_difference < 1.0


@ONE_FAMILY
def test_processor_is_kept_and_generation_ends_where_its_tokenizer_says(full_checkpoint, tmp_path):
    tokenizer = AutoProcessor.from_pretrained(full_checkpoint).tokenizer
    GenerationConfig(eos_token_id=7, bos_token_id=151643, use_cache=False).save_pretrained(full_checkpoint)
    file = full_checkpoint / "processor_config.json"
    config = json.loads(file.read_text())
    config["image_processor"]["size"] = {"shortest_edge": 1024, "longest_edge": 5120}
    file.write_text(json.dumps(config))
    export_checkpoint(full_checkpoint, tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert dict(processor.image_processor.size) == {"shortest_edge": 1024, "longest_edge": 5120}
    assert processor.chat_template == AutoProcessor.from_pretrained(full_checkpoint).chat_template
    assert "1,024 and 5,120 pixels" in (tmp_path / "out" / "README.md").read_text()
    generation = GenerationConfig.from_pretrained(tmp_path / "out")
    assert generation.eos_token_id == [tokenizer.eos_token_id, 7]
    assert generation.pad_token_id == tokenizer.pad_token_id
    assert generation.bos_token_id is None and generation.use_cache


@ONE_FAMILY
def test_weights_alone_need_the_base_for_their_processor_and_have_a_short_card(full_checkpoint, base, tmp_path):
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json", "trainer_state.json"):
        (full_checkpoint / name).unlink()
    (full_checkpoint.parent / "recipe.yaml").unlink()
    with pytest.raises(ExportError, match="no usable processor"):
        export_checkpoint(full_checkpoint, tmp_path / "out")
    result = export_checkpoint(full_checkpoint, tmp_path / "out", base_model=str(base))
    assert any("was taken" in note for note in result.notes)
    assert AutoProcessor.from_pretrained(tmp_path / "out").image_processor is not None
    card = (tmp_path / "out" / "README.md").read_text()
    assert not any(word in card for word in ("reinforcement", "Resolved recipe", "Attention layers"))


def first(tensors, part: str) -> str:
    return next(name for name in sorted(tensors) if part in name)


def drop_tensor(tensors) -> None:
    tensors.pop(first(tensors, "q_proj"))


@ONE_FAMILY
@pytest.mark.parametrize(
    ("damage", "message"),  # None: the file is cut off
    [
        (drop_tensor, "1 missing"),
        (lambda tensors: tensors.update({"model.extra.weight": torch.ones(2)}), "1 unexpected"),
        (lambda tensors: tensors.update({first(tensors, "q_proj.weight"): torch.ones(2, 2)}), "shape"),
        (
            lambda tensors: tensors[first(tensors, "embed_tokens")][5].fill_(float("nan")),
            "embed_tokens.weight holds NaN",
        ),
        (None, "cannot load"),
    ],
)
def test_damaged_checkpoint_is_refused_and_nothing_is_written(full_checkpoint, tmp_path, damage, message):
    if damage is None:
        os.truncate(full_checkpoint / WEIGHTS, (full_checkpoint / WEIGHTS).stat().st_size // 2)
    else:
        edit(full_checkpoint / WEIGHTS, damage)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ExportError, match=message):
        export_checkpoint(full_checkpoint, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@ONE_FAMILY
def test_command(base, make_lora, sayo_command, tmp_path):
    checkpoint = make_lora(base)
    result = sayo_command("export", checkpoint, "--out", tmp_path / "out")
    assert result.exit_code == 0 and "difference from the source, reloaded" in result.output, result.output
    edit(checkpoint / "adapter_model.safetensors", lambda tensors: tensors.pop(first(tensors, "lora_B")))
    for folder, message in (
        (checkpoint, "1 missing"),
        (checkpoint.parent, "checkpoint-2"),
        (tmp_path / "no", "not a folder"),
    ):
        result = sayo_command("export", folder, "--out", tmp_path / "another")
        assert result.exit_code == 2 and message in result.output and not (tmp_path / "another").exists()


@ONE_FAMILY
def test_another_base_is_refused(full_checkpoint, base, make_lora, tmp_path):
    other = shutil.copytree(base, tmp_path / "other")
    edit(other / WEIGHTS, drop_tensor)
    with pytest.raises(ExportError, match="tensor names differ"):
        export_checkpoint(full_checkpoint, tmp_path / "out", base_model=str(other))
    lora = make_lora(base)
    (lora / "start.json").write_text(json.dumps({"base_model": weights_digest(str(base))}))
    shutil.copy(full_checkpoint / WEIGHTS, other / WEIGHTS)  # of equal names and shapes: nothing else would notice
    with pytest.raises(ExportError, match="does not hold the weights that training started from"):
        export_checkpoint(lora, tmp_path / "out", base_model=str(other))
    moved = shutil.copytree(base, tmp_path / "moved")
    assert export_checkpoint(lora, tmp_path / "out", base_model=str(moved)).kind == "adapter"


@ONE_FAMILY
def test_existing_folder_is_replaced_only_by_a_finished_export(full_checkpoint, base, tmp_path):
    for out in (full_checkpoint, full_checkpoint.parent, base):
        with pytest.raises(ExportError, match="itself"):
            export_checkpoint(full_checkpoint, out, overwrite=True)
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match="--overwrite"):
        export_checkpoint(full_checkpoint, out)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    export_checkpoint(full_checkpoint, out, overwrite=True)
    assert (out / WEIGHTS).stat().st_mode & 0o444 == 0o444 and not (out / "notes.txt").exists()
    exported = (out / WEIGHTS).read_bytes()
    edit(full_checkpoint / WEIGHTS, drop_tensor)
    with pytest.raises(ExportError):
        export_checkpoint(full_checkpoint, out, overwrite=True)
    assert (out / WEIGHTS).read_bytes() == exported


@ONE_FAMILY
def test_killed_export_leaves_no_folder(full_checkpoint, tmp_path):
    out, partial = tmp_path / "out", tmp_path / ".out.partial"
    code = (
        f"from sayo.export.package import export_checkpoint; export_checkpoint({str(full_checkpoint)!r}, {str(out)!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (partial / WEIGHTS).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the export was over before it could be killed"
    assert partial.is_dir() and not out.exists()
    export_checkpoint(full_checkpoint, out)
    assert (out / WEIGHTS).is_file() and not partial.exists()


@ONE_FAMILY
def test_card_is_right_for_a_vision_language_model(full_checkpoint, tmp_path):
    evaluation = full_checkpoint.parent / "evaluation"
    for moment, accuracy in (("before", 0.5), ("after", 0.875)):
        (evaluation / moment).mkdir(parents=True)
        summary = {"accuracy": accuracy, "tas": None, "num_questions": 8}
        (evaluation / moment / "summary.json").write_text(json.dumps(summary))
    export_checkpoint(full_checkpoint, tmp_path / "out", repository="someone/policy")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.pipeline_tag == "image-text-to-text" and card.data.library_name == "transformers"
    assert card.data.datasets == ["someone/grounded-questions"]
    assert card.data.base_model is None  # a local folder is no hub id
    said = yaml.safe_load(Path(__file__).with_name("card.yaml").read_text())
    assert [text for text in said if text not in card.text] == []
    assert "text-generation" not in str(card)
    assert str(tmp_path) not in str(card) and "hf_secret" not in str(card) and "nan" not in card.text


@ONE_FAMILY
def test_quick_start_of_the_card_runs(full_checkpoint, tmp_path, monkeypatch, capsys):
    """The code block runs unchanged on a machine without a GPU."""
    export_checkpoint(full_checkpoint, tmp_path / "out")
    code = (tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), "red").save("picture.jpg")
    exec(compile(code.replace("512", "4"), "card", "exec"), {})
    assert capsys.readouterr().out.endswith("\n")


FSDP = """
import sys, torch.distributed.checkpoint as dcp
from transformers import AutoModelForImageTextToText
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
dcp.save({"model": model.state_dict()}, checkpoint_id=sys.argv[2] + "/pytorch_model_fsdp_0")  # as accelerate does
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_5_vl"], indirect=True)
def test_shards_are_gathered(base, full_checkpoint, tmp_path, logits_of):
    """The checkpoint has neither config nor processor: both come from the base that the recipe names."""
    expected, shards = logits_of(full_checkpoint), full_checkpoint.parent / "checkpoint-3"
    command = [sys.executable, "-c", FSDP, str(full_checkpoint), str(shards)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    result = export_checkpoint(shards, tmp_path / "out")
    assert (result.kind, result.logit_difference) == ("fsdp", 0.0)
    assert tensor_names(tmp_path / "out") == tensor_names(base)
    np.testing.assert_allclose(logits_of(tmp_path / "out"), expected, atol=1e-6)
