"""mlx-lm's LoRA training, with configs of transformers 5 read as the worker reads them: python -m go_mlx_worker.train -c CONFIG."""

import sys

import mlx_lm.lora

from .configs import check_folder_files, older_keys
from .errors import RequestError

_load = mlx_lm.lora.load


def load(path, **options):
    return _load(path, model_config=older_keys(check_folder_files(path)), **options)


if __name__ == "__main__":
    mlx_lm.lora.load = load
    try:
        mlx_lm.lora.main()
    except RequestError as e:
        sys.exit(str(e))
