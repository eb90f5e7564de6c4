#!/usr/bin/env bash
# Lists and frames for the study of gestures, in data/gestures, and the arrow study's
# clips for its pretraining.
#
#     tools/study/prepare_gestures.sh VIDEOS CLIPS_CSV
#
# CLIPS_CSV has the columns path (in VIDEOS), class and fold, 1 to 4. For each test fold
# there are three folders of lists: foldK, to train on the three others; searchK, to
# look for a recipe without fold K: two others to train on, and the next one to try it;
# and mixedK, whose four test sets take turns in the order of CLIPS_CSV, class by class,
# so that they have clips of the scenes that are trained on.
# PYTHON names the interpreter; without it, .venv is used.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${PYTHON:-$PWD/.venv/bin/python}
if [ $# != 2 ]; then
    echo "error: give the folder of the videos and the CSV file" >&2
    exit 2
fi
out=data/gestures
mkdir -p $out
"$PYTHON" - "$2" $out/mixed.csv <<'END'
import collections, csv, sys

with open(sys.argv[1], encoding='utf-8-sig', newline='') as file:
    rows = list(csv.DictReader(file))
seen = collections.Counter()
with open(sys.argv[2], 'w', encoding='utf-8', newline='') as file:
    writer = csv.DictWriter(file, ['path', 'class', 'fold'], extrasaction='ignore')
    writer.writeheader()
    for row in rows:
        writer.writerow(dict(row, fold=seen[row['class']] % 4 + 1))
        seen[row['class']] += 1
END
for fold in 1 2 3 4; do
    next=$((fold % 4 + 1))
    groups=(--csv "$2" --group fold --test-groups $fold)
    "$PYTHON" tools/data/list_videos.py "$1" $out/mixed$fold --csv $out/mixed.csv \
        --group fold --test-groups $fold --val 0
    "$PYTHON" tools/data/list_videos.py "$1" $out/fold$fold "${groups[@]}" --val 0
    "$PYTHON" tools/data/list_videos.py "$1" $out/search$fold "${groups[@]}" \
        --val-groups $next
    "$PYTHON" tools/data/extract_frames.py $out/{fold,search,mixed}$fold/{train,test}.txt \
        $out/search$fold/val.txt $out/frames --short-side 112
done
"$PYTHON" tools/data/make_arrow_dataset.py data/arrow112 \
    --train 300 --val 20 --test 100
