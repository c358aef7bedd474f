"""Every image-text-to-text type of transformers: is its attention captured exactly, are its visual tokens placed?

    python -m scripts.families --out benchmarks/results/families.json     # all types, and docs/families.md
    python -m scripts.families --quick --check
    python -m scripts.families --only llama4 gemma3 --check

Of each type a tiny random model is built: from its entry in tests/tiny_models.yaml with images, else from its default
config made small (`families.yaml` beside this file says how) with text. Every layer and row that `AttentionCapture`
reads (of the heads, the mean) is compared with the weights that the model's own eager attention returns. Every type
runs in a process of its own; a second call with the same `--out` skips what is there (remove it to start anew).
`--check` fails where a type is read otherwise than the committed results say. The page is written from the results of
a complete run alone, which wants torchvision, timm and scipy (`scripts/engines_env.sh` installs them).
"""

import inspect
import json
import multiprocessing
import re
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as TYPES

from benchmarks.harness import ROOT, collect, finish, options_of
from sayo.attention import AttentionCapture
from sayo.attention.layers import attention_layers
from sayo.errors import SayoError
from sayo.geometry.families import FAMILIES
from tests.tiny_models import VISION_MODELS, batch, build, image_processor_class, sharpen

QUICK = ("llava", "gemma3", "llama4", "exaone4_5", "blip")
RESULTS, PAGE = ROOT / "benchmarks/results/families.json", ROOT / "docs/families.md"
COLUMNS = ("type", "capture", "read", "difference", "geometry", "reason")
REFUSED = "none: refused"
EXACT = 1e-5  # of masses, which lie between 0 and 1
LARGEST = 150_000_000  # parameters of a model that counts as tiny
LIMIT = 240  # seconds for one type
SMALL = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
DEPTH = SMALL["sizes"]["num_hidden_layers"]


def small(config: dict[str, Any]) -> dict[str, Any]:
    """The config with small sizes, by the names of `families.yaml`; what follows from sizes is left to the class."""
    made = {}
    for name, value in config.items():
        if name in SMALL["derived"]:
            continue
        if isinstance(value, dict):
            value = small(value)
        elif re.search(r"_token_(id|index)$", str(name)) and isinstance(value, int):
            value = min(value, SMALL["sizes"]["vocab_size"] - 1)
        elif isinstance(value, int) and not isinstance(value, bool):
            value = SMALL["sizes"].get(name, value)
        elif isinstance(value, list):
            per_layer = len(value) == config.get("num_hidden_layers")
            value = SMALL["lists"].get(name, value[-DEPTH:] if per_layer else value)
        made[name] = value
    return made


def merged(config: dict, more: dict) -> dict:
    """`more` over `config`, in sub-configs too."""
    nested = {name: merged(config.get(name) or {}, value) for name, value in more.items() if isinstance(value, dict)}
    return {**config, **more, **nested}


