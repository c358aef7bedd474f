#!/usr/bin/env bash
# The data sets of SAYO's main table (arXiv 2602.08241) with lmms-eval: its prompts, its scorers, its token limits.
#
#   scripts/benchmark.sh MODEL [TASKS [OPTION...]]        e.g. scripts/benchmark.sh runs/export mmstar,chartqa --limit 50
#   sayo compare results/bench/base results/bench/export
#
# MODEL: a folder of `sayo export`, or a model on the hub. TASKS: lmms-eval's names by comma. M3CoT, the ninth data set
# of the table, is neither in lmms-eval 0.7.3 nor in VLMEvalKit. CharXiv is judged by a model: set OPENAI_API_KEY. More
# options go to `lmms_eval eval`, for example `--include_path FOLDER` for task files of your own.
#
# BENCH_ENV (runs/bench-env) is lmms-eval's own environment, made if it is not there: lmms-eval needs packages that sayo
# has in other versions. OUT (results/bench/NAME) gets the results. LMMS_MODEL (qwen3_vl) is lmms-eval's model class, for
# example qwen2_5_vl. Its images keep qwen-vl-utils' pixel limits, whatever the model was trained with.
set -euo pipefail
model=${1:?usage: scripts/benchmark.sh MODEL [TASKS [OPTION...]]}
tasks=${2:-mmerealworld,vstar_bench,mmstar,mathvision_test,wemath_testmini_reasoning,chartqa,ai2d,charxiv_val_reasoning}
shift $(($# < 2 ? $# : 2))
env=${BENCH_ENV:-runs/bench-env}
out=${OUT:-results/bench/$(basename "$model")}

if [ ! -x "$env/bin/python" ]; then
    python -m venv "$env"
    "$env/bin/pip" install lmms_eval==0.7.3 transformers==5.23.0 torch==2.13.0 torchvision==0.28.0 \
        "filelock<4" decord # lmms-eval 0.7.3 imports both without asking for them
fi
device=$("$env/bin/python" -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')
"$env/bin/python" -m lmms_eval eval --model "${LMMS_MODEL:-qwen3_vl}" \
    --model_args "pretrained=$model,device=$device,device_map=$device" \
    --tasks "$tasks" --batch_size 1 --output_path "$out" --log_samples "$@"
