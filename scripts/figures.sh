#!/usr/bin/env bash
# The README's pictures: one question before and after GRPO, and how attention drifts over a response to six questions.
set -euo pipefail
DEMO=${DEMO:-runs/demo}
OUT=${OUT:-docs/figures}
run() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }
test -d "$DEMO/ablation/both_0" || { echo "there is no $DEMO/ablation/both_0: run \`make demo\` first"; exit 1; }

run sayo toy several --world "$DEMO/world" --out "$DEMO/several"
for split in train test; do
    run sayo prepare jsonl --questions "$DEMO/several/$split.jsonl" --images "$DEMO/world/images" \
        --processor "$DEMO/policy" --split "$split" --out "$DEMO/prepared_long"
done
if [ ! -f "$DEMO/long_cold_start/config.json" ]; then
    run sayo train --config-name toy_long_cold_start "data.path=$DEMO/several/cold_start.parquet" \
        "model.name_or_path=$DEMO/cold_start" "trainer.output_dir=$DEMO/long_cold_start"
fi
run sayo train --config-name toy_long "data.path=$DEMO/prepared_long" \
    "model.name_or_path=$DEMO/long_cold_start" "trainer.output_dir=$DEMO/toy_long"

# Layer 1 is the layer that the toy recipes read.
run sayo figures "$DEMO/cold_start" "$DEMO/ablation/both_0" --data "$DEMO/prepared" --layers 1 \
    --max-new-tokens 24 --num-questions 400 --out "$OUT/one_question"
run sayo figures "$DEMO/long_cold_start" "$DEMO/toy_long" --data "$DEMO/prepared_long" --layers 1 \
    --max-new-tokens 96 --num-questions 256 --out "$OUT/six_questions"
