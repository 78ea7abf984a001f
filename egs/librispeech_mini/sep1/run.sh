#!/usr/bin/env bash
# Speech separation on real speech, small: any folder of speakers and noise.
set -euo pipefail
cd "$(dirname "$0")"
. ../../../utils/recipe.sh
## options
conf=conf/conv_tasnet.yaml # the experiment
corpus=                    # folder with <speaker>/**/*.flac, metadata.csv and segments_single_utt.csv (see README.md)
noise=                     # folder of noise (default: noise beside the corpus)
mix=2mix                   # what is separated: 2mix or 2mix_noisy; conf has to fit
nproc=auto                 # training processes: auto takes every GPU of --ngpu, or the CPU cores
## end
. ../../../utils/parse_options.sh
. ../../../utils/mixture_stages.sh
drawn=(dev test noise_dev) train_noise=(noise_train)
dev=dev_$mix tests=("test_$mix") rendered=({dev,test}_{2mix,2mix_noisy})
noise=${noise:-${corpus%/}/../noise}

stage 1 prepare_speech --in "${corpus:-corpus}" --out data/train data/dev data/test -- \
  tse prepare folder --root "$corpus" --cuts "$corpus/segments_single_utt.csv" --out data
stage 1 prepare_noise --in "$noise" --out data/noise_train data/noise_dev -- \
  tse prepare folder --root "$noise" --kind noise --prefix noise_ --out data
mixture_stages "./run.sh egs/librispeech_mini/sep1 --corpus CORPUS --mix $mix"
end_stages
