# Included by the Makefile.
.PHONY: quality
quality: build ## classification on strings of translation catalogues, against baselines: build/quality/table.md
	@sh tests/quality/run.sh
