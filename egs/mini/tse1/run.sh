#!/usr/bin/env bash
# Target speaker extraction on synthetic talkers: no download, everything in a quarter of an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")"
. ../../../utils/recipe.sh
## options
conf=conf/tse.yaml # the experiment; conf/long.yaml shows what an hour gives
nproc=auto         # training processes: auto takes every GPU, or the CPU cores
seed=0             # of the talkers
## end
. ../../../utils/parse_options.sh
exp=exp/$(basename "$conf" .yaml)
sets=conf/sets.yaml

stage 1 prepare --out data/train data/dev data/test data/noise_train -- \
  tse prepare mini --out data --sample_rate 8000 --seed "$seed"
stage 2 simulate --in "$sets" data/dev/wav.scp data/test/wav.scp --out data/dev/mixtures.jsonl data/test/mixtures.jsonl -- \
  tse simulate --conf "$sets" --data data
stage 2 render --in data/dev/mixtures.jsonl data/test/mixtures.jsonl --out data/dev/mixtures data/test/mixtures \
  --nj "$nj" -- tse render data/dev data/test --job JOB/NJ
stage 3 train --in "$conf" data/train/wav.scp data/dev/mixtures --out "$exp/best.pt" --log "$exp/log" --gpu "$ngpu" -- \
  tse train --conf "$conf" --data data --noise noise_train --dev dev --exp "$exp" --nproc "$nproc"
stage 5 infer --in "$exp/best.pt" data/test/mixtures --out "$exp/test/wav" --log "$exp/test/log" --nj "$nj" -- \
  tse infer --model "$exp/best.pt" --data data/test --out "$exp/test/wav" --job JOB/NJ --threads 1
stage 6 score --in "$exp/test/wav" data/test/mixtures --out "$exp/test/scores.part" --log "$exp/test/log" --nj "$nj" -- \
  tse score --data data/test --est "$exp/test/wav" --out "$exp/test/scores.part" --job JOB/NJ
stage 6 results --in "$exp/test/scores.part" "$conf" --out RESULTS.md "$exp/test/summary.json" "$exp/report" --log "$exp/test/log" -- \
  tse results --exp "$exp" --sets test --conf "$conf" --command "./run.sh egs/mini/tse1 --conf $conf"
end_stages
