#!/usr/bin/env bash
# Speech separation on synthetic talkers: eight networks, tiny; no download.
set -euo pipefail
cd "$(dirname "$0")"
. ../../../utils/recipe.sh
## options
conf=conf/conv_tasnet.yaml # the experiment
mix=2mix                   # what is separated: 2mix, 2mix_noisy or 3mix; conf has to fit
nproc=auto                 # training processes: auto takes every GPU of --ngpu, or the CPU cores
seed=0                     # of the talkers
## end
. ../../../utils/parse_options.sh
. ../../../utils/mixture_stages.sh
drawn=(dev test noise_dev noise_test) train_noise=(noise_train)
dev=dev_$mix tests=("test_$mix") rendered=({dev,test}_{2mix,2mix_noisy,3mix})

stage 1 prepare --out data/train data/dev data/test data/noise_train -- \
  tse prepare mini --out data --sample_rate 8000 --seed "$seed"
how="./run.sh egs/mini/sep1 --mix $mix"
if [ "$seed" != 0 ]; then how+=" --seed $seed"; fi
mixture_stages "$how"
end_stages