def model_of(name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """A tiny eager model of a type, and a batch of two samples of different lengths."""
    if name in VISION_MODELS:
        readable = image_processor_class(VISION_MODELS[name].processor) is not None  # some are torchvision's alone
        return build(name, "eager"), batch(name, sizes=((32, 16), (32, 16)), images=int(readable))
    config = merged(small(AutoConfig.for_model(name).to_dict()), SMALL["types"].get(name, {}))
    config = AutoConfig.for_model(config.pop("model_type"), **config)
    with torch.device("meta"):
        size = sum(each.numel() for each in AutoModelForImageTextToText.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"its default config made small still has {size} parameters")
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    sharpen(model, 3.0)  # more would make the scores so large that kernels round apart
    ids = torch.randint(5, 80, (2, 24))
    if queries := getattr(config, "num_query_tokens", None):
        ids[:, 6 : 6 + queries] = config.image_token_id
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs["attention_mask"][1, :5] = 0
    for name, parameter in inspect.signature(model.forward).parameters.items():
        if parameter.default is inspect.Parameter.empty and "ids" in name:
            inputs.setdefault(name, ids)
        if parameter.default is inspect.Parameter.empty and name == "pixel_values":
            inputs[name] = torch.rand(2, 3, *[config.vision_config.image_size] * 2)
    return model, inputs


def difference_of(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[str, float]:
    """The kernel that was read, and the largest difference of a mass from the model's own eager weights."""
    layers, weights = attention_layers(model), {}
    kernel = "sdpa" if model._supports_sdpa else "eager"
    model.set_attn_implementation(kernel)
    groups = {"any": torch.rand(inputs["input_ids"].shape), "all": torch.ones(inputs["input_ids"].shape)}
    with torch.no_grad(), AttentionCapture(model, layers="all").reading(slice(None), groups) as read:
        model(**inputs)
    model.set_attn_implementation("eager")
    for index, module in layers.items():
        module.register_forward_hook(lambda module, args, output, index=index: weights.update({index: output[1]}))
    with torch.no_grad():
        model(**inputs)
    if any(not isinstance(weight, torch.Tensor) for weight in weights.values()) or not weights:
        raise ValueError("its eager attention returns no weights to compare with")
    expected = torch.stack([weights[index].mean(1) for index in layers], dim=1)
    real = inputs["attention_mask"][:, None].bool()  # rows of padding attend nowhere in particular
    return kernel, max(
        (masses - torch.einsum("blqk,bk->blq", expected, groups[name])).abs().where(real, 0).max().item()
        for name, masses in read.masses.items()
    )


def empty(name: str, reason: str) -> dict[str, Any]:
    """The row of a type that was not run."""
    geometry = FAMILIES[name].__name__ if name in FAMILIES else REFUSED
    return {"type": name, "capture": "not run", "geometry": geometry, "reason": reason}


def row_of(name: str) -> dict[str, Any]:
    """One row of the table."""
    row = empty(name, "")
    try:
        model, inputs = model_of(name)
        row["read"] = "images" if "pixel_values" in inputs else "text"
        row["kernel"], difference = difference_of(model, inputs)
        row["difference"] = float(f"{difference:.1e}")
        row["capture"] = "exact" if difference <= EXACT else "differs"
    except SayoError as error:
        row |= {"capture": "refused", "reason": str(error).partition(". ")[0]}
    except Exception as error:
        reason = " ".join(str(error).split())
        row["reason"] = f"{type(error).__name__}: {reason}"[:160].replace("|", "/")
    return row


def in_own_process(name: str) -> dict[str, Any]:
    """`row_of` in a fork: what crashes, hangs or changes transformers' state takes no other type with it."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=lambda: theirs.send(row_of(name)))
    child.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(LIMIT) else empty(name, f"over {LIMIT} seconds")
    except EOFError:
        return empty(name, "the process died")
    finally:
        child.kill()
        child.join()


def page_of(rows: list[dict], version: str) -> str:
    """docs/families.md."""
    counts = {f"{kind}_types": sum(row["capture"] == kind for row in rows) for kind in ("exact", "refused", "differs")}
    placed = sum(row["geometry"] != REFUSED for row in rows)
    lines = ["| " + " | ".join(str(row.get(key, "")) for key in COLUMNS) + " |\n" for row in rows]
    return SMALL["page"].format(version=version, total=len(rows), placed=placed, **counts) + "".join(lines)


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--only", nargs="+", metavar="TYPE", help="some of the types")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    names = options.only or (list(QUICK) if options.quick else list(TYPES))
    known = {}
    if options.out and options.out.exists():
        known = {row["type"]: row for row in json.loads(options.out.read_text())["rows"]}
    committed = {row["type"]: row for row in json.loads(RESULTS.read_text())["rows"]} if RESULTS.exists() else {}
    rows = collect(options, (known.get(name) or in_own_process(name) for name in names))
    if options.out and options.out.resolve() == RESULTS and len(rows) == len(TYPES):
        PAGE.write_text(page_of(rows, transformers.__version__))
    missed = [row["type"] for row in rows if row["capture"] != committed.get(row["type"], row)["capture"]]
    finish(options, f"image-text-to-text types of transformers {transformers.__version__}", rows, missed)


if __name__ == "__main__":
    main()
