#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# One piece of real work on copies of the material, in the current directory.
#
#     workloads.sh NAME COUNT SETTLE_S
#
# COUNT: how many pipelines, where there are any. SETTLE_S: how long to wait before the work begins. What it prints and
# leaves behind must not depend on who runs it or when. `.elapsed` gets the microseconds that the work alone took.

count=$2

pipelines='
i=0
while [ $i -lt "$1" ]; do
	echo $i | cat | cat
	i=$((i + 1))
done'

run_make() {
	make -s -C source -j "$1" all && source/program && find source -name '*.o' | wc -l
}

run_compileall() {
	python3 -m compileall -q -f packages && find packages -name '*.pyc' | wc -l
}

run_git() {
	cd repository || return
	git status --short | wc -l &&
		git checkout -q HEAD~50 &&
		git checkout -q - &&
		git grep -c needle | wc -l &&
		git log --oneline | wc -l
}

run_find() {
	local i
	for i in 1 2 3; do
		find . -type f -exec cat {} + | wc -c
	done
}

run_cp() {
	cp -r repository copy && find copy | wc -l && rm -rf copy
}

work() {
	case $1 in
	make) run_make 1 ;;
	make_parallel) run_make "$(nproc)" ;;
	compileall) run_compileall ;;
	git) run_git ;;
	find) run_find ;;
	cp) run_cp ;;
	pipelines_bash | pipelines_settled) bash -c "$pipelines" pipelines "$count" ;;
	pipelines_dash) dash -c "$pipelines" pipelines "$count" ;;
	*) return 99 ;;
	esac
}

[ "$3" = 0 ] || sleep "$3"
# Digits only: the locale decides about the comma.
begun=${EPOCHREALTIME//[!0-9]/}
elapsed=$PWD/.elapsed
work "$1"
status=$?
ended=${EPOCHREALTIME//[!0-9]/}
echo $((ended - begun)) >"$elapsed"
exit $status
