#!/usr/bin/env bash
# Target speaker extraction on synthetic talkers: no download, everything in a quarter of an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")"
. ../../../utils/recipe.sh
## options
conf=conf/tse.yaml # the experiment; conf/long.yaml shows what an hour gives
nproc=auto         # training processes: auto takes every GPU of --ngpu, or the CPU cores
finetune=          # stage 4: confs that start from its best, as "conf/gan.yaml conf/student.yaml"
seed=0             # of the talkers
## end
. ../../../utils/parse_options.sh
. ../../../utils/mixture_stages.sh
drawn=(dev test noise_dev noise_test) train_noise=(noise_train) rendered=(dev test test_enrolls)
read -ra finetunes <<<"$finetune"

stage 1 prepare --out data/train data/dev data/test data/noise_train -- \
  tse prepare mini --out data --sample_rate 8000 --seed "$seed"
how="./run.sh egs/mini/tse1"
if [ "$seed" != 0 ]; then how+=" --seed $seed"; fi
mixture_stages "$how"
end_stages
