"""Entry point for ``ray job submit --working-dir . -- python jobs/train.py --config FILE [--set KEY=VALUE ...]``.

The same as ``crlhf train`` with the same options.
"""

import sys

from crlhf_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train"]
    main()
