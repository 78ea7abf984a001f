#!/usr/bin/env bash
# Target speaker extraction at 16 kHz on LibriSpeech and MUSAN.
set -euo pipefail
cd "$(dirname "$0")"
. ../../../utils/recipe.sh
## options
conf=conf/hifi_tse.yaml # the experiment
corpora=corpora         # where LibriSpeech/ and musan/ lie, or are downloaded by stage 0 (40 GB)
subsets='train-clean-100 train-clean-360 dev-clean test-clean' # of LibriSpeech
nproc=auto              # training processes: auto takes every GPU of --ngpu, or the CPU cores
## end
. ../../../utils/parse_options.sh
. ../../../utils/mixture_stages.sh
drawn=(dev test noise_dev noise_test) train_noise=(noise_train) packed=(train noise_train)

# shellcheck disable=SC2086
stage 0 download_speech --out "$corpora/LibriSpeech" -- tse download librispeech --root "$corpora" --parts $subsets
stage 0 download_noise --out "$corpora/musan" -- tse download musan --root "$corpora"
# shellcheck disable=SC2086
stage 1 prepare_speech --in "$corpora/LibriSpeech" --out data/train data/dev data/test -- \
  tse prepare librispeech --root "$corpora" --parts $subsets --out data
stage 1 prepare_noise --in "$corpora/musan" --out data/noise_train data/noise_dev data/noise_test -- \
  tse prepare musan --root "$corpora/musan" --out data
mixture_stages "./run.sh egs/libri_musan/tse1 --corpora CORPORA"
end_stages
