#!/usr/bin/env bash
# Target speaker extraction on your own recordings: copy this folder to egs/<corpus>/tse1 and change this line.
set -euo pipefail
cd "$(dirname "$0")"
. ../../../utils/recipe.sh
## options
conf=conf/tse.yaml # the experiment
corpus=            # folder with <speaker>/**/*.{wav,flac,ogg}, at least 4 speakers with 2 files each
noise=             # folder of noise, at least 3 files
nproc=auto         # training processes: auto takes every GPU of --ngpu, or the CPU cores
## end
. ../../../utils/parse_options.sh
. ../../../utils/mixture_stages.sh
drawn=(dev test noise_dev noise_test) train_noise=(noise_train)

stage 1 prepare_speech --in "${corpus:-corpus}" --out data/train data/dev data/test -- \
  tse prepare folder --root "$corpus" --out data
stage 1 prepare_noise --in "${noise:-noise}" --out data/noise_train data/noise_dev data/noise_test -- \
  tse prepare folder --root "$noise" --kind noise --prefix noise_ --out data
mixture_stages "./run.sh egs/TEMPLATE/tse1 --corpus CORPUS --noise NOISE"
end_stages
