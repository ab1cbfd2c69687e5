#!/bin/bash
# A Slurm array: every task does its part of the scans, on its own, and needs to know of no other.
#
#     sbatch examples/slurm-array.sh SCANS MASKS MODEL
#
# Given again, it does what is missing. More or fewer tasks: sbatch --array=1-100 ...; begin where you like, but without gaps.
#SBATCH --job-name=monet-edge
#SBATCH --array=1-20
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=12:00:00

monet-edge segment "$1" -o "$2" -m "$3" --part slurm --skip-existing --records "$2/records" --threads "${SLURM_CPUS_PER_TASK:-1}"
status=$?
# 1 says that some scans failed: which, and of what, `monet-edge records MASKS/records` tells. The task itself has done its work.
[ $status -le 1 ]
