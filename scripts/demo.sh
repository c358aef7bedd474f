#!/usr/bin/env bash
# The whole job on a laptop, through the commands that real data and real models use.
set -euo pipefail
DEMO=${DEMO:-runs/demo}
say() { printf '\n\033[1m==> %s\033[0m\n' "$1"; }
run() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }
start=$SECONDS
mkdir -p "$DEMO"

say "1/6  a grounded world drawn by code, written as real GQA files, and a tiny policy"
run sayo toy world --out "$DEMO/world" --num-images 4000 --seed 0
run sayo toy policy --out "$DEMO/policy"

say "2/6  grounded files -> training rows with the region's visual tokens"
for split in train test; do
    run sayo prepare gqa --questions "$DEMO/world/${split}_questions.json" \
        --scene-graphs "$DEMO/world/${split}_sceneGraphs.json" --images "$DEMO/world/images" \
        --processor "$DEMO/policy" --split "$split" --license CC0-1.0 --out "$DEMO/prepared"
done
run sayo inspect "$DEMO/prepared" --out "$DEMO/sheet.png"

say "3/6  cold start: a policy that sees well, with the habit of looking in the wrong place"
run sayo toy cold-start --world "$DEMO/world" --out "$DEMO/cold_start.parquet"
run sayo train --config-name toy_cold_start "data.path=$DEMO/cold_start.parquet" \
    "model.name_or_path=$DEMO/policy" "trainer.output_dir=$DEMO/cold_start"

say "4/6  GRPO: accuracy reward, attention reward, both; three seeds each, judged on held-out questions"
rm -rf "$DEMO/ablation" # measured anew, not kept from other code
run python -m benchmarks.toy --arms "cold start,accuracy,attention,both" --root "$DEMO" \
    --runs "$DEMO/ablation" --out "$DEMO/ablation.json"

say "5/6  export: an ordinary checkpoint, reloaded and compared"
run sayo export "$DEMO/ablation/both_0" --out "$DEMO/export" --overwrite

say "6/6  report"
run sayo report "$DEMO/ablation/both_0" "$DEMO/ablation/accuracy_0" "$DEMO/ablation/attention_0" \
    --ablation "$DEMO/ablation.json" --out "$DEMO/report.html"

printf '\nDone in %d seconds. Open %s\n' $((SECONDS - start)) "$(realpath "$DEMO/report.html")"
cat <<END

Next, from this folder:
    source .venv/bin/activate                            # so that \`sayo\` is found
    sayo look $DEMO/export $DEMO/world/images/3601.png "How many frames are there?"    # writes look.html
    sayo evaluate $DEMO/export --data $DEMO/prepared --split test --limit 50 --out results/demo
    sayo train --config-name toy --show                  # the recipe that was trained; \`sayo ls\` lists the others
END
