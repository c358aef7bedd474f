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
out=${OUT:-${QUICK:+${TMPDIR:-/tmp}/sayo_gpu_report}}
out=${out:-benchmarks/results/gpu}
end=$((SECONDS + 60 * ${MINUTES:-9}))
status=0
mkdir -p "$out"

choose() { # the words of a part; none where a quick one is as tiny as another part
    case $1${QUICK:+ quick} in
        kernels*) words=(gpu --parts kernels) ;;
        engines*) words=(gpu --parts engines) ;;
        "capture_4b quick") words=(capture --shape toy) ;;
        capture_4b) words=(capture --shape 4B --parts scoring update memory --lengths 2048 8192) ;;
        capture_8b) words=(capture --shape 8B --parts scoring update memory --lengths 2048 8192) ;;
        step) words=(capture --shape 4B --parts step) ;;
        "preflight quick") words=(memory --only "qwen3_vl toy") ;;
        preflight) words=(memory --only GPU) ;;
        *" quick") words=() ;;
        *) echo "there is no part $1" >&2 && exit 2 ;;
    esac
}

[ $# -gt 0 ] || set -- kernels capture_4b capture_8b step preflight engines
for part; do
    choose "$part"
    [ ${#words[@]} -gt 0 ] || continue
    if ! grep -qs '"missed"' "$out/$part.json"; then
        timeout $((end > SECONDS ? end - SECONDS : 1)) \
            python -m "benchmarks.${words[0]}" "${words[@]:1}" --out "$out/$part.json" --check ${QUICK:+--quick} >/dev/null
        grep -qs '"missed"' "$out/$part.json" || echo "$part was cut off or failed: start the same command again"
    fi
    grep -qs '"missed": \[\]' "$out/$part.json" || status=1
done
python -m benchmarks.harness "$out"/*.json
exit $status
