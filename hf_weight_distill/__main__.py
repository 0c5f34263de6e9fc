"""``python -m hf_weight_distill``, for ``accelerate launch -m`` and ``torchrun -m``."""

import sys

from .cli import main

sys.exit(main())
