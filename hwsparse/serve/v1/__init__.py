"""Generated from protos/hwsparse/v1 by protos/generate.py; do not edit."""
