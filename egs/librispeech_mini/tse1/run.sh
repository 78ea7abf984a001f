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
nproc=auto         # training processes: auto takes every GPU of --ngpu, or the CPU cores
## end
. ../../../utils/parse_options.sh
. ../../../utils/mixture_stages.sh
drawn=(dev test noise_dev rir_dev rir_test) train_noise=(noise_train) train_rirs=(rir_train)
rendered=(dev test test_enrolls)
noise=${noise:-${corpus%/}/../noise}
rirs=${rirs:-${corpus%/}/../rir}

stage 1 prepare_speech --in "${corpus:-corpus}" --out data/train data/dev data/test -- \
  tse prepare folder --root "$corpus" --cuts "$corpus/segments_single_utt.csv" --out data
stage 1 prepare_noise --in "$noise" --out data/noise_train data/noise_dev -- \
  tse prepare folder --root "$noise" --kind noise --prefix noise_ --out data
stage 1 prepare_rirs --in "$rirs" --out data/rir_train data/rir_dev data/rir_test -- \
  tse prepare folder --root "$rirs" --kind rir --prefix rir_ --ignore_split --split 0.6 0.2 0.2 --where "kind=room*" --out data
mixture_stages "./run.sh egs/librispeech_mini/tse1 --corpus CORPUS"
end_stages
