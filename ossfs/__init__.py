"""ossfs: an Alibaba Cloud OSS bucket as a directory on Linux."""

__version__ = "0.1.0"
