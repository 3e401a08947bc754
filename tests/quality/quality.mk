# Included by the Makefile.
.PHONY: quality
quality: build ## classification on strings of translation catalogues, against baselines: build/quality/table.md (goes on where it was; FRESH=1 measures all again)
	@sh tests/quality/run.sh
