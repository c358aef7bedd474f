#!/usr/bin/env bash
# Everything that waits for a GPU, in one call of at most nine minutes that can be cut off and started again.
#
#   scripts/gpu_report.sh                       all parts
#   scripts/gpu_report.sh capture_8b step       some parts
#   QUICK=1 scripts/gpu_report.sh               under two minutes; without CUDA the same code on the CPU
#
# Every part is a benchmark with a file of its own in OUT (benchmarks/results/gpu); what is there whole is not run
# again. After MINUTES (9) a part that is running is cut off. The tables at the end are those for docs/evidence.md.
# Exit status: 1 when a target was missed, or there was no time left for a part.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-benchmarks/results/gpu${QUICK:+_quick}}
end=$((SECONDS + 60 * ${MINUTES:-9}))
status=0
mkdir -p "$out"

command_of() {
    case $1${QUICK:+ quick} in
        kernels*) echo gpu --parts kernels ;;
        engines*) echo gpu --parts engines ;;
        "capture_4b quick") echo capture --shape toy ;;
        capture_4b) echo capture --shape 4B --parts scoring update memory --lengths 2048 8192 ;;
        capture_8b) echo capture --shape 8B --parts scoring update memory --lengths 2048 8192 ;;
        step) echo capture --shape 4B --parts step ;;
        "preflight quick") echo memory --only LoRA ;;
        preflight) echo memory --only GPU ;;
    esac
}

[ $# -gt 0 ] || set -- kernels capture_4b capture_8b step preflight engines
for part; do
    words=$(command_of "$part")
    [ -n "$words" ] || continue # as tiny as another part
    if ! grep -qs '"missed"' "$out/$part.json"; then
        # shellcheck disable=SC2086
        timeout $((end > SECONDS ? end - SECONDS : 1)) \
            python -m benchmarks.$words --out "$out/$part.json" --check ${QUICK:+--quick} >/dev/null
        grep -qs '"missed"' "$out/$part.json" || echo "$part was cut off or failed: start the same command again"
    fi
    grep -qs '"missed": \[\]' "$out/$part.json" || status=1
done
python -m benchmarks.harness "$out"/*.json
exit $status
