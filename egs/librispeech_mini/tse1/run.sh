#!/usr/bin/env bash
# Target speaker extraction on real speech, small: any folder of speakers, noise and measured rooms.
set -euo pipefail
cd "$(dirname "$0")"
. ../../../utils/recipe.sh
## options
conf=conf/tse.yaml # the experiment
corpus=            # folder with <speaker>/**/*.flac, metadata.csv and segments_single_utt.csv (see README.md)
noise=             # folder of noise (default: noise beside the corpus)
rirs=              # folder of room responses (default: rir beside the corpus)
nproc=auto         # training processes: auto takes every GPU, or the CPU cores
## end
. ../../../utils/parse_options.sh
exp=exp/$(basename "$conf" .yaml)
sets=conf/sets.yaml
noise=${noise:-${corpus%/}/../noise}
rirs=${rirs:-${corpus%/}/../rir}

stage 1 prepare_speech --in "${corpus:-corpus}" --out data/train data/dev data/test -- \
  tse prepare folder --root "$corpus" --cuts "$corpus/segments_single_utt.csv" --out data
stage 1 prepare_noise --in "$noise" --out data/noise_train data/noise_dev -- \
  tse prepare folder --root "$noise" --kind noise --prefix noise_ --out data
stage 1 prepare_rirs --in "$rirs" --out data/rir_train data/rir_dev data/rir_test -- \
  tse prepare folder --root "$rirs" --kind rir --prefix rir_ --ignore_split --split 0.6 0.2 0.2 --where "kind=room*" --out data
stage 2 simulate --in "$sets" data/dev/wav.scp data/test/wav.scp --out data/dev/mixtures.jsonl data/test/mixtures.jsonl -- \
  tse simulate --conf "$sets" --data data
stage 2 render --in data/dev/mixtures.jsonl data/test/mixtures.jsonl --out data/dev/mixtures data/test/mixtures \
  --nj "$nj" -- tse render data/dev data/test --job JOB/NJ
stage 3 train --in "$conf" data/train/wav.scp data/dev/mixtures --out "$exp/best.pt" --log "$exp/log" --gpu "$ngpu" -- \
  tse train --conf "$conf" --data data --noise noise_train --rirs rir_train --dev dev --exp "$exp" --nproc "$nproc"
stage 5 infer --in "$exp/best.pt" data/test/mixtures --out "$exp/test/wav" --log "$exp/test/log" --nj "$nj" -- \
  tse infer --model "$exp/best.pt" --data data/test --out "$exp/test/wav" --job JOB/NJ --threads 1
stage 6 score --in "$exp/test/wav" data/test/mixtures --out "$exp/test/scores.part" --log "$exp/test/log" --nj "$nj" -- \
  tse score --data data/test --est "$exp/test/wav" --out "$exp/test/scores.part" --job JOB/NJ
stage 6 results --in "$exp/test/scores.part" "$conf" --out RESULTS.md "$exp/test/summary.json" "$exp/report" --log "$exp/test/log" -- \
  tse results --exp "$exp" --sets test --conf "$conf" --command "./run.sh egs/librispeech_mini/tse1 --corpus CORPUS --conf $conf"
end_stages
