"""``python -m caffe_batch``: the same as ``caffe-batch``."""

from caffe_batch.cli.main import main

if __name__ == "__main__":
    main()
