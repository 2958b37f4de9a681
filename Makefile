# Two commands do everything on a fresh machine with Python 3.11, git and make:
#   make demo    train two versions, serve them in one real vLLM, see which is better
#   make test    the whole suite, the real vLLM included
BASE ?= tiny
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: help setup demo test test-traps test-clients check format loadtest tiny-base build clean

help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

setup:  ## install everything into .venv (quick when nothing changed)
	@scripts/setup

demo: setup  ## the main job, end to end (BASE=Qwen/Qwen3-0.6B for another base)
	@.venv/bin/adapters demo --base $(BASE)

test: setup  ## the whole test suite
	@scripts/test

test-traps: setup  ## what breaks vLLM's own server, against it and against ours (5 minutes)
	STOCK=1 .venv/bin/pytest tests/e2e/traps

test-clients: setup  ## clients nobody here wrote, in an environment of their own, against one server
	@scripts/setup-clients
	.venv/bin/python -m tests.clients.serve .venv-clients/bin/python -m pytest --confcutdir tests/clients tests/clients

check: setup  ## lint, format, types, import rules
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

format: setup  ## let ruff rewrite
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

loadtest: setup  ## Locust against a server it starts: steady, then hotswap, 30 s each
	.venv/bin/python -m loadtests.run

tiny-base: setup  ## rebuild the tiny base from its seeded script (about half an hour)
	.venv/bin/python -m train.tiny.pretrain --out adapters/bases/tiny

build: setup  ## sdist and wheel into dist/
	.venv/bin/python -m build --no-isolation

clean:  ## remove .venv and caches
	rm -rf .venv .venv-clients dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
