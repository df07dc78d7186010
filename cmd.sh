# shellcheck shell=bash disable=SC2034
# How jobs are run. This file alone moves a recipe from one machine to a cluster:
#   cmd="utils/run.py"                                      processes on this machine
#   cmd="utils/slurm.py --partition main --time 4:00:00 --mem 4G"    jobs of a Slurm cluster (without --mem a job
#                                                           may take all of a node's memory, and the rest wait)
# A site's own runner serves too, if it takes `[options] JOB=1:n LOG command ...` as Kaldi's queue.pl does.
cmd="${ESPNET_MUSA_CMD:-utils/run.py}"
